"""An OpenAI-compatible endpoint: many requests at once, patient with a server that is down, never with a wrong answer.

A connection that fails, a timeout, a busy server, any 5xx but a template's refusal of a role, and a reply that broke off
are tried again (see `http_client`) until the endpoint has answered nothing for ``patience`` seconds. A parameter that it
refuses is learnt (see `dialect`). Anything else that is not a complete JSON answer is an error at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from ...errors import ModelError
from ...profile import ModelSpec
from ...runs.http_client import (
    BUSY,
    SHOWN,
    GaveUp,
    NotNow,
    Patience,
    decoded,
    on_the_way,
    open_client,
    refusal,
    retry_after,
)
from .dialect import COSTS, NO_SYSTEM, dialect

CONNECT = 10.0  # seconds to wait for a connection
VITAL = {"/completions": frozenset(COSTS) - {"seed", "stream", "n"}}
"""What is never given up, by path: where token ids are sampled, their probabilities are counted on."""


BROKE_OFF = {"error", "insufficient_system_resource"}
"""How a reply ends that the server could not finish (OpenRouter's and Mistral's word, DeepSeek's)."""


class Refused(ModelError):
    """The server does not take a request as it stands: a parameter or a role that it does not know, say (HTTP 400 or 422)."""


class Endpoint:
    """``spec.url``, asked at most ``spec.batch_size`` things at a time; with its query (Azure's ``?api-version=``), if any.

    The key, where one is needed, is read from the environment variable that ``spec.key_variable`` names.
    """

    def __init__(self, spec: ModelSpec) -> None:
        assert spec.url is not None  # a profile without one is refused
        self.spec = spec
        base, mark, query = spec.url.strip().partition("?")
        self.url = base.rstrip("/").removesuffix("/completions").removesuffix("/chat")
        self._query = mark + query  # never shown: some carry a key in it
        self._patience = Patience(self.url, spec.patience)
        self._dialect = dialect(self.url, spec.path)

    def ask(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The JSON answers to ``bodies``, POSTed to ``path`` below the url, in their order.

        Safe to call from a notebook, whose own event loop is running, and to interrupt.

        Raises:
            ModelError: no answer for ``spec.patience`` seconds, or a request that the server refuses (`Refused`).
        """
        if not bodies:
            return []
        with start_blocking_portal() as portal:
            return portal.call(self._all, path, bodies)

    async def _all(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        waiting = iter(range(len(bodies)))
        try:
            async with self._client() as client, anyio.create_task_group() as group:
                if not self._dialect.answered:  # what it refuses is learnt by one request, not by all at once
                    await self._work(client, path, bodies, islice(waiting, 1), answers)
                for _ in range(min(self.spec.batch_size, len(bodies))):
                    group.start_soon(self._work, client, path, bodies, waiting, answers)
        except BaseExceptionGroup as failed:  # one failed, the others were cancelled
            raise _first(failed) from None
        return [answers[i] for i in range(len(bodies))]

    async def _work(
        self,
        client: httpx.AsyncClient,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        waiting: Iterator[int],
        answers: dict[int, dict[str, Any]],
    ) -> None:
        for i in waiting:
            answers[i] = await self._one(client, path, bodies[i])

    def _client(self) -> httpx.AsyncClient:
        key = os.environ.get(self.spec.key_variable, "").strip()  # a file's last line break is no part of it
        if not (key.isascii() and key.isprintable()):  # refused here: whoever else does shows it
            raise ModelError(
                f"{self.url}: the environment variable {self.spec.key_variable} holds a character that no key has (a line "
                "break, or one that is not ASCII): set it again"
            )
        return open_client(
            httpx.AsyncClient,
            self.url,
            ModelError,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.spec.timeout, connect=CONNECT),
            limits=httpx.Limits(max_connections=self.spec.batch_size),
        )

    async def _one(self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url = self.url + path

        async def once() -> httpx.Response:
            sent = self._dialect.say(body)
            with on_the_way():
                response = await client.post(url + self._query, json=sent)
            status = _status(response)
            if status < 300:
                self._dialect.answered = True
                return response
            problem = f"HTTP {status}: {refusal(response)}"
            if status not in BUSY and self._dialect.learn(response.text, sent, VITAL.get(path, frozenset())):
                return await once()
            # llama.cpp fails by its template's refusal of a role
            roles = status == 500 and "role" in problem and NO_SYSTEM.search(problem)
            if not roles and (status in BUSY or status >= 500):
                raise NotNow(problem, retry_after(response))
            error = Refused if roles or status in (400, 422) else ModelError
            raise error(f"{url}: {problem}{self._remedy(status)}")

        try:
            return _read(url, await self._patience.acall(once))
        except GaveUp as last:
            raise ModelError(
                f"{url}: no answer in {last.seconds:.0f} s, {last.tries} attempts; last: {last}. Start the "
                "server (`s3mini serve generator`) or mend its url or `patience` in the profile, then run the same "
                "command again: it goes on where it stopped"
            ) from last

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            return f" (the key is read from the environment variable {self.spec.key_variable})"
        if status == 404:
            return (
                f" (asked for the model {self.spec.path!r}; does the url end as the server's base url does, usually in "
                "/v1, and does it serve that model under that name?)"
            )
        return ""


def _status(response: httpx.Response) -> int:
    """Its status, or what some gateways send with status 200: one in an error object, a reply that broke off (503)."""
    if response.is_success:
        with suppress(ValueError):
            match decoded(response):
                case {"choices": [{"finish_reason": str(reason)}, *_]}:
                    return 503 if reason.lower() in BROKE_OFF else response.status_code
                case {"error": said} as found if said and not found.get("choices"):
                    code = str(said.get("code") if isinstance(said, dict) else None)
                    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 400
    return response.status_code


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    error = failed.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _read(url: str, response: httpx.Response) -> dict[str, Any]:
    try:
        found = decoded(response)
    except ValueError as error:
        raise ModelError(f"{url}: the answer is not JSON: {response.text[:SHOWN]!r}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{url}: the answer is no JSON object: {response.text[:SHOWN]!r}")
    return found
