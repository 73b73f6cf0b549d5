"""The benchmark: see scripts/bench.sh, which starts the servers and this."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import plan


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description="Measures this project's tool beside LightRAG's and beside the servers' own loaders, in one run.",
    )
    parser.add_argument("--records", type=sizes, default=plan.SIZES, help="sizes of the cache, between commas")
    parser.add_argument("--runs", type=int, default=plan.RUNS, help="rounds of each pair (%(default)s)")
    parser.add_argument("--pairs", type=lambda text: tuple(text.split(",")), help="only these, such as json-redis,redis-json")
    parser.add_argument("--binary", type=Path, help="the program to measure (default: a release build of this tree)")
    parser.add_argument("--output", type=Path, help="where the samples go (default: target/bench/results.json)")
    parser.add_argument("--without-lightrag", action="store_true", help="leave LightRAG's tool out, which takes longest")
    parser.add_argument("--quick", action="store_true", help="2,000 records, one round, the pairs that the goals name")
    parser.add_argument("--keep", action="store_true", help="keep the data of more than 100,000 records (6 GB a million)")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.records, chosen.runs = (2000,), 1
        chosen.pairs = chosen.pairs or plan.NAMED
    if unknown := set(chosen.pairs or ()) - set(plan.EVERY_PAIR):
        parser.error(f"no such pair: {', '.join(sorted(unknown))}; one is called json-redis")
    return chosen


def sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in text.split(",")))


def main() -> None:
    chosen = arguments()
    # Only now: `--help` needs none of the clients.
    import shutil

    import ready
    from contenders import Job, lightrag, loader, ours, reader
    from session import Session, say

    root = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "migrate-llm-cache" / "bench"
    output = (chosen.output or root / "target" / "bench" / "results.json").absolute()
    binary = (chosen.binary or root / "target" / "release" / "migrate-llm-cache").absolute()
    python = None if chosen.without_lightrag else Path(os.environ["BENCH_LIGHTRAG_PYTHON"])
    session = Session(home, binary, python)
    try:
        session.make_ready()
        for size in chosen.records:
            alone = size > plan.OTHERS_UP_TO
            say(f"making {size:,} records")
            made = ready.make(home, size, loaders=not alone)
            source = None
            for pair in chosen.pairs or plan.pairs(size):
                from_, to = pair.split("-")
                if source is None or source.kind != from_:
                    if source is not None and from_ != "json":
                        source.empty() if source.kind != "json" else None
                    source = session.fill(from_, made)
                job = Job(source, session.target(to), made)
                mine = [ours(job, binary)]
                if to in ("postgres", "json"):
                    mine.append(ours(job, binary, "ours, again", fresh=False))
                groups = [mine]
                if not alone:
                    if python:
                        groups.append([lightrag(job, python)])
                    groups += [[one] for one in (loader(job), reader(job)) if one]
                session.measure(job, groups, chosen.runs)
                session.dump(output, {})
            if alone and not chosen.keep:
                shutil.rmtree(made.folder)
    finally:
        session.clean()


if __name__ == "__main__":
    sys.exit(main())
