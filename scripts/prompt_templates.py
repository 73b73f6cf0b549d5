#!/usr/bin/env python3
"""Writes src/engine/hits/templates.json: by what a prompt of each LightRAG release is recognized.

    prompt_templates.py                    # every release on PyPI from 1.1.4 on
    prompt_templates.py --wheels DIR       # where the wheels are kept (default: ~/.cache/migrate-llm-cache/wheels)

A release's prompt templates are read out of its wheel, and put together as that release puts together what it hashes and
stores in `original_prompt`: up to 1.4.7 history, then prompt; since 1.4.8 user prompt, system prompt, history; since 1.4.7
without white space around each. What is fixed in them is written down as facts, not as text: length in bytes, a hash of the
first bytes (to search by) and the MD5 of the whole. What varies is a gap: `int`, `line` or `text`.

Two patterns are made of a template that holds examples or entity type guidance: one with those that the release brings
along, and one, marked `custom`, with a gap in their place, for users who replaced them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import html
import json
import re
import string
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "lightrag-hku"
# Before it, keys were hashes of other texts than the prompt.
FIRST = (1, 1, 4)
TABLE = Path(__file__).resolve().parent.parent / "src/engine/hits/templates.json"

# What stands in a gap, by the name of the placeholder; all others hold text.
GAPS = {
    "max_total_records": "int",
    "max_entity_records": "int",
    "summary_length": "int",
    "language": "line",
    "description_type": "line",
}
# The history as `json.dumps(…, ensure_ascii=False)` begins it.
HISTORY = '[{"role": "user", "content": "'


@dataclass(frozen=True)
class Gap:
    kind: str


Parts = list["str | Gap"]


@dataclass
class Release:
    version: str
    prompts: dict[str, object]
    multimodal: dict[str, str]
    title_block: dict[str, str]
    utils: str
    operate: str

    @property
    def sanitizes(self) -> bool:
        return "safe_user_prompt" in self.utils or "safe_input_text" in self.utils

    @property
    def history_comes_last(self) -> bool:
        return "prompt_parts" in self.utils


@dataclass
class Pattern:
    type: str
    part: str
    custom: bool
    json: bool
    parts: Parts
    versions: list[str] = field(default_factory=list)


def release_number(version: str) -> tuple[int, ...] | None:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else None


def published() -> list[str]:
    """Every release from FIRST on, oldest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", PACKAGE]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in listing.splitlines() if line.startswith("Available versions:"))
    versions = [version.strip() for version in line.split(":", 1)[1].split(",")]
    numbers = {version: release_number(version) for version in versions}
    known = [version for version, number in numbers.items() if number and number >= FIRST]
    return sorted(known, key=lambda version: numbers[version])


def wheel(version: str, folder: Path) -> Path:
    """The wheel of a release, downloaded once."""
    name = f"lightrag_hku-{version}-py3-none-any.whl"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, f"{PACKAGE}=={version}"], check=True)
    return folder / name


def read_release(version: str, folder: Path) -> Release:
    with zipfile.ZipFile(wheel(version, folder)) as archive:
        names = set(archive.namelist())

        def text(path: str) -> str:
            return archive.read(f"lightrag/{path}").decode() if f"lightrag/{path}" in names else ""

        return Release(
            version=version,
            prompts=entries(text("prompt.py"), "PROMPTS"),
            multimodal=entries(text("prompt_multimodal.py"), "MULTIMODAL_PROMPTS"),
            title_block=constants(text("parser/docx/smart_heading/title_block.py")),
            utils=text("utils.py"),
            operate=text("operate.py"),
        )


def entries(source: str, table: str) -> dict[str, object]:
    """The literals that a module assigns to `table["name"]`."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if isinstance(target.value, ast.Name) and target.value.id == table:
                found[ast.literal_eval(target.slice)] = value_of(node.value)
    return found


def value_of(node: ast.expr) -> object:
    """A literal, or a literal with `.strip()` behind it."""
    match node:
        case ast.Call(func=ast.Attribute(value=inner, attr="strip"), args=[], keywords=[]):
            return ast.literal_eval(inner).strip()
    return ast.literal_eval(node)


def constants(source: str) -> dict[str, str]:
    """The strings that a module assigns to names."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                found[node.targets[0].id] = node.value.value
    return found


