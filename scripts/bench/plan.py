"""What is measured at which size."""

from __future__ import annotations

from places import KINDS

SIZES = (20_000, 100_000, 1_000_000)
RUNS = 3
EVERY_PAIR_UP_TO = 20_000  # records; beyond that a round of all pairs takes too long
OTHERS_UP_TO = 100_000  # records; beyond that this project's tool is measured alone

EVERY_PAIR = tuple(f"{source}-{target}" for source in KINDS for target in KINDS if source != target)
# From JSON, to Redis, to JSON: those that the goals name, and that a user of a large cache is likely to run.
NAMED = tuple(pair for pair in EVERY_PAIR if pair.startswith("json-") or pair.endswith(("-redis", "-json")))
GROWTH = ("json-redis", "redis-json", "postgres-redis")


def pairs(size: int) -> tuple[str, ...]:
    """The pairs of a size, those of a source together, so that each source is filled once."""
    if size <= EVERY_PAIR_UP_TO:
        return EVERY_PAIR
    return NAMED if size <= OTHERS_UP_TO else GROWTH
