"""The cache that the benchmark moves: the same one on every machine, in LightRAG's shape, made from a seed.

Prompts and answers have the lengths of real ones (log-normal, a few KB, some of 30 KB), in Latin, Cyrillic, Chinese and
Arabic script, with emoji, quotes, backslashes, tabs and line breaks. The words are made up, with frequencies as in
natural text, so that the servers' compression finds about as much in them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from json.encoder import encode_basestring
from typing import Any

SEED = 20260101
START = 1_748_736_000  # 2025-06-01T00:00:00Z: create_time of the first record

Record = dict[str, Any]

# Share of each cache type. The last two are queries' and are not selected unless asked for: one record in twenty.
TYPES = {"extract": 0.82, "summary": 0.11, "analysis": 0.02, "query": 0.03, "keywords": 0.02}
SELECTED = ("extract", "summary", "analysis")

EMOJI = "🚀 💧 🍅 👩🏽‍🌾 👨‍👩‍👧‍👦 👍🏿 🇸🇳 📈 ✅ ⚠️ 🧪 🌍".split()
SYLLABLES = {
    "English": "ther ing con ment ra ti on al er in st re pro ver com ly na tion be de or an is en ou".split(),
    "German": "ver ge schaft ung lich über für grö ßen kei ten aus ein stra ße mün che ner haus tür".split(),
    "French": "é tait dé velop pe ment ré gion çais forê hôte naï ve où déjà tion eux ant ier à côté".split(),
    "Russian": "при вет ста ни ция на блю де ло го ро ды ще рба ко ва жур нал вер сия под пре".split(),
    "Arabic": "ال مك تبة وا حة نخ لة كتا ب مدي نة بي ت شمس قمر طري ق سوق باب".split(),
}
LANGUAGES = {"English": 0.55, "German": 0.08, "French": 0.07, "Russian": 0.07, "Arabic": 0.08, "Chinese": 0.15}
COMMON_CHINESE = range(0x4E00, 0x4E00 + 2500)
SENTENCES_PER_LANGUAGE = 4000

INSTRUCTIONS = (
    "---Role---\nYou are a Knowledge Graph Specialist responsible for extracting entities and relationships from the input "
    "text.\n\n---Instructions---\n1. Identify clearly defined and meaningful entities. For each of them give `entity_name`, "
    "`entity_type` and `entity_description`, on one line, the fields separated by `<|#|>`:\n"
    "   entity<|#|>entity_name<|#|>entity_type<|#|>entity_description\n2. Identify direct relationships between the "
    "entities; split those of three or more into pairs. A line for each:\n   relation<|#|>source<|#|>target<|#|>keywords"
    '<|#|>description\n3. Write names as in the text, "quoted" ones without the quotes; no pronouns such as `this '
    "article`.\n4. End with `<|COMPLETE|>`.\n\n---Input Text---\n```\n"
)


class Writer:
    """Texts of a given length. The sentences are made once, and drawn for every text anew."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sentences = {language: self._sentences(language) for language in LANGUAGES}
        self.mean = {language: sum(map(len, some)) / len(some) for language, some in self.sentences.items()}
        self.names = {language: self._names(language) for language in LANGUAGES}

    def language(self) -> str:
        return self.rng.choices(list(LANGUAGES), cum_weights=list(accumulate(LANGUAGES.values())))[0]

    def text(self, language: str, median: float, sigma: float, between: str = " ") -> str:
        """About as many bytes as the log-normal distribution says, `median` those of the middle one."""
        characters = self.rng.lognormvariate(0, sigma) * median / BYTES_PER_CHARACTER[language]
        number = max(1, round(characters / self.mean[language]))
        return between.join(self.rng.choices(self.sentences[language], k=number))

    def name(self, language: str) -> str:
        return self.rng.choice(self.names[language])

    def _words(self, language: str) -> tuple[list[str], list[float]]:
        """Words and how often they come: the n-th most frequent one 1/n as often as the first (Zipf's law)."""
        rng = self.rng
        if language == "Chinese":
            words = ["".join(map(chr, rng.choices(COMMON_CHINESE, k=rng.choice((1, 2, 2, 3))))) for _ in range(6000)]
        else:
            syllables = SYLLABLES[language]
            words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(6000)]
        return words, list(accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def _sentences(self, language: str) -> list[str]:
        words, weights = self._words(language)
        return [self._sentence(language, words, weights) for _ in range(SENTENCES_PER_LANGUAGE)]

    def _sentence(self, language: str, words: list[str], weights: list[float]) -> str:
        rng = self.rng
        chosen = rng.choices(words, cum_weights=weights, k=rng.randint(6, 24))
        sentence = ("" if language == "Chinese" else " ").join(chosen).capitalize()
        sentence += "。" if language == "Chinese" else "."
        match rng.randrange(24):
            case 0 | 1:
                return f'"{sentence}" — {chosen[0]}: “{chosen[-1]}”'
            case 2:
                return f"{sentence}\n\n## {chosen[0]} {rng.randrange(1900, 2030)}\n"
            case 3:
                return f"C:\\{chosen[0]}\\{chosen[-1]}_{rng.randrange(100)}.txt\t{rng.random():.4f}\t{sentence}\n"
            case 4:
                return f"{sentence} {rng.choice(EMOJI)} {rng.choice(EMOJI)}"
            case 5:
                return f"- {sentence} ({rng.randrange(1, 400)} / {rng.randrange(1, 100)} %)\n"
            case _:
                return sentence

    def _names(self, language: str) -> list[str]:
        words, _ = self._words(language)
        return [" ".join(word.capitalize() for word in self.rng.choices(words, k=2)) for _ in range(2000)]


BYTES_PER_CHARACTER = {"English": 1.02, "German": 1.08, "French": 1.1, "Russian": 1.85, "Arabic": 1.85, "Chinese": 2.9}


def records(count: int) -> Iterator[tuple[str, Record]]:
    """The first `count` records of the one endless cache: a larger one begins with a smaller one."""
    rng = random.Random(SEED)
    writer = Writer(rng)
    names, weights = list(TYPES), list(accumulate(TYPES.values()))
    for number in range(count):
        cache_type = rng.choices(names, cum_weights=weights)[0]
        yield RECORDS[cache_type](writer, number)


def is_selected(record: Record) -> bool:
    return record["cache_type"] in SELECTED


def record(
    writer: Writer, number: int, mode: str, cache_type: str, answer: str, prompt: str, **fields: Any
) -> tuple[str, Record]:
    """A key and its record, with the fields in LightRAG's order."""
    key = f"{mode}:{cache_type}:{writer.rng.getrandbits(128):032x}"
    created = START + number * 7
    return key, {
        "return": answer,
        "cache_type": cache_type,
        "chunk_id": fields.get("chunk_id"),
        "original_prompt": prompt,
        "queryparam": fields.get("queryparam"),
        "create_time": created,
        "update_time": created + (3600 if number % 10 == 0 else 0),
        "_id": key,
    }


def chunk_id(writer: Writer) -> str:
    return f"chunk-{writer.rng.getrandbits(128):032x}"


def extract(writer: Writer, number: int) -> tuple[str, Record]:
    language = writer.language()
    named = [writer.name(language) for _ in range(writer.rng.randint(3, 9))]
    lines = [f"entity<|#|>{name}<|#|>Concept<|#|>{writer.text(language, 170, 0.5)}" for name in named]
    lines += [
        f"relation<|#|>{one}<|#|>{other}<|#|>history, work<|#|>{writer.text(language, 120, 0.4)}"
        for one, other in pairwise(named)
    ]
    median = 12_000 if writer.rng.randrange(200) == 0 else 2650
    prompt = f"{INSTRUCTIONS}{writer.text(language, median, 0.35)}\n```\n\n---Output---\n"
    answer = "\n".join(lines) + "\n<|COMPLETE|>"
    return record(writer, number, "default", "extract", answer, prompt, chunk_id=chunk_id(writer))


def summary(writer: Writer, number: int) -> tuple[str, Record]:
    language = writer.language()
    descriptions = (encode_basestring(writer.text(language, 300, 0.5)) for _ in range(writer.rng.randint(3, 20)))
    prompt = (
        f"---Task---\nMerge the descriptions of `{writer.name(language)}` into one, in {language}.\n\n---Description List---\n"
        + "\n".join(f'{{"Description": {text}}}' for text in descriptions)
    )
    return record(writer, number, "default", "summary", writer.text(language, 1400, 0.5, "\n\n"), prompt)


def analysis(writer: Writer, number: int) -> tuple[str, Record]:
    language = writer.language()
    answer = {"name": writer.name(language), "type": "chart", "description": writer.text(language, 900, 0.6)}
    prompt = f"Describe the image figure-{number}.png as JSON.\n\n---Context---\n{writer.text(language, 1500, 0.5)}"
    text = json.dumps(answer, ensure_ascii=False)
    return record(writer, number, "default", "analysis", text, prompt, chunk_id=chunk_id(writer))


def query_parameters(writer: Writer, mode: str, language: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "response_type": "Multiple Paragraphs",
        "top_k": 40,
        "chunk_top_k": 20,
        "max_entity_tokens": 6000,
        "max_relation_tokens": 8000,
        "max_total_tokens": 30000,
        "hl_keywords": [],
        "ll_keywords": [writer.name(language), writer.name(language)],
        "user_prompt": "",
        "enable_rerank": True,
    }


def query(writer: Writer, number: int) -> tuple[str, Record]:
    language = writer.language()
    parameters = query_parameters(writer, "mix", language)
    answer = f"### Answer\n\n{writer.text(language, 2600, 0.5)}\n\n- [1] file_{number}.md"
    return record(writer, number, "mix", "query", answer, writer.text(language, 120, 0.5), queryparam=parameters)


def keywords(writer: Writer, number: int) -> tuple[str, Record]:
    language = writer.language()
    parameters = query_parameters(writer, "local", language)
    words = {"high_level_keywords": [writer.name(language)], "low_level_keywords": parameters["ll_keywords"]}
    text = json.dumps(words, ensure_ascii=False)
    return record(writer, number, "local", "keywords", text, writer.text(language, 120, 0.5), queryparam=parameters)


RECORDS: dict[str, Callable[[Writer, int], tuple[str, Record]]] = {
    "extract": extract,
    "summary": summary,
    "analysis": analysis,
    "query": query,
    "keywords": keywords,
}
