#!/usr/bin/env python3
"""LightRAG itself as the judge of a migration: its own storage classes write and read the LLM response cache.

Run it with a Python that has LightRAG and its storages' clients (ci/lightrag-requirements.txt); `scripts/services.sh up`
makes one and `scripts/services.sh env` names it TEST_LIGHTRAG_PYTHON.

    lightrag_oracle.py write --kind redis --workspace space1 [--now 1700000000] < records.jsonl
    lightrag_oracle.py read  --kind redis --workspace space1 < keys.jsonl
    lightrag_oracle.py serve < requests.jsonl

write   reads {"key": …, "value": {…}}, one a line, and stores all in one `upsert` followed by `index_done_callback`.
read    reads keys, one JSON string a line, and answers each, in order, with {"key": …, "value": …}: what `get_by_id`
        gave, null where it found nothing. Output is ASCII, so that a lone surrogate arrives as the escape it is.
serve   answers requests, one JSON object a line, until its input ends; it pays Python's and LightRAG's start once:
            {"op": "write", "kind": K, "workspace": W, "env": {…}, "records": [{"key": …, "value": …}], "now": 1700000000}
                → {"ok": true, "written": 1}
            {"op": "read", "kind": K, "workspace": W, "env": {…}, "keys": […]}
                → {"ok": true, "records": [{"key": …, "value": …}]}
            anything that fails → {"ok": false, "error": "KeyError: 'original_prompt'"}, and the next line is served.
        Each request opens its storage anew, so nothing is answered from an earlier request's memory. `env` is laid over
        the process environment for that request. What LightRAG reads once, as it is imported, can only be set in the
        environment that starts `serve`: REDIS_SOCKET_TIMEOUT, REDIS_CONNECT_TIMEOUT, REDIS_RETRY_ATTEMPTS, config.ini.

Where a storage is, LightRAG's own variables say: WORKING_DIR (default ./rag_storage), REDIS_URI, POSTGRES_*, MONGO_URI,
MONGO_DATABASE, OPENSEARCH_*. REDIS_WORKSPACE and its like overrule --workspace, as they do in LightRAG. `now` (Unix
seconds) fixes the clock that LightRAG stamps records with, wherever that is Python's.

What LightRAG 1.5.7 does as it writes and reads, and so what a test may expect:

            on `upsert`                                              on `get_by_id`
json        stamps create_time and update_time with now on a new     a deep copy; _id set to the key; missing times
            key, whatever they were; on a known key stamps           read as 0; an empty value ({}) comes back as it is
            update_time and keeps the create_time of the NEW value,
            so that it is lost when that value has none; sets _id.
            Opening a file in the old layout rewrites it, flat.
redis       as json; the same loss of create_time on a known key.    as stored; missing times read as 0; no _id added.
            Opening it rewrites old keys (one per mode), unless
            any key is flat.
postgres    takes six fields by name and drops the others and both   the columns, `id` and `return_value` among them, and
            times: the table's default stamps create_time and        `return` beside; queryparam decoded; times as whole
            update_time, by the server's clock and time zone; a      seconds, NULL as None; update_time 0 reads as
            known key keeps its create_time. `original_prompt` and   create_time; no _id. A missing chunk_id reads as None.
            `return` must be there (KeyError); a missing cache_type
            becomes `extract`, a falsy queryparam NULL.
            Opening it makes all of LightRAG's tables.
mongo       $set of every field but create_time, so that a field     the document; missing times read as 0
            that the new value lacks stays; update_time is now;
            create_time is now, only on a new key.
opensearch  replaces the document; update_time is now, create_time   the source without __mirrored_id; _id set; missing
            is kept where the value has one, else now; drops _id,    times read as 0
            adds __mirrored_id. Nothing is sent before
            `index_done_callback`, which refreshes the index too.

A lone surrogate: json drops it as it writes the file, redis keeps it (as an escape), the others refuse the record
(UnicodeEncodeError).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TextIO

NAMESPACE = "llm_response_cache"

# kind → module of lightrag.kg, class in it
STORAGES = {
    "json": ("json_kv_impl", "JsonKVStorage"),
    "redis": ("redis_impl", "RedisKVStorage"),
    "postgres": ("postgres_impl", "PGKVStorage"),
    "mongo": ("mongo_impl", "MongoKVStorage"),
    "opensearch": ("opensearch_impl", "OpenSearchKVStorage"),
}

READS_AT_ONCE = 32

Record = dict[str, Any]


@contextmanager
def environment(overlay: Mapping[str, str]) -> Iterator[None]:
    """The process environment with `overlay` upon it, as it was before afterwards."""
    before = dict(os.environ)
    os.environ.update(overlay)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def clock(now: int | None) -> Iterator[None]:
    """LightRAG's clock stands still at `now`; None leaves it running. asyncio's own clock is another one."""
    real = time.time
    if now is not None:
        time.time = lambda: float(now)
    try:
        yield
    finally:
        time.time = real


def fresh_shared_state() -> None:
    """Forget what LightRAG holds in memory per process: JSON's data, and its locks."""
    from lightrag.kg import shared_storage

    shared_storage.finalize_share_data()
    shared_storage.initialize_share_data(workers=1)


