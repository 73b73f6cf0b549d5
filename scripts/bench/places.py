"""The five storages as this benchmark uses them: where they are, how they are emptied, and what they hold."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import Request, urlopen

import pymongo
import redis

from ready import FILE, NAMESPACE, WORKSPACE
from table import INSTEAD_OF_MONGODB

TABLE = "lightrag_llm_cache"
COLLECTION = INDEX = f"{WORKSPACE}_{NAMESPACE}"
MONGO_DATABASE = "migrate_llm_cache_bench"
OPENSEARCH_MAPPING = {
    "mappings": {"dynamic": True, "properties": {"__mirrored_id": {"type": "keyword"}}},
    "settings": {"index": {"number_of_shards": 1, "number_of_replicas": 0}},
}


class Place(ABC):
    """A storage. It is only ever emptied where this benchmark writes, and `claim` makes sure that nothing else is there."""

    kind: str

    @property
    @abstractmethod
    def env(self) -> Mapping[str, str]:
        """LightRAG's variables for it, which this project's tool reads, too."""

    @abstractmethod
    def claim(self) -> None:
        """Fails where the storage holds what is not this benchmark's."""

    @abstractmethod
    def empty(self) -> None:
        """Everything of this benchmark goes, and what the server has to do about it is done when this returns."""

    @abstractmethod
    def count(self) -> int:
        """How many records a reader finds now."""

    def settle(self) -> None:
        """Ends what the server does in the background after a fill."""

    def prepare(self) -> None:
        """Makes what a loader of the server's own needs to be there."""

    @abstractmethod
    def version(self) -> str:
        """Name and version of the server."""


class Json(Place):
    kind = "json"

    def __init__(self, working_dir: Path) -> None:
        self.working_dir = working_dir

    @property
    def file(self) -> Path:
        return self.working_dir / WORKSPACE / FILE

    @property
    def env(self) -> Mapping[str, str]:
        return {"WORKING_DIR": str(self.working_dir)}

    def files(self) -> list[Path]:
        """Those of all workspaces."""
        return sorted(self.working_dir.glob(f"*/{FILE}"))

    def fingerprint(self) -> list[tuple[int, ...]]:
        """Another one if a file was written or replaced."""
        stats = [file.stat() for file in self.files()]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def claim(self) -> None:
        pass

    def empty(self) -> None:
        shutil.rmtree(self.working_dir, ignore_errors=True)

    def count(self) -> int:
        return sum(entries(file) for file in self.files())

    def version(self) -> str:
        return "JSON file"


