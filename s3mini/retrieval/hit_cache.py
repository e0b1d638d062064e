"""A cache of searches in front of any retriever: episodes of one question ask much the same queries."""

from collections import OrderedDict
from collections.abc import Container, Sequence

from ..records import Hit
from .base import Retriever, check_queries


class HitCache:
    """The latest ``size`` answers, by query. An answer for k serves every smaller k: ranks do not depend on k."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.size = size
        self._answers: OrderedDict[str, tuple[int, list[Hit]]] = OrderedDict()

    def get(self, query: str, k: int) -> list[Hit] | None:
        """The best ``k`` as far as they are known, None where they are not."""
        known, hits = self._answers.get(query, (0, []))
        if known < k and (not known or len(hits) == known):  # fewer than asked for: all there are
            return None
        self._answers.move_to_end(query)
        return hits[:k]

    def put(self, query: str, k: int, hits: Sequence[Hit]) -> None:
        """Keep what a search for ``k`` found, unless more is known; the oldest answers go."""
        if self._answers.get(query, (0, []))[0] <= k:
            self._answers[query] = k, list(hits)
        self._answers.move_to_end(query)
        while len(self._answers) > self.size:
            self._answers.popitem(last=False)


class CachedRetriever:
    """Keeps the latest ``size`` answers and searches each distinct query of a batch once.

    ``asked`` and ``searched`` count queries, to show what the cache saves. Not for concurrent threads.
    """

    def __init__(self, inner: Retriever, size: int = 65_536) -> None:
        self.inner, self._cache = inner, HitCache(size)
        self.asked = self.searched = 0

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    @property
    def malformed(self) -> Container[str]:
        """Boolean queries that were searched as plain words."""
        return getattr(self.inner, "malformed", ())

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        texts = check_queries(queries, k)
        self.asked += len(texts)
        # Held apart from the cache, which may be smaller than the batch.
        batch = {text: hits for text in texts if (hits := self._cache.get(text, k)) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in batch]
        if missing:
            batch.update(zip(missing, self.inner.search(missing, k), strict=True))
            self.searched += len(missing)
        for text in texts:
            self._cache.put(text, k, batch[text])
        return [list(batch[text]) for text in texts]