class Builder:
    """Puts the prompts of one release together."""

    def __init__(self, release: Release, custom: bool) -> None:
        self.release = release
        self.custom = custom
        self.replaced = False

    def template(self, name: str) -> Parts:
        return self.rendered(self.release.prompts[name])

    def rendered(self, template: str, examples: str = "entity_extraction_examples") -> Parts:
        """A template with its constants filled in."""
        parts: Parts = []
        for literal, name, spec, conversion in string.Formatter().parse(template):
            parts.append(literal)
            if name is not None:
                if spec or conversion or not name.isidentifier():
                    raise ValueError(f"a placeholder of a form that is not expected: {name}")
                parts.extend(self.value(name, examples))
        return self.cleaned(merged(parts))

    def value(self, name: str, examples: str) -> Parts:
        delimiter = self.release.prompts.get(f"DEFAULT_{name.upper()}")
        if name.endswith("_delimiter") and isinstance(delimiter, str):
            return [delimiter]
        if name == "examples":
            text = "\n".join(self.release.prompts[examples])
            # Those in JSON are taken as they are.
            return self.own([text] if "_json_" in examples else self.rendered(text))
        if name == "entity_types_guidance":
            return self.own([self.release.prompts["default_entity_types_guidance"]])
        return [Gap(GAPS.get(name, "text"))]

    def own(self, parts: Parts) -> Parts:
        """What a release brings along and a user may replace."""
        if not self.custom:
            return parts
        self.replaced = True
        return [Gap("text")]

    def cleaned(self, parts: Parts) -> Parts:
        """As `sanitize_text_for_encoding` leaves it, but for the white space around it."""
        if not self.release.sanitizes:
            return parts
        return [part if isinstance(part, Gap) else html.unescape(part) for part in parts]

    def stripped(self, parts: Parts) -> Parts:
        parts = list(parts)
        if self.release.sanitizes:
            if isinstance(parts[0], str):
                parts[0] = parts[0].lstrip()
            if isinstance(parts[-1], str):
                parts[-1] = parts[-1].rstrip()
        return [part for part in parts if part != ""]

    def joined(self, *prompts: Parts, history: bool = False) -> Parts:
        """Prompts as they are joined in what is hashed, with the history where there is one."""
        parts: Parts = []
        for prompt in prompts:
            parts += ["\n"] if parts else []
            parts += self.stripped(prompt)
        if not history:
            return merged(parts)
        if self.release.history_comes_last:
            return merged([*parts, "\n" + HISTORY, Gap("text")])
        return merged([HISTORY, Gap("text"), "\n", *parts])


def merged(parts: Parts) -> Parts:
    """Neighbouring texts as one; of neighbouring gaps the widest."""
    whole: Parts = []
    for part in parts:
        if part == "":
            continue
        if whole and isinstance(part, str) and isinstance(whole[-1], str):
            whole[-1] += part
        elif whole and isinstance(part, Gap) and isinstance(whole[-1], Gap):
            whole[-1] = Gap("text")
        else:
            whole.append(part)
    return whole


def patterns(release: Release) -> Iterator[Pattern]:
    for custom in (False, True):
        for type_, part, json_, build in compositions(release):
            builder = Builder(release, custom)
            parts = build(builder)
            if custom and not builder.replaced:
                continue
            yield Pattern(type_, part, custom, json_, parts)


def compositions(release: Release) -> Iterator[tuple]:
    """Type of the key, which prompt, whether it asks for JSON, and how it is put together."""
    prompts = release.prompts
    if "entity_extraction" in prompts:
        yield "extract", "initial", False, lambda b: b.joined(b.template("entity_extraction"))
        for part, names in (
            ("continue", ("entity_continue_extraction", "entiti_continue_extraction")),
            ("loop", ("entity_if_loop_extraction", "entiti_if_loop_extraction")),
        ):
            name = next(name for name in names if name in prompts)
            yield "extract", part, False, lambda b, name=name: b.joined(b.template(name), history=True)
    else:
        yield from extractions("", False)
        if "entity_extraction_json_system_prompt" in prompts:
            yield from extractions("_json", True)
    summary = "summary" if 'cache_type="summary"' in release.operate else "extract"
    yield summary, "summary", False, lambda b: b.joined(b.template("summarize_entity_descriptions"))
    for kind in ("image", "table", "equation"):
        if f"{kind}_analysis" in release.multimodal:
            # Neither cleaned nor stripped.
            yield "analysis", kind, True, lambda b, kind=kind: b.rendered(b.release.multimodal[f"{kind}_analysis"])
    if release.title_block:
        yield "smartheading", "title_block", False, title_block