def entries(path: Path) -> int:
    """By the lines that begin an entry; no text has a line break of its own."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return sum(1 for _ in re.finditer(rb'^ *"\w+:\w+:[0-9a-f]{32}": ?\{', text, re.MULTILINE))


class Redis(Place):
    kind = "redis"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = redis.Redis.from_url(uri, socket_timeout=300)  # an authority is in SSL_CERT_FILE

    @property
    def env(self) -> Mapping[str, str]:
        return {"REDIS_URI": self.uri}

    @cached_property
    def cli(self) -> list[str]:
        parts = urlsplit(self.uri)
        return ["redis-cli", "-h", parts.hostname or "localhost", "-p", str(parts.port or 6379)]

    @property
    def cli_env(self) -> Mapping[str, str]:
        return {"REDISCLI_AUTH": unquote(urlsplit(self.uri).password or "")}

    def claim(self) -> None:
        prefix = f"{COLLECTION}:".encode()
        for key in self.client.scan_iter(count=1000):
            if not key.startswith(prefix):
                raise SystemExit("the Redis of BENCH_REDIS_URI holds other keys; this benchmark would delete them")

    def empty(self) -> None:
        self.client.flushdb(asynchronous=False)

    def count(self) -> int:
        return self.client.dbsize()

    def version(self) -> str:
        return f"Redis {self.client.info('server')['redis_version']}"


class Postgres(Place):
    kind = "postgres"

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.parts = {
            "HOST": parts.hostname or "localhost",
            "PORT": str(parts.port or 5432),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "DATABASE": parts.path[1:],
        }
        self.ssl_mode = dict(parse_qsl(parts.query)).get("sslmode", "disable")

    @property
    def env(self) -> Mapping[str, str]:
        return {f"POSTGRES_{name}": value for name, value in self.parts.items()} | self.tls_env

    @property
    def tls_env(self) -> Mapping[str, str]:
        root = {"POSTGRES_SSL_ROOT_CERT": os.environ["SSL_CERT_FILE"]} if self.ssl_mode.startswith("verify") else {}
        return {"POSTGRES_SSL_MODE": self.ssl_mode, **root}

    @property
    def psql_env(self) -> Mapping[str, str]:
        root = {"PGSSLROOTCERT": os.environ["SSL_CERT_FILE"]} if self.ssl_mode.startswith("verify") else {}
        return {f"PG{name}": value for name, value in self.parts.items()} | {"PGSSLMODE": self.ssl_mode, **root}

    def psql(self, *statements: str) -> list[str]:
        """A command of psql, a transaction for each statement."""
        return [psql(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *(f"--command={one}" for one in statements)]

    def sql(self, *statements: str) -> str:
        env = {**os.environ, **self.psql_env}
        return subprocess.run(self.psql(*statements), env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def has_table(self) -> bool:
        return self.sql(f"SELECT to_regclass('{TABLE}') IS NOT NULL") == "t"

    def claim(self) -> None:
        if self.has_table() and self.sql(f"SELECT 1 FROM {TABLE} WHERE workspace <> '{WORKSPACE}' LIMIT 1"):
            raise SystemExit("the PostgreSQL of BENCH_POSTGRES_URI holds other caches; this benchmark would delete them")

    def empty(self) -> None:
        if self.has_table():
            self.sql(f"TRUNCATE {TABLE}", "CHECKPOINT")

    def count(self) -> int:
        return int(self.sql(f"SELECT count(*) FROM {TABLE}")) if self.has_table() else 0

    def settle(self) -> None:
        self.sql(f"VACUUM ANALYZE {TABLE}", "CHECKPOINT")

    def version(self) -> str:
        return f"PostgreSQL {self.sql('SHOW server_version').split()[0]}"


class Mongo(Place):
    kind = "mongo"

    def __init__(self, uri: str) -> None:
        # Otherwise clients follow the address that the server gives of itself, past a proxy that keeps a distance.
        self.uri = uri + ("&" if "?" in uri else "/?") + "directConnection=true"
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
        self.collection = self.client[MONGO_DATABASE][COLLECTION]

    @property
    def env(self) -> Mapping[str, str]:
        return {"MONGO_URI": self.uri, "MONGO_DATABASE": MONGO_DATABASE}

    def claim(self) -> None:
        others = set(self.client[MONGO_DATABASE].list_collection_names()) - {COLLECTION}
        if others:
            raise SystemExit(f"the MongoDB of BENCH_MONGO_URI has {others} in database {MONGO_DATABASE}")

    def collections(self) -> list[str]:
        """One for each workspace."""
        return [name for name in self.client[MONGO_DATABASE].list_collection_names() if name.endswith(NAMESPACE)]

    def empty(self) -> None:
        for name in self.collections():
            self.client[MONGO_DATABASE].drop_collection(name)
        self.settle()

    def count(self) -> int:
        return sum(self.client[MONGO_DATABASE][name].count_documents({}) for name in self.collections())

    def settle(self) -> None:
        self.client.admin.command("fsync")  # a checkpoint, which would else come once a minute

    def version(self) -> str:
        about = self.client.server_info()
        stand_in = about.get("secantusVersion")
        return f"SecantusDB {stand_in}{INSTEAD_OF_MONGODB}" if stand_in else f"MongoDB {about['version']}"


class OpenSearch(Place):
    kind = "opensearch"

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.tls = parts.scheme == "https"
        self.host = f"{parts.hostname}:{parts.port or 9200}"
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")

    @property
    def env(self) -> Mapping[str, str]:
        return {
            "OPENSEARCH_HOSTS": self.host,
            "OPENSEARCH_USE_SSL": str(self.tls).lower(),
            "OPENSEARCH_VERIFY_CERTS": str(self.tls).lower(),
            "OPENSEARCH_USER": self.user,
            "OPENSEARCH_PASSWORD": self.password,
        }

    def request(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.user:
            headers["Authorization"] = f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"
        url = f"{'https' if self.tls else 'http'}://{self.host}{path}"
        with urlopen(Request(url, data, headers, method=method), timeout=600) as answer:
            return json.load(answer)

    def claim(self) -> None:
        pass  # an index of its own name

    def empty(self) -> None:
        self.request("DELETE", f"/{INDEX}?ignore_unavailable=true")

    def prepare(self) -> None:
        self.request("PUT", f"/{INDEX}", OPENSEARCH_MAPPING)

    def count(self) -> int:
        try:
            self.request("POST", f"/{INDEX}/_refresh")
            return int(self.request("GET", f"/{INDEX}/_count")["count"])
        except HTTPError as error:
            if error.code == 404:
                return 0
            raise

    def settle(self) -> None:
        self.request("POST", f"/{INDEX}/_flush?force=true&wait_if_ongoing=true")

    def version(self) -> str:
        return f"OpenSearch {self.request('GET', '/')['version']['number']}"


def psql() -> str:
    """PostgreSQL's programs are in no PATH where only the server's package is installed."""
    found = shutil.which("psql") or next((str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/psql")), None)
    if found is None:
        raise SystemExit("psql is not installed")
    return found


URIS = {kind: f"BENCH_{kind.upper()}_URI" for kind in ("redis", "postgres", "mongo", "opensearch")}
TLS_URIS = {kind: f"BENCH_{kind.upper()}_TLS_URI" for kind in URIS}
PLACES: dict[str, Callable[[str], Place]] = {"redis": Redis, "postgres": Postgres, "mongo": Mongo, "opensearch": OpenSearch}


def servers() -> dict[str, Place]:
    """The four servers, from BENCH_REDIS_URI and so on, which `scripts/services.sh --benchmark env` prints."""
    return {kind: place(os.environ[URIS[kind]]) for kind, place in PLACES.items()}


def servers_over_tls() -> dict[str, Place]:
    """The same servers over TLS, from BENCH_REDIS_TLS_URI and so on; MongoDB's is another one, with data of its own.

    Every client, this project's tool among them, finds their authority, BENCH_CA_CERT, where it finds the system's.
    """
    missing = [name for name in (*TLS_URIS.values(), "BENCH_CA_CERT") if name not in os.environ]
    if missing:
        raise SystemExit(f"--tls needs {', '.join(missing)}")
    os.environ["SSL_CERT_FILE"] = os.environ["BENCH_CA_CERT"]
    return {kind: place(os.environ[TLS_URIS[kind]]) for kind, place in PLACES.items()}
