"""What the goals are, and what the samples say about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from measure import IDLE
from plan import NAMED
from samples import AGAIN, START_UP, WITHOUT_READ_BACK, Role

# Of the time of the target's own loader.
BESIDE_LOADER = {"json-redis": 1.1, "json-postgres": 0.7, "json-mongo": 1.1, "json-opensearch": 1.1}
RERUN_BESIDE_LOADER = {"json-postgres": 0.25}
# Of the slower of the two sides alone, for every pair with one of these targets and a server as the source.
BESIDE_SLOWER_SIDE = {"redis": 1.25, "json": 1.25}
# LightRAG's time is at least so many times ours.
FASTER_THAN_LIGHTRAG = {"redis": 5.0, "json": 5.0}
FASTER_THAN_LIGHTRAG_ELSEWHERE = 2.5
# At a distance up to so many milliseconds, and at a larger one: so many times the time beside the servers, and so many seconds.
FAR_BELOW = 20
FAR = ((1.3, 0.3), (2.0, 1.0))
FASTER_THAN_LIGHTRAG_FAR = {"redis": 5.0, "json": 5.0, "postgres": 4.0, "mongo": 4.0}
OVER_TLS = 1.25  # times as long as over connections that are not encrypted
MANY_WORKSPACES = 3.0  # times as long as one workspace of as many records
MEMORY = 64_000_000  # bytes
MEMORY_LIGHT = 24_000_000  # between JSON and Redis
MEMORY_LIGHT_FAR = 32_000_000  # the same at a distance
LIGHT_PAIRS = ("json-redis", "redis-json")
KEY_MEMORY = 24  # bytes beyond that for each record, where keys must be remembered
GROWTH_LIMIT = 1.05  # a cache ten times as large takes at most 10.5 times as long
SAFETY_COSTS = {"--verify full": 1.3}  # the time that it adds, in times of the run without
READ_BACK_COSTS = 0.03  # the time that reading back adds by default, in times of the run without
START_UP_LIMIT = 0.020  # seconds


@dataclass(frozen=True)
class Timing:
    """All samples of one contender: seconds, and bytes of memory at most."""

    role: Role
    name: str
    median: float
    low: float
    high: float
    cpu: float | None
    memory: int | None


@dataclass(frozen=True)
class Judged:
    """A number beside its goal; `goal` is None where there is none."""

    value: float
    goal: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


class Results:
    """The samples of a session, by pair and size."""

    def __init__(self, samples: Sequence[dict[str, Any]]) -> None:
        self.runs = len(samples)
        self.busy = sum(sample["idle"] < IDLE for sample in samples)
        grouped: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
        far: dict[tuple[str, int, float, str], list[dict[str, Any]]] = {}
        tls: dict[tuple[str, int], list[dict[str, Any]]] = {}
        many: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for sample in samples:
            pair, records, role = sample["pair"], sample["records"], sample["role"]
            if sample.get("workspaces", 1) > 1:
                many.setdefault((pair, sample["workspaces"]), []).append(sample)
            elif sample.get("tls"):
                tls.setdefault((pair, records), []).append(sample)
            elif distance := sample.get("distance", 0):
                far.setdefault((pair, records, distance, role), []).append(sample)
            else:
                grouped.setdefault((pair, records, sample["name"]), []).append(sample)
        self.timings = {key: timing(some) for key, some in grouped.items()}
        self.rounds = max((len(some) for (pair, *_), some in grouped.items() if pair != START_UP), default=0)
        self.far = {key: timing(some) for key, some in far.items()}
        self.tls = {key: timing(some) for key, some in tls.items()}
        self.many = {key: (some[0]["records"], timing(some)) for key, some in many.items()}

    def sizes(self) -> list[int]:
        return sorted({size for pair, size, _ in self.timings if pair != START_UP})

    def pairs(self, size: int) -> list[str]:
        return list(dict.fromkeys(pair for pair, records, _ in self.timings if records == size and pair != START_UP))

    def by_role(self, pair: str, size: int, role: Role) -> Timing | None:
        found = (one for (of, records, _), one in self.timings.items() if (of, records) == (pair, size) and one.role == role)
        return next(found, None)

    def named(self, pair: str, size: int, name: str) -> Timing | None:
        return self.timings.get((pair, size, name))

    def variants(self, pair: str, size: int) -> list[Timing]:
        return [one for (of, records, _), one in self.timings.items() if (of, records, one.role) == (pair, size, Role.VARIANT)]

    def loader(self, pair: str, size: int) -> Timing | None:
        """The target's own way in, which is measured with one pair for all."""
        target = pair.split("-")[1]
        return self.by_role(pair, size, Role.LOADER) or self.by_role(f"json-{target}", size, Role.LOADER)

    def reader(self, pair: str, size: int) -> Timing | None:
        """The source's own way out, likewise."""
        source = pair.split("-")[0]
        return self.by_role(pair, size, Role.READER) or self.by_role(f"{source}-json", size, Role.READER)

    def slower_side(self, pair: str, size: int) -> Timing | None:
        sides = [self.loader(pair, size), self.reader(pair, size)]
        return max((side for side in sides if side), key=lambda side: side.median, default=None)

    def distances(self, size: int) -> list[float]:
        return sorted({distance for _, records, distance, _ in self.far if records == size})

    def at(self, pair: str, size: int, distance: float, role: Role) -> Timing | None:
        return self.far.get((pair, size, distance, role)) if distance else self.by_role(pair, size, role)

    def far_seconds(self, pair: str, size: int, distance: float) -> Judged | None:
        """Our time at a distance; the goal is made of that beside the servers."""
        near, far = (self.at(pair, size, away, Role.OURS) for away in (0, distance))
        if not near or not far:
            return None
        times, more = FAR[0] if distance <= FAR_BELOW else FAR[1]
        return Judged(far.median, near.median * times + more)

    def far_beside_lightrag(self, pair: str, size: int, distance: float) -> Judged | None:
        ours, other = (self.at(pair, size, distance, role) for role in (Role.OURS, Role.LIGHTRAG))
        if not ours or not other:
            return None
        goal = FASTER_THAN_LIGHTRAG_FAR.get(pair.split("-")[1], FASTER_THAN_LIGHTRAG_ELSEWHERE)
        return Judged(other.median / ours.median, goal, at_least=True)

    def over_tls(self, pair: str, size: int) -> Judged | None:
        """Our time over TLS, in times of that without."""
        plain, tls = self.by_role(pair, size, Role.OURS), self.tls.get((pair, size))
        return Judged(tls.median / plain.median, OVER_TLS) if plain and tls else None

    def beside_one_workspace(self, pair: str, workspaces: int) -> Judged | None:
        records, timing = self.many[pair, workspaces]
        one = self.by_role(pair, records, Role.OURS)
        return Judged(timing.median / one.median, MANY_WORKSPACES) if one else None

    def beside_servers(self, pair: str, size: int) -> Judged | None:
        ours, side = self.by_role(pair, size, Role.OURS), self.slower_side(pair, size)
        if not ours or not side:
            return None
        source, target = pair.split("-")
        goal = BESIDE_LOADER.get(pair) if source == "json" else BESIDE_SLOWER_SIDE.get(target)
        return Judged(ours.median / side.median, goal)

    def rerun_beside_loader(self, pair: str, size: int) -> Judged | None:
        again, side = self.named(pair, size, AGAIN), self.loader(pair, size)
        if not again or not side or pair not in RERUN_BESIDE_LOADER:
            return None
        return Judged(again.median / side.median, RERUN_BESIDE_LOADER[pair])

    def beside_lightrag(self, pair: str, size: int) -> Judged | None:
        ours, other = self.by_role(pair, size, Role.OURS), self.by_role(pair, size, Role.LIGHTRAG)
        if not ours or not other:
            return None
        goal = FASTER_THAN_LIGHTRAG.get(pair.split("-")[1], FASTER_THAN_LIGHTRAG_ELSEWHERE)
        return Judged(other.median / ours.median, goal, at_least=True)

    def memory(self, pair: str, size: int, merged: bool = False) -> Judged | None:
        """The peak of our runs; `merged` those into a JSON file that is there, whose keys must be remembered."""
        run = self.named(pair, size, AGAIN) if merged else self.by_role(pair, size, Role.OURS)
        if not run or run.memory is None:
            return None
        limit = MEMORY_LIGHT if pair in LIGHT_PAIRS else MEMORY
        if merged or pair.startswith("redis-"):
            limit += KEY_MEMORY * size
        return Judged(run.memory, limit)

    def memory_far(self, pair: str, size: int) -> Judged | None:
        """The peak of our runs at any distance."""
        peaks = [run.memory for (of, records, _, role), run in self.far.items() if (of, records, role) == (pair, size, Role.OURS)]
        highest = max((peak for peak in peaks if peak is not None), default=None)
        goal = MEMORY_LIGHT_FAR if pair in LIGHT_PAIRS else MEMORY
        return None if highest is None else Judged(highest, goal)

    def memory_over_tls(self, pair: str, size: int) -> Judged | None:
        run = self.tls.get((pair, size))
        return Judged(run.memory, MEMORY) if run and run.memory is not None else None

    def memory_of_many(self, pair: str, workspaces: int) -> Judged | None:
        _, run = self.many[pair, workspaces]
        return None if run.memory is None else Judged(run.memory, MEMORY)

    def safety(self, pair: str, size: int, name: str) -> Judged | None:
        """The time that a safety adds, in times of the run without."""
        plain, safe = self.by_role(pair, size, Role.OURS), self.named(pair, size, name)
        return Judged(safe.median / plain.median - 1, SAFETY_COSTS.get(name)) if plain and safe else None

    def read_back(self, pair: str, size: int) -> Judged | None:
        """The time that reading a sample back adds to every run, in times of one with `--verify off`."""
        plain, without = self.by_role(pair, size, Role.OURS), self.named(pair, size, WITHOUT_READ_BACK)
        return Judged(plain.median / without.median - 1, READ_BACK_COSTS) if plain and without else None

    def growth(self, pair: str, sizes: Sequence[int]) -> Judged | None:
        """How many times as long the second size takes."""
        small, large = (self.by_role(pair, size, Role.OURS) for size in sizes)
        if not small or not large:
            return None
        goal = GROWTH_LIMIT * sizes[1] / sizes[0] if pair in NAMED else None
        return Judged(large.median / small.median, goal)

    def start_up(self) -> Judged | None:
        ours = self.by_role(START_UP, 0, Role.OURS)
        return Judged(ours.median, START_UP_LIMIT) if ours else None


def timing(samples: Sequence[dict[str, Any]]) -> Timing:
    seconds = [sample["seconds"] for sample in samples]
    cpu = [sample["user"] + sample["system"] for sample in samples if sample["user"] is not None]
    memory = [sample["max_rss"] for sample in samples if sample["max_rss"] is not None]
    first = samples[0]
    return Timing(
        Role(first["role"]),
        first["name"],
        median(seconds),
        min(seconds),
        max(seconds),
        median(cpu) if cpu else None,
        max(memory) if memory else None,
    )
