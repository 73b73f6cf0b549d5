"""Who is measured: this project's tool, LightRAG's own, and the servers' own loaders and readers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Command, Measured, RunFailed
from places import KINDS, TABLE, Json, Place, Postgres, Redis
from ready import WORKSPACE, Ready

OURS = "ours"
LIGHTRAG = "LightRAG"


@dataclass(frozen=True)
class Contender:
    """One way to do a job, or a side of it.

    `name` is what samples and goals call it. `fresh` says that the target is emptied first. `writes` says that the target
    must hold every selected record afterwards. `check` looks at what the run printed.
    """

    name: str
    command: Command
    fresh: bool = True
    writes: bool = True
    prepare: Callable[[], None] | None = None
    check: Callable[[Measured], None] | None = None


@dataclass(frozen=True)
class Job:
    """A pair of storages and a size."""

    source: Place
    target: Place
    ready: Ready

    @property
    def pair(self) -> str:
        return f"{self.source.kind}-{self.target.kind}"

    @property
    def env(self) -> Mapping[str, str]:
        """The whole configuration, the same for our tool and for LightRAG's."""
        return {"WORKSPACE": WORKSPACE, **self.source.env, **self.target.env}


def ours(job: Job, binary: Path, name: str = OURS, flags: Sequence[str] = (), fresh: bool = True) -> Contender:
    argv = [str(binary), "--source", job.source.kind, "--target", job.target.kind, "--yes", "--output", "jsonl", *flags]

    def check(measured: Measured) -> None:
        report = json.loads(measured.output.splitlines()[-1])
        written = report["totals"]["written"]
        if report["status"] != "ok" or written != job.ready.facts.selected:
            raise RunFailed(f"{name} reported {report['status']} and {written} written")

    return Contender(name, Command(argv, job.env), fresh=fresh, check=check)


def lightrag(job: Job, python: Path) -> Contender:
    """LightRAG's tool is asked by its menu, from which the source is left out when it asks for the target."""
    source = KINDS.index(job.source.kind) + 1
    target = [kind for kind in KINDS if kind != job.source.kind].index(job.target.kind) + 1
    command = Command([str(python), "-m", "lightrag.tools.migrate_llm_cache"], job.env, f"{source}\n{target}\ny\n")

    def check(measured: Measured) -> None:
        if "SUCCESS: All records migrated" not in measured.output:
            raise RunFailed(f"LightRAG's tool did not migrate:\n{measured.output[-3000:]}")

    return Contender(LIGHTRAG, command, check=check)


def own_way(name: str, *arguments: str, writes: bool, prepare: Callable[[], None] | None = None) -> Contender:
    argv = [sys.executable, str(Path(__file__).with_name("own_ways.py")), *arguments]
    return Contender(name, Command(argv, has_own_clock=True), writes, writes, prepare)


def loader(job: Job) -> Contender:
    """The fastest way into the target that comes with it, fed with what is ready."""
    target = job.target
    match target:
        case Redis():
            command = Command([*target.cli, "--pipe"], target.cli_env, job.ready.redis_commands)
            return Contender("redis-cli --pipe", command, check=no_errors)
        case Postgres():
            copy = target.psql(f"\\copy {TABLE} FROM '{job.ready.postgres_rows}'")
            return Contender("\\copy", Command(copy, target.psql_env))
        case Json():
            # Exactly as many bytes as the file that is to be written.
            argv = ["dd", f"if={job.ready.cache_file}", f"of={target.file}", "bs=1M", "conv=fsync"]
            argv += ["iflag=count_bytes", f"count={job.ready.facts.selected_bytes}"]
            return Contender("dd", Command(argv), writes=False, prepare=lambda: target.file.parent.mkdir(parents=True))
    if target.kind == "mongo":
        return own_way("insert_many", "insert-many", str(job.ready.facts.records), writes=True)
    return own_way("_bulk", "bulk", str(job.ready.opensearch_bulk), writes=True, prepare=target.prepare)


def reader(job: Job) -> Contender | None:
    """The fastest way out of the source that comes with it; a JSON file has none."""
    source = job.source
    match source:
        case Redis():
            # Keys from SCAN, 100 to an MGET; --pipe reads the answers and throws them away.
            cli = " ".join(source.cli)
            pipe = f"""{cli} --scan --pattern '{WORKSPACE}_*' |
                awk '{{ printf "%s %s", NR % 100 == 1 ? "\\r\\nMGET" : "", $0 }} END {{ print "\\r" }}' |
                {cli} --pipe"""
            return Contender("SCAN | MGET", Command(["sh", "-c", pipe], source.cli_env), False, False, check=no_errors)
        case Postgres():
            copy = source.psql(f"COPY {TABLE} TO STDOUT (FORMAT binary)")
            command = Command(["sh", "-c", 'exec "$@" >/dev/null', "sh", *copy], source.psql_env)
            return Contender("COPY TO STDOUT", command, False, False)
        case Json():
            return None
    if source.kind == "mongo":
        return own_way("find", "find", writes=False)
    return own_way("PIT search", "search", writes=False)


def no_errors(measured: Measured) -> None:
    """`redis-cli --pipe` ends with 0 although commands failed."""
    if not re.search(r"errors: 0, replies: [1-9]", measured.output):
        raise RunFailed(f"redis-cli: {measured.output[-500:]}")
