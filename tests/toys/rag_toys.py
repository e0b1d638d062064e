"""A toy world for naive RAG: profile, data, and parts that remember what they were asked.

Run as a script it precomputes with a slow generator, so that a test can kill it half-way::

    S3MINI_ROOT=DIR python tests/toys/rag_toys.py DIR SECONDS_PER_BATCH
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from s3mini.bench import Bench
from s3mini.corpus import write_corpus, write_questions
from s3mini.errors import ModelError
from s3mini.profile import Profile, load_profile
from s3mini.records import Document, Hit, Question
from s3mini.reward import Judge

TOWNS = [f"Town{i}" for i in range(40)]
FOUND = 2  # every FOUND-th town's document holds its river


def river(i: int) -> str:
    return f"River{i}"


def make_world(root: Path) -> Profile:
    """Corpus, questions and a profile below ``root``; towns with even numbers are answerable."""
    data = root / "data"
    documents = [
        Document(f"d{i:02}", town, f"{town} lies on {river(i)}." if i % FOUND == 0 else f"{town} is old.")
        for i, town in enumerate(TOWNS)
    ]
    write_corpus(data / "corpus.jsonl", documents)
    for name in ("nq", "hotpotqa"):
        for split, numbers in (("train", range(0, 30)), ("test", range(30, 40))):
            questions = [question(name, split, i) for i in numbers]
            write_questions(data / "questions" / name / f"{split}.jsonl", questions)
    (root / "model").mkdir(exist_ok=True)
    (root / "model" / "config.json").write_text("{}")
    return toy_profile()


def question(name: str, split: str, i: int) -> Question:
    golds = ("yes",) if i % 10 == 9 else (river(i),)
    return Question(
        f"{name}-{split}-{i}", f"{name}: which river at {TOWNS[i]}?", golds, {"gold_ids": [f"d{i:02}"]}
    )


def toy_profile(**overrides: object) -> Profile:
    model = {"path": "model", "wordings": "brief", "batch_size": 4, "max_new_tokens": 8}
    settings = {
        "name": "toy",
        "data.corpus": "data/corpus.jsonl",
        "data.questions": "data/questions",
        "data.sets": ["nq", "hotpotqa"],
        "data.train_limit": None,
        "data.test_limit": None,
        **{f"{role}.{key}": value for role in ("generator", "judge") for key, value in model.items()},
        **overrides,
    }
    return load_profile("smoke", **settings)


class ToyRetriever:
    """The document of the town named in the query first, then its neighbours."""

    name = "toy"
    fingerprint = "toy-index-1"

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._one(query.rstrip("?").split()[-1], k) for query in queries]

    def _one(self, town: str, k: int) -> list[Hit]:
        first = TOWNS.index(town)
        return [Hit(self.documents[(first + j) % len(TOWNS)], 1.0 / (1 + j)) for j in range(k)]


class ToyGenerator:
    """Reads the river off the line that names the town; writes every prompt it saw to ``log``."""

    def __init__(self, log: Path, pause: float = 0.0, fail_after: int | None = None) -> None:
        self.log, self.pause, self.fail_after, self.calls = log, pause, fail_after, 0

    def reply(self, conversations, max_new_tokens=None, temperature=0.0, seed=0) -> list[str]:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise ModelError("the toy generator died")
        time.sleep(self.pause)
        replies = [self._one(conversation[-1]["content"]) for conversation in conversations]
        with open(self.log, "a", encoding="utf-8") as out:
            for conversation in conversations:
                out.write(json.dumps(conversation[-1]["content"].splitlines()[-1]) + "\n")
        return replies

    @staticmethod
    def _one(prompt: str) -> str:
        *documents, asked = prompt.splitlines()
        town = asked.rstrip("?").split()[-1]
        for line in documents:
            if f"{town} lies on " in line:
                return f"<think> {line} </think> {line.split('lies on ')[1].rstrip('.')}"
        return "<think> nothing </think> unknown"


class ToyJudge:
    """Prefers the word it was told to, or those of a list in turn (one that is no option leaves it undecided).

    Remembers what it was asked.
    """

    def __init__(self, words: str | list[str]) -> None:
        self.words, self.calls = words, []

    def preference(self, conversations, options) -> list[list[float]]:
        self.calls.append([c[-1]["content"] for c in conversations])
        words = [self.words] * len(conversations) if isinstance(self.words, str) else self.words
        return [[0.0 if o == word else -math.inf for o in options] for word in words[: len(conversations)]]


class ToyBench(Bench):
    """The toy parts in place of the profile's."""

    def __init__(self, profile: Profile, generator: ToyGenerator) -> None:
        super().__init__(profile)
        self.generator = generator
        self.judge = Judge(ToyJudge("no"), "brief")
        self._toy = ToyRetriever(list(self.documents.values()))

    def retriever(self, kind: str | None = None) -> ToyRetriever:
        return self._toy


def main() -> None:
    from s3mini.rag import precompute

    root, pause = Path(sys.argv[1]), float(sys.argv[2])
    profile = toy_profile()
    precompute(profile, bench=ToyBench(profile, ToyGenerator(root / "asked.log", pause)), progress=False)


if __name__ == "__main__":
    main()
