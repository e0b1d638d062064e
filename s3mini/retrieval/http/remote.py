"""A retriever at the other end of HTTP: ours (`server`), or any that speaks the wire format of s3 and Search-R1.

A server that does not answer, or is too busy, is asked again for as long as the profile has patience, then
`RetrievalError`: never an empty answer. What comes back is checked before it is a hit: as many answers as
queries, best first, and every document that of the local corpus.

Servers of that family are read as they are, and what is put right is told once: online search answers with more documents
than asked for and without scores (the documents keep their order, the score is 1 / rank), an index smaller than ``topk``
fills up with copies of its last document, some documents have neither title nor text (they are left out). What could be
one thing or another stays an error: scores that rise, a number of answers that is not that of the queries.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx
from pydantic import ValidationError

from ...corpus import split_contents
from ...errors import RetrievalError
from ...records import Document, Hit
from ...runs.http_client import (
    BUSY,
    GaveUp,
    NotNow,
    Patience,
    decoded,
    on_the_way,
    open_client,
    refusal,
    retry_after,
)
from ...unicode import canonical
from ..base import check_queries, digest
from .wire import FINGERPRINT, Health, Passage, Scored, ScoredPassage, first_problem

log = logging.getLogger("s3mini")

PADDING = -3e38  # FAISS' score of a document that is not there
PROBE = "who wrote the oldest book in the library of the capital"
_CONNECT_SECONDS = 5.0


class RemoteRetriever:
    """See `Retriever`. Connections are kept; safe for threads. Nothing is sent before the first use.

    Args:
        url: of the server, with or without ``/retrieve``.
        known: the corpus, by id. None: documents are taken as they come.
        timeout, patience: seconds to wait for one answer, and to go on trying when there is none.
        batch: queries per request; a server that says it takes fewer gets fewer.

    Raises:
        RetrievalError: ``url`` is no HTTP address. At use: no answer for ``patience``, a request refused, an
            answer that cannot be read, a document that the corpus does not hold, another index than at first.
    """

    def __init__(
        self,
        url: str,
        known: Mapping[str, Document] | None = None,
        timeout: float = 60.0,
        patience: float = 300.0,
        batch: int = 256,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/retrieve")
        try:
            parsed = httpx.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx.InvalidURL("no http://, or no host")
        except httpx.InvalidURL as error:
            told = f"{url!r} is not the URL of a retrieval server ({error})"
            raise RetrievalError(f"{told}; write http://HOST:PORT") from error
        self.patience = Patience(self.url, patience)
        self._known = known
        self._batch = batch
        self._told: set[str] = set()
        limit = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
        self._client = open_client(httpx.Client, self.url, RetrievalError, timeout=limit)

    def close(self) -> None:
        """Close the connections; the next search opens new ones."""
        self._client.close()

    @cached_property
    def health(self) -> Health | None:
        """What the server says of itself; None for a server that says nothing (the originals')."""
        response = self._send("GET", "/health")
        try:
            return Health.model_validate_json(response.content) if response.status_code == 200 else None
        except ValidationError:
            return None

    @property
    def name(self) -> str:
        """The server's, as far as it tells."""
        return self.health.retriever if self.health else "remote"

    @cached_property
    def fingerprint(self) -> str:
        """The server's own, which the same index has when opened here; else of its URL and its answer to a probe."""
        if self.health:
            return self.health.fingerprint
        (hits,) = self._ask([PROBE], 5)
        return digest(url=self.url, answer=[hit.document.contents for hit in hits])

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        texts = check_queries(queries, k)
        found: list[list[Hit]] = []
        while len(found) < len(texts):
            size = self._batch
            if self.health:
                limits = self.health.limits
                size = min(size, limits.queries, max(1, limits.documents // k))
            found += self._ask(texts[len(found) : len(found) + size], k, len(found), len(texts))
        return found

    def _ask(self, texts: list[str], k: int, first: int = 0, of: int = 1) -> list[list[Hit]]:
        """Hits of ``texts``, or of the first of them where the server refuses so many at once."""
        response = self._send("POST", "/retrieve", {"queries": texts, "topk": k, "return_scores": True})
        if response.status_code == 413 and len(texts) > 1:
            self._batch = len(texts) // 2
            return self._ask(texts[: self._batch], k, first, of)
        if response.status_code != 200:
            raise RetrievalError(
                f"{self.url}/retrieve: answered {response.status_code}: {refusal(response)}; "
                "see the server's log, or check retrieval.url"
            )
        served = response.headers.get(FINGERPRINT)
        if self.health and served != self.health.fingerprint:  # started again with another index
            raise RetrievalError(
                f"{self.url}: serves another index now ({served}) than at first ({self.health.fingerprint}); serve "
                "the first one again, or start this run anew"
            )
        try:
            scored = Scored.model_validate_json(response.content)
        except ValidationError as error:
            raise self._broken(first_problem(error) + said(response)) from error
        blocks = scored.result
        if len(blocks) != len(texts):
            raise self._broken(f"{len(blocks)} answers to {len(texts)} queries{said(response)}")
        for position, problem in scored.problems.items():
            if position >= len(blocks) or not blocks[position]:
                where = f"query {first + position} of {of}"
                raise RetrievalError(f"{self.url}/retrieve: {where}: {problem}; see the server's log")
            self._tell("a query was cut", problem)
        return [self._hits(block, k, f"result.{i}") for i, block in enumerate(blocks)]

    def _tell(self, what: str, more: str) -> None:
        """Say once what was put right."""
        if what not in self._told:
            self._told.add(what)
            log.warning("%s: %s (%s); so are others, not told again", self.url, what, more)

    def _hits(self, block: Sequence[ScoredPassage], k: int, place: str) -> list[Hit]:
        real = [scored for scored in block if scored.score is None or scored.score > PADDING]
        if len(real) < len(block):
            self._tell("the index has fewer documents than asked for", f"{place}: {len(real)} of {k}")
        unscored = any(scored.score is None for scored in real)
        if unscored:
            self._tell("gives no scores", "documents keep their order, and 1 / rank for a score")
        hits: dict[str, Hit] = {}
        above: float | None = None
        for rank, scored in enumerate(real):
            at = f"{place}.{rank}"
            title, text = split_contents(scored.document.contents)
            if not title.strip() and not text.strip():
                self._tell("a document has neither title nor text", f"{at}; it is left out")
                continue
            document = self._document(scored.document, at)
            score = 1 / (len(hits) + 1) if unscored or scored.score is None else scored.score
            if above is not None and score > above:
                raise self._broken(f"{at}: scores rise; the best document must come first")
            if document.id in hits:
                self._tell("a document comes twice", f"{at}; it is taken once")
                continue
            hits[document.id], above = Hit(document, score), score
        if len(hits) > k:
            self._tell("gives more documents than asked for", f"{place}: {len(hits)}; the best {k} are taken")
        return list(hits.values())[:k]

    def _document(self, passage: Passage, place: str) -> Document:
        """The corpus' own document where the corpus is known, else as it came; without an id, its text is its name."""
        contents, given = passage.contents, passage.id
        title, text = split_contents(contents)
        if self._known is None:
            return Document(digest(text=contents) if given is None else str(given), title, text)
        laid_out = canonical(Document("", title, text).contents)  # a text alone has no line for its title
        own = self._known.get(self._by_contents.get(laid_out, "") if given is None else str(given))
        if own is None or canonical(own.contents) != laid_out:
            shown = repr(given) if given is not None else f"{contents[:40]!r} …"
            raise RetrievalError(
                f"{self.url}: document {shown} ({place}) is not that of the profile's corpus: the server has indexed "
                "another one; serve the same corpus, or name the server's in data.corpus"
            )
        return own

    @cached_property
    def _by_contents(self) -> dict[str, str]:
        return {canonical(document.contents): name for name, document in (self._known or {}).items()}

    def _broken(self, what: str) -> RetrievalError:
        return RetrievalError(
            f"{self.url}/retrieve: not an answer in the format of s3 and Search-R1: {what}; check retrieval.url, "
            "and the server's log"
        )

    def _send(self, method: str, path: str, content: Any = None) -> httpx.Response:
        """One exchange, tried again while the server is down or busy; any other answer is returned."""

        def once() -> httpx.Response:
            with on_the_way():
                response = self._client.request(method, self.url + path, json=content)
            if response.status_code in BUSY:
                raise NotNow(f"status {response.status_code}: {refusal(response)}", retry_after(response))
            return response

        try:
            return self.patience.call(once)
        except GaveUp as last:
            raise RetrievalError(
                f"{self.url}: no answer within {self.patience.seconds:g} s, {last.tries} tries; the last: {last}. Start it "
                "(`s3mini serve retriever`) or mend retrieval.url, then run the same command again: what is done is "
                "kept. retrieval.patience says how many seconds to wait"
            ) from last


def said(response: httpx.Response) -> str:
    """What a server says that answers 200 with an error instead of a result."""
    try:
        answered = decoded(response)
    except ValueError:
        return ""
    odd = isinstance(answered, dict) and not isinstance(answered.get("result"), list) and answered
    return f"; it says: {refusal(response)}" if odd else ""
