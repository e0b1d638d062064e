"""Somebody's documents and questions, for tests of your own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import s3mini.profile
from s3mini.corpus import read_corpus
from s3mini.owndata import import_data
from s3mini.profile import Profile
from s3mini.records import Document

REAL = s3mini.profile.ROOT
ROOMY = {"generator.max_length": 8192, "searcher.max_length": 8192}  # then no tokenizer is asked
ROWS = [
    {"id": "a", "title": "Karst", "text": "Karst lies on the Sool."},
    {"id": "b", "title": "Tarn", "text": "Old."},
]
PAIRS = [{"question": f"Where is town {i}?", "answer": f"river {i}"} for i in range(5)]


def bring(profile: Profile, documents: Path, questions: Path | None = None, **options: Any) -> list[Document]:
    import_data(profile, documents, questions, progress=False, **options)
    return read_corpus(profile.build / "import" / "corpus.jsonl")


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table(columns), path)
    return path
