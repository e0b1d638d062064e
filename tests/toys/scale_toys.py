"""An encoder without a model, for tests of indexes: a text's vector depends on its words alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from s3mini.corpus import write_corpus
from s3mini.profile import DenseSpec, Profile, load_profile
from s3mini.records import Document, Hit
from s3mini.retrieval.encoder import Encoder, Vectors

WORDS = [
    f"{a}{b}" for a in ("kar", "vel", "sool", "tarn", "orsa", "lum", "brem", "dov") for b in "abcdefghijkl"
]


class ToyEncoder:
    """The sum of its words' random vectors, scaled to 1. ``seen`` holds the batches of passages it was given."""

    dimension, products = 32, "float32"

    def __init__(self, spec: DenseSpec | None = None) -> None:
        self.spec = spec or DenseSpec(encoder="toy")
        self.identity = f"toy {self.spec.encoder}"
        self.fingerprint_parts: dict[str, Any] = {
            "encoder": self.identity,
            "passage": self.spec.passage_prefix,
        }
        self.seen: list[list[str]] = []

    def _vector(self, text: str) -> Vectors:
        rows = [
            np.random.default_rng(
                int.from_bytes(hashlib.sha256(f"{self.identity} {word}".encode()).digest()[:8], "big")
            ).standard_normal(self.dimension)
            for word in text.split()
        ]
        total = np.sum(rows, axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)

    def passages(self, texts: Sequence[str]) -> Vectors:
        self.seen.append(list(texts))
        return np.stack([self._vector(self.spec.passage_prefix + text) for text in texts])

    def queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vector(text) for text in texts])


def toy_documents(number: int, seed: int = 0) -> list[Document]:
    """Documents of random words; the last three are copies of the first, under other ids."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, 9)) for _ in range(number - 3)]
    titles = [" ".join(random.choice(WORDS, 2)) for _ in range(number - 3)]
    made = [Document(f"d{i:04d}", t, x) for i, (t, x) in enumerate(zip(titles, texts, strict=True))]
    return made + [Document(f"copy{i}", made[0].title, made[0].text) for i in range(3)]


DOCUMENTS = toy_documents(43)
QUERIES = [document.contents for document in DOCUMENTS[:5]]


def toy(**changes: Any) -> Encoder:
    return cast(Encoder, ToyEncoder(DenseSpec(encoder="toy", **changes)))


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]


def toy_world(root: Path, patch: pytest.MonkeyPatch) -> Profile:
    """A profile below ``root`` whose corpus is `DOCUMENTS`, encoded by the toy."""
    patch.setattr("s3mini.profile.ROOT", root)
    patch.setattr("s3mini.retrieval.opening.Encoder", ToyEncoder)
    write_corpus(root / "corpus.jsonl", DOCUMENTS)
    return load_profile("mini", **{"data.corpus": "corpus.jsonl", "retrieval.dense.encoder": "toy"})
