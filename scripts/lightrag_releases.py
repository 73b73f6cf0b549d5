#!/usr/bin/env python3
"""Any LightRAG release as the judge of keys: it hashes, and it fills and reads a cache, by its own code.

Run it with a Python that has LightRAG's dependencies (TEST_LIGHTRAG_PYTHON of `scripts/services.sh env`). The release is
taken from PyPI once, and kept unpacked beside the wheels of prompt_templates.py.

    lightrag_releases.py --release 1.5.4 hashes < cases.jsonl
    lightrag_releases.py --release 1.5.7 ingest < request.json

hashes  reads {"prompt": …, "json": true, "identity": {…}}, one a line, and answers each with the hash of its key, a JSON
        string a line.
analyses reads {"kind": "table", "identity": {…}} (or "equation", "drawing"), one a line, makes the prompt of an analysis, and
        answers each with {"hash": …, "original_prompt": …}. What is hashed is put together as in `analyze_multimodal`,
        which is too long to call.
ingest  reads one request and ingests its documents, with a model that is a function and counts its calls:
            {"documents": {"name": "text", …}, "identity": {"binding": …, "model": …, "host": …} or null,
             "vlm_identity": likewise, "json": false, "gleaning": 1, "language": "English", "addon_params": {…},
             "prompts": {"summarize_entity_descriptions": …}, "storage": "json", "working_dir": …, "workspace": …}
        and answers {"calls": 12, "cached": 0, "keys": [every key that it asked the cache for]}. Where the storage is, its own
        variables say (REDIS_URI …). Only the cache is there: graph, vectors and documents are in the working directory,
        which should be a new one each time.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import sys
import types
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import prompt_templates  # noqa: E402

STORAGES = {
    "json": "JsonKVStorage",
    "redis": "RedisKVStorage",
    "postgres": "PGKVStorage",
    "mongo": "MongoKVStorage",
    "opensearch": "OpenSearchKVStorage",
}
DIMENSIONS = 8


def unpacked(release: str, wheels: Path) -> Path:
    """A folder with the release's package in it."""
    folder = wheels.parent / "releases" / release
    if not folder.exists():
        partial = folder.with_name(f"{release}.{os.getpid()}")
        with zipfile.ZipFile(prompt_templates.wheel(release, wheels)) as archive:
            archive.extractall(partial, [name for name in archive.namelist() if name.startswith("lightrag/")])
        try:
            partial.rename(folder)
        except OSError:
            pass  # Another process was faster.
    return folder


def forbid_installing() -> None:
    """LightRAG installs what it misses as it is imported. Here nothing is: what old releases need beside, for graph
    embeddings that nobody asks for, is an empty stand-in."""

    class Pipmaster(types.ModuleType):
        @staticmethod
        def is_installed(name: str, *_: object, **__: object) -> bool:
            return True

        @staticmethod
        def install(name: str, *_: object, **__: object) -> None:
            raise RuntimeError(f"LightRAG wants to install {name}")

    sys.modules["pipmaster"] = Pipmaster("pipmaster")
    graspologic = types.ModuleType("graspologic")
    graspologic.embed = None
    sys.modules["graspologic"] = graspologic


def hashes() -> None:
    from lightrag import utils

    for line in sys.stdin:
        case = json.loads(line)
        texts = [case["prompt"]]
        if hasattr(utils, "serialize_llm_cache_identity"):
            identity = {"role": "extract", **case["identity"]}
            texts += [
                "\n<response_format>\n",
                utils._serialize_cache_variant({"type": "json_object"} if case["json"] else None),
                "\n<llm_identity>\n",
                utils.serialize_llm_cache_identity(identity),
            ]
        print(json.dumps(utils.compute_args_hash(*texts)), flush=True)


# A picture of one pixel.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def analyses() -> None:
    from lightrag import utils
    from lightrag.llm import _vision_utils as vision
    from lightrag.prompt_multimodal import MULTIMODAL_PROMPTS

    fields = {"language": "English", "content_format": "JSON", "captions": "n/a", "footnotes": "é", "leading": "<b>"}
    fields |= {"trailing": "{x}", "item_id": "tb-1", "file_path": "a.docx", "content": "[[1, 2]]"}
    for line in sys.stdin:
        case = json.loads(line)
        kind = case["kind"]
        is_image = kind == "drawing"
        prompt = MULTIMODAL_PROMPTS["image_analysis" if is_image else f"{kind}_analysis"].format(**fields)
        image = {"base64": PICTURE, "mime_type": "image/png", "source_id": "im-1", "source_file": "a/é.png"}
        images = vision.normalize_image_inputs([image | {"modality": "image", "doc_id": "doc-1"}] if is_image else [])
        identity = {"role": "vlm" if is_image else "extract", **case["identity"]}
        args_hash = utils.compute_args_hash(
            prompt,
            "",
            "",
            utils.serialize_llm_cache_identity(identity),
            utils._serialize_cache_variant({"type": "json_object"}),
            utils._serialize_cache_variant(vision.image_cache_metadata(images)),
            kind,
        )
        if is_image:
            audit = json.dumps(vision.image_audit_metadata(images), ensure_ascii=False)
            prompt += f"\n<vlm_images>{audit}</vlm_images>"
        print(json.dumps({"hash": args_hash, "original_prompt": prompt}), flush=True)