def extractions(infix: str, json_: bool) -> Iterator[tuple]:
    examples = f"entity_extraction{infix}_examples"

    def whole(user: str, history: bool):
        def build(b: Builder) -> Parts:
            system = b.rendered(b.release.prompts[f"entity_extraction{infix}_system_prompt"], examples)
            return b.joined(b.rendered(b.release.prompts[user], examples), system, history=history)

        return build

    yield "extract", "initial", json_, whole(f"entity_extraction{infix}_user_prompt", False)
    yield "extract", "continue", json_, whole(f"entity_continue_extraction{infix}_user_prompt", True)


def title_block(b: Builder) -> Parts:
    constants = b.release.title_block
    return b.joined(b.rendered(constants["_USER_TEMPLATE"]), b.cleaned([constants["_SYSTEM_PROMPT"]]))


def head(literal: bytes) -> int:
    """A hash of the first 16 bytes. The same is in templates.rs."""
    first = literal[:16].ljust(16, b"\0")
    low, high = int.from_bytes(first[:8], "little"), int.from_bytes(first[8:], "little")
    mask = (1 << 64) - 1
    return (low * 0x9E3779B97F4A7C15 & mask) ^ (high * 0xC2B2AE3D27D4EB4F & mask)


def table(releases: list[Release]) -> dict:
    """The table as it is written."""
    versions = [release.version for release in releases]
    merged_patterns: dict[tuple, Pattern] = {}
    for release in releases:
        for pattern in patterns(release):
            identity = (pattern.type, pattern.part, pattern.custom, pattern.json, tuple(pattern.parts))
            merged_patterns.setdefault(identity, pattern).versions.append(release.version)
    literals: dict[bytes, int] = {}
    rows = []
    for pattern in merged_patterns.values():
        segments = []
        for part in pattern.parts:
            if isinstance(part, Gap):
                segments.append(part.kind)
            else:
                segments.append(literals.setdefault(part.encode(), len(literals)))
        rows.append(
            {
                "type": pattern.type,
                "part": pattern.part,
                "json": pattern.json,
                "custom": pattern.custom,
                "versions": ranges(pattern.versions, versions),
                "segments": segments,
            }
        )
    facts = [[len(text), f"{head(text):016x}", hashlib.md5(text).hexdigest()] for text in literals]
    return {"versions": versions, "literals": facts, "patterns": rows}


def ranges(some: list[str], all_: list[str]) -> list[list[str]]:
    """Runs of releases: first and last of each."""
    runs: list[list[str]] = []
    for version in some:
        if runs and all_.index(version) == all_.index(runs[-1][1]) + 1:
            runs[-1][1] = version
        else:
            runs.append([version, version])
    return runs


def written(facts: dict) -> str:
    """The table as text, a fact a line."""

    def lines(items: list) -> str:
        return ",\n    ".join(json.dumps(item) for item in items)

    return (
        '{\n  "versions": ' + json.dumps(facts["versions"]) + ",\n"
        '  "literals": [\n    ' + lines(facts["literals"]) + "\n  ],\n"
        '  "patterns": [\n    ' + lines(facts["patterns"]) + "\n  ]\n}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path.home() / ".cache/migrate-llm-cache/wheels"
    parser.add_argument("--wheels", type=Path, default=cache, help="folder for the wheels")
    parser.add_argument("--out", type=Path, default=TABLE, help="the file to write")
    arguments = parser.parse_args()
    releases = [read_release(version, arguments.wheels) for version in published()]
    arguments.out.write_text(written(table(releases)))
    print(f"{arguments.out}: {len(releases)} releases", file=sys.stderr)


if __name__ == "__main__":
    main()
