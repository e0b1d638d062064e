"""Retrievers that find nothing of use, for a control: a searcher that learns from its reward stops asking them.

``random`` returns documents that have nothing to do with the query, ``empty`` none at all.
"""

import random
from collections.abc import Mapping, Sequence

from ..records import Document, Hit
from .base import check_queries, digest

BROKEN = ("random", "empty")


class BrokenRetriever:
    """A `Retriever` of one of the kinds ``BROKEN``; a query always gets the same documents."""

    def __init__(self, kind: str, documents: Mapping[str, Document], corpus: str) -> None:
        self.name = kind
        self.documents = documents
        self.fingerprint = digest(kind=kind, corpus=corpus)
        self._ids = sorted(documents) if kind == "random" else []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`; all scores are 0."""
        found = []
        for query in check_queries(queries, k):
            drawn = random.Random(query).sample(self._ids, min(k, len(self._ids)))
            found.append([Hit(self.documents[i], 0.0) for i in sorted(drawn)])
        return found
