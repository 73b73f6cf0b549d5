"""One session of the benchmark: fills sources, runs everyone in turn, keeps every sample."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import contenders
import plan
import ready
from contenders import Contender, Job
from distance import Distance
from measure import IDLE, Measured, Patience, RunFailed, run, warm
from places import URIS, Json, Place, servers, servers_over_tls
from samples import START_UP, Sample

Group = tuple[Job, Sequence[Contender]]
EVERY_TYPE = ("--types", "extract,summary,analysis,query,keywords")


class Session:
    """Where everything is, and what was measured so far."""

    def __init__(
        self,
        home: Path,
        binary: Path,
        lightrag: Path | None,
        patience: Patience,
        output: Path,
        about: dict[str, Any],
        samples: list[Sample],
        tls: bool,
    ) -> None:
        self.home = home
        self.binary = binary
        self.lightrag = lightrag
        self.patience = patience
        self.output = output
        self.about = about
        self.places = servers()
        self.places_over_tls = servers_over_tls() if tls else {}
        self.uris = [os.environ[uri] for uri in URIS.values()]
        self.samples = samples
        self.folder = home / "cwd"  # where a run is: LightRAG leaves a log there, we a checkpoint
        for place in self._every_place():
            place.claim()

    def __enter__(self) -> Session:
        """Every server gets what LightRAG makes when it is first started there: tables, most of all."""
        self.lock = lock(self.home)
        self._clean()
        tiny = ready.make(self.home / "tiny", 10, loaders=False)
        for place in self.places.values():
            job = Job(Json(tiny.working_dir), place, tiny)
            self._run(job, contenders.ours(job, self.binary))
            if self.lightrag:
                self._run(job, contenders.lightrag(job, self.lightrag))
            place.empty()
        return self

    def warm_up(self, largest: int) -> None:
        """A JVM compiles what it does often, while it does it: the first to write to a new one would pay for all others."""
        place = self.places["opensearch"]
        say(f"warming up {place.kind}")
        made = ready.make(self.home / "tiny", min(largest, plan.WARM_UP_RECORDS), loaders=False)
        job = Job(Json(made.working_dir), place, made)
        self._run(job, contenders.ours(job, self.binary))
        place.empty()

    def _every_place(self) -> Iterator[Place]:
        yield from self.places.values()
        yield from self.places_over_tls.values()

    def __exit__(self, *_: object) -> None:
        self._clean()
        self.lock.close()

    def _clean(self) -> None:
        """Leaves the servers as they were found."""
        for place in self._every_place():
            place.empty()
        for name in ("cwd", "output", "tiny"):
            shutil.rmtree(self.home / name, ignore_errors=True)

    def start_up(self, rounds: int) -> None:
        """Many runs of ours, which are short, and a few of LightRAG's."""
        empty = ready.empty(self.home / "tiny" / "empty")
        job = Job(Json(empty.working_dir), Json(self.home / "output"), empty)
        for number in range(plan.START_UP_RUNS):
            self._sample(START_UP, job, contenders.start_up(self.binary, job), number)
            if self.lightrag and number < rounds:
                self._sample(START_UP, job, contenders.lightrag_start_up(self.lightrag), number)

    def size(self, size: int, pairs: Sequence[str], rounds: int, far: Sequence[float] = (0.0,)) -> None:
        """All pairs at a size. Pairs with the same source come together, so that it is filled once."""
        made = self._make(size, with_others=True)
        source: Place = Json(made.working_dir)
        for pair in sorted(pairs, key=plan.EVERY_PAIR.index):
            from_, to = pair.split("-")
            if from_ != source.kind:
                self._leave(source)
                source = self._fill(self.places[from_], made)
            job = Job(source, self._target(to), made)
            groups = self._contenders(job)
            over_tls = self._over_tls(job) if size <= plan.TLS_UP_TO and pair in plan.ALONE else None
            if over_tls:
                groups.append((over_tls, [contenders.ours(over_tls, self.binary)]))
            self._pair(groups, rounds)
            for round_trip in far:
                if round_trip:
                    self._far(job, round_trip, rounds)
        self._leave(source)

    def alone(self, size: int, pairs: Sequence[str]) -> None:
        """This project's tool and nothing else, once for each pair. What it moved to a server it reads there next."""
        made = self._make(size, with_others=False)
        files = Json(made.working_dir)
        for kind, place in self.places.items():
            job = Job(files, place, made)
            from_here = [pair for pair in pairs if pair.startswith(f"{kind}-")]
            if job.pair in pairs:
                self._sample(job.pair, job, contenders.ours(job, self.binary), 0)
                place.settle()
            elif from_here:
                self._fill(place, made)
            for pair in from_here:
                to = pair.split("-")[1]
                job = Job(place, self._target(to), made)
                self._sample(pair, job, contenders.ours(job, self.binary), 0)
                job.target.empty()
            place.empty()

    def forget(self, size: int) -> None:
        """Deletes the data of a size."""
        ready.forget(self.home, size)

    def _target(self, kind: str) -> Place:
        return Json(self.home / "output") if kind == "json" else self.places[kind]

    def _make(self, size: int, with_others: bool) -> ready.Ready:
        needed = plan.disk_needed(size, with_others)
        if (free := shutil.disk_usage(self.home).free) < needed:
            raise RunFailed(f"{size:,} records need {needed / 1e9:.0f} GB of disk; {self.home} has {free / 1e9:.0f} free")
        say(f"making {size:,} records")
        made = ready.make(self.home, size, loaders=with_others)
        if (cache := asdict(made.facts)) not in self.about["caches"]:
            self.about["caches"].append(cache)
        return made

    def _far(self, job: Job, round_trip: float, rounds: int) -> None:
        """A pair with its servers at a distance, as which the ways of the servers' own are not measured."""
        with Distance(self.home, round_trip, self.uris) as distance:
            far = replace(job, distance=distance)
            self._pair([(far, [contenders.ours(far, self.binary)])], rounds)
            if self.lightrag:
                self._pair([(far, [contenders.lightrag(far, self.lightrag)])], rounds)

    def _over_tls(self, job: Job) -> Job | None:
        """The same job with all servers over TLS, where they are measured so."""
        if not self.places_over_tls:
            return None
        source, target = (self.places_over_tls.get(place.kind, place) for place in (job.source, job.target))
        if source is not job.source and source.count() != job.ready.facts.records:
            self._fill(source, job.ready)  # a server of its own
        return replace(job, source=source, target=target, tls=True)

    def many_workspaces(self, workspaces: int, pairs: Sequence[str], rounds: int) -> None:
        """Many small workspaces instead of a large one. LightRAG's tool moves one in a run, and is not measured."""
        say(f"making {workspaces:,} workspaces")
        made = ready.many_workspaces(self.home, workspaces, plan.RECORDS_OF_WORKSPACE)
        outputs = self.home / "outputs"
        shutil.rmtree(outputs, ignore_errors=True)
        files = Json(made.working_dir)
        for kind, place in self.places.items():
            into, back = Job(files, place, made), Job(place, self._target("json"), made)
            if into.pair in pairs:
                self._many(into, workspaces, rounds)
            if back.pair in pairs:
                if into.pair not in pairs:
                    self._run(into, contenders.many_workspaces(into, self.binary))
                place.settle()
                self._many(back, workspaces, rounds, outputs)
            self._leave(place)
        shutil.rmtree(outputs, ignore_errors=True)

    def _many(self, job: Job, workspaces: int, rounds: int, outputs: Path | None = None) -> None:
        """Files are written to a folder of their own in each round, all of which are deleted at the end: on ext4 without a
        journal, a file is made the more slowly the more others were deleted in the last minutes."""
        for number in range(rounds):
            if outputs:
                job = replace(job, target=Json(outputs / f"{job.pair}-{number}"))
            contender = contenders.many_workspaces(job, self.binary)
            if self._sample(job.pair, job, contender, number, workspaces) > plan.MANY_REPEATED_UP_TO:
                return

    def _leave(self, source: Place) -> None:
        if not isinstance(source, Json):
            source.empty()
            if source.kind in self.places_over_tls:
                self.places_over_tls[source.kind].empty()

    def _fill(self, place: Place, made: ready.Ready) -> Place:
        """A source with all records of a size, those of queries too."""
        say(f"filling {place.kind} with {made.facts.records:,} records")
        place.empty()
        job = Job(Json(made.working_dir), place, made)
        self.folder.mkdir(parents=True, exist_ok=True)
        run(contenders.ours(job, self.binary, EVERY_TYPE).command, self.folder)
        if (found := place.count()) != made.facts.records:
            raise RunFailed(f"{place.kind} holds {found} records, not {made.facts.records}")
        place.settle()
        # The first to read pays for caches, and for notes that a server makes beside what it has read (PostgreSQL's hint bits).
        own = contenders.reader(Job(place, Json(self.home / "output"), made))
        if own:
            run(own.command, self.folder)
        return place

    def _contenders(self, job: Job) -> list[Group]:
        """Groups, of which each begins from an empty target and is run as it stands."""
        mine = [contenders.ours(job, self.binary)]
        if job.target.kind in plan.AGAIN_INTO:
            mine.append(contenders.again(job, self.binary))
        groups: list[Sequence[Contender]] = [mine]
        if self.lightrag:
            groups.append([contenders.lightrag(job, self.lightrag)])
        # What is a server's own depends on the server alone.
        if job.pair in plan.ALONE:
            groups += [[one] for one in (contenders.loader(job), contenders.reader(job)) if one]
        if job.pair in plan.SAFETIES:
            groups += [[one] for one in contenders.with_safeties(job, self.binary)]
        return [(job, group) for group in groups]

    def _pair(self, groups: Sequence[Group], rounds: int) -> None:
        """Runs the groups in turn, each round beginning with another one, so that none is always first."""
        left = list(groups)
        for number in range(rounds * rounds):
            longest = plan.SHORT if number + 1 >= rounds else plan.REPEATED_UP_TO
            first = number % max(len(left), 1)
            for job, group in [*left[first:], *left[:first]]:
                seconds = [self._sample(job.pair, job, contender, number) for contender in group]
                if max(seconds) > longest:
                    left.remove((job, group))
        for job, _ in groups:
            job.target.empty()

    def _sample(self, pair: str, job: Job, contender: Contender, number: int, workspaces: int = 1) -> float:
        """Measures a run, and returns its seconds."""
        measured, idle = self._run(job, contender)
        sample = Sample(
            pair,
            job.ready.facts.records,
            contender.role,
            contender.name,
            number,
            measured.seconds,
            measured.user,
            measured.system,
            measured.max_rss,
            idle,
            job.distance.round_trip if job.distance else 0,
            workspaces,
            job.tls,
        )
        self.samples.append(sample)
        memory = f"{sample.max_rss / 1e6:8.1f} MB" if sample.max_rss else " " * 11
        busy = "" if idle >= IDLE else f"  (the machine was {1 - idle:.0%} busy)"
        far = f"  {sample.distance:g} ms away" if sample.distance else ""
        many = f"  {workspaces:,} workspaces" if workspaces > 1 else ""
        tls = "  over TLS" if sample.tls else ""
        say(f"  {pair:19} {sample.records:>9,} {sample.name:16} {sample.seconds:9.3f} s {memory}{far}{many}{tls}{busy}")
        self._write()
        return sample.seconds

    def _run(self, job: Job, contender: Contender) -> tuple[Measured, float]:
        """One run, from a known state, and a look at whether it did its work; and how idle the machine was before."""
        where = f"{job.pair}, {job.ready.facts.records:,} records, {contender.name}"
        if contender.fresh:
            job.target.empty()
        if contender.prepare:
            contender.prepare()
        source = job.source if isinstance(job.source, Json) else None
        if source:
            for file in source.files():
                warm(file)
        before = source and source.fingerprint()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        idle = self.patience.settle()
        try:
            measured = run(contender.command, self.folder)
            if contender.check:
                contender.check(measured)
        except RunFailed as failed:
            raise RunFailed(f"{where}: {failed}") from failed
        if contender.writes and (found := job.target.count()) != job.ready.facts.selected:
            raise RunFailed(f"{where}: {found} records arrived of {job.ready.facts.selected}")
        if source and source.fingerprint() != before:
            raise RunFailed(f"{where}: the source was changed")
        return measured, idle

    def _write(self) -> None:
        """Every sample, after each: a session that ends early has not measured for nothing."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        content = {**self.about, "samples": [asdict(sample) for sample in self.samples]}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        beside = self.output.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.output)


def lock(home: Path) -> IO[str]:
    """One benchmark at a time on this machine: two would only measure each other."""
    home.mkdir(parents=True, exist_ok=True)
    file = open(home / "lock", "w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another benchmark, which holds {home / 'lock'}")
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
