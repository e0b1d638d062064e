"""What every retriever promises, and the two rules they share: which queries are served, how ties are cut.

A retriever is deterministic: the same queries give the same hits in the same order, whatever the batch
they come in and whatever machine it runs on (up to the last bits of a dense score).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..errors import RetrievalError
from ..records import Document, Hit
from ..runs.progress import tqdm
from ..unicode import canonical
from .store import ids_json

Scored = tuple[float, Any]
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
        with the query). Queries may repeat; all forms of one text (`unicode`) are one query. Lone surrogates and
        null characters are replaced.

        Raises:
            ValueError: ``k`` below 1.
            RetrievalError: an empty or blank query (the message says at which position), or a dead index.
        """
        ...


def check_queries(queries: Sequence[str], k: int) -> list[str]:
    """``queries`` as the engines can take them, in canonical form (`unicode`): what caches go by, too.

    Raises as `Retriever.search` says.
    """
    if isinstance(queries, str):
        raise TypeError("search takes a list of queries; wrap a single query in a list")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    texts = [searchable(query) for query in queries]
    for position, text in enumerate(texts):
        if not text.strip():
            told = f"query {position} of {len(queries)} is empty: an empty query has no answer"
            raise RetrievalError(f"{told}; drop it before searching")
    return texts


def searchable(query: str) -> str:
    """A query as the engines can take it, in canonical form (`unicode`); blank where nothing of it can be seen."""
    # A model can write "\ud800" in a JSON query: half a character, which neither Java nor a tokenizer takes.
    return canonical(query.encode("utf-8", "replace").decode("utf-8").replace("\0", " "))


def rank(scored: Sequence[tuple[float, str]], tolerance: float = 0.0) -> list[tuple[float, str]]:
    """``(score, id)`` pairs in the order of `Retriever.search`: score descending, then id ascending.

    Scores within ``tolerance`` of the best of their group count as one score, the group's best. Two copies
    of a passage differ in the last bits of a matrix product; with a tolerance their order does not.
    """
    grouped: list[tuple[float, str]] = []
    best = float("inf")
    for score, identifier in sorted(scored, key=lambda pair: -pair[0]):
        best = best if best - score <= tolerance else score
        grouped.append((best, identifier))
    return sorted(grouped, key=lambda pair: (-pair[0], pair[1]))


def settled(scores: Sequence[float], k: int, tolerance: float = 0.0) -> bool:
    """Whether the best k of these descending scores cannot change by fetching more documents."""
    return len(scores) > k and scores[k - 1] - scores[-1] > tolerance


def fetch_settled(
    find: Callable[[Any, int], Iterable[list[Scored]]],
    queries: Sequence[Any],
    k: int,
    documents: int,
    tolerance: float = 0,
) -> list[list[Scored]]:
    """What an engine finds for each query, so many that the best k among them, ties included, are certain.

    ``find(some, wanted)`` gives the best ``wanted`` of some of the queries as (score, document), scores falling.
    """
    results: list[list[Scored]] = [[] for _ in queries]
    waiting, fetch = list(range(len(queries))), k + SPARE
    while waiting:
        wanted = min(fetch, documents)
        for i, scored in zip(waiting, find([queries[i] for i in waiting], wanted), strict=True):
            results[i] = scored
        known = {i: [score for score, _ in results[i]] for i in waiting}
        waiting = [
            i for i in waiting if len(known[i]) == wanted < documents and not settled(known[i], k, tolerance)
        ]
        fetch *= 2
    return results


def in_batches(
    items: Any, size: int, label: str, progress: bool, begin: int = 0
) -> Iterator[tuple[int, Any]]:
    """``items`` from ``begin`` on, ``size`` at a time, each part with its start, under a progress bar."""
    with tqdm(total=len(items), initial=begin, desc=label, unit="doc", disable=not progress) as bar:
        for start in range(begin, len(items), size):
            part = items[start : start + size]
            yield start, part
            bar.update(len(part))


def unreadable(
    where: Path, error: object, remedy: str = "delete the folder and build the index again"
) -> RetrievalError:
    """The error for a damaged index."""
    told = " ".join(str(error).split())[:300]
    return RetrievalError(f"{where}: not a readable index ({told}); {remedy}")


def foreign(where: Path | str, difference: str) -> RetrievalError:
    """The error for an index of other documents."""
    return RetrievalError(f"{where}: {difference}; it belongs to another corpus: build the index again")


def check_size(where: Path | str, held: int, what: str, documents: Sequence[Document]) -> None:
    """Check that an index holds as many things as there are documents; raises a `foreign` one's error."""
    if held != len(documents):
        raise foreign(where, f"holds {held} {what}, the corpus {len(documents)} documents")


def same_documents(where: Path, documents: Sequence[Document]) -> None:
    """Check that an index holds exactly these documents, in this order; ``where`` keeps its `ids_json`.

    Raises:
        RetrievalError: naming the first difference and the remedy.
    """
    try:
        stored = where.read_bytes()
        if stored == ids_json(documents):
            return
        ids = json.loads(stored)
    except (OSError, ValueError) as error:
        raise unreadable(where, error) from error
    check_size(where, len(ids), "documents", documents)
    for position, (identifier, document) in enumerate(zip(ids, documents, strict=True)):
        if identifier != document.id:
            raise foreign(where, f"document {position} is {identifier!r}, in the corpus {document.id!r}")


def digest(**parts: Any) -> str:
    """Sixteen hex digits that identify a retriever's parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
