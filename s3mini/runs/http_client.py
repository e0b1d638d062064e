"""What the HTTP clients of searches and of models share: one way to wait for a server, to read its refusals, to go past proxies.

What a later try may cure (`NotNow`) is tried again, after random pauses that grow and are never shorter than the server
asks for, until it has answered nothing for as long as the client has patience (`GaveUp`). Other errors end it at once.
"""

import email.utils
import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar
from urllib.request import getproxies

import httpx
import tenacity

from ..errors import S3Error

log = logging.getLogger("s3mini")

BUSY = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses of a server that cannot answer now: it is down behind its proxy, or asks for a slower pace."""
BACKOFF, LONGEST = 0.5, 16.0  # seconds: the first pause at most, doubled each time, and the longest
SHOWN = 500  # characters of a server's message
_LOOPBACK = re.compile(
    r"(.+\.)?localhost|localhost[46]?(\.localdomain[46]?)?|ip6-(localhost|loopback)|loopback"
)
Answer = TypeVar("Answer")
Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


class NotNow(Exception):
    """No connection, no answer in time, or a busy server, which asks to wait ``away`` seconds."""

    def __init__(self, problem: str, away: float = 0.0) -> None:
        super().__init__(problem)
        self.away = away


class GaveUp(Exception):
    """Patience has ended: ``tries`` in ``seconds``; the message is the last one's problem."""

    def __init__(self, problem: str, tries: int, seconds: float) -> None:
        super().__init__(problem)
        self.tries, self.seconds = tries, seconds


class Patience:
    """Tries again for ``seconds`` from the server's last answer, whichever of the client's requests it was to."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url, seconds
        self._heard = 0.0  # when it last answered, by the monotonic clock
        self._warned = False
        self._policy: dict[str, Any] = {
            "retry": tenacity.retry_if_exception_type(NotNow),
            "wait": lambda state: (
                _failure(state).away + tenacity.wait_random_exponential(BACKOFF, LONGEST)(state)
            ),
            "stop": lambda state: state.upcoming_sleep > self._left(state),
            "before_sleep": self._warn,
            "retry_error_callback": self._give_up,
        }

    def call(self, once: Callable[[], Answer]) -> Answer:
        """What ``once`` returns, called until it raises no `NotNow`.

        Raises:
            GaveUp: patience has ended.
        """
        answer: Answer = tenacity.Retrying(**self._policy)(once)
        self._hear()
        return answer

    async def acall(self, once: Callable[[], Awaitable[Answer]]) -> Answer:
        """As `call`, in an event loop."""
        answer: Answer = await tenacity.AsyncRetrying(**self._policy)(once)
        self._hear()
        return answer

    def _left(self, state: tenacity.RetryCallState) -> float:
        return max(state.start_time, self._heard) + self.seconds - time.monotonic()

    def _hear(self) -> None:
        self._heard = time.monotonic()
        if self._warned:
            self._warned = False
            log.warning("%s: answers again", self.url)

    def _warn(self, state: tenacity.RetryCallState) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s: %s; trying again for up to %.0f s", self.url, _failure(state), self._left(state))

    def _give_up(self, state: tenacity.RetryCallState) -> NoReturn:
        last = _failure(state)
        asks = f"; it asks to wait {last.away:.0f} s" if last.away > self._left(state) else ""
        seconds = time.monotonic() - state.start_time
        raise GaveUp(f"{last}{asks}", state.attempt_number, seconds) from last


def _failure(state: tenacity.RetryCallState) -> NotNow:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, NotNow)
    return error


@contextmanager
def on_the_way() -> Iterator[None]:
    """What keeps a request from being answered at all, raised as `NotNow`."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise NotNow(f"{type(error).__name__}: nothing came in time (the profile's timeout)") from error
    except httpx.RequestError as error:  # of transport, or an answer that is not packed as its header says
        raise NotNow(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def retry_after(response: httpx.Response) -> float:
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


def refusal(response: httpx.Response) -> str:
    """What a server says went wrong, from FastAPI's or OpenAI's error object or as it stands, cut short."""
    if response.has_redirect_location:  # not followed: the key is for the server that was named
        return f"it redirects to {response.headers['location']}; name that server instead"[:SHOWN]
    try:
        said = decoded(response)
    except ValueError:
        return response.text[:SHOWN] or response.reason_phrase
    for key in ("error", "message", "detail"):
        said = said.get(key) or said if isinstance(said, dict) else said
    return (said if isinstance(said, str) else json.dumps(said))[:SHOWN]


def decoded(response: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises:
        ValueError: it is none, or nested without end.
    """
    try:
        return response.json()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def open_client(kind: type[Client], url: str, error: type[S3Error], **settings: Any) -> Client:
    """An httpx client for ``url``, by the proxy that the environment names for it, if any (`proxy_for`).

    Raises:
        error: ``url`` is none, or the environment's proxy or certificates cannot be used; names the remedy.
    """
    proxy: str | None = None
    try:
        parsed = httpx.URL(url)
        proxy = proxy_for(parsed)
        verify = httpx.create_ssl_context() if parsed.scheme == "https" else True
        return kind(proxy=proxy, trust_env=False, verify=verify, **settings)
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as problem:
        told = f"{url}: no connection can be made ({str(problem).rstrip('.')})"
        if proxy is not None:
            told += (
                f"; the environment asks for the proxy {httpx.URL(proxy).host if '@' in proxy else proxy}: mend it, or "
                "name this server in NO_PROXY; for socks5: pip install 'httpx[socks]'"
            )
        raise error(told) from problem


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy between here and ``url``: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, in either case; None on this machine.

    Read here and not by httpx, which fails on a NO_PROXY such as ``[::1]`` or ``fe80::/10``.
    """
    named = getproxies()
    proxy = (named.get(url.scheme) or named.get("all") or "").strip()
    if not proxy or is_local(url) or _excepted(url, named.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _excepted(url: httpx.URL, no_proxy: str) -> bool:
    """Whether NO_PROXY covers it: names with all below them, addresses, networks, each with a port or not, ``*``."""
    host = url.host.lower().rstrip(".")
    for entry in no_proxy.lower().replace(",", " ").split():
        name, colon, port = entry.rpartition("://")[2].rpartition(":")
        if colon and port.isdecimal() and (":" not in name or name.endswith("]")):
            if int(port) != (url.port or {"http": 80, "https": 443}[url.scheme]):
                continue
        else:
            name = entry.rpartition("://")[2]
        name = re.sub(r"[\[\]]", "", name).removeprefix("*").strip(".")
        if not name and "*" in entry:
            return True
        with suppress(ValueError):  # not a network, or the host is a name
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False


def is_local(url: httpx.URL) -> bool:
    """Whether it is on this machine, where no proxy must stand in between."""
    host = url.host.lower().rstrip(".")
    if _LOOPBACK.fullmatch(host) or host == socket.gethostname().lower():
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1, and other short forms
        except (OSError, ValueError):
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified
