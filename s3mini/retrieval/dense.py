"""Dense retrieval: unit vectors in a FAISS flat inner-product index, searched exactly (paper, appendix A.2).

Encoding is the long part (21 million passages: GPU hours), so it goes shard by shard into files that a
later run finds again. The index on disk is ``flat.faiss`` with ``ids.json`` beside it.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import RetrievalError
from ..records import Document, Hit
from ..stages import atomic_write
from .base import SPARE, check_queries, digest, rank, same_documents, settled
from .encoder import Encoder, Vectors

INDEX = "flat.faiss"
IDS = "ids.json"
TIE = 2e-6
"""Scores this close are one score: copies of a passage differ by some 1e-7, by batch, padding and kernel."""
_ALWAYS_SCAN = 2**31 - 1


def shard_size(documents: int) -> int:
    """Passages per shard: some 32 shards, so that little is lost to a kill and few files are made."""
    return int(np.clip(documents // 32, 256, 16_384))


def build_dense(folder: Path, documents: Sequence[Document], encoder: Encoder, progress: bool = True) -> None:
    """Encode ``documents`` and write the index below ``folder``; goes on from the shards found there.

    Disk: the vectors twice until done, then once (float32; 21M × 768 is 64.5 GB).

    Raises:
        RetrievalError: the encoder cannot be loaded.
        StageError: the disk is full; the shards written stay for the next run.
    """
    import faiss

    if not documents:
        raise RetrievalError(f"{folder}: no documents to index")
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    step = shard_size(len(documents))
    files = []
    with tqdm(total=len(documents), desc="encoding", unit="doc", disable=not progress) as bar:
        for start in range(0, len(documents), step):
            part = documents[start : start + step]
            files.append(shards / f"{start:010d}.npy")
            if not _is_shard(files[-1], len(part)):
                buffer = io.BytesIO()
                np.save(buffer, encoder.passages([document.contents for document in part]))
                atomic_write(files[-1], buffer.getvalue())
            bar.update(len(part))
    index: Any = faiss.IndexFlatIP(np.load(files[0], mmap_mode="r").shape[1])
    for file in files:
        index.add(np.load(file, mmap_mode="r"))
    atomic_write(folder / IDS, json.dumps([document.id for document in documents], ensure_ascii=False))
    temporary = folder / f"{INDEX}.tmp"
    faiss.write_index(index, str(temporary))
    temporary.replace(folder / INDEX)
    shutil.rmtree(shards)  # with what a killed write may have left


def _is_shard(file: Path, rows: int) -> bool:
    try:
        vectors = np.load(file, mmap_mode="r")
    except (OSError, ValueError):
        return False
    return vectors.ndim == 2 and vectors.shape[0] == rows


class DenseRetriever:
    """Exact inner-product search; see `Retriever`. Scores are cosines, in [-1, 1].

    Args:
        folder: where `build_dense` wrote.
        documents: the corpus the index was built from, in its order.
        encoder: the one the index was built with.
        corpus: fingerprint of the corpus.

    Raises:
        RetrievalError: no index in ``folder``, a damaged one, or one of other documents.
    """

    name = "dense"

    def __init__(
        self, folder: Path, documents: Sequence[Document], encoder: Encoder, corpus: str = ""
    ) -> None:
        import faiss

        self.encoder = encoder
        self._documents = documents
        where = folder / INDEX
        if not where.is_file():
            raise RetrievalError(f"{where}: no such index; build it first (s3mini index)")
        try:
            ids = json.loads((folder / IDS).read_text(encoding="utf-8"))
            self.index: Any = faiss.read_index(str(where))
        except (OSError, ValueError, RuntimeError) as error:
            remedy = "delete the folder and build the index again"
            raise RetrievalError(f"{where}: not a readable index ({error}); {remedy}") from error
        same_documents(ids, documents, str(where))
        if self.index.ntotal != len(ids):
            raise RetrievalError(
                f"{where}: holds {self.index.ntotal} vectors for {len(ids)} ids; it is damaged: build it again"
            )
        self.blas_threshold = calibrate(self.vectors)
        self.fingerprint = digest(kind=self.name, corpus=corpus, **encoder.fingerprint_parts)

    @property
    def vectors(self) -> Vectors:
        """The indexed vectors, shape (documents, dimension): a view into the index, not a copy."""
        import faiss

        flat = faiss.rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d)
        return flat.reshape(self.index.ntotal, self.index.d)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`; the batch is encoded at once and searched at once."""
        texts = check_queries(queries, k)
        if not texts:
            return []
        return self.search_vectors(self.encoder.queries(texts), k)

    def search_vectors(self, vectors: Vectors, k: int) -> list[list[Hit]]:
        """As `search`, for queries already encoded: shape (queries, dimension), unit length.

        Raises:
            RetrievalError: vectors of another dimension than the index's, i.e. from another encoder.
        """
        if vectors.shape[1] != self.index.d:
            raise RetrievalError(
                f"queries of {vectors.shape[1]} numbers for an index of {self.index.d}: it was built with "
                f"another encoder than {self.encoder.spec.encoder!r}; build the index again"
            )
        total = self.index.ntotal
        hits: list[list[Hit]] = [[] for _ in vectors]
        open_, fetch = np.arange(len(vectors)), k + SPARE
        while len(open_):
            wanted = min(fetch, total)
            with blas_from(self.blas_threshold):
                scores, rows = self.index.search(vectors[open_], wanted)
            ready = np.array([wanted == total or settled(line, k, TIE) for line in scores.tolist()])
            for position, line, places in zip(open_[ready], scores[ready], rows[ready], strict=True):
                hits[position] = self._cut(line, places, k)
            open_, fetch = open_[~ready], fetch * 2
        return hits

    def _cut(self, scores: Vectors, rows: Any, k: int) -> list[Hit]:
        by_id = {self._documents[row].id: self._documents[row] for row in rows.tolist()}
        pairs = list(zip(scores.tolist(), by_id, strict=True))
        return [Hit(by_id[identifier], score) for score, identifier in rank(pairs, TIE)[:k]]


def calibrate(vectors: Vectors, seconds: float = 0.2) -> int:
    """The value of ``faiss.cvar.distance_compute_blas_threshold`` that suits this machine and index.

    FAISS compares it with queries × dimension: below, every query scans the vectors by itself; from there
    on, one matrix product serves the batch. Its default is up to 8 times too slow for batches of tens, and 1
    is twice too slow for single queries, so both ways are timed for 1, 2, 4 … queries until the product wins.
    At most the first 64 MiB of vectors are scanned; stops at ``seconds``.
    """
    import faiss

    dimension = vectors.shape[1]
    part = vectors[: max(1, 2**24 // dimension)]
    started = time.perf_counter()
    threshold = 0
    for number in (1, 1, 2, 4, 8, 16, 32, 64, 128):  # the first round warms up
        queries = np.ascontiguousarray(part[np.arange(number) % len(part)])
        took = {}
        for way in (_ALWAYS_SCAN, 1):
            with blas_from(way):
                took[way] = min(_timed(faiss, queries, part) for _ in range(2))
        threshold = number * dimension
        if took[1] < took[_ALWAYS_SCAN] or time.perf_counter() - started > seconds:
            break
    return threshold


@contextmanager
def blas_from(threshold: int) -> Iterator[None]:
    """FAISS' global threshold (see `calibrate`) for the length of a block: other indexes need another."""
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = threshold
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _timed(faiss: Any, queries: Vectors, vectors: Vectors) -> float:
    started = time.perf_counter()
    faiss.knn(queries, vectors, min(10, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    return time.perf_counter() - started
