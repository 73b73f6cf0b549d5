"""What is measured at which size."""

from __future__ import annotations

KINDS = ("json", "redis", "postgres", "mongo", "opensearch")  # in the order of LightRAG's menu

SIZES = (20_000, 100_000, 1_000_000)
RUNS = 3
REPEATED_UP_TO = 5.0  # seconds; a longer run is not repeated, since it varies little
# As those of one workspace with as many records, which may take a third. The first run finds the memory of a server cold.
MANY_REPEATED_UP_TO = 3 * REPEATED_UP_TO
SHORT = 1.0  # seconds; a run up to that long varies by more than some goals allow, and is repeated as many times as often
START_UP_RUNS = 50
DISTANCES = (0.0, 10.0, 50.0)  # round trips to the servers, in milliseconds
FAR_UP_TO = 20_000  # records; beyond that they are beside this machine alone
TLS_UP_TO = 20_000  # records; beyond that the connections are not encrypted
WORKSPACES = 5_000
RECORDS_OF_WORKSPACE = 20
# OpenSearch keeps an index for each, of which a node takes 1,000.
MANY_WORKSPACES = ("json-redis", "json-postgres", "json-mongo", "redis-json", "postgres-json", "mongo-json")
WARM_UP_RECORDS = 100_000  # at most
ADDITIONS = 3_000_000  # that Python does, to show how fast the machine runs it
USUAL_SECONDS = (0.1, 0.15)  # for these, on servers of today
EVERY_PAIR_UP_TO = 20_000  # records; beyond that a round of all pairs takes too long
OTHERS_UP_TO = 100_000  # records; beyond that this project's tool is measured alone

EVERY_PAIR = tuple(f"{source}-{target}" for source in KINDS for target in KINDS if source != target)
# To JSON and from JSON: each server alone, once as the target and once as the source.
ALONE = tuple(pair for pair in EVERY_PAIR if "json" in pair.split("-"))
# From JSON, to Redis, to JSON: what the goals name.
NAMED = tuple(pair for pair in EVERY_PAIR if pair.startswith("json-") or pair.endswith(("-redis", "-json")))
# Targets where a run over what is there already is another job: the server compares, or a file is merged with.
AGAIN_INTO = ("postgres", "json")
# Pairs that are run with each safety that can be asked for, too.
SAFETIES = ("json-redis", "json-postgres")

BYTES_PER_RECORD = 6_300


def pairs(size: int) -> tuple[str, ...]:
    if size <= EVERY_PAIR_UP_TO:
        return EVERY_PAIR
    return NAMED


def disk_needed(size: int, with_others: bool) -> int:
    """Bytes: the cache, what the loaders need, and a server's copy or two files at the target, the old and the new."""
    return int(size * BYTES_PER_RECORD * (7 if with_others else 3.5))
