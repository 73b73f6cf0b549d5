"""Prints the licence texts of every crate that the program is made of.

    python3 scripts/package/third_party_licenses.py >THIRD_PARTY_LICENSES.txt

A crate that ships no text of its own is listed with its licence's name. The crates are those of a build with every storage,
for any system; build scripts and tests are not part of the program.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("license", "licence", "copying", "notice", "copyright", "unlicense")


def crates() -> list[dict]:
    """Every crate that is compiled into the program."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", str(ROOT / "Cargo.toml")]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    found, todo = set(), [told["resolve"]["root"]]
    while todo:
        if (crate := todo.pop()) in found:
            continue
        found.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    found.discard(told["resolve"]["root"])
    return sorted((packages[crate] for crate in found), key=lambda crate: (crate["name"], crate["version"]))


def texts(crate: dict) -> list[str]:
    """The texts beside its manifest."""
    folder = Path(crate["manifest_path"]).parent
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.lower().startswith(NAMES))
    return [file.read_text(encoding="utf-8", errors="replace").strip() for file in files]


def main() -> None:
    users: dict[str, list[str]] = defaultdict(list)
    content: dict[str, str] = {}
    listed = []
    for crate in crates():
        name = f"{crate['name']} {crate['version']}"
        listed.append(f"{name}: {crate['license'] or 'see its text below'}")
        for text in texts(crate):
            digest = hashlib.sha256(text.encode()).hexdigest()
            content.setdefault(digest, text)
            users[digest].append(name)
    out = sys.stdout
    out.write("migrate-llm-cache includes the following crates.\n\n")
    out.write("\n".join(listed) + "\n")
    for digest, names in users.items():
        out.write(f"\n{'=' * 100}\n{', '.join(names)}\n{'=' * 100}\n\n{content[digest]}\n")


if __name__ == "__main__":
    main()
