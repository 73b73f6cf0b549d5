"""The benchmark: see scripts/bench.sh, which starts the servers and this."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import plan
import plot
import table
from measurement import Measurement, read

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
KEPT = Path(__file__).resolve().with_name("results.json")  # what the tables were made from
RESULTS = KEPT.with_name("RESULTS.md")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description="Measures this project's tool beside LightRAG's and beside the servers' own loaders, in one run.",
    )
    add = parser.add_argument
    add("--records", type=sizes, metavar="N,…", help="sizes of the cache (20000,100000,1000000)")
    add("--pairs", type=pairs, metavar="A-B,…", help="only these pairs, such as json-redis,redis-json, at every size")
    rounds = f"one for runs of over {plan.REPEATED_UP_TO:g} s, N × N for those of up to {plan.SHORT:g} s"
    add("--runs", type=int, metavar="N", help=f"rounds of each pair; {rounds} ({plan.RUNS})")
    add("--distance", type=distances, metavar="MS,…", help="round trips to the servers, up to 20,000 records (0,10,50)")
    add("--tls", action=argparse.BooleanOptionalAction, help="over TLS, too, up to 20,000 records (yes, but for --quick)")
    add("--workspaces", type=int, metavar="N", help="many workspaces of 20 records each; 0 for none (5000)")
    add("--quick", action="store_true", help="2,000 records, one round, the pairs that the goals name")
    add("--binary", type=Path, metavar="FILE", help="the program to measure (a release build of this tree)")
    add("--without-lightrag", action="store_true", help="leave LightRAG's tool out, which takes longest")
    add("--alone", action="store_true", help="this tool beside the servers and nothing else, one run of each pair at each size")
    add("--patience", type=float, default=900.0, metavar="S", help="seconds to wait in all for an idle machine (900)")
    add("--keep", action="store_true", help="keep the data of more than 100,000 records (6 GB a million)")
    add("--output", type=Path, metavar="FILE", help="every sample, as JSON (target/bench/results.json)")
    add("--append", action="store_true", help="keep the samples that --output has already, of this commit on this machine")
    add("--from", dest="from_", type=Path, metavar="FILE", help="measure nothing: print the tables of such a file")
    add("--update-readme", action="store_true", help="put one table into README.md; all tables, samples and plot into scripts/bench/")
    add("--beside", action="store_true", help="with --update-readme: keep the measurements that are published")
    add("--check-readme", action="store_true", help="fail where README.md or RESULTS.md has other tables; with --from")
    chosen = parser.parse_args()
    chosen.records = chosen.records or ((2_000,) if chosen.quick else plan.SIZES)
    chosen.runs = chosen.runs or (1 if chosen.quick else plan.RUNS)
    chosen.distance = chosen.distance or ((0.0,) if chosen.quick else plan.DISTANCES)
    if chosen.tls is None:
        chosen.tls = not chosen.quick
    if chosen.workspaces is None:
        chosen.workspaces = 100 if chosen.quick else plan.WORKSPACES
    if chosen.quick:
        chosen.pairs = chosen.pairs or plan.NAMED
    return chosen


def sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(size) for size in text.split(",")}))


def distances(text: str) -> tuple[float, ...]:
    return tuple(sorted({0.0, *(float(round_trip) for round_trip in text.split(","))}))


def pairs(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    for pair in chosen:
        if pair not in plan.EVERY_PAIR:
            raise argparse.ArgumentTypeError(f"{pair} is no pair; one is called json-redis")
    return chosen


def measure(chosen: argparse.Namespace, output: Path) -> None:
    # Only here: the tables need none of the clients.
    from about import about, continued
    from measure import Patience, RunFailed
    from places import servers
    from session import Session

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    binary = (chosen.binary or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "migrate-llm-cache").absolute()
    lightrag = None if chosen.without_lightrag else Path(os.environ["BENCH_LIGHTRAG_PYTHON"])
    facts = about(ROOT, binary, chosen.binary is not None, servers().values())
    samples = continued(facts, output) if chosen.append else []
    try:
        home = cache / "migrate-llm-cache" / "bench"
        with Session(home, binary, lightrag, Patience(chosen.patience), output, facts, samples, chosen.tls) as session:
            if not samples:
                session.start_up(chosen.runs)
            session.warm_up(max(chosen.records))
            beside_others = [size for size in chosen.records if size <= plan.OTHERS_UP_TO and not chosen.alone]
            alone = [size for size in chosen.records if size not in beside_others]
            for size in beside_others:
                far = chosen.distance if size <= plan.FAR_UP_TO else (0.0,)
                session.size(size, chosen.pairs or plan.pairs(size), chosen.runs, far)
            if chosen.workspaces:
                many = [pair for pair in plan.MANY_WORKSPACES if pair in (chosen.pairs or plan.MANY_WORKSPACES)]
                session.many_workspaces(chosen.workspaces, many, chosen.runs)
            # Last, so that a session that has to end early has measured all the rest.
            for size in alone:
                session.alone(size, chosen.pairs or plan.pairs(size))
                if size > plan.OTHERS_UP_TO and not chosen.keep:
                    session.forget(size)
    except RunFailed as failed:
        sys.exit(f"bench: {failed}")


def documents(measurements: list[Measurement]) -> list[tuple[Path, str]]:
    """The documents that show results, with what they should say."""
    return [(README, table.updated(README, table.summary(measurements))), (RESULTS, table.render(measurements))]


def publish(measurements: list[Measurement]) -> None:
    """Puts a table into the README, and beside this file all tables and what they were made from."""
    for path, text in documents(measurements):
        path.write_text(text, encoding="utf-8")
    content = [one.about for one in measurements]
    KEPT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    KEPT.with_suffix(".svg").write_text(plot.render(table.broadest(measurements).results), encoding="utf-8")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = arguments()
    samples = (chosen.from_ or chosen.output or ROOT / "target" / "bench" / "results.json").absolute()
    if not chosen.from_:
        measure(chosen, samples)
    measurements = read(samples)
    if chosen.check_readme:
        for path, text in documents(measurements):
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path} has other tables than {samples} makes; see --update-readme")
        return
    print(table.render(measurements))
    if chosen.update_readme:
        publish([*(read(KEPT) if chosen.beside else ()), *measurements])


if __name__ == "__main__":
    main()
