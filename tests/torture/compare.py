"""A killed run's results beside an unkilled one's: what was lost, doubled, or scored otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAY_DIFFER = (
    "seconds",
    "seconds_collecting",
    "stages",
    "resumed",
    "machine",
    "versions",
    "open_since",
    "inputs",
    "settings",
    "outputs",
)
"""Keys: times; and what a manifest says of ports, of weights to the last bit, and of Lucene's file names."""
LEFT_OVER = (".tmp", ".lock", ".old", ".html")  # a kill's torn files, which nothing reads; pages with times
Difference = tuple[str, str]


def differences(straight: Path, killed: Path, makes: Sequence[str]) -> Iterator[Difference]:
    """Kind and words of all that differs below two build folders."""
    for name in makes:
        files = {path.relative_to(straight) for path in _files(straight / name)}
        if not files:
            yield "missed", f"{name}: nothing there to compare"
        for file in sorted(files):
            if not (killed / file).is_file():
                yield "lost", f"{file} is missing"
            elif file.suffix == ".jsonl":
                yield from _lines(straight / file, killed / file, str(file))
            elif not _alike(straight / file, killed / file):
                yield "mis-scored", f"{file} differs"
        if name.endswith("/index"):
            yield from _found(straight / name, killed / name)


def _files(path: Path) -> Iterator[Path]:
    """Files that are compared one by one; Lucene's are named anew each time."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        parts = file.relative_to(path.parent).parts
        torn = any(part.startswith(".") or part.endswith(LEFT_OVER) for part in parts)
        if file.is_file() and not torn and "lexical" not in parts and "shards" not in parts:
            yield file


def _lines(straight: Path, killed: Path, name: str) -> Iterator[Difference]:
    expected, got = (_records(path) for path in (straight, killed))
    for key in expected:
        if key not in got:
            yield "lost", f"{name}: {key}"
        elif len(got[key]) > len(expected[key]):
            yield "doubled", f"{name}: {key}, {len(got[key])} times instead of {len(expected[key])}"
        elif len(got[key]) < len(expected[key]):
            yield "lost", f"{name}: {key}, {len(got[key])} times instead of {len(expected[key])}"
        elif not same(expected[key], got[key]):
            yield "mis-scored", f"{name}: {key}"
    yield from (("doubled", f"{name}: {key}, which the other has not") for key in got if key not in expected)


def _records(path: Path) -> dict[str, list[Any]]:
    """Records by step and id."""
    found: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        key = " ".join(f"{name} {record[name]}" for name in ("step", "id") if name in record) or line
        found.setdefault(key, []).append(record)
    return found


def same(a: Any, b: Any) -> bool:
    """Equal but for times, and numbers up to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [{key for key in one if not key.startswith(MAY_DIFFER)} for one in (a, b)]
        return keys[0] == keys[1] and all(same(a[key], b[key]) for key in keys[0])
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)
    return type(a) is type(b) and a == b


def _alike(a: Path, b: Path) -> bool:
    """Files with the same content: numbers up to rounding, JSON but for times."""
    if a.suffix == ".json":
        return same(*(json.loads(path.read_text(encoding="utf-8")) for path in (a, b)))
    if a.suffix == ".faiss":
        import faiss
        import numpy as np

        vectors = [faiss.read_index(str(path)) for path in (a, b)]
        return np.allclose(*(index.reconstruct_n(0, index.ntotal) for index in vectors), atol=1e-5)
    if a.suffix == ".safetensors":
        import torch
        from safetensors.torch import load_file

        one, other = load_file(a), load_file(b)
        return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], atol=1e-3) for k in one)
    return a.read_bytes() == b.read_bytes() or a.suffix in (".bin", ".yaml")


def _found(straight: Path, killed: Path) -> Iterator[Difference]:
    """What both BM25 indexes find for the corpus' first lines."""
    from s3mini.corpus import read_corpus
    from s3mini.retrieval.lexical import LexicalRetriever

    documents = read_corpus(straight.parent.parent.parent / "data/mini/corpus.jsonl")
    both = [LexicalRetriever(path / "lexical", documents) for path in (straight, killed)]
    asked = [document.text for document in documents[:50]]
    a, b = ([[hit.document.id for hit in hits] for hits in one.search(asked, 5)] for one in both)
    yield from (
        ("mis-scored", f"index/lexical: {text!r}") for text, x, y in zip(asked, a, b, strict=True) if x != y
    )
