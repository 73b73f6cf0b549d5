#!/usr/bin/env python3
"""LightRAG's own readers of its configuration, to compare ours with.

    config_oracle.py files < requests.jsonl      {"format": "dotenv" | "ini", "text": "…"}, one a line
    config_oracle.py settings < requests.jsonl   {"env": {"NAME": "…"}, "files": {".env": "…", "config.ini": "…"}}, one a line
    config_oracle.py sample                      prints the `.env` that LightRAG itself generates

Each request is answered by a line, in order.

files     what the Python package that LightRAG reads the format with makes of a file with that text:
              dotenv → {"values": {"NAME": "…" or null}, "unparsable": 1}
              ini    → {"values": {"section": {"key": "…" or null}}}; null where reading the value fails
                       {"error": "DuplicateOptionError"} where reading the file fails
          A file is decoded as LightRAG has it decoded: UTF-8, newlines translated. `${NAME}` is looked up in the
          environment that this script runs in.
settings  what LightRAG takes for its storages, started in a directory with these files, in this environment: by kind, the
          settings by LightRAG's names, `workspace` (of a program that uses LightRAG as a library) among them; for `server`
          the workspace that its server passes on. {"error": "…"} in place of the settings where LightRAG fails.

Run it with the Python that LightRAG is installed in (TEST_LIGHTRAG_PYTHON).
"""

import asyncio
import configparser
import contextlib
import importlib
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

NAMESPACE = "llm_response_cache"


class Unparsable(logging.Handler):
    """Counts the statements that python-dotenv warns of."""

    count = 0

    def emit(self, record):
        self.count += 1


