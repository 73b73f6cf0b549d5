"""Who is measured: this project's tool, LightRAG's own, and the servers' own loaders and readers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distance import Distance
from measure import Command, Measured, RunFailed
from places import TABLE, Json, Mongo, Place, Postgres, Redis
from plan import KINDS
from ready import COLUMNS, WORKSPACE, Ready
from samples import AGAIN, WITHOUT_READ_BACK, Role


@dataclass(frozen=True)
class Contender:
    """One way to do a job, or a side of it.

    `fresh` says that the target is emptied first. `writes` says that the target
    must hold every selected record afterwards. `check` looks at what the run printed.
    """

    role: Role
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
    distance: Distance | None = None
    tls: bool = False

    @property
    def pair(self) -> str:
        return f"{self.source.kind}-{self.target.kind}"

    @property
    def env(self) -> Mapping[str, str]:
        """The whole configuration, the same for our tool and for LightRAG's."""
        sides = {**self.source.env, **self.target.env}
        return {"WORKSPACE": WORKSPACE, **(self.distance.env(sides) if self.distance else sides)}


def ours(job: Job, binary: Path, flags: Sequence[str] = ()) -> Contender:
    argv = [str(binary), "--source", job.source.kind, "--target", job.target.kind, "--yes", "--output", "jsonl", *flags]

    def check(measured: Measured) -> None:
        report = json.loads(measured.output.splitlines()[-1])
        written = report["totals"]["written"]
        if report["status"] != "ok" or written != job.ready.facts.selected:
            raise RunFailed(f"the report says {report['status']} and {written} written")

    return Contender(Role.OURS, "this tool", Command(argv, job.env), check=check)


def many_workspaces(job: Job, binary: Path) -> Contender:
    """All workspaces that there are."""
    return ours(job, binary, ("--all-workspaces",))


def again(job: Job, binary: Path) -> Contender:
    """Over what is there already: everything is read, compared by the target or merged, and nothing changes."""
    return replace(ours(job, binary), role=Role.VARIANT, name=AGAIN, fresh=False)


def with_safeties(job: Job, binary: Path) -> list[Contender]:
    """The same job with the safeties that a user can ask for, to see what they cost."""
    checkpoint = Path("bench.ckpt")  # in the folder where the runs are

    def flagged(*flags: str) -> Contender:
        plain = ours(job, binary, flags)
        return replace(plain, role=Role.VARIANT, name=" ".join(flag for flag in flags if flag != str(checkpoint)))

    return [
        flagged("--checkpoint", str(checkpoint)),
        flagged(*WITHOUT_READ_BACK.split()),
        flagged("--verify", "sample"),
        flagged("--verify", "full"),
    ]


def start_up(binary: Path, job: Job) -> Contender:
    """Nothing but starting: a dry run of an empty JSON cache."""
    argv = [str(binary), "--source", str(job.source.env["WORKING_DIR"]), "--target", "./empty", "--dry-run"]
    return Contender(Role.OURS, "this tool", Command(argv, {"WORKSPACE": WORKSPACE}), fresh=False, writes=False)


def lightrag_start_up(python: Path) -> Contender:
    """LightRAG's tool until its first question, at which Enter ends it."""
    command = Command([str(python), "-m", "lightrag.tools.migrate_llm_cache"], {}, "\n")
    return Contender(Role.LIGHTRAG, "LightRAG", command, fresh=False, writes=False)


def lightrag(job: Job, python: Path) -> Contender:
    """LightRAG's tool is asked by its menu, from which the source is left out when it asks for the target."""
    source = KINDS.index(job.source.kind) + 1
    target = [kind for kind in KINDS if kind != job.source.kind].index(job.target.kind) + 1
    command = Command([str(python), "-m", "lightrag.tools.migrate_llm_cache"], job.env, f"{source}\n{target}\ny\n")

    def check(measured: Measured) -> None:
        if "SUCCESS: All records migrated" not in measured.output:
            raise RunFailed(f"LightRAG's tool did not migrate:\n{measured.output[-3000:]}")

    return Contender(Role.LIGHTRAG, "LightRAG", command, check=check)


def own_way(
    role: Role,
    name: str,
    *arguments: str,
    prepare: Callable[[], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> Contender:
    argv = [sys.executable, str(Path(__file__).with_name("own_ways.py")), *arguments]
    loads = role is Role.LOADER
    return Contender(role, name, Command(argv, env or {}, has_own_clock=True), fresh=loads, writes=loads, prepare=prepare)


def loader(job: Job) -> Contender:
    """The fastest way into the target that comes with it, fed with what is ready."""
    target, made, role = job.target, job.ready, Role.LOADER
    match target:
        case Redis():
            command = Command([*target.cli, "--pipe"], target.cli_env, made.redis_commands)
            return Contender(role, "redis-cli --pipe", command, check=no_errors)
        case Postgres():
            copy = target.psql(f"\\copy {TABLE} ({', '.join(COLUMNS)}) FROM '{made.postgres_rows}'")
            return Contender(role, "\\copy", Command(copy, target.psql_env))
        case Json():
            # Exactly as many bytes as the file that is to be written.
            argv = ["dd", f"if={made.cache_file}", f"of={target.file}", "bs=1M", "conv=fsync"]
            argv += ["iflag=count_bytes", f"count={made.facts.selected_bytes}"]
            return Contender(role, "dd", Command(argv), writes=False, prepare=lambda: target.file.parent.mkdir(parents=True))
        case Mongo():
            return own_way(role, "insert_many", "insert-many", str(made.facts.records))
        case _:
            return own_way(role, "_bulk", "bulk", str(made.opensearch_bulk), prepare=target.prepare)


def reader(job: Job) -> Contender | None:
    """The fastest way out of the source that comes with it; a JSON file has none."""
    source, role = job.source, Role.READER
    match source:
        case Redis():
            # Keys from SCAN, 100 to an MGET; --pipe reads the answers and throws them away.
            cli = " ".join(source.cli)
            pipe = f"""{cli} --scan --pattern '{WORKSPACE}_*' |
                awk '{{ printf "%s %s", NR % 100 == 1 ? "\\r\\nMGET" : "", $0 }} END {{ print "\\r" }}' |
                {cli} --pipe"""
            command = Command(["sh", "-c", pipe], source.cli_env)
            return Contender(role, "SCAN, MGET", command, fresh=False, writes=False, check=no_errors)
        case Postgres():
            copy = source.psql(f"COPY {TABLE} TO STDOUT (FORMAT binary)")
            command = Command(["sh", "-c", 'exec "$@" >/dev/null', "sh", *copy], source.psql_env)
            return Contender(role, "COPY TO", command, fresh=False, writes=False)
        case Json():
            return None
        case Mongo():
            return own_way(role, "find", "find", env={"BENCH_MONGO_URI": source.uri})
        case _:
            return own_way(role, "search", "search")


def no_errors(measured: Measured) -> None:
    """`redis-cli --pipe` ends with 0 although commands failed."""
    if not re.search(r"errors: 0, replies: [1-9]", measured.output):
        raise RunFailed(f"redis-cli: {measured.output[-500:]}")
