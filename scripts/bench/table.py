"""The tables of the results, from the samples: all of them, and the one in the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plan
from goals import Judged, Results, Timing
from measurement import Measurement
from samples import AGAIN, START_UP, WITHOUT_READ_BACK, Role

BEGIN = "<!-- benchmark: made by scripts/bench.sh --update-readme -->"
END = "<!-- /benchmark -->"

LABELS = {"json": "JSON", "redis": "Redis", "postgres": "PostgreSQL", "mongo": "MongoDB", "opensearch": "OpenSearch"}

# The end of a server's version if it was used instead of MongoDB's own server.
INSTEAD_OF_MONGODB = " in place of MongoDB"

NOT_MEASURED = (
    "MongoDB's own server, which no package registry offers (SecantusDB speaks its protocol, with the same storage engine); "
    "Redis with persistence; storages of several nodes; other machines; the processor time of the servers."
)


def render(measurements: Sequence[Measurement]) -> str:
    """Every table of every measurement, the latest first, as a Markdown page."""
    text = "# Results of the benchmark\n\nMade by `scripts/bench.sh --update-readme`.\n"
    if len(measurements) == 1:
        return f"{text}\n{tables(measurements[0])}"
    text += "Figures can be compared within a measurement, not with those of another one: the machines differ.\n"
    for one in reversed(measurements):
        text += f"\n## {heading(one)}\n\n{tables(one)}"
    return text


def heading(measurement: Measurement) -> str:
    results = measurement.results
    *sizes, largest = (f"{size:,}" for size in results.sizes())
    what = f"{', '.join(sizes)} and {largest} records" if sizes else f"{largest} records"
    whom = "beside other programs" if has_any_others(results) else "this tool alone"
    return f"{what}, {whom} ({measurement.about['date']}, commit {measurement.about['commit']})"


def broadest(measurements: Sequence[Measurement]) -> Measurement:
    """The measurement of the largest cache that every program moved between most storages, the latest of these."""
    with_others = [one for one in measurements if has_any_others(one.results)]

    def breadth(one: Measurement) -> tuple[int, int]:
        size = size_with_others(one.results)
        return size, len(one.results.pairs(size))

    return max(reversed(with_others or measurements), key=breadth)


def summary(measurements: Sequence[Measurement]) -> str:
    """One table: the largest cache that every program moved. Pairs that were measured again on that machine have their latest
    figures."""
    measurement = broadest(measurements)
    about, size = measurement.about, size_with_others(measurement.results)
    again = [one for one in measurements[measurements.index(measurement) + 1 :] if is_same_machine(one.about, about)]
    rows: list[Sequence[str]] = []
    commits: dict[str, list[str]] = {}
    for pair in measurement.results.pairs(size):
        latest = next((one for one in reversed(again) if summary_row(one.results, pair, size)), measurement)
        if row := summary_row(latest.results, pair, size):
            rows.append(row)
            commits.setdefault(latest.about["commit"], []).append(arrow(pair))
    beside_own = "time relative to the native loader or reader (below 1: faster)"
    head = (f"{size:,} records", "this tool", "LightRAG's tool", beside_own, "memory", "LightRAG's memory")
    where = f"{about['date']}, {about['tool']}, {about['lightrag']}, all on one machine with {about['cores']} cores."
    instead = next((server for server in about["servers"] if server.endswith(INSTEAD_OF_MONGODB)), None)
    if instead:
        where += f" The rows with MongoDB were measured with {instead.removesuffix(INSTEAD_OF_MONGODB)}, which speaks its protocol."
    for commit, pairs in commits.items():
        if commit != about["commit"]:
            where += f" {', '.join(pairs)}: measured again with commit {commit}, the others with {about['commit']}."
    where += slow_machine(about)
    return f"{table(head, rows)}\n\n{where}\n"


def summary_row(results: Results, pair: str, size: int) -> Sequence[str] | None:
    """The figures of a pair; nothing if a program is missing."""
    ours = results.by_role(pair, size, Role.OURS)
    other = results.by_role(pair, size, Role.LIGHTRAG)
    side = results.slower_side(pair, size)
    beside = results.beside_servers(pair, size)
    if not (ours and other and side and beside):
        return None
    return (
        arrow(pair),
        f"{ours.median:.1f} s",
        f"{other.median:.1f} s",
        f"{beside.value:.2f} × `{side.name}`",
        megabytes_of(ours),
        megabytes_of(other),
    )


def is_same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two measurements were made with the same processor and servers."""
    return all(one[fact] == other[fact] for fact in ("processor", "cores", "servers", "lightrag"))