def opened(text):
    """A file with this text, as `open(path, encoding="utf-8")` gives it."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")


def read_dotenv(text, unparsable):
    from dotenv.main import DotEnv

    before = unparsable.count
    file = DotEnv(dotenv_path=None, stream=opened(text), encoding="utf-8", override=False)
    return {"values": dict(file.dict()), "unparsable": unparsable.count - before}


def read_ini(text):
    parser = configparser.ConfigParser()
    try:
        parser.read_file(opened(text))
    except configparser.Error as error:
        return {"error": type(error).__name__}
    return {"values": {section: values_of(parser, section) for section in parser.sections()}}


def values_of(parser, section):
    values = {}
    for key in parser.options(section):
        try:
            values[key] = parser.get(section, key)
        except configparser.InterpolationError:
            values[key] = None
    return values


def answer_files(requests, out):
    unparsable = Unparsable()
    logger = logging.getLogger("dotenv.main")
    logger.addHandler(unparsable)
    logger.propagate = False
    for line in requests:
        request = json.loads(line)
        text = request["text"]
        answer = read_dotenv(text, unparsable) if request["format"] == "dotenv" else read_ini(text)
        print(json.dumps(answer), file=out)


@contextlib.contextmanager
def started_in(environment, files):
    """A working directory with these files and this process environment, as they were before afterwards."""
    environment_before, directory_before = dict(os.environ), os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            Path(directory, name).write_bytes(text.encode())
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        try:
            yield
        finally:
            os.chdir(directory_before)
            os.environ.clear()
            os.environ.update(environment_before)


def fresh(module):
    """A module of LightRAG as a new process imports it: that is when it reads `.env` and `config.ini`."""
    return importlib.reload(importlib.import_module(f"lightrag.{module}"))


def storage_arguments():
    """What LightRAG passes to a storage."""
    return {
        "namespace": NAMESPACE,
        "workspace": os.getenv("WORKSPACE", ""),
        "global_config": {"working_dir": os.getenv("WORKING_DIR", "./rag_storage")},
        "embedding_func": None,
    }


def prefix_of(final_namespace):
    """The workspace in `[workspace_]llm_response_cache`."""
    return final_namespace.removesuffix(NAMESPACE).removesuffix("_")


async def json_settings():
    fresh("base")
    storage = fresh("kg.json_kv_impl").JsonKVStorage(**storage_arguments())
    folder = os.path.dirname(os.path.abspath(storage._file_name))
    return {"folder": os.path.relpath(folder), "workspace": storage.workspace}


async def redis_settings():
    fresh("base")
    module = fresh("kg.redis_impl")
    storage = module.RedisKVStorage(**storage_arguments())
    return {
        "uri": storage._redis_url,
        "socket_timeout": module.SOCKET_TIMEOUT,
        "connect_timeout": module.SOCKET_CONNECT_TIMEOUT,
        "workspace": prefix_of(storage.final_namespace),
    }


async def postgres_settings():
    module = fresh("kg.postgres_impl")
    database = module.PostgreSQLDB(module.ClientManager.get_config())
    storage = module.PGKVStorage(**storage_arguments(), db=SimpleNamespace(workspace=database.workspace))
    await storage.initialize()
    names = ("host", "port", "user", "password", "database", "ssl_mode", "ssl_cert", "ssl_key", "ssl_root_cert", "ssl_crl")
    names += ("server_settings", "statement_cache_size")
    settings = {name: getattr(database, name) for name in names}
    return {**settings, "max_connections": database.max, "workspace": storage.workspace}


async def mongo_settings():
    fresh("base")
    module = fresh("kg.mongo_impl")
    uris = []

    class Recorder(module.AsyncMongoClient):
        def __init__(self, uri, **options):
            uris.append(uri)
            super().__init__(uri, **options)

    module.AsyncMongoClient = Recorder
    storage = module.MongoKVStorage(**storage_arguments())
    database = await module.ClientManager.get_client()
    settings = {"uri": uris[0], "database": database.name, "workspace": prefix_of(storage.final_namespace)}
    await module.ClientManager.release_client(database)
    return settings


async def opensearch_settings():
    fresh("base")
    module = fresh("kg.opensearch_impl")
    options = {}

    class Recorder(module.AsyncOpenSearch):
        def __init__(self, **given):
            options.update(given)
            super().__init__(**given)

    async def unasked(client):
        return False

    module.AsyncOpenSearch = Recorder
    module._detect_shard_doc_support = unasked
    workspace, _, _ = module._build_index_name(os.getenv("WORKSPACE", ""), NAMESPACE)
    client = await module.ClientManager.get_client()
    await client.transport._async_init()
    login = options["http_auth"] or ("", None)
    settings = {
        "hosts": options["hosts"],
        "addresses": [connection.host for connection in client.transport.connection_pool.connections],
        "user": login[0],
        "password": login[1],
        "use_ssl": options["use_ssl"],
        "verify_certs": options["verify_certs"],
        "timeout": options["timeout"],
        "max_retries": options["max_retries"],
        "number_of_shards": module._get_index_number_of_shards(),
        "number_of_replicas": module._get_index_number_of_replicas(),
        "workspace": workspace,
    }
    await module.ClientManager.release_client(client)
    return settings


async def server_settings():
    arguments = fresh("api.config").parse_args()
    return {"working_dir": os.path.relpath(arguments.working_dir), "workspace": arguments.workspace}


READERS = {
    "json": json_settings,
    "redis": redis_settings,
    "postgres": postgres_settings,
    "mongo": mongo_settings,
    "opensearch": opensearch_settings,
    "server": server_settings,
}


async def settings_of(request):
    answer = {}
    for kind, reader in READERS.items():
        with started_in(request["env"], request["files"]):
            try:
                answer[kind] = await reader()
            except (Exception, SystemExit) as error:  # whatever it is that LightRAG fails with
                answer[kind] = {"error": f"{type(error).__name__}: {error}"}
    return answer


async def answer_settings(requests, out):
    sys.argv[1:] = []
    logging.disable(logging.CRITICAL)
    from lightrag.kg.shared_storage import initialize_share_data

    initialize_share_data(workers=1)
    for line in requests:
        print(json.dumps(await settings_of(json.loads(line))), file=out, flush=True)


def print_sample(out):
    from lightrag.llm.binding_options import BindingOptions

    print(BindingOptions.generate_dot_env_sample(), file=out)


def stdout_for_data_alone():
    """Our own copy of stdout; what LightRAG or a library prints there goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def main():
    command = sys.argv[1:]
    out = stdout_for_data_alone()
    match command:
        case ["files"]:
            answer_files(sys.stdin, out)
        case ["settings"]:
            asyncio.run(answer_settings(sys.stdin, out))
        case ["sample"]:
            print_sample(out)
        case _:
            sys.exit(__doc__)
    out.flush()


if __name__ == "__main__":
    main()
