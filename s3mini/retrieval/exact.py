"""Exact search: the best inner products of queries with all vectors, by what is fastest for their number and type.

Threads take blocks of the vectors in turn: a block, copied as float32, times all queries, then its scores are
looked through, all of it in the cache. No thread waits for another before the end, so a busy core costs its own share only.
What is over before a second thread of Python could begin is one product, shared by the library's own threads.
A few queries of halves are served by FAISS, which widens numbers in registers; up to how many depends on the machine, and
is measured (`calibrate`).
"""

import time
import timeit
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoder import Vectors
from .flat import parts, sharded, stored

Rows = npt.NDArray[np.int64]
PART_BYTES = 64 << 20
"""A single query of halves is shared between FAISS' threads where each gets at least so much to scan."""
_BLOCK = 1 << 19  # numbers in a block of vectors, which stay in the cache
_FEW = 16  # queries: with fewer a block has as many times more vectors, so that Python's part of the time stays small
_AT_ONCE = 1 << 23  # numbers of the vectors, and scores: with no more of either all is one block
_SAMPLE = 1 << 26  # numbers that calibration searches, at most: more than a cache holds
_FROM_MEMORY = 1.25  # a scan reads all vectors for every thread's query, a product once: of more than a sample it matters
_WIDE = 64  # queries, from which on numpy compares a row at a time as fast as all in one
_GROUPS = 8  # times k: see `_Best`


