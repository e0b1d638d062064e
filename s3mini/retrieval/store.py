"""The corpus on disk, read document by document: what 21 million passages need in place of a list.

A store is the corpus file itself and three arrays beside it: where each line begins, and the ids' hashes in
order with the rows they belong to. Opening reads nothing; a document is one read of one line. It is a
`Sequence` of documents, and `by_id` a mapping, so whoever takes a list or a dict takes a store.
"""

import gzip
import hashlib
import json
import os
import shutil
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ..corpus import iter_corpus, iter_placed, parse_document
from ..errors import DataError
from ..records import Document
from ..runs.progress import tqdm
from ..runs.stages import atomic_file, atomic_write

UNPACKED = "corpus.jsonl"
STARTS, HASHES, ROWS, IDS = "starts.npy", "hashes.npy", "rows.npy", "ids.json"
_CACHED = 65_536  # documents kept as objects; at some 1 kB each, 64 MB


def build_store(folder: Path, corpus: Path, progress: bool = True) -> None:
    """Index the corpus file below ``folder`` (20 bytes a document, and its ids); a gzipped one is unpacked there.

    Every line is checked as `iter_corpus` checks it. Memory: 40 bytes a document while it runs.

    Raises:
        DataError: as `iter_corpus`.
        StageError: the disk is full.
    """
    if corpus.suffix == ".gz":
        deque(iter_placed(corpus), maxlen=0)  # a damaged file is told before it is unpacked
        unpacked = folder / UNPACKED
        with gzip.open(corpus) as packed, atomic_file(unpacked, folder / f"{UNPACKED}.tmp") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    starts, hashes = array("q"), array("Q")
    names = bytearray(b"[")
    with tqdm(desc="reading the corpus", unit="doc", disable=not progress) as bar:
        for offset, document in iter_placed(_file(folder, corpus)):
            names += (b", " if starts else b"") + json.dumps(document.id, ensure_ascii=False).encode()
            starts.append(offset)
            hashes.append(_hash(document.id))
            bar.update()
    starts.append(_file(folder, corpus).stat().st_size)
    rows = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    in_order = np.frombuffer(hashes, np.uint64)[rows]
    if (in_order[1:] == in_order[:-1]).any():
        # Two ids alike are told by file and line; two hashes alike are no error.
        deque(iter_corpus(corpus), maxlen=0)
    save_array(folder / STARTS, np.frombuffer(starts, np.int64))
    save_array(folder / HASHES, in_order)
    save_array(folder / ROWS, rows)
    atomic_write(folder / IDS, bytes(names + b"]"))


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a ``.npy`` file, whole or not at all."""
    with atomic_file(path) as out:
        np.save(out, values)


def _file(folder: Path, corpus: Path) -> Path:
    return folder / UNPACKED if corpus.suffix == ".gz" else corpus


def _hash(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")


class DocumentStore(Sequence[Document]):
    """The documents of a corpus, in its order, read from the file when asked for. Safe for threads.

    ``folder``: where `build_store` wrote; ``corpus``: the file it read, unchanged since.

    Raises:
        DataError: the corpus is gone, or the store cannot be read; later, a line that changed under it.
    """

    def __init__(self, folder: Path, corpus: Path) -> None:
        self.folder = folder
        self.path = _file(folder, corpus)
        try:
            self._starts, self._hashes, self._rows = (
                np.load(folder / name, mmap_mode="r") for name in (STARTS, HASHES, ROWS)
            )
            self._fd = os.open(self.path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder}: the index of {corpus} cannot be read ({error}); delete the folder, it is made again"
            ) from error
        if os.fstat(self._fd).st_size != self._starts[-1]:
            remedy = f"delete {folder}, it is made again"
            raise DataError(f"{self.path}: the corpus changed since it was indexed; {remedy}")
        self._document = lru_cache(_CACHED)(self._read)
        self.by_id: Mapping[str, Document] = _ById(self)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> Document: ...
    @overload
    def __getitem__(self, place: slice) -> list[Document]: ...
    def __getitem__(self, place: int | slice) -> Document | list[Document]:
        if isinstance(place, slice):
            return [self._read(row) for row in range(*place.indices(len(self)))]  # read once, not kept
        if not -len(self) <= place < len(self):
            raise IndexError(f"document {place} of {len(self)}")
        return self._document(int(place) % len(self))

    def __iter__(self) -> Iterator[Document]:
        return (self._read(row) for row in range(len(self)))

    def _read(self, row: int) -> Document:
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        # pread, not a memory map: a file cut short is then an error, not the death of the process
        line = os.pread(self._fd, end - start, start)
        return parse_document(line, f"{self.path} at byte {start}", first=row == 0)

    def row(self, identifier: str) -> int | None:
        """The row of the document of that id, None when there is none."""
        wanted = np.uint64(_hash(identifier))
        first, last = (int(np.searchsorted(self._hashes, wanted, side)) for side in ("left", "right"))
        alike = self._rows[first:last].tolist()
        return next((row for row in alike if self._document(row).id == identifier), None)

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)


class _ById(Mapping[str, Document]):
    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    def __getitem__(self, identifier: str) -> Document:
        row = self._store.row(identifier) if isinstance(identifier, str) else None
        if row is None:
            raise KeyError(identifier)
        return self._store[row]

    def __iter__(self) -> Iterator[str]:
        return (document.id for document in self._store)

    def __len__(self) -> int:
        return len(self._store)


def by_id(documents: Sequence[Document]) -> Mapping[str, Document]:
    """Documents by their ids: a store's own look-up, else a dict."""
    if isinstance(documents, DocumentStore):
        return documents.by_id
    return {document.id: document for document in documents}


def ids_json(documents: Sequence[Document]) -> bytes:
    """The ids in order as a JSON list, always the same bytes: what an index keeps to know its documents."""
    if isinstance(documents, DocumentStore):
        return (documents.folder / IDS).read_bytes()
    return json.dumps([document.id for document in documents], ensure_ascii=False).encode()
