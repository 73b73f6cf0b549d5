"""The cache of a size on the disk: LightRAG's file, and the same records as each server's own loader wants them.

They are made once and kept; a change of this program or of data.py makes new ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring
from pathlib import Path

import data

WORKSPACE = "bench"
NAMESPACE = "llm_response_cache"
FILE = f"kv_store_{NAMESPACE}.json"
COMMANDS, ROWS, BULK = "commands.resp", "rows.copy", "bulk.ndjson"


@dataclass(frozen=True)
class Facts:
    """What the files hold. `bytes` are those of LightRAG's file, `selected_bytes` those of its selected records."""

    records: int
    selected: int
    bytes: int
    selected_bytes: int


@dataclass(frozen=True)
class Ready:
    """The files of one size."""

    folder: Path
    facts: Facts

    @property
    def working_dir(self) -> Path:
        return self.folder / "rag_storage"

    @property
    def cache_file(self) -> Path:
        return self.working_dir / WORKSPACE / FILE

    @property
    def redis_commands(self) -> Path:
        return self.folder / COMMANDS

    @property
    def postgres_rows(self) -> Path:
        return self.folder / ROWS

    @property
    def opensearch_bulk(self) -> Path:
        return self.folder / BULK


def make(home: Path, size: int, loaders: bool) -> Ready:
    """The files of a size below `home`; those for the servers' loaders only where `loaders` says so."""
    sources = b"".join(Path(module).read_bytes() for module in (data.__file__, __file__))
    folder = home / f"{size}-{hashlib.sha256(sources).hexdigest()[:12]}"
    facts = folder / "facts.json"
    if not loaders and not facts.exists():
        facts = facts.with_name("facts-json-only.json")
    if not facts.exists():
        forget(home, size)
        facts.parent.mkdir(parents=True)
        written = write(folder, size, loaders)
        facts.write_text(json.dumps(asdict(written)), encoding="utf-8")
    return Ready(folder, Facts(**json.loads(facts.read_text(encoding="utf-8"))))


def forget(home: Path, size: int) -> None:
    """Deletes the files of a size."""
    for old in home.glob(f"{size}-*"):
        shutil.rmtree(old)


def many_workspaces(home: Path, workspaces: int, each: int) -> Ready:
    """The same records in `workspaces` small workspaces of `each` records, as JSON files only."""
    sources = b"".join(Path(module).read_bytes() for module in (data.__file__, __file__))
    folder = home / f"{workspaces}x{each}-{hashlib.sha256(sources).hexdigest()[:12]}"
    facts = folder / "facts.json"
    if not facts.exists():
        for old in home.glob(f"{workspaces}x{each}-*"):
            shutil.rmtree(old)
        records = data.records(workspaces * each)
        size = selected = selected_bytes = 0
        for number in range(workspaces):
            some = [next(records) for _ in range(each)]
            entries = [f"  {encode_basestring(key)}: {json_value(record)}" for key, record in some]
            chosen = [len(entry.encode()) for entry, (_, record) in zip(entries, some, strict=True) if data.is_selected(record)]
            file = folder / "rag_storage" / f"workspace{number}" / FILE
            file.parent.mkdir(parents=True)
            text = ("{\n" + ",\n".join(entries) + "\n}").encode()
            file.write_bytes(text)
            size, selected, selected_bytes = size + len(text), selected + len(chosen), selected_bytes + sum(chosen)
        facts.write_text(json.dumps(asdict(Facts(workspaces * each, selected, size, selected_bytes))), encoding="utf-8")
    return Ready(folder, Facts(**json.loads(facts.read_text(encoding="utf-8"))))


def empty(folder: Path) -> Ready:
    """A cache without records."""
    made = Ready(folder, Facts(0, 0, 2, 0))
    made.cache_file.parent.mkdir(parents=True, exist_ok=True)
    made.cache_file.write_text("{}", encoding="utf-8")
    return made


def write(folder: Path, size: int, loaders: bool) -> Facts:
    """Everything in one pass, record by record, so that memory does not grow with the size."""
    selected = selected_bytes = 0
    cache = folder / "rag_storage" / WORKSPACE / FILE
    cache.parent.mkdir(parents=True)
    with ExitStack() as files:
        out = files.enter_context(open(cache, "wb", buffering=1 << 20))
        sinks = [files.enter_context(open(folder / name, "wb")) for name in LOADERS if loaders]
        for number, (key, record) in enumerate(data.records(size)):
            value = json_value(record)
            if number < 100 and value != json.dumps({"": record}, indent=2, ensure_ascii=False)[8:-2]:
                raise AssertionError("a record is not written as LightRAG's json.dump writes it")
            entry = f"{'{' if number == 0 else ','}\n  {encode_basestring(key)}: {value}".encode()
            out.write(entry)
            if not data.is_selected(record):
                continue
            selected += 1
            selected_bytes += len(entry)
            for sink, line in zip(sinks, LOADERS.values(), strict=False):
                sink.write(line(key, record))
        out.write(b"\n}")
        total = out.tell()
    return Facts(size, selected, total, selected_bytes)


def json_value(record: data.Record) -> str:
    """As `json.dump(…, indent=2, ensure_ascii=False)` writes a value one level deep, several times as fast."""
    fields = (f"    {encode_basestring(name)}: {json_field(value)}" for name, value in record.items())
    return "{\n" + ",\n".join(fields) + "\n  }"


def json_field(value: object) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n    ")
    return json.dumps(value)


def redis_command(key: str, record: data.Record) -> bytes:
    """The SET that this tool sends: the key in LightRAG's layout, the record as it stood in the file."""
    words = (b"SET", f"{WORKSPACE}_{NAMESPACE}:{key}".encode(), json_value(record).encode())
    return b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


COLUMNS = "workspace id original_prompt return_value chunk_id cache_type queryparam create_time update_time".split()


def postgres_row(key: str, record: data.Record) -> bytes:
    """A line of COPY's text format."""
    parameters = record["queryparam"]
    fields = (
        WORKSPACE,
        key,
        record["original_prompt"],
        record["return"],
        record["chunk_id"],
        record["cache_type"],
        None if parameters is None else json.dumps(parameters, ensure_ascii=False),
        timestamp(record["create_time"]),
        timestamp(record["update_time"]),
    )
    return ("\t".join(map(postgres_field, fields)) + "\n").encode()


def postgres_field(value: str | None) -> str:
    if value is None:
        return "\\N"
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def opensearch_action(key: str, record: data.Record) -> bytes:
    """Two lines of a `_bulk` body: the action and the document, as LightRAG's storage lays it out."""
    action = {"index": {"_id": key}}
    document = {name: value for name, value in record.items() if name != "_id"} | {"__mirrored_id": key}
    return f"{json.dumps(action)}\n{json.dumps(document, ensure_ascii=False)}\n".encode()


# What the loaders need, and how a record stands in it.
LOADERS: dict[str, Callable[[str, data.Record], bytes]] = {
    COMMANDS: redis_command,
    ROWS: postgres_row,
    BULK: opensearch_action,
}
