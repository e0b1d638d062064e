"""A retriever at the other end of HTTP: ours (`server`), or any that speaks the wire format of s3 and Search-R1.

A server that does not answer, or is too busy, is asked again for as long as the profile has patience, then
`RetrievalError`: never an empty answer. What comes back is checked before it is a hit: as many answers as
queries, no more documents than asked for, best first, and every document that of the local corpus.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import httpx
from pydantic import ValidationError

from ...corpus import split_contents
from ...errors import RetrievalError
from ...records import Document, Hit
from ...runs.http_client import BUSY, GaveUp, NotNow, Patience, is_local, on_the_way, refusal, retry_after
from ...unicode import canonical
from ..base import check_queries, digest
from .wire import FINGERPRINT, Health, Scored, ScoredPassage, first_problem

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
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            trust_env=not is_local(parsed),
        )

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
        size = min(self._batch, self.health.limits.queries) if self.health else self._batch
        return [hits for i in range(0, len(texts), size) for hits in self._ask(texts[i : i + size], k)]

    def _ask(self, texts: list[str], k: int) -> list[list[Hit]]:
        response = self._send("POST", "/retrieve", {"queries": texts, "topk": k, "return_scores": True})
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
            blocks = Scored.model_validate_json(response.content).result
        except ValidationError as error:
            raise self._broken(first_problem(error)) from error
        if len(blocks) != len(texts):
            raise self._broken(f"{len(blocks)} answers to {len(texts)} queries")
        return [self._hits(block, k, f"result.{i}") for i, block in enumerate(blocks)]

    def _hits(self, block: Sequence[ScoredPassage], k: int, place: str) -> list[Hit]:
        if len(block) > k:
            raise self._broken(f"{place}: {len(block)} documents where {k} were asked for")
        hits = [Hit(self._document(one, f"{place}.{rank}"), one.score) for rank, one in enumerate(block)]
        for rank, (better, worse) in enumerate(pairwise(hits), 1):
            if worse.score > better.score:
                raise self._broken(f"{place}.{rank}: scores rise; the best document must come first")
        if len({hit.document.id for hit in hits}) != len(hits):
            raise self._broken(f"{place}: a document comes twice")
        return hits

    def _document(self, scored: ScoredPassage, place: str) -> Document:
        """The corpus' own document where the corpus is known, else as it came; without an id, its text is its name."""
        contents, given = scored.document.contents, scored.document.id
        title, text = split_contents(contents)
        if not title.strip() and not text.strip():
            raise self._broken(f"{place}.document: neither title nor text")
        if self._known is None:
            return Document(digest(text=contents) if given is None else str(given), title, text)
        own = self._known.get(self._by_contents.get(canonical(contents), "") if given is None else str(given))
        if own is None or canonical(own.contents) != canonical(Document("", title, text).contents):
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
