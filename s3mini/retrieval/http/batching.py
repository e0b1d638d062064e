"""Micro-batching: concurrent requests are searched together, by one thread, as many as wait at the time.

One product over the whole index serves a batch in little more time than a single query, and neither FAISS'
settings nor the JVM have to be shared between threads. While a batch is searched the next one collects, so nobody
waits on purpose, but for a tenth of the last batch's time when fewer are back than it held.

A long request is queued a batch at a time: short ones get their turn in between, and no more than a batch of its hits is
held at once.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from ...records import Hit
from ..base import Retriever
from ..hit_cache import HitCache
from .metrics import Metrics

Found = list[Hit] | Exception
LINGER = 0.1  # of the last batch's seconds
MOST_LINGER = 0.05  # seconds
MOST_AWAY = 60  # seconds a refused client is sent away for, at most


class Overloaded(Exception):
    """The queue is full; ``seconds`` from now there should be room."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many queries are waiting; come back in {seconds} s")
        self.seconds = seconds


@dataclass(slots=True)
class _Waiting:
    k: int
    found: asyncio.Future[Found]


class Batcher:
    """A retriever behind a queue. All of it but the search itself runs in one event loop.

    At most ``size`` queries are searched at once. A request is taken while fewer than ``room`` queries wait, so one more
    request is the bound. ``cache`` answers are kept, 0 for none.
    """

    def __init__(self, retriever: Retriever, size: int, room: int, cache: int, metrics: Metrics) -> None:
        self.retriever, self.size, self.room, self.metrics = retriever, size, room, metrics
        self.metrics.waiting.set_function(lambda: self.waiting)
        self._cache = HitCache(cache) if cache else None
        self._waiting: dict[str, _Waiting] = {}  # by query, in the order of arrival
        self._behind = 0  # queries of requests already taken, whose turn to be queued has not come
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "retriever")
        self._last, self._seconds = 0, 0.0  # of the last batch

    @property
    def waiting(self) -> int:
        """Queries that wait to be searched: distinct ones in the queue, and what is left of long requests."""
        return len(self._waiting) + self._behind

    async def search(self, queries: Sequence[str], k: int) -> AsyncGenerator[list[Found]]:
        """What is found for each query, or what the retriever raised for it, in order, at most ``size`` at a time.

        The queries are checked already. Close the iterator when it is left early (`contextlib.aclosing`).

        Raises:
            Overloaded: the queue is full; nothing of the request was taken.
        """
        if self.waiting >= self.room and any(
            self._known(q, k) is None and q not in self._waiting for q in queries
        ):
            seconds = math.ceil(self._seconds / max(1, self._last) * self.waiting)
            raise Overloaded(min(MOST_AWAY, max(1, seconds)))
        left = len(queries)
        self._behind += left
        try:
            for start in range(0, len(queries), self.size):
                piece = queries[start : start + self.size]
                left -= len(piece)
                self._behind -= len(piece)
                yield await self._piece(piece, k)
        finally:
            self._behind -= left

    async def _piece(self, queries: Sequence[str], k: int) -> list[Found]:
        answers: dict[str, Found] = {q: known for q in queries if (known := self._known(q, k)) is not None}
        self.metrics.hits.inc(sum(query in answers for query in queries))
        futures = {query: self._enqueue(query, k) for query in dict.fromkeys(queries) if query not in answers}
        for query, future in futures.items():
            answers[query] = await asyncio.shield(future)  # shared with whoever asks the same
        return [found if isinstance(found := answers[query], Exception) else found[:k] for query in queries]

    def _known(self, query: str, k: int) -> list[Hit] | None:
        return self._cache.get(query, k) if self._cache is not None else None

    def _enqueue(self, query: str, k: int) -> asyncio.Future[Found]:
        wanted = self._waiting.get(query)
        if wanted is None:
            wanted = self._waiting[query] = _Waiting(k, asyncio.get_running_loop().create_future())
            self._some.set()
        wanted.k = max(wanted.k, k)
        return wanted.found

    async def run(self) -> None:
        """Search batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            await self._linger()
            batch = {query: self._waiting.pop(query) for query in list(islice(self._waiting, self.size))}
            if not self._waiting:
                self._some.clear()
            k = max(wanted.k for wanted in batch.values())
            started = time.perf_counter()
            found = await loop.run_in_executor(self._thread, search_each, self.retriever, list(batch), k)
            self._last, self._seconds = len(batch), time.perf_counter() - started
            self.metrics.batch.observe(self._last)
            self.metrics.search.observe(self._seconds)
            for (query, wanted), hits in zip(batch.items(), found, strict=True):
                if self._cache is not None and not isinstance(hits, Exception):
                    self._cache.put(query, k, hits)
                wanted.found.set_result(hits)

    async def _linger(self) -> None:
        """A moment for the clients of the last batch to come back, or each batch would split in two for ever."""
        until = time.perf_counter() + min(LINGER * self._seconds, MOST_LINGER)
        while self.waiting < min(self._last, self.size) and time.perf_counter() < until:
            await asyncio.sleep(0.001)

    def close(self) -> None:
        """Let the thread go, once it has finished the batch it is at."""
        self._thread.shutdown(wait=True)


def search_each(retriever: Retriever, queries: Sequence[str], k: int) -> list[Found]:
    """Hits of each query, or what the retriever raised for it: one that fails does not fail its batch."""
    try:
        found = retriever.search(queries, k)
        if len(found) != len(queries):
            raise RuntimeError(f"{len(found)} answers to {len(queries)} queries: the retriever is broken")
        return list(found)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if len(queries) == 1:
            told = f"{type(error).__name__}: {error}"
            return [error if isinstance(error, Exception) else RuntimeError(told)]
    half = len(queries) // 2
    return [*search_each(retriever, queries[:half], k), *search_each(retriever, queries[half:], k)]
