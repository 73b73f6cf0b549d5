#!/usr/bin/env python3
"""Make tests/fixtures anew: small caches in the bytes that LightRAG itself wrote.

    scripts/services.sh up && eval "$(scripts/services.sh env)"
    "$TEST_LIGHTRAG_PYTHON" scripts/make_fixtures.py

Every record goes through LightRAG's `save_to_cache` (or its `upsert`, where the record has a field of its own) with its
clock standing still, so that a second run changes no byte. Only the old layouts, which LightRAG writes no more, are put
together here, in the shape that it still reads. What comes out, below tests/fixtures:

sample/rag_storage/         a working directory: the empty workspace, space1, space2. The last one grew out of a file in
                            the old layout, so it has records without times and without chunk_id.
layouts/flat.json           as LightRAG writes today
layouts/nested.json         the old layout, {"default": {hash: record}}
layouts/mixed.json          old and flat entries in one file, old ones first
layouts/mixed_flat_first.json   the same, flat ones first: LightRAG then sees only the flat ones
layouts/*.migrated.json     what LightRAG made of the file of that name when it opened it
layouts/bom.json            flat, with a byte order mark; LightRAG reads it
layouts/empty.json          no byte at all; LightRAG reads it as no records

records.jsonl               six records, as they were given to LightRAG; all that follows holds these, in workspace
                            `fixtures`
redis.jsonl                 key, and the value as the string that Redis holds
postgres.jsonl              a row each, every column as text, null where NULL. The server's clock stamps the times and
                            cannot be held: the script sets both columns afterwards, the one thing here that LightRAG
                            did not write.
postgres_schema.sql         pg_dump of the table that LightRAG made
mongo.jsonl                 documents, canonical extended JSON
opensearch.jsonl            _id and _source
opensearch_mapping.json     mapping and settings of the index as LightRAG makes it
opensearch_mapping_filled.json  the same after the records: what the server added by itself
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import bson.json_util
import pymongo
import redis
from opensearchpy import OpenSearch

from lightrag_oracle import NAMESPACE, clock, environment, opened

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
WORKSPACE = "fixtures"  # in the servers, for as long as this script runs
DATABASE = "migrate_fixtures"  # of PostgreSQL and MongoDB, likewise
FILE = f"kv_store_{NAMESPACE}.json"
START = 1_748_736_000  # 2025-06-01T00:00:00Z: the clock of the first record


@dataclass
class Entry:
    """An answer of the model, as LightRAG hands it to its cache."""

    content: str
    prompt: str
    cache_type: str
    mode: str = "default"
    chunk_id: str | None = None
    queryparam: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        from lightrag.utils import compute_args_hash, generate_cache_key

        return generate_cache_key(self.mode, self.cache_type, compute_args_hash(self.prompt))


# ----------------------------------------------------------------------------------------------------------------------
# What is in the caches

PASSAGES = [
    (
        "English",
        "The lighthouse at Ardnamore Point was lit for the first time in 1849. Its keeper, Ishbel Rennie, wrote every "
        'evening: "wind SW, force 7; oil for nine nights". The Northern Harbour Board paid her £38 a year.',
        [("Ardnamore Point", "Location"), ("Ishbel Rennie", "Person"), ("Northern Harbour Board", "Organization")],
    ),
    (
        "English",
        "Paths in the archive are written C:\\scans\\1912\\box_07, and the index lists them as\n\tbox\tpage\tremark\n"
        "\t07\t113\t\"torn, see 114\"\nThe archivist, Tomás O'Dálaigh, calls it the \\/ ledger.",
        [("C:\\scans\\1912\\box_07", "Data"), ("Tomás O'Dálaigh", "Person"), ('"\\/" ledger', "Artifact")],
    ),
    (
        "Chinese",
        "青石桥建于明代万历年间,横跨清溪河,全长四十二米。地方志记载:“桥成之日,乡人皆贺。”二〇一九年,县文物局对其进行了修缮。",
        [("青石桥", "Artifact"), ("清溪河", "Location"), ("县文物局", "Organization")],
    ),
    (
        "Arabic",
        "تأسست مكتبة الواحة عام ١٩٣١ في بلدة نخلة الوادي، وتضم أكثر من ٤٠٠٠ مخطوطة. قالت أمينة المكتبة سلمى: «الورق يتذكر».",
        [("مكتبة الواحة", "Organization"), ("نخلة الوادي", "Location"), ("سلمى", "Person")],
    ),
    (
        "English",
        "Release 4.2 🚀 of the garden controller fixed the pump 💧 that ran at night. Testers 👩🏽‍🌾👨‍👩‍👧‍👦 voted 👍🏿 for it; "
        "one wrote: “finally — my naïve tomatoes 🍅 survive”.",
        [("Garden Controller 4.2", "Artifact"), ("Pump 💧", "Artifact"), ("Testers", "Person")],
    ),
    (
        "Russian",
        "В 1957 году станция «Полюс-3» начала наблюдения за льдом. Журнал вела метеоролог Н. Ю. Щербакова.",
        [("Станция «Полюс-3»", "Location"), ("Н. Ю. Щербакова", "Person"), ("Лёд", "NaturalObject")],
    ),
    (
        "Japanese",
        "若葉製作所は一九六八年、真空管ラジオ「こだま号」を三百台だけ製造した。技師の森下さんは回路図に「静かに」と書き残した。",
        [("若葉製作所", "Organization"), ("こだま号", "Artifact"), ("森下", "Person")],
    ),
]

QUERY_PARAMETERS = {
    "mode": "mix",
    "response_type": "Multiple Paragraphs",
    "top_k": 40,
    "chunk_top_k": 20,
    "max_entity_tokens": 6000,
    "max_relation_tokens": 8000,
    "max_total_tokens": 30000,
    "hl_keywords": [],
    "ll_keywords": ["pump", "青石桥"],
    "user_prompt": "",
    "enable_rerank": True,
}


def hash_of(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}"


def extract(rng: random.Random, number: int) -> Entry:
    language, passage, entities = PASSAGES[number % len(PASSAGES)]
    names = [name for name, _ in entities]
    rows = [f"entity<|#|>{name}<|#|>{kind}<|#|>{name}: {passage[:120]}" for name, kind in entities]
    rows += [
        f"relation<|#|>{a}<|#|>{b}<|#|>mentioned together, {rng.choice(['history', 'work', 'place'])}<|#|>"
        f"Passage {number} names {a} and {b}."
        for a, b in zip(names, names[1:])
    ]
    prompt = (
        "---Task---\nExtract entities and relationships from the input text below, one a line, fields separated by <|#|>; "
        f"end with <|COMPLETE|>. Answer in {language}.\n\n---Input Text---\n```\n[{number}] {passage}\n```\n\n---Output---\n"
    )
    return Entry("\n".join(rows) + "\n<|COMPLETE|>", prompt, "extract", chunk_id=f"chunk-{hash_of(rng)}")


def summary(_: random.Random, number: int) -> Entry:
    language, passage, entities = PASSAGES[number % len(PASSAGES)]
    name = entities[0][0]
    prompt = (
        f"---Task---\nMerge the descriptions of `{name}` into one, in {language}.\n\n---Description List---\n"
        + "\n".join(json.dumps({"Description": f"{number}.{part}: {passage}"}, ensure_ascii=False) for part in (1, 2))
    )
    return Entry(f"{name} — {passage}", prompt, "summary")


def analysis(rng: random.Random, number: int) -> Entry:
    name = PASSAGES[number % len(PASSAGES)][2][-1][0]
    answer = {"name": f"figure {number}", "type": "chart", "description": f"A line for each year; highest: {name}."}
    prompt = f"Describe the image figure-{number:03}.png of the document, as JSON with name, type and description."
    return Entry(json.dumps(answer, ensure_ascii=False), prompt, "analysis", chunk_id=f"chunk-{hash_of(rng)}")


def query(_: random.Random, number: int) -> Entry:
    _, passage, entities = PASSAGES[number % len(PASSAGES)]
    prompt = f"mix\nWhat is known about {entities[0][0]}? ({number})"
    return Entry(f"### Answer\n\n{passage}\n\n- [1] file_{number}.md", prompt, "query", "mix", None, QUERY_PARAMETERS)


def keywords(_: random.Random, number: int) -> Entry:
    names = [name for name, _ in PASSAGES[number % len(PASSAGES)][2]]
    answer = json.dumps({"high_level_keywords": ["history"], "low_level_keywords": names}, ensure_ascii=False)
    return Entry(answer, f"local\nKeywords of question {number}", "keywords", "local", None, {**QUERY_PARAMETERS, "mode": "local"})


def cache_of(seed: int, **numbers: int) -> list[Entry]:
    """A cache with so many entries of each kind, mixed as a running LightRAG mixes them."""
    rng = random.Random(seed)
    makers = {"extract": extract, "summary": summary, "analysis": analysis, "query": query, "keywords": keywords}
    entries = [makers[kind](rng, seed * 100 + n) for kind, count in numbers.items() for n in range(count)]
    rng.shuffle(entries)
    return entries


def old_layout(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """As LightRAG kept its cache before it had flat keys: no times, no chunk_id, no queryparam."""
    modes: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        record = {"return": entry.content, "cache_type": entry.cache_type, "original_prompt": entry.prompt}
        if number % 3 == 1:  # still older ones named no type: it reads as extract
            del record["cache_type"]
        modes.setdefault(entry.mode, {})[entry.key().rsplit(":", 1)[1]] = record
    return modes


def six_records() -> list[Entry]:
    """One of each shape that a storage has to hold."""
    rng = random.Random(6)
    plain, escapes, chinese, emoji = (extract(rng, number) for number in (0, 1, 2, 4))
    arabic = summary(rng, 3)
    chinese.extra = {"tokens": 9_007_199_254_740_993, "score": 0.1, "tags": ["a", None, "b"], "nested": {"deep": {"b": True}}}
    emoji.content += "\u0001\u007f\u2028"
    return [plain, escapes, chinese, arabic, emoji, query(rng, 5)]


# ----------------------------------------------------------------------------------------------------------------------
# Through LightRAG


async def fill(kind: str, workspace: str, entries: Iterable[Entry], start: int = START) -> None:
    """Save the entries as LightRAG does, an hour and a second between two of them."""
    from lightrag.utils import CacheData, compute_args_hash, save_to_cache

    async with opened(kind, workspace) as storage:
        for number, entry in enumerate(entries):
            with clock(start + number * 3601):
                if entry.extra:
                    await storage.upsert({entry.key(): value_of(entry)})
                    continue
                await save_to_cache(
                    storage,
                    CacheData(
                        args_hash=compute_args_hash(entry.prompt),
                        content=entry.content,
                        prompt=entry.prompt,
                        mode=entry.mode,
                        cache_type=entry.cache_type,
                        chunk_id=entry.chunk_id,
                        queryparam=entry.queryparam,
                    ),
                )
        await storage.index_done_callback()


def value_of(entry: Entry) -> dict[str, Any]:
    return {
        "return": entry.content,
        "cache_type": entry.cache_type,
        "chunk_id": entry.chunk_id,
        "original_prompt": entry.prompt,
        "queryparam": entry.queryparam,
        **entry.extra,
    }


async def open_once(workspace: str = "") -> None:
    """LightRAG rewrites a file in the old layout as it opens it."""
    async with opened("json", workspace):
        pass


def dump(path: Path, value: Any) -> None:
    """JSON as LightRAG writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def dump_lines(path: Path, values: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------------------
# The files


async def make_sample() -> None:
    home = FIXTURES / "sample" / "rag_storage"
    shutil.rmtree(home, ignore_errors=True)
    with environment({"WORKING_DIR": str(home)}):
        await fill("json", "", cache_of(1, extract=24, summary=8, analysis=4, query=3, keywords=1))
        space1 = cache_of(2, extract=15, summary=5, analysis=2, query=2, keywords=1)
        await fill("json", "space1", space1)
        # Some were asked again later, and answered otherwise.
        again = [Entry(f"{entry.content}\n", **fields_but_content(entry)) for entry in space1[:3]]
        await fill("json", "space1", again, START + 400_000)
        dump(home / "space2" / FILE, old_layout(cache_of(3, extract=4)))
        await open_once("space2")
        await fill("json", "space2", cache_of(4, extract=3, summary=2, query=1))


def fields_but_content(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in vars(entry).items() if name != "content"}


async def make_layouts() -> None:
    home = FIXTURES / "layouts"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as working_dir, environment({"WORKING_DIR": working_dir}):
        file = Path(working_dir) / FILE
        await fill("json", "", cache_of(5, extract=3, summary=1, query=1))
        shutil.copyfile(file, home / "flat.json")
        flat = json.loads(file.read_text(encoding="utf-8"))
        old = old_layout(cache_of(6, extract=4, summary=2, query=1))
        dump(home / "nested.json", old)
        dump(home / "mixed.json", old | flat)
        dump(home / "mixed_flat_first.json", flat | old)
        for name in ("nested", "mixed"):
            shutil.copyfile(home / f"{name}.json", file)
            await open_once()
            shutil.copyfile(file, home / f"{name}.migrated.json")
    (home / "bom.json").write_bytes(b"\xef\xbb\xbf" + (home / "flat.json").read_bytes())
    (home / "empty.json").write_bytes(b"")


# ----------------------------------------------------------------------------------------------------------------------
# The servers


async def make_redis(entries: list[Entry]) -> None:
    uri = os.environ["TEST_REDIS_URI"]
    client = redis.Redis.from_url(uri, decode_responses=True)
    pattern = f"{WORKSPACE}_{NAMESPACE}:*"

    def clean() -> None:
        for key in list(client.scan_iter(pattern)):
            client.delete(key)

    clean()
    try:
        with environment({"REDIS_URI": uri}):
            await fill("redis", WORKSPACE, entries)
        keys = sorted(client.scan_iter(pattern))
        dump_lines(FIXTURES / "redis.jsonl", ({"key": key, "value": client.get(key)} for key in keys))
    finally:
        clean()


async def make_postgres(entries: list[Entry]) -> None:
    uri = urlsplit(os.environ["TEST_POSTGRES_URI"])
    connection = {"host": uri.hostname, "port": uri.port, "user": uri.username, "password": unquote(uri.password)}
    variables = {f"POSTGRES_{name.upper()}": str(value) for name, value in connection.items()}
    outside = await asyncpg.connect(**connection, database=uri.path[1:])
    await outside.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await outside.execute(f"CREATE DATABASE {DATABASE}")
    try:
        with environment({**variables, "POSTGRES_DATABASE": DATABASE}):
            await fill("postgres", WORKSPACE, entries)
        inside = await asyncpg.connect(**connection, database=DATABASE)
        await inside.execute(
            "UPDATE lightrag_llm_cache SET create_time = t.at, update_time = t.at + interval '90.5 seconds' FROM "
            "(SELECT id, timestamp '2025-06-01 00:00:00.123456' + row_number() OVER (ORDER BY id) * interval '3601 s' AS at"
            " FROM lightrag_llm_cache) t WHERE t.id = lightrag_llm_cache.id"
        )
        columns = [
            row["column_name"]
            for row in await inside.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'lightrag_llm_cache' "
                "ORDER BY ordinal_position"
            )
        ]
        texts = ", ".join(f"{column}::text" for column in columns)
        rows = await inside.fetch(f'SELECT {texts} FROM lightrag_llm_cache ORDER BY id COLLATE "C"')
        dump_lines(FIXTURES / "postgres.jsonl", (dict(row) for row in rows))
        await inside.close()
        schema = subprocess.run(
            [program("pg_dump"), "--schema-only", "--no-owner", "--table=lightrag_llm_cache"],
            env={
                **os.environ,
                "PGHOST": uri.hostname,
                "PGPORT": str(uri.port),
                "PGUSER": uri.username,
                "PGPASSWORD": connection["password"],
                "PGDATABASE": DATABASE,
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        # Without the versions of the day and the token that is another one each time.
        kept = re.sub(r"^(-- Dumped .*|\\(un)?restrict .*)\n", "", schema, flags=re.MULTILINE)
        (FIXTURES / "postgres_schema.sql").write_text(re.sub(r"\n{3,}", "\n\n", kept).strip() + "\n", encoding="utf-8")
    finally:
        await outside.execute(f"DROP DATABASE {DATABASE}")
        await outside.close()


def program(name: str) -> str:
    """PostgreSQL's programs are in no PATH where only the server's package is installed."""
    found = shutil.which(name) or next((str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        sys.exit(f"{name} is not installed")
    return found


async def make_mongo(entries: list[Entry]) -> None:
    uri = os.environ["TEST_MONGO_URI"]
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    client.drop_database(DATABASE)
    try:
        with environment({"MONGO_URI": uri, "MONGO_DATABASE": DATABASE}):
            await fill("mongo", WORKSPACE, entries)
        documents = client[DATABASE][f"{WORKSPACE}_{NAMESPACE}"].find().sort("_id")
        options = bson.json_util.CANONICAL_JSON_OPTIONS
        dump_lines(FIXTURES / "mongo.jsonl", (json.loads(bson.json_util.dumps(d, json_options=options)) for d in documents))
    finally:
        client.drop_database(DATABASE)
        client.close()


async def make_opensearch(entries: list[Entry]) -> None:
    uri = os.environ["TEST_OPENSEARCH_URI"]
    client = OpenSearch(uri)
    index = f"{WORKSPACE}_{NAMESPACE}"

    def dump_mapping(name: str) -> None:
        found = client.indices.get(index=index)[index]
        for of_the_day in ("uuid", "creation_date", "version"):
            del found["settings"]["index"][of_the_day]
        (FIXTURES / name).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    client.indices.delete(index=index, ignore_unavailable=True)
    try:
        with environment({"OPENSEARCH_HOSTS": urlsplit(uri).netloc, "OPENSEARCH_USE_SSL": "false"}):
            async with opened("opensearch", WORKSPACE):
                dump_mapping("opensearch_mapping.json")
            await fill("opensearch", WORKSPACE, entries)
        dump_mapping("opensearch_mapping_filled.json")
        hits = client.search(index=index, size=100)["hits"]["hits"]
        hits.sort(key=lambda hit: hit["_id"])
        dump_lines(FIXTURES / "opensearch.jsonl", ({"_id": hit["_id"], "_source": hit["_source"]} for hit in hits))
    finally:
        client.indices.delete(index=index, ignore_unavailable=True)


async def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    await make_sample()
    await make_layouts()
    dump_lines(FIXTURES / "records.jsonl", ({"key": entry.key(), "value": value_of(entry)} for entry in six_records()))
    for make in (make_redis, make_postgres, make_mongo, make_opensearch):
        await make(six_records())


if __name__ == "__main__":
    missing = [name for kind in ("REDIS", "POSTGRES", "MONGO", "OPENSEARCH") if not os.environ.get(name := f"TEST_{kind}_URI")]
    if missing:
        sys.exit(f'not set: {", ".join(missing)}. First: eval "$(scripts/services.sh env)"')
    asyncio.run(main())
