"""Dense retrieval: unit vectors in a FAISS flat inner-product index, searched exactly (paper, appendix A.2).

Encoding is the long part (21 million passages: GPU hours), so it goes shard by shard into files that a
later run finds again, and several processes share the shards out between them. The index on disk is ``flat.faiss``
with ``ids.json`` beside it; opened, its vectors are mapped, not read.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from ..errors import RetrievalError
from ..records import Document, Hit
from ..runs.progress import tqdm
from ..runs.stages import atomic_write
from ..unicode import canonical
from .base import check_queries, digest, fetch_settled, rank, same_documents
from .encoder import Encoder, Vectors
from .exact import ExactSearch, Rows
from .flat import GPU_K, IDS, INDEX, DType, join, open_flat, to_gpus, use_gpu
from .store import ids_json, save_array

TIE = 2e-6
"""Scores this close are one score: copies of a passage differ by some 1e-7, by batch, padding and kernel."""
HALF_TIE = 2e-5
"""The same where vectors are kept in half precision: a last bit there moves a score by some 1e-6."""
CANDIDATES = 256
"""How many documents an inexact index is asked for; exact scores find the best of them. For more than a quarter as many
as that, four times the next power of two: so that every usual k sees the same candidates, whoever else is in the batch."""


def shard_size(documents: int) -> int:
    """Passages per shard: some 32 shards, so that little is lost to a kill and few files are made."""
    return int(np.clip(documents // 32, 256, 16_384))


def build_dense(
    folder: Path,
    documents: Sequence[Document],
    encoder: Encoder,
    progress: bool = True,
    dtype: DType = "float32",
) -> None:
    """Encode ``documents`` and write the index below ``folder``; goes on from the shards found there.

    Processes that run this at once on one folder (one per GPU, say) take shards in turn; a dead one's shard is taken
    over. Disk: the vectors once and a shard (21M × 768: 64.5 GB in float32, half in float16). Memory: a shard.

    Raises:
        RetrievalError: the encoder cannot be loaded, or made something that is no number.
        StageError: the disk is full; the shards written stay for the next run.
    """
    if not documents:
        raise RetrievalError(f"{folder}: no documents to index")
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    step = shard_size(len(documents))
    starts = range(0, len(documents), step)
    files = [shards / f"{start:010d}.npy" for start in starts]
    rows = [min(step, len(documents) - start) for start in starts]
    joining = folder / f"{INDEX}.tmp"  # begun when every shard was there
    if not joining.exists() and not (folder / INDEX).exists():
        with tqdm(total=len(documents), desc="encoding", unit="doc", disable=not progress) as bar:
            for wait in (False, True):  # first what nobody works at, then what others do
                for start, file, count in zip(starts, files, rows, strict=True):
                    try:
                        with FileLock(f"{file}.lock", timeout=-1 if wait else 0):
                            over = joining.exists() or (folder / INDEX).exists()
                            if not over and not _is_shard(file, count):
                                _encode(file, documents[start : start + count], encoder, dtype)
                    except Timeout:
                        continue
                    except FileNotFoundError:
                        if not (folder / INDEX).exists():  # else another has just joined the shards
                            raise
                    bar.update(0 if wait else count)
    with FileLock(folder / ".joining.lock"):
        atomic_write(folder / IDS, ids_json(documents))
        if not (folder / INDEX).exists():
            join(files, rows, folder / INDEX, dtype)
        shutil.rmtree(shards, ignore_errors=True)  # with what a killed write may have left
    (folder / ".joining.lock").unlink(missing_ok=True)


def _encode(file: Path, part: Sequence[Document], encoder: Encoder, dtype: DType) -> None:
    vectors = encoder.passages([canonical(document.contents) for document in part])
    if not np.isfinite(vectors).all():
        bad = part[int((~np.isfinite(vectors)).any(1).argmax())].id
        raise RetrievalError(
            f"{encoder.spec.encoder}: the vector of document {bad!r} is no number; encode in float32"
        )
    save_array(file, vectors.astype(dtype))


def _is_shard(file: Path, rows: int) -> bool:
    try:
        return len(np.load(file, mmap_mode="r")) == rows
    except (OSError, ValueError):
        return False


class VectorRetriever:
    """What retrievers over vectors share: queries are encoded together, ties are cut by id.

    A subclass has ``name`` and ``fingerprint``, and finds the `best` rows. ``documents``: in the order of the vectors.
    """

    name: str
    fingerprint: str
    tie = TIE

    def __init__(self, encoder: Encoder, documents: Sequence[Document], dimension: int) -> None:
        self.encoder = encoder
        self.dimension = dimension
        self._documents = documents

    def best(self, vectors: Vectors, wanted: int) -> tuple[Vectors, Rows]:
        """Scores, falling, and rows of the best ``wanted`` documents of each query; shapes (queries, wanted)."""
        raise NotImplementedError

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
        if vectors.shape[1] != self.dimension:
            raise RetrievalError(
                f"queries of {vectors.shape[1]} numbers for an index of {self.dimension}: it was built with "
                f"another encoder than {self.encoder.spec.encoder!r}; build the index again"
            )

        def find(some: list[Vectors], wanted: int) -> Iterator[list[tuple[float, int]]]:
            for scores, rows in zip(*self.best(np.stack(some), wanted), strict=True):
                yield list(zip(scores.tolist(), rows.tolist(), strict=True))

        hits = []
        for scored in fetch_settled(find, list(vectors), k, len(self._documents), self.tie):
            documents = [(score, self._documents[row]) for score, row in scored]
            by_id = {document.id: document for _, document in documents}
            ranked = rank([(score, document.id) for score, document in documents], self.tie)
            hits.append([Hit(by_id[identifier], score) for score, identifier in ranked[:k]])
        return hits


class DenseRetriever(VectorRetriever):
    """Inner-product search; see `Retriever`. Scores are cosines, in [-1, 1], exact for what is returned.

    Args:
        folder: where `build_dense` wrote, from these documents and with this encoder.
        corpus: fingerprint of the corpus.
        search: "gpu" looks for candidates on all GPUs, in half precision; "auto" where there are any and it fits.
        compressed: name and index of a smaller index over the same vectors (`compressed`) to look for candidates in;
            they are ranked by their exact scores, from the mapped vectors.

    Raises:
        RetrievalError: no index in ``folder``, a damaged one, or one of other documents; no GPU.
    """

    name = "dense"

    def __init__(
        self,
        folder: Path,
        documents: Sequence[Document],
        encoder: Encoder,
        corpus: str = "",
        search: Literal["auto", "cpu", "gpu"] = "cpu",
        compressed: tuple[str, Any] | None = None,
    ) -> None:
        where = folder / INDEX
        if not where.is_file():
            raise RetrievalError(f"{where}: no such index; build it first (s3mini index)")
        self.index: Any = open_flat(where)
        super().__init__(encoder, documents, self.index.d)
        same_documents(folder / IDS, documents)
        if self.index.ntotal != len(documents):
            raise RetrievalError(
                f"{where}: holds {self.index.ntotal} vectors for {len(documents)} ids; it is damaged: build it again"
            )
        self.exact = ExactSearch(self.index)
        self.stored = self.exact.vectors
        exact = self.stored.dtype == np.float32
        self.tie = TIE if exact else HALF_TIE
        label, packed = compressed or ("flat", None)
        self.candidates: Any = packed
        self.on_gpu = use_gpu(search, self.candidates or self.index, label)
        if self.on_gpu:
            self.candidates = to_gpus(self.candidates or self.index, label)
        changed = {"dtype": "float16"} if not exact else {}
        changed |= {"index": label} if compressed else {}
        self.fingerprint = digest(kind=self.name, corpus=corpus, **encoder.fingerprint_parts, **changed)

    @property
    def vectors(self) -> Vectors:
        """The indexed vectors in float32, shape (documents, dimension): the mapped file itself where it holds float32."""
        return self.stored.astype(np.float32, copy=False)

    def best(self, vectors: Vectors, wanted: int) -> tuple[Vectors, Rows]:
        """See `VectorRetriever.best`; of an inexact index those that it finds, with exact scores."""
        total = self.index.ntotal
        asked = min(max(CANDIDATES, 4 << (wanted - 1).bit_length()), total)
        if self.candidates is None or wanted == total or (self.on_gpu and asked > GPU_K):
            return self.exact(vectors, wanted)
        rows = self.candidates.search(vectors, asked)[1]
        own = [self.stored[its].astype(np.float32) @ v for its, v in zip(rows, vectors, strict=True)]
        found = np.where(rows < 0, np.float32(-np.inf), np.stack(own))
        order = np.argsort(-found, axis=1, kind="stable")[:, :wanted]
        scores, best = np.take_along_axis(found, order, 1), np.take_along_axis(rows, order, 1)
        few = (rows >= 0).sum(1) < wanted  # in the cells that were looked into
        if few.any():
            scores[few], best[few] = self.exact(vectors[few], wanted)
        return scores, best
