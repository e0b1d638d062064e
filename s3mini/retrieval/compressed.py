"""Smaller and faster indexes over the same vectors, built from ``flat.faiss`` in minutes, and how good they are.

One finds many documents (`dense.CANDIDATES`), which are then ranked by exact scores from the mapped vectors: what is lost
is only what was no candidate. Recall, size and speed are measured when one is built and stand in its manifest.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RetrievalError
from ..records import Document
from .base import check_size, in_batches
from .dense import DenseRetriever, Rows
from .encoder import Vectors
from .flat import read_index

KINDS = {
    "sq8": ("SQ8", "1 byte a number, all scanned"),
    "ivf-sq8": ("IVF{cells},SQ8", "1 byte a number, the nearest cells scanned"),
    "ivf-pq": ("IVF{cells},PQ{codes}x4fs", "half a byte for every 4 numbers, the nearest cells scanned"),
}
FILE = "candidates.faiss"
_BLOCK = 65_536  # vectors made float32 at once


def cells_of(documents: int) -> int:
    """Cells of an inverted file: some 4 √n, a power of two, with 39 vectors or more to train each."""
    return 1 << max(0, int(np.log2(max(1, min(4 * documents**0.5, documents / 39)))))


def build_compressed(folder: Path, kind: str, vectors: Any, seed: int = 0, progress: bool = True) -> None:
    """Train and fill an index of ``kind`` from ``vectors``, shape (documents, dimension), of either float type.

    Memory: the index, and a sample to train on (40 vectors a cell). Killed, it begins again.

    Raises:
        RetrievalError: the dimension cannot be cut into codes.
    """
    import faiss

    number, dimension = vectors.shape
    cells = cells_of(number)
    if kind == "ivf-pq" and dimension % 4:
        raise RetrievalError(f"ivf-pq cuts vectors into groups of 4 numbers; {dimension} is no multiple of 4")
    factory = KINDS[kind][0].format(cells=cells, codes=dimension // 4)
    index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    sample = min(number, max(10_000, 40 * cells))
    rows = np.sort(np.random.default_rng(seed).choice(number, sample, replace=False))
    index.train(vectors[rows].astype(np.float32))
    for _, part in in_batches(vectors, _BLOCK, f"index {kind}", progress):
        index.add(part.astype(np.float32))
    if kind.startswith("ivf"):
        index.nprobe = max(1, int(2 * cells**0.5))
    temporary = folder / f"{FILE}.tmp"
    faiss.write_index(index, str(temporary))
    temporary.replace(folder / FILE)


def open_compressed(folder: Path, kind: str, documents: Sequence[Document]) -> tuple[str, Any]:
    """What `DenseRetriever` takes as ``compressed``.

    Raises:
        RetrievalError: a damaged file, or one of another number of vectors.
    """
    index = read_index(folder / FILE)
    check_size(folder / FILE, index.ntotal, "vectors", documents)
    return kind, index


def sample_queries(documents: Sequence[Document], number: int = 256, seed: int = 0) -> list[str]:
    """Titles (else first words) of random documents: queries that every corpus has."""
    rows = np.random.default_rng(seed).choice(len(documents), min(number, len(documents)), replace=False)
    chosen = (documents[int(row)] for row in rows)
    return [d.title.strip() or " ".join(d.text.split()[:8]) for d in chosen]


def overlap(exact: Rows, near: Rows) -> float:
    """Mean share of each query's exact hits that are among the near ones; rows of documents, shapes (queries, k)."""
    return float(np.mean([np.isin(*pair).mean() for pair in zip(exact, near, strict=True)]))


def measured(retriever: DenseRetriever, queries: Vectors, k: int = 10) -> dict[str, float]:
    """``recall`` of the exact ten best (of k), ``per_second`` in one batch, and ``exact_per_second``.

    Queries: shape (n, dimension), unit length.
    """
    candidates, k = retriever.candidates, min(k, retriever.index.ntotal)
    rows, speeds = [], []
    try:
        for retriever.candidates in (None, candidates):
            began = time.perf_counter()
            rows.append(retriever.best(queries, k)[1])
            speeds.append(round(len(queries) / (time.perf_counter() - began), 1))
    finally:
        retriever.candidates = candidates
    return {"recall": round(overlap(*rows), 4), "per_second": speeds[1], "exact_per_second": speeds[0]}