def tables(measurement: Measurement) -> str:
    about, results = measurement.about, measurement.results
    parts = [pairs_table(results, size) for size in reversed(results.sizes()) if has_others(results, size)]
    parts += [far_table(results, size) for size in results.sizes()]
    parts += [tls_table(results, size) for size in results.sizes()]
    parts += [many_table(results), growth_table(results), safeties_table(results), start_up(results), circumstances(about, results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def updated(readme: Path, text: str) -> str:
    """The README with the tables between their markers."""
    whole = readme.read_text(encoding="utf-8")
    if whole.count(BEGIN) != 1 or whole.count(END) != 1:
        raise SystemExit(f"{readme} has no place for the tables, from {BEGIN} to {END}")
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def has_others(results: Results, size: int) -> bool:
    return any(results.slower_side(pair, size) for pair in results.pairs(size))


def has_any_others(results: Results) -> bool:
    return any(has_others(results, size) for size in results.sizes())


def size_with_others(results: Results) -> int:
    """The largest cache that every program moved; 0 if there is none."""
    return max((size for size in results.sizes() if has_others(results, size)), default=0)


def pairs_table(results: Results, size: int) -> str:
    rows = []
    for pair in results.pairs(size):
        side = results.slower_side(pair, size)
        rows.append(
            (
                arrow(pair),
                seconds(results.by_role(pair, size, Role.OURS)),
                seconds(results.by_role(pair, size, Role.LIGHTRAG)),
                times(results.beside_lightrag(pair, size)),
                f"{seconds(side)} `{side.name}`" if side else "",
                ratio(results.beside_servers(pair, size)),
                megabytes(results.memory(pair, size)),
                megabytes_of(results.by_role(pair, size, Role.LIGHTRAG)),
            )
        )
        if rerun := results.rerun_beside_loader(pair, size):
            again = results.named(pair, size, AGAIN)
            as_above = f"`{side.name}`, as above" if side else ""
            rows.append((f"{arrow(pair)}, second run", seconds(again), "", "", as_above, ratio(rerun), megabytes_of(again), ""))
    head = (
        f"{size:,} records",
        "this tool",
        "LightRAG's tool",
        "LightRAG's time / this tool's (goal)",
        "native loader or reader",
        "time relative to it (goal)",
        "memory (goal)",
        "LightRAG's memory",
    )
    return table(head, rows)


def far_table(results: Results, size: int) -> str:
    distances = results.distances(size)
    rows = []
    for pair in results.pairs(size) if distances else ():
        near = seconds(results.by_role(pair, size, Role.OURS))
        far = [in_seconds(results.far_seconds(pair, size, distance)) for distance in distances]
        beside = [times(results.far_beside_lightrag(pair, size, distance)) for distance in distances]
        rows.append((arrow(pair), near, *far, *beside, megabytes(results.memory_far(pair, size))))
    if not rows:
        return ""
    away = [f"{distance:g} ms" for distance in distances]
    beside = (f"LightRAG's time / this tool's, {one} (goal)" for one in away)
    return table((f"{size:,} records, by round-trip time", "0 ms", *(f"{one} (goal)" for one in away), *beside, "memory (goal)"), rows)


def tls_table(results: Results, size: int) -> str:
    rows = []
    for pair in results.pairs(size):
        plain, tls = results.by_role(pair, size, Role.OURS), results.tls.get((pair, size))
        if plain and tls:
            processor = (processor_time(one) for one in (plain, tls))
            memory = megabytes(results.memory_over_tls(pair, size))
            rows.append((arrow(pair), seconds(plain), seconds(tls), ratio(results.over_tls(pair, size)), *processor, memory))
    head = (f"TLS, {size:,} records", "without", "with", "ratio (goal)", "processor time, without", "processor time, with", "memory (goal)")
    return table(head, rows) if rows else ""


def many_table(results: Results) -> str:
    rows = []
    for (pair, workspaces), (records, one) in results.many.items():
        beside = times_as_long(results.beside_one_workspace(pair, workspaces))
        memory = megabytes(results.memory_of_many(pair, workspaces))
        rows.append((arrow(pair), f"{workspaces:,}", f"{records:,}", seconds(one), beside, memory))
    head = ("many workspaces", "workspaces", "records", "this tool", "relative to one workspace of as many (goal)", "memory (goal)")
    return table(head, rows) if rows else ""


def growth_table(results: Results) -> str:
    sizes = results.sizes()
    rows = []
    for pair in results.pairs(sizes[-1]) if len(sizes) > 1 else ():
        timings = [results.by_role(pair, size, Role.OURS) for size in sizes]
        grown = results.growth(pair, sizes[-2:])
        memory = [megabytes(results.memory(pair, size)) for size in sizes]
        rows.append((arrow(pair), *(seconds(one) for one in timings), times_as_long(grown), *memory))
        merged = [results.memory(pair, size, merged=True) for size in sizes]
        if pair.endswith("-json") and any(merged):
            times_again = [seconds(results.named(pair, size, AGAIN)) for size in sizes]
            rows.append((f"{arrow(pair)}, second run", *times_again, "", *map(megabytes, merged)))
    if not rows:
        return ""
    counts = [f"{size:,}" for size in sizes]
    head = ("as the cache grows", *counts, f"{counts[-1]} / {counts[-2]}", *(f"memory, {count}" for count in counts))
    return table(head, rows)


def safeties_table(results: Results) -> str:
    rows = []
    for size in results.sizes():
        for pair in results.pairs(size):
            plain = results.by_role(pair, size, Role.OURS)
            for one in results.variants(pair, size):
                if not one.name.startswith("--"):
                    continue
                if one.name == WITHOUT_READ_BACK:
                    what, runs, cost = "reading back, the default", (one, plain), results.read_back(pair, size)
                else:
                    what, runs, cost = f"`{one.name}`", (plain, one), results.safety(pair, size, one.name)
                if cost:
                    rows.append((f"{arrow(pair)}, {size:,}", what, *map(seconds, runs), percentage(cost)))
    return table(("what safety costs", "", "without", "with", "more (goal)"), rows) if rows else ""


def percentage(judged: Judged) -> str:
    if judged.goal is None:
        return f"{judged.value:+.0%}"
    return f"{judged.value:+.0%} (≤ {judged.goal:+.0%}) {mark(judged)}"


def start_up(results: Results) -> str:
    judged = results.start_up()
    ours = results.by_role(START_UP, 0, Role.OURS)
    if judged is None or judged.goal is None or ours is None:
        return ""
    text = (
        f"Start-up (`--dry-run` of an empty JSON cache): {ours.median * 1000:.1f} ms ({ours.low * 1000:.1f} to "
        f"{ours.high * 1000:.1f}), goal {judged.goal * 1000:.0f} ms {mark(judged)}"
    )
    other = results.by_role(START_UP, 0, Role.LIGHTRAG)
    if other:
        text += f"; LightRAG's tool takes {other.median:.2f} s to its first question, which is in its times above"
    return text + "."


def slow_machine(about: dict[str, Any]) -> str:
    """What to know of a machine on which everything takes longer than elsewhere."""
    taken = max(about.get("additions", [0.0]))
    low, high = plan.USUAL_SECONDS
    if taken <= high:
        return ""
    return (
        f" This machine is slow: Python takes {taken:.2f} s for {plan.ADDITIONS:,} additions, where {low} to {high} s is usual. "
        "Times are longer than elsewhere, most of all those of LightRAG's tool where it keeps the whole cache in memory."
    )


def circumstances(about: dict[str, Any], results: Results) -> str:
    busy = ""
    if results.busy:
        busy = f" {results.busy} of {results.runs} runs began while something else kept the machine busy."
    caches = ", ".join(
        f"{cache['bytes'] / 1e6:,.0f} MB of JSON for {cache['records']:,} records, {cache['selected']:,} of them selected"
        for cache in about["caches"]
    )
    unmeasured = "" if results.tls else "TLS; "
    unmeasured += "a real network between the hosts"
    if any(results.distances(size) for size in results.sizes()):
        unmeasured += " (a proxy adds the round-trip time, and does not limit bandwidth)"
    runs, others = "Times are of one run.", ""
    before = "what was moved to a server was read there next"
    if has_any_others(results):
        runs = (
            f"Times are the median of up to {results.rounds} runs, with the lowest and the highest in parentheses; those without are of "
            "one run, since long runs are not repeated. Each round ran every program once, one after the other."
        )
        before = "the source had been read once"
        others = (
            " The *native loader or reader* is the slower of two: the target's own loader with ready-made data, and the source's "
            "own reader with its output discarded."
        )
    return (
        f"The cache is made from a seed: {caches}. {runs} Before each run the target was emptied, except for a *second run*, which "
        f"writes the same records again; files were in the page cache, and {before}. A run counts only if every "
        f"record was then found on the target.{others} *Memory* is the peak of the process. ✓ and ✗ say whether the goal in "
        f"parentheses, which this project set itself, is met. Ratios are of times that are not rounded.{busy}\n\n"
        f"{about['date']}, commit {about['commit']}, {about['tool']}; {'; '.join(about['servers'])}; {about['lightrag']}; "
        f"all on one machine: {about['cores']} cores ({about['processor']}), {about['memory'] / 1e9:.0f} GB, "
        f"{about['kernel']}.{slow_machine(about)}\n\n"
        f"Not measured: {unmeasured}; {NOT_MEASURED}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arrow(pair: str) -> str:
    source, target = pair.split("-")
    return f"{LABELS[source]} → {LABELS[target]}"


def seconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    spread = f" ({figure(timing.low)}–{figure(timing.high)})" if timing.low < timing.high else ""
    return f"{figure(timing.median)} s{spread}"


def processor_time(timing: Timing) -> str:
    return "" if timing.cpu is None else f"{figure(timing.cpu)} s"


def figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def mark(judged: Judged) -> str:
    return {True: "✓", False: "✗", None: ""}[judged.met]


def beside_goal(judged: Judged | None, bound: str, digits: int, unit: str = "") -> str:
    """A value and, where there is one, the goal that bounds it; nothing where nothing was measured.

    If rounding would make a value that misses its goal look equal to it, more digits are shown."""
    if judged is None:
        return ""
    if judged.goal is None:
        return f"{judged.value:.{digits}f}{unit}"
    if not judged.met:
        digits = next((more for more in range(digits, digits + 4) if float(f"{judged.value:.{more}f}") != judged.goal), digits)
    return f"{judged.value:.{digits}f}{unit} ({bound} {judged.goal:g}) {mark(judged)}"


def ratio(judged: Judged | None) -> str:
    return beside_goal(judged, "≤", 2)


def in_seconds(judged: Judged | None) -> str:
    if judged is None or judged.goal is None:
        return ""
    return f"{figure(judged.value)} s (≤ {figure(judged.goal)}) {mark(judged)}"


def times(judged: Judged | None) -> str:
    return beside_goal(judged, "≥", 1, " ×")


def times_as_long(judged: Judged | None) -> str:
    return beside_goal(judged, "≤", 1, " ×")


def megabytes(judged: Judged | None) -> str:
    if judged is None or judged.goal is None:
        return ""
    return f"{judged.value / 1e6:.0f} MB (≤ {judged.goal / 1e6:.0f}) {mark(judged)}"


def megabytes_of(timing: Timing | None) -> str:
    return f"{timing.memory / 1e6:,.0f} MB" if timing and timing.memory else ""
