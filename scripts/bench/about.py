"""On what machine, with what versions and of what commit a session was."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import plan
from places import Place
from samples import Sample

# What each part of the same measurement adds to.
LISTS = ("caches", "additions")
# What may differ between parts.
OF_A_PART = ("date", *LISTS)


def about(root: Path, binary: Path, was_given: bool, places: Iterable[Place]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": output("git", "-C", str(root), "describe", "--always", "--dirty"),
        "tool": output(str(binary), "--version") + (" (a given binary)" if was_given else ""),
        "lightrag": f"LightRAG {version('lightrag-hku')} on Python {platform.python_version()}",
        "servers": [place.version() for place in places],
        "cores": os.cpu_count(),
        "processor": from_proc("/proc/cpuinfo", "model name"),
        "memory": int(from_proc("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "kernel": f"{platform.system()} {platform.release()}",
        "caches": [],
        "additions": [additions()],
    }


def continued(facts: dict[str, Any], samples: Path) -> list[Sample]:
    """The samples that an earlier run left in the file; its lists are added to the facts of this one.

    Times are compared with each other, so everything else must be as it was.
    """
    if not samples.exists():
        return []
    earlier = json.loads(samples.read_text(encoding="utf-8"))
    for name in facts.keys() - set(OF_A_PART):
        if earlier.get(name) != facts[name]:
            raise SystemExit(
                f"{samples} has samples for the {name} {earlier.get(name)}, not {facts[name]}; leave --append out, or give another --output"
            )
    for name in LISTS:
        facts[name] = earlier[name] + facts[name]
    return [Sample(**sample) for sample in earlier["samples"]]


def additions() -> float:
    """Seconds that this Python takes for `plan.ADDITIONS` additions, the shortest of five: how fast the machine runs an interpreter."""

    def once() -> float:
        begin = time.perf_counter()
        total = 0
        for number in range(plan.ADDITIONS):
            total += number
        return time.perf_counter() - begin

    return min(once() for _ in range(5))


def output(*argv: str) -> str:
    """The first line of what a program says; nothing where it cannot be asked."""
    try:
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.strip().partition("\n")[0]


def from_proc(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        label, _, value = line.partition(":")
        if label.strip() == name:
            return value.strip()
    return "0"
