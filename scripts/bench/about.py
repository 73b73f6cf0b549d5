"""On what machine, with what versions and of what commit a session was."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from places import Place


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
    }


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