class Words:
    """A tokenizer of one's own: a word, or a run of anything else, is a token."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.number: dict[str, int] = {}

    def encode(self, content: str) -> list[int]:
        tokens = re.findall(r"\w+|\W+", content)
        for token in tokens:
            if token not in self.number:
                self.number[token] = len(self.known)
                self.known.append(token)
        return [self.number[token] for token in tokens]

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.known[token] for token in tokens)


class Model:
    """Answers every prompt in the form that it asks for, and counts."""

    def __init__(self, prompts: dict) -> None:
        self.calls = 0
        self.tuple = prompts["DEFAULT_TUPLE_DELIMITER"]
        self.record = prompts.get("DEFAULT_RECORD_DELIMITER", "\n")
        self.end = prompts["DEFAULT_COMPLETION_DELIMITER"]
        self.brackets = "entity_extraction" in prompts

    async def __call__(self, prompt: str, system_prompt: str | None = None, history_messages=None, **kwargs) -> str:
        self.calls += 1
        whole = f"{system_prompt or ''}\n{prompt}"
        number = hashlib.md5(whole.encode()).hexdigest()[:6]
        if "yes" in whole.lower() and "answer only" in whole.lower():
            return "no"
        if kwargs.get("response_format"):
            return self.in_json(number)
        if "entity" in whole and self.tuple in whole:
            return self.in_text(number)
        return f"A summary with the number {number}."

    def rows(self, number: str) -> list[tuple[str, ...]]:
        return [
            ("entity", "Everywhere", "concept", f"Is mentioned in every text; here it is number {number}."),
            ("entity", f"Only {number}", "concept", f"Is mentioned in text {number}."),
            ("relation", "Everywhere", f"Only {number}", "contains", f"One contains the other, in {number}."),
        ]

    def in_text(self, number: str) -> str:
        rows = self.rows(number)
        if not self.brackets:
            return "\n".join([*(self.tuple.join(row) for row in rows), self.end])
        old = [("relationship", *row[1:3], row[4], row[3], "1") if row[0] == "relation" else row for row in rows]
        quoted = ["(" + self.tuple.join(f'"{field}"' for field in row) + ")" for row in old]
        return self.record.join(quoted) + self.end

    def in_json(self, number: str) -> str:
        rows = self.rows(number)
        entities = [dict(zip(("name", "type", "description"), row[1:])) for row in rows if row[0] == "entity"]
        relations = [
            dict(zip(("source", "target", "keywords", "description"), row[1:])) for row in rows if row[0] == "relation"
        ]
        return json.dumps({"entities": entities, "relationships": relations})


async def embed(texts: list[str]):
    import numpy

    digests = [hashlib.md5(text.encode()).digest()[:DIMENSIONS] for text in texts]
    return numpy.array([[byte / 255 for byte in digest] for digest in digests])


def settings(request: dict, model: Model) -> dict:
    """What this release's LightRAG is made with."""
    from lightrag import LightRAG
    from lightrag.utils import EmbeddingFunc, Tokenizer

    fields = LightRAG.__dataclass_fields__
    identity, vlm = request.get("identity"), request.get("vlm_identity")
    roles = {"extract": {"metadata": identity}} if identity else {}
    if vlm:
        roles["vlm"] = {"metadata": vlm}
    wanted = {
        "working_dir": request["working_dir"],
        "workspace": request.get("workspace", ""),
        "kv_storage": STORAGES[request.get("storage", "json")],
        "llm_model_func": model,
        "llm_model_name": (identity or {}).get("model") or request.get("model", "gpt-4o-mini"),
        "role_llm_configs": roles or None,
        "embedding_func": EmbeddingFunc(embedding_dim=DIMENSIONS, max_token_size=8192, func=embed),
        "tokenizer": Tokenizer("words", Words()),
        "chunk_token_size": 200,
        "chunk_overlap_token_size": 20,
        "entity_extract_max_gleaning": request.get("gleaning", 1),
        "force_llm_summary_on_merge": 3,
        "entity_extraction_use_json": request.get("json", False),
        "addon_params": {"language": request.get("language", "English"), **request.get("addon_params", {})},
        "max_parallel_insert": 1,
        "llm_model_max_async": 1,
    }
    return {name: value for name, value in wanted.items() if name in fields}


async def ingest(request: dict) -> dict:
    from lightrag import LightRAG, prompt, utils

    prompt.PROMPTS.update(request.get("prompts", {}))
    model = Model(prompt.PROMPTS)
    rag = LightRAG(**settings(request, model))
    await rag.initialize_storages()
    try:
        from lightrag.kg.shared_storage import initialize_pipeline_status

        await initialize_pipeline_status()
    except ImportError:
        pass
    keys: list[str] = []
    read = rag.llm_response_cache.get_by_id

    async def get_by_id(key: str):
        keys.append(key)
        return await read(key)

    rag.llm_response_cache.get_by_id = get_by_id
    for name, text in request["documents"].items():
        await rag.ainsert(text, ids=[name], file_paths=[f"{name}.txt"])
    await rag.finalize_storages()
    return {"calls": model.calls, "cached": utils.statistic_data["llm_cache"], "keys": sorted(set(keys))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", required=True)
    parser.add_argument("--wheels", type=Path, default=Path.home() / ".cache/migrate-llm-cache/wheels")
    parser.add_argument("action", choices=["hashes", "analyses", "ingest"])
    arguments = parser.parse_args()
    sys.path.insert(0, str(unpacked(arguments.release, arguments.wheels)))
    forbid_installing()
    # LightRAG tells a lot on standard output.
    answers, sys.stdout = sys.stdout, sys.stderr
    if arguments.action in ("hashes", "analyses"):
        sys.stdout = answers
        hashes() if arguments.action == "hashes" else analyses()
        return
    answer = asyncio.run(ingest(json.load(sys.stdin)))
    print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
