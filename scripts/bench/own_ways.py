"""The servers' own ways in and out, where no program of theirs does it: run as a process, printing its seconds last.

    own_ways.py insert-many SIZE       MongoDB: insert_many of ready documents, one connection
    own_ways.py find                   MongoDB: every document, as the bytes that came
    own_ways.py bulk FILE              OpenSearch: _bulk of ready bodies of 8 MiB, two connections
    own_ways.py search                 OpenSearch: a point in time, 5,000 a page, sorted by _shard_doc

The servers are those of BENCH_MONGO_URI and BENCH_OPENSEARCH_URI. The clock runs from the first request to the last
answer: Python's start and what is made ready before cost nothing here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import data
from places import INDEX, Mongo

BODY = 8 << 20
PAGE = 5000
CONNECTIONS = 2


def insert_many(size: int) -> float:
    collection = Mongo(os.environ["BENCH_MONGO_URI"]).collection
    documents = [record for _, record in data.records(size) if data.is_selected(record)]
    collection.database.command("ping")
    begin = time.perf_counter()
    collection.insert_many(documents, ordered=False)
    return time.perf_counter() - begin


def find() -> float:
    collection = Mongo(os.environ["BENCH_MONGO_URI"]).collection
    collection.database.command("ping")
    begin = time.perf_counter()
    size = sum(len(batch) for batch in collection.find_raw_batches())
    seconds = time.perf_counter() - begin
    print(f"{size} bytes")
    return seconds


def bodies(file: Path) -> Iterator[bytes]:
    """The file in pieces of whole actions, which are two lines each."""
    body = bytearray()
    with open(file, "rb") as lines:
        for action in lines:
            body += action + next(lines)
            if len(body) >= BODY:
                yield bytes(body)
                body.clear()
    if body:
        yield bytes(body)


def connect() -> http.client.HTTPConnection:
    parts = urlsplit(os.environ["BENCH_OPENSEARCH_URI"])
    return http.client.HTTPConnection(parts.hostname or "localhost", parts.port or 9200, timeout=600)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"") -> bytes:
    kind = "application/x-ndjson" if path.endswith("/_bulk") else "application/json"
    connection.request(method, path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{method} {path}: {answer.status} {text[:500]!r}")
    return text


def bulk(file: Path) -> float:
    waiting = list(bodies(file))[::-1]
    failed: list[str] = []

    def send() -> None:
        connection = connect()
        while waiting and not failed:
            try:
                body = waiting.pop()
            except IndexError:
                return
            answer = ask(connection, "POST", f"/{INDEX}/_bulk", body)
            if b'"errors":false' not in answer[:100]:
                failed.append(answer[:500].decode(errors="replace"))

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    if failed or waiting:
        raise SystemExit(f"_bulk failed: {failed}")
    return seconds


def search() -> float:
    """Answers are not decoded; where the next page begins stands at their end."""
    connection = connect()
    begin = time.perf_counter()
    pit = json.loads(ask(connection, "POST", f"/{INDEX}/_search/point_in_time?keep_alive=5m"))["pit_id"]
    query = {"size": PAGE, "pit": {"id": pit, "keep_alive": "5m"}, "sort": [{"_shard_doc": "asc"}], "track_total_hits": False}
    size = 0
    while True:
        answer = ask(connection, "POST", "/_search", json.dumps(query).encode())
        size += len(answer)
        last = re.search(rb'"sort":(\[\d+\])\}\]\}\}$', answer[-100:])
        if last is None:
            break
        query["search_after"] = json.loads(last[1])
    ask(connection, "DELETE", "/_search/point_in_time", json.dumps({"pit_id": [pit]}).encode())
    seconds = time.perf_counter() - begin
    print(f"{size} bytes")
    return seconds


def main(way: str, *arguments: str) -> None:
    ways = {
        "insert-many": lambda: insert_many(int(arguments[0])),
        "find": find,
        "bulk": lambda: bulk(Path(arguments[0])),
        "search": search,
    }
    print(ways[way]())


if __name__ == "__main__":
    main(*sys.argv[1:])
