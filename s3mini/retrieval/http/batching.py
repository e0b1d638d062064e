"""Micro-batching: concurrent requests are searched together, by one thread, as many as wait at the time.

One product over the whole index serves a batch in little more time than a single query, and neither FAISS'
settings nor the JVM have to be shared between threads. While a batch is searched the next one collects, so nobody
waits on purpose, but for a tenth of the last batch's time when fewer are back than it held.
"""

import asyncio
import math
import time
from collections.abc import Sequence
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
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "retriever")
        self._last, self._seconds = 0, 0.0  # of the last batch

    @property
    def waiting(self) -> int:
        """Distinct queries that wait to be searched."""
        return len(self._waiting)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`, for queries already checked.

        Raises:
            Overloaded: the queue is full; nothing of the request was taken.
            Exception: what the retriever raised for one of these queries.
        """
        answers: dict[str, list[Hit]] = {}
        if self._cache is not None:
            answers = {q: known for q in queries if (known := self._cache.get(q, k)) is not None}
            self.metrics.hits.inc(sum(query in answers for query in queries))
        missing = [query for query in dict.fromkeys(queries) if query not in answers]
        if self.waiting >= self.room and any(query not in self._waiting for query in missing):
            seconds = math.ceil(self._seconds / max(1, self._last) * self.waiting)
            raise Overloaded(min(MOST_AWAY, max(1, seconds)))
        futures = {query: self._enqueue(query, k) for query in missing}
        for query, future in futures.items():
            hits = await asyncio.shield(future)  # shared with whoever asks the same
            if isinstance(hits, Exception):
                raise hits
            answers[query] = hits
        return [answers[query][:k] for query in queries]

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
