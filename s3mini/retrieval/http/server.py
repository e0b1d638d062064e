"""The retrieval server: any `Retriever` over HTTP, in the wire format of s3 and Search-R1 (see `wire`).

    request --limits--> cache --> queue --micro-batches, one thread--> retriever --> answer

``/retrieve`` answers, ``/health`` says what is served, ``/metrics`` counts (Prometheus), ``/docs`` shows the API.
A request that asks for too much is refused (413, 422), one that finds the queue full is sent away for
a while (503, Retry-After), a failing engine is a 500 with its message: never an empty answer.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ... import __version__
from ...errors import RetrievalError
from ...records import Hit
from ..base import Retriever, check_queries
from .batching import Batcher, Overloaded
from .metrics import Metrics
from .wire import FINGERPRINT, Ask, Bare, Health, Limits, Problem, Scored, first_problem

STOP_SECONDS = 60  # for the requests already taken when the server is told to stop
KEEP_ALIVE = 30  # seconds; longer than clients keep idle connections, so that none is cut as it is used again


def make_app(
    retriever: Retriever,
    *,
    documents: int | None = None,
    topk: int = 3,
    limits: Limits | None = None,
    cache: int = 65_536,
) -> FastAPI:
    """The server as an ASGI application. One thread calls the retriever, which need not be safe for more.

    ``documents``: size of the corpus, for ``/health``; ``topk``: documents per query when a request does not say;
    ``cache``: answers kept in memory, 0 for none.

    Raises:
        ValueError: ``topk`` above ``limits.k``, or below 1.
    """
    bounds = limits or Limits()
    if not 1 <= topk <= bounds.k:
        raise ValueError(f"topk must be between 1 and {bounds.k}, not {topk}")
    metrics = Metrics()
    batcher = Batcher(retriever, bounds.batch, bounds.waiting, cache, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        batcher.close()

    app = FastAPI(title="s3mini retriever", version=__version__, lifespan=lifespan)
    body = {"required": True, "content": {"application/json": {"schema": Ask.model_json_schema()}}}

    @app.post(
        "/retrieve",
        summary="The best documents of each query",
        response_model=Scored | Bare,
        responses={status: {"model": Problem} for status in (413, 415, 422, 500, 503)},
        openapi_extra={"requestBody": body},
    )
    async def retrieve(request: Request) -> Response:
        started = time.perf_counter()
        status = 500
        metrics.open.inc()
        try:
            ask = read_ask(await read_body(request, bounds.body))
            k = topk if ask.topk is None else ask.topk
            queries = check_ask(ask.queries, k, bounds)
            content = render(await batcher.search(queries, k), ask.return_scores)
            metrics.queries.inc(len(queries))
            status, headers = 200, {FINGERPRINT: retriever.fingerprint}
            return Response(content, media_type="application/json", headers=headers)
        except Overloaded as error:
            status = 503
            metrics.rejected.inc()
            raise HTTPException(status, str(error), {"Retry-After": str(error.seconds)}) from error
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect as error:
            status = 400
            raise HTTPException(status, "the connection ended inside the request") from error
        except Exception as error:  # the engine's: whatever it raises is told, never an empty answer
            told = str(error) if isinstance(error, RetrievalError) else f"{type(error).__name__}: {error}"
            raise HTTPException(status, f"the retriever failed: {told}") from error
        finally:
            metrics.open.dec()
            metrics.requests.labels(status).inc()
            metrics.latency.observe(time.perf_counter() - started)

    @app.get("/health", summary="What is served, and its limits")
    async def health() -> Health:
        return Health(
            status="ok", retriever=retriever.name, fingerprint=retriever.fingerprint, documents=documents,
            version=__version__, topk=topk, waiting=batcher.waiting, limits=bounds,
        )  # fmt: skip

    @app.get("/metrics", summary="Counters and histograms, for Prometheus")
    async def measured() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; refuses one above ``limit`` bytes before it is in memory, and one that is not JSON."""
    if "json" not in request.headers.get("content-type", ""):
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
    too_long = HTTPException(413, f"the request is longer than {limit} bytes: ask in several requests")
    if int(request.headers.get("content-length", 0)) > limit:  # the HTTP parser takes digits only
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_long
    return bytes(body)


def read_ask(body: bytes) -> Ask:
    """The request; the message of a refusal names the field."""
    try:
        # half a character, escaped, if a model wrote it: served like any other query
        if b"\\ud" in body.lower():
            body = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
        return Ask.model_validate_json(body)
    except (ValidationError, ValueError, RecursionError) as error:
        raise HTTPException(422, f"not a request: {first_problem(error)}") from error


def check_ask(queries: Sequence[str], k: int, limits: Limits) -> list[str]:
    """The queries as the engine takes them; refuses what is above the limits, and blank queries."""
    if len(queries) > limits.queries:
        told = f"{len(queries)} queries in one request, at most {limits.queries}: ask in several requests"
        raise HTTPException(413, told)
    if not 1 <= k <= limits.k:
        raise HTTPException(422, f"topk must be between 1 and {limits.k}, not {k}")
    for position, length in enumerate(map(len, queries)):
        if length > limits.characters:
            told = f"query {position} of {len(queries)} has {length} characters, at most {limits.characters}"
            raise HTTPException(422, told)
    try:
        return check_queries(queries, k)
    except RetrievalError as error:
        raise HTTPException(422, str(error)) from error


def render(blocks: Sequence[Sequence[Hit]], scores: bool) -> bytes:
    """The answer, as JSON."""

    def shown(hit: Hit) -> dict[str, Any]:
        document = {"id": hit.document.id, "contents": hit.document.contents}
        return {"document": document, "score": hit.score} if scores else document

    result = [[shown(hit) for hit in block] for block in blocks]
    return json.dumps({"result": result}, ensure_ascii=False, allow_nan=False).encode("utf-8")


def bind(host: str, port: int) -> socket.socket:
    """A socket for the server, not listening yet: clients are refused, not left hanging, while the index loads.

    Raises:
        RetrievalError: the port is taken, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise RetrievalError(
            f"{host}:{port}: cannot serve there ({error.strerror}); name another --port, or stop what uses it"
        ) from error
    return bound


def run(app: FastAPI, bound: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C: then no new connection is taken, and what was taken is answered."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE)
    config.timeout_graceful_shutdown = STOP_SECONDS
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])
