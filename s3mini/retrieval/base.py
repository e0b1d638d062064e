"""What every retriever promises, and the two rules they share: which queries are served, how ties are cut.

A retriever is deterministic: the same queries give the same hits in the same order, whatever the batch
they come in and whatever machine it runs on (up to the last bits of a dense score).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ..errors import RetrievalError
from ..records import Document, Hit
from .store import ids_json

SPARE = 8
"""Extra documents fetched beyond k, so that a tie across the cut is usually seen whole at once."""


@runtime_checkable
class Retriever(Protocol):
    """A frozen search engine over one corpus (the paper's R in section 3).

    ``name`` says which; ``fingerprint`` (16 hex) changes with anything that changes a result, so it is what
    a later stage records as its input.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best k documents of each query, in the queries' order, by (score desc, document id asc).

        ``k`` above the corpus size returns every document (a lexical index: every document that shares a term
        with the query). Queries may repeat; lone surrogates and null characters are replaced.

        Raises:
            ValueError: ``k`` below 1.
            RetrievalError: an empty or blank query (the message says at which position), or a dead index.
        """
        ...


def check_queries(queries: Sequence[str], k: int) -> list[str]:
    """``queries`` as the engines can take them; raises as `Retriever.search` says."""
    if isinstance(queries, str):
        raise TypeError("search takes a list of queries; wrap a single query in a list")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    for position, query in enumerate(queries):
        if not query.strip():
            raise RetrievalError(
                f"query {position} of {len(queries)} is empty: an empty query has no answer; "
                "drop it before searching"
            )
    # A model can write "\ud800" in a JSON query: half a character, which neither Java nor a tokenizer takes.
    return [q.encode("utf-8", "replace").decode("utf-8").replace("\0", " ") for q in queries]


def rank(scored: Sequence[tuple[float, str]], tolerance: float = 0.0) -> list[tuple[float, str]]:
    """``(score, id)`` pairs in the order of `Retriever.search`: score descending, then id ascending.

    Scores within ``tolerance`` of the best of their group count as one score, the group's best. Two copies
    of a passage differ in the last bits of a matrix product; with a tolerance their order does not.
    """
    ordered = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    grouped: list[tuple[float, str]] = []
    for score, identifier in ordered:
        tied = bool(grouped) and grouped[-1][0] - score <= tolerance
        grouped.append((grouped[-1][0] if tied else score, identifier))
    return sorted(grouped, key=lambda pair: (-pair[0], pair[1]))


def settled(scores: Sequence[float], k: int, tolerance: float = 0.0) -> bool:
    """Whether the best k of these descending scores cannot change by fetching more documents."""
    return len(scores) > k and scores[k - 1] - scores[-1] > tolerance


def same_documents(stored: bytes, documents: Sequence[Document], where: str) -> None:
    """Check that an index holds exactly these documents, in this order; ``stored``: its `ids_json`.

    Raises:
        RetrievalError: naming the first difference and the remedy.
    """
    if stored == ids_json(documents):
        return
    try:
        ids = json.loads(stored)
    except ValueError as error:
        remedy = "delete the folder and build the index again"
        raise RetrievalError(f"{where}: not a readable index (its ids: {error}); {remedy}") from error
    if len(ids) != len(documents):
        raise RetrievalError(
            f"{where}: holds {len(ids)} documents, the corpus {len(documents)}; it belongs to another "
            "corpus: build the index again"
        )
    for position, (identifier, document) in enumerate(zip(ids, documents, strict=True)):
        if identifier != document.id:
            raise RetrievalError(
                f"{where}: document {position} is {identifier!r}, in the corpus {document.id!r}; it belongs to "
                "another corpus: build the index again"
            )


def digest(**parts: Any) -> str:
    """Sixteen hex digits that identify a retriever's parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
