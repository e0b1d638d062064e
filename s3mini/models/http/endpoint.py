"""An OpenAI-compatible endpoint: many requests at once, patient with a server that is down, never with a wrong answer.

A connection that fails, a timeout, 408, 425, 429 and 5xx are tried again, with exponential backoff and jitter,
honouring Retry-After, until the endpoint has answered nothing for ``patience`` seconds. Anything else that is
not a complete JSON answer is an error at once: asking again would give the same.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from ...errors import ModelError
from ...profile import ModelSpec

log = logging.getLogger("s3mini")

PASSING = {408, 425, 429}
"""Statuses below 500 that pass: the server is busy, or asks for a slower pace."""
BACKOFF, LONGEST = 0.5, 30.0  # seconds: the first pause, doubled each time, and the longest
CONNECT = 10.0  # seconds to wait for a connection
TOLD = 500  # characters of a server's message that are shown


class Endpoint:
    """``spec.url``, asked at most ``spec.batch_size`` things at a time.

    The key, where one is needed, is read from the environment variable that ``spec.key_variable`` names.
    """

    def __init__(self, spec: ModelSpec) -> None:
        assert spec.url is not None  # a profile without one is refused
        self.spec = spec
        self.url = spec.url.rstrip("/")
        self._heard = 0.0  # when it last answered
        self._warned = False

    def ask(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The JSON answers to ``bodies``, POSTed to ``path`` below the url, in their order.

        Safe to call from a notebook, whose own event loop is running, and to interrupt.

        Raises:
            ModelError: no answer for ``spec.patience`` seconds, or a request that the server refuses.
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
        key = os.environ.get(self.spec.key_variable)
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.spec.timeout, connect=CONNECT),
            limits=httpx.Limits(max_connections=self.spec.batch_size),
            trust_env=not _on_this_machine(self.url),  # a proxy cannot reach it
        )

    async def _one(self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url, began, attempt = self.url + path, time.monotonic(), 0
        while True:
            attempt += 1
            asked_to_wait = 0.0
            try:
                response = await client.post(url, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.is_success:
                    self._heard, self._warned = time.monotonic(), False
                    return _read(url, response)
                problem = f"HTTP {response.status_code}: {_message(response)}"
                if response.status_code < 500 and response.status_code not in PASSING:
                    raise ModelError(f"{url}: {problem}{self._remedy(response.status_code)}")
                asked_to_wait = _retry_after(response)
            now = time.monotonic()
            left = max(began, self._heard) + self.spec.patience - now
            pause = max(
                asked_to_wait, min(LONGEST, BACKOFF * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.5)
            )
            if pause > left:
                asks = f"; it asks to wait {asked_to_wait:.0f} s" if asked_to_wait > left else ""
                raise ModelError(
                    f"{url}: no answer in {now - began:.0f} s, {attempt} attempts; last: {problem}{asks}. Start the "
                    "server (`s3mini serve generator`) or mend its url or `patience` in the profile, then run the same "
                    "command again: it goes on where it stopped"
                )
            if not self._warned:
                self._warned = True
                log.warning("%s: %s; trying again for up to %.0f s", url, problem, left)
            await anyio.sleep(pause)

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            return f" (the key is read from the environment variable {self.spec.key_variable})"
        if status == 404:
            return (
                f" (asked for the model {self.spec.path!r}; does the url end as the server's base url does, usually in "
                "/v1, and does it serve that model under that name?)"
            )
        return ""


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    error = failed.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _on_this_machine(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(url: str, response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise ModelError(f"{url}: the answer is not JSON: {response.text[:TOLD]!r}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{url}: the answer is no JSON object: {response.text[:TOLD]!r}")
    return found


def _message(response: httpx.Response) -> str:
    """What the server says went wrong, from OpenAI's error object or as it stands."""
    try:
        found = response.json()
    except ValueError:
        return response.text[:TOLD] or response.reason_phrase
    error = found.get("error", found) if isinstance(found, dict) else found
    said = error.get("message", error) if isinstance(error, dict) else error
    return (said if isinstance(said, str) else json.dumps(said))[:TOLD]


def _retry_after(response: httpx.Response) -> float:
    """Seconds that a Retry-After header asks for, given as a number or a date; 0 without one."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
