"""A cache of searches in front of any retriever: episodes of one question ask much the same queries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..records import Hit
from .base import Retriever, check_queries


class CachedRetriever:
    """Keeps the latest ``size`` answers by (query, k) and searches each distinct query of a batch once.

    ``asked`` and ``searched`` count queries, to show what the cache saves. Not for concurrent threads.
    """

    def __init__(self, inner: Retriever, size: int = 65_536) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.inner = inner
        self.size = size
        self.asked = 0
        self.searched = 0
        self._answers: OrderedDict[tuple[str, int], list[Hit]] = OrderedDict()

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        texts = check_queries(queries, k)
        self.asked += len(texts)
        # Held apart from the cache, which may be smaller than the batch.
        batch = {text: self._answers[text, k] for text in texts if (text, k) in self._answers}
        missing = [text for text in dict.fromkeys(texts) if text not in batch]
        if missing:
            batch.update(zip(missing, self.inner.search(missing, k), strict=True))
            self.searched += len(missing)
        for text in texts:
            self._answers[text, k] = batch[text]
            self._answers.move_to_end((text, k))
        while len(self._answers) > self.size:
            self._answers.popitem(last=False)
        return [list(batch[text]) for text in texts]