async def close_leftover_clients() -> None:
    """Drop the clients that LightRAG shares per process.

    `finalize` does so by counting references, but a storage that failed as it opened leaves its count behind, and the
    next request would be answered by the wrong server.
    """
    for name in ("postgres_impl", "mongo_impl", "opensearch_impl"):
        module = sys.modules.get(f"lightrag.kg.{name}")
        if module is None:
            continue
        shared = module.ClientManager._instances
        client = shared.get("client") or getattr(shared.get("db"), "pool", None)
        if client is not None:
            await client.close()
        shared.update({field: 0 if field == "ref_count" else None for field in shared})
    redis = sys.modules.get("lightrag.kg.redis_impl")
    if redis is not None:
        await redis.RedisConnectionManager.close_all_pools()
        redis._eviction_checked.clear()


@asynccontextmanager
async def opened(kind: str, workspace: str) -> AsyncIterator[Any]:
    """LightRAG's storage for the cache, initialised, and finalised afterwards."""
    if kind not in STORAGES:
        raise ValueError(f"kind {kind!r} is none of {', '.join(STORAGES)}")
    module, class_name = STORAGES[kind]
    fresh_shared_state()
    try:
        storage_class = getattr(importlib.import_module(f"lightrag.kg.{module}"), class_name)
        storage = storage_class(
            namespace=NAMESPACE,
            workspace=workspace,
            global_config={"working_dir": os.environ.get("WORKING_DIR", "./rag_storage")},
            embedding_func=None,
        )
        await storage.initialize()
        try:
            yield storage
        finally:
            await storage.finalize()
    finally:
        await close_leftover_clients()


async def write(kind: str, workspace: str, records: Iterable[Record], now: int | None = None) -> int:
    """Store the records, one `upsert` for all; returns how many keys there were. A key that stands twice counts once."""
    values = {record["key"]: record["value"] for record in records}
    with clock(now):
        async with opened(kind, workspace) as storage:
            await storage.upsert(values)
            await storage.index_done_callback()
    return len(values)


async def read(kind: str, workspace: str, keys: Iterable[str]) -> list[Record]:
    """What LightRAG finds under each key, in the order asked."""
    wanted = list(keys)
    found: list[Record] = []
    async with opened(kind, workspace) as storage:
        for start in range(0, len(wanted), READS_AT_ONCE):
            some = wanted[start : start + READS_AT_ONCE]
            values = await asyncio.gather(*(storage.get_by_id(key) for key in some))
            found += [{"key": key, "value": value} for key, value in zip(some, values, strict=True)]
    return found


async def answer(request: Record) -> Record:
    """One request of `serve`; raises where the request or the storage fails."""
    with environment(request.get("env") or {}):
        match request["op"]:
            case "write":
                records = request["records"]
                return {"written": await write(request["kind"], request["workspace"], records, request.get("now"))}
            case "read":
                return {"records": await read(request["kind"], request["workspace"], request["keys"])}
            case unknown:
                raise ValueError(f"op {unknown!r} is neither write nor read")


def described(error: BaseException) -> str:
    """The error and those behind it: OpenSearch's `finalize` hides the flush that failed first."""
    text = f"{type(error).__name__}: {error}"
    behind = error.__cause__ or error.__context__
    return f"{text} (after {described(behind)})" if behind else text


async def serve(requests: Iterable[str], out: TextIO) -> None:
    """Answer each line; one event loop for all, since LightRAG keeps locks of it per process."""
    for line in requests:
        try:
            reply = {"ok": True, **await answer(json.loads(line))}
            text = json.dumps(reply)
        except Exception as error:  # a request that fails is answered, whatever it was that failed
            text = json.dumps({"ok": False, "error": described(error)})
        print(text, file=out, flush=True)


def stdout_for_data_alone() -> TextIO:
    """Our own copy of stdout; what LightRAG or a library prints there goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "read"):
        command = commands.add_parser(name)
        command.add_argument("--kind", choices=STORAGES, required=True)
        command.add_argument("--workspace", default="", help="default: empty")
        if name == "write":
            command.add_argument("--now", type=int, help="the clock LightRAG stamps records with, in Unix seconds")
    commands.add_parser("serve")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    out = stdout_for_data_alone()
    sys.stdin.reconfigure(encoding="utf-8")
    if arguments.command == "serve":
        asyncio.run(serve(sys.stdin, out))
        return
    lines = [json.loads(line) for line in sys.stdin if line.strip()]
    if arguments.command == "write":
        asyncio.run(write(arguments.kind, arguments.workspace, lines, arguments.now))
    else:
        for record in asyncio.run(read(arguments.kind, arguments.workspace, lines)):
            print(json.dumps(record), file=out)
    out.flush()


if __name__ == "__main__":
    main()
