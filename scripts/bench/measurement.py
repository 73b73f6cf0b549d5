"""What was measured in one go on one machine, and the files that keep it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goals import Results


@dataclass(frozen=True)
class Measurement:
    """Figures can be compared within a measurement, and not with those of another one: it may be of another machine.

    `about` is the content of the file: commit, versions, machine, and every sample.
    """

    about: dict[str, Any]
    results: Results


def read(file: Path) -> list[Measurement]:
    """The measurements of a file: one as the benchmark leaves it behind, or a list of those that are published."""
    content = json.loads(file.read_text(encoding="utf-8"))
    all_of_it = content if isinstance(content, list) else [content]
    return [Measurement(about, Results(about["samples"])) for about in all_of_it]
