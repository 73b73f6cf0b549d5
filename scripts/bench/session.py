"""One session of the benchmark: fills sources, runs everyone in turn, keeps every sample."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import contenders
import ready
from contenders import Contender, Job
from measure import RunFailed, run, settle, warm
from places import Json, Place, servers


@dataclass(frozen=True)
class Sample:
    """A run that was measured. Seconds and bytes; None where a program's own clock leaves its preparations out."""

    pair: str
    records: int
    contender: str
    round: int
    seconds: float
    user: float | None
    system: float | None
    max_rss: int | None
    load: float


class Session:
    """Where everything is, and what was measured so far."""

    def __init__(self, home: Path, binary: Path, lightrag: Path | None) -> None:
        self.home = home
        self.binary = binary
        self.lightrag = lightrag
        self.places: dict[str, Place] = servers()
        self.samples: list[Sample] = []
        self.folder = home / "cwd"  # LightRAG leaves a log where it runs
        for place in self.places.values():
            place.claim()

    def clean(self) -> None:
        """Leaves the servers as they were found."""
        for place in self.places.values():
            place.empty()
        for name in ("cwd", "output", "tiny"):
            shutil.rmtree(self.home / name, ignore_errors=True)

    def make_ready(self) -> None:
        """Every server gets what LightRAG makes when it is first started there: tables, most of all."""
        self.clean()
        self.folder.mkdir(parents=True)
        tiny = ready.make(self.home / "tiny", 10, loaders=False)
        for place in self.places.values():
            job = Job(Json(tiny.working_dir), place, tiny)
            self.run_once(job, contenders.ours(job, self.binary))
            if self.lightrag:
                self.run_once(job, contenders.lightrag(job, self.lightrag))
            place.empty()

    def fill(self, kind: str, cache: ready.Ready) -> Place:
        """A source with all records of a size, those of queries too."""
        source = Json(cache.working_dir)
        if kind == "json":
            warm(cache.cache_file)
            return source
        place = self.places[kind]
        place.empty()
        say(f"filling {kind} with {cache.facts.records:,} records")
        job = Job(source, place, cache)
        everything = contenders.ours(job, self.binary, flags=("--types", "extract,summary,analysis,query,keywords"))
        run(everything.command, self.folder)
        if place.count() != cache.facts.records:
            raise RunFailed(f"{kind} holds {place.count()} records, not {cache.facts.records}")
        place.settle()
        return place

    def target(self, kind: str) -> Place:
        return Json(self.home / "output") if kind == "json" else self.places[kind]

    def measure(self, job: Job, groups: Sequence[Sequence[Contender]], rounds: int) -> None:
        """Runs the groups in turn, each round beginning with another one, so that none is always first."""
        for number in range(rounds):
            turn = number % len(groups)
            for contender in (one for group in [*groups[turn:], *groups[:turn]] for one in group):
                sample = self.run_once(job, contender, number)
                self.samples.append(sample)
                rss = f"{sample.max_rss / 1e6:7.1f} MB" if sample.max_rss else ""
                say(f"  {job.pair} {job.ready.facts.records:>9,} {contender.name:16} {sample.seconds:8.2f} s {rss}")
        job.target.empty()

    def run_once(self, job: Job, contender: Contender, number: int = 0) -> Sample:
        """One run, from a known state, and a look at whether it did its work."""
        if contender.fresh:
            job.target.empty()
        if contender.prepare:
            contender.prepare()
        if isinstance(job.source, Json):
            before = job.source.file.stat()
            warm(job.source.file)
        settle()
        measured = run(contender.command, self.folder)
        if contender.check:
            contender.check(measured)
        if contender.writes and (found := job.target.count()) != job.ready.facts.selected:
            raise RunFailed(f"{job.pair}, {contender.name}: {found} records arrived of {job.ready.facts.selected}")
        if isinstance(job.source, Json) and job.source.file.stat().st_mtime_ns != before.st_mtime_ns:
            raise RunFailed(f"{job.pair}, {contender.name}: the source was changed")
        return Sample(
            job.pair,
            job.ready.facts.records,
            contender.name,
            number,
            measured.seconds,
            measured.user,
            measured.system,
            measured.max_rss,
            measured.load,
        )

    def dump(self, file: Path, about: dict[str, object]) -> None:
        """Every sample, after every pair: a session that ends early has not measured for nothing."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {**about, "samples": [asdict(sample) for sample in self.samples]}
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