class ExactSearch:
    """Searches the vectors of a flat FAISS index (`flat.open_flat`) where they lie; it stays in use.

    ``vectors``: shape (rows, dimension), float32 or float16 (few are widened once, for products: 32 MB at most); ``product_from``:
    queries from which on the matrix product serves (default: `calibrate`), fewer are FAISS'; float32 is never FAISS'.
    """

    def __init__(self, index: Any, product_from: int | None = None) -> None:
        import faiss
        import torch

        self.vectors = self._searched = stored(index)
        self.product_from = 1
        self._threads = torch.get_num_threads()
        self._workers = _single_threaded(self._threads)
        if self.vectors.dtype == np.float32:
            return
        self._index = index
        if self.vectors.size <= _AT_ONCE:  # to widen them takes longer than to search them
            self._searched = self.vectors.astype(np.float32)
        shares = min(faiss.omp_get_max_threads(), self.vectors.nbytes // PART_BYTES)
        self._shards = sharded(index, parts(index, shares)) if shares > 1 else None
        if product_from is None:
            sample = next(parts(index, max(1, self.vectors.size // _SAMPLE)))
            product_from = calibrate(ExactSearch(sample, 1))
        self.product_from = product_from

    def __call__(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Scores, falling, and rows of the best ``k`` vectors of each query; shapes (queries, k).

        ``queries``: shape (queries, dimension), float32; ``k``: no more than there are vectors. Memory beside the
        result: of each thread a block, and its scores.
        """
        return (self.product if len(queries) >= self.product_from else self.scan)(queries, k)

    def scan(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As calling it, for halves, by FAISS."""
        # it gives every query a thread; shards let a single one use all
        shared = self._shards is not None and len(queries) < self._shards.count()
        index: Any = self._shards if shared else self._index
        found: tuple[Vectors, Rows] = index.search(queries, k)
        return found

    def product(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As calling it, by matrix products; of equals the lower rows."""
        number = len(queries)
        small = max(self.vectors.size, number * len(self.vectors)) <= _AT_ONCE
        best = (self._at_once if small else self._in_blocks)(queries, k)
        _, scores, rows = best.settle()
        return scores.reshape(number, k), rows.reshape(number, k)

    def _at_once(self, queries: Vectors, k: int) -> "_Best":
        import torch

        number, vectors = len(queries), torch.from_numpy(self._searched)
        twice = np.repeat(queries, 2, axis=0) if number == 1 else queries  # faster than once
        best = _Best(number, k)
        best.add((vectors @ torch.from_numpy(twice).T).numpy()[:, :number], 0)
        return best

    def _in_blocks(self, queries: Vectors, k: int) -> "_Best":
        import torch

        (total, dimension), number = self._searched.shape, len(queries)
        # BLAS reads its operands twice, in leaps, and is faster by more than a copy costs where they lie in the cache
        copied = self._searched.dtype != np.float32 or number >= _FEW
        numbers = _BLOCK if copied else _BLOCK * _FEW // number
        step = max(min(numbers // dimension, -(-total // (2 * self._threads))), 4 * k)
        vectors, right = torch.from_numpy(self._searched), torch.from_numpy(queries).T
        right = right[:, 0] if number == 1 else right

        def look(firsts: Iterator[int]) -> _Best:
            best = _Best(number, k)
            wide = torch.empty(min(step, total), dimension) if copied else vectors
            for first in firsts:
                block = vectors[first : first + step]
                if copied:
                    block = wide[: len(block)].copy_(block)
                best.add((block @ right).numpy().reshape(len(block), number), first)
            return best

        firsts = iter(range(0, total, step))  # shared: each block goes to who is free
        looking = [self._workers.submit(look, firsts) for _ in range(min(self._threads, -(-total // step)))]
        best, *others = (each.result() for each in looking)
        for other in others:
            best.scores += other.scores
            best.places += other.places
        return best


@lru_cache(maxsize=4)
def _single_threaded(number: int) -> ThreadPoolExecutor:
    """So many threads in each of which torch uses one: that number is a thread's own, and the next ones' first."""
    import torch

    before, together = torch.get_num_threads(), Barrier(number)
    workers = ThreadPoolExecutor(number, "exact-search", torch.set_num_threads, (1,))
    for started in [workers.submit(together.wait) for _ in range(number)]:
        started.result()
    torch.set_num_threads(before)  # what threads that begin from now on get, too
    return workers


class _Best:
    """The best ``k`` of each query, of equals the lower rows, among the scores it was given.

    What beats a query's ``floor`` is kept until twice as many are kept as are wanted in all; then the best of them
    stay, and the floor rises. It starts at what k scores of the first block reach: the k-th of its groups' highest scores.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.queries, self.k, self.kept = queries, k, 0
        self.floor = np.empty(
            (0, queries), np.float32
        )  # of each query; of few, repeated for the rows of a block
        self.scores: list[Vectors] = []
        self.places: list[Rows] = []  # row · queries + query

    def add(self, scores: Vectors, first: int) -> None:
        """Take the scores of the rows from ``first`` on; shape (rows, queries), no more rows than before, later ones."""
        if not self.floor.size:
            rows = len(scores) if self.queries < _WIDE else 1
            self.floor = np.tile(self._first_floor(scores), (rows, 1))
        found = np.flatnonzero(scores > self.floor[: len(scores)])
        self.scores.append(scores.reshape(-1)[found])
        self.places.append(found + first * self.queries)
        self.kept += len(found)
        if self.kept > 2 * self.k * self.queries:
            counts, reached, _ = self.settle()
            floor = np.where(counts < self.k, np.float32(-np.inf), reached[np.cumsum(counts) - 1])
            self.floor = np.tile(floor, (len(self.floor), 1))

    def _first_floor(self, scores: Vectors) -> Vectors:
        groups = _GROUPS * self.k
        size = len(scores) // groups
        if size < 2:
            return np.full(self.queries, -np.inf, np.float32)
        highest = scores[: size * groups].reshape(size, -1).max(0).reshape(groups, -1)
        reached: Vectors = np.partition(highest, groups - self.k, axis=0)[groups - self.k]
        return np.nextafter(reached, np.float32(-np.inf))

    def settle(self) -> tuple[Rows, Vectors, Rows]:
        """Keep the best k only; returns how many each query has, and their scores, falling, and rows, query by query."""
        scores, places = np.concatenate(self.scores), np.concatenate(self.places)
        rows, queries = np.divmod(places, self.queries)
        order = np.lexsort((rows, -scores, queries))
        counts = np.bincount(queries, minlength=self.queries)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = order[rank < self.k]
        self.scores, self.places, self.kept = [scores[order]], [places[order]], len(order)
        return np.minimum(counts, self.k), self.scores[0], rows[order]


def calibrate(search: ExactSearch, seconds: float = 0.5) -> int:
    """The number of queries, 1, 2, 4 …, from which on the matrix product of halves is faster than FAISS' scan.

    Searches for ten neighbours; stops at ``seconds``.
    """
    dimension = search.vectors.shape[1]
    queries = np.random.default_rng(0).standard_normal((64, dimension)).astype(np.float32)
    k, ways = min(10, len(search.vectors)), (search.scan, search.product)
    for way in ways:
        way(queries[:1], k)  # starts threads
    started = time.perf_counter()
    for number in (1, 2, 4, 8, 16, 32, 64):
        scan, product = (
            min(timeit.repeat(partial(way, queries[:number], k), number=1, repeat=2)) for way in ways
        )
        if product < _FROM_MEMORY * scan or time.perf_counter() - started > seconds:
            break
    return number
