"""The retrieval server: any `Retriever` over HTTP, in the wire format of s3 and Search-R1 (see `wire`).

    request --limits--> cache --> queue --micro-batches, one thread--> retriever --> answer

``/retrieve`` answers, ``/health`` says what is served, ``/metrics`` counts (Prometheus), ``/docs`` shows the API.
A request that asks for too much is refused (413, 422), one that finds the queue full is sent away for
a while (503, Retry-After), a failing engine is a 500 with its message: never an empty answer. A request of which only
some queries cannot be searched is answered, and says which (see `wire`).
"""

import asyncio
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ... import __version__
from ...errors import RetrievalError
from ...records import Hit
from ..base import Retriever, searchable
from .batching import Batcher, Overloaded
from .metrics import Metrics
from .wire import FINGERPRINT, Ask, Bare, Health, Limits, Problem, Scored, first_problem

log = logging.getLogger("s3mini")

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
            k = ask.topk or topk
            queries, problems = check_ask(ask.queries, k, bounds)
            content = await answer(batcher, queries, k, bool(ask.return_scores), problems)
            metrics.queries.inc(len(queries))
            count(problems, len(queries), metrics)
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
            raise HTTPException(status, failed(error)) from error
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
    if "json" not in request.headers.get("content-type", "").lower():
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
    if (packed := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise HTTPException(415, f"send the request as it is, not packed by {packed}")
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
    """The request, its numbers as they are written; the message of a refusal names the field."""
    try:
        return Ask.model_validate(json.loads(body, parse_int=str, parse_float=str, parse_constant=str))
    except (ValidationError, ValueError, RecursionError) as error:
        raise HTTPException(422, f"not a request: {first_problem(error)}") from error


def check_ask(queries: Sequence[Any], k: int, limits: Limits) -> tuple[list[str], dict[int, str]]:
    """The queries as the engine takes them, "" for one that asks for nothing, and what is odd, by position.

    Refuses a request above the limits as a whole.
    """
    if len(queries) > limits.queries:
        told = f"{len(queries)} queries in one request, at most {limits.queries}: ask in several requests"
        raise HTTPException(413, told)
    if not 1 <= k <= limits.k:
        raise HTTPException(422, f"topk must be between 1 and {limits.k}, not {k}")
    if len(queries) * k > limits.documents:
        told = f"{len(queries)} queries of {k} documents in one request, at most {limits.documents} documents"
        raise HTTPException(413, f"{told}: ask in several requests")
    texts, problems = [], {}
    for position, query in enumerate(queries):
        text = searchable(query) if isinstance(query, str) else ""
        if not text.strip():
            what = "empty" if isinstance(query, str) else "neither text nor number"
            text, problems[position] = "", f"{what}: it finds nothing"
        elif len(query) > limits.characters:
            problems[position] = (
                f"too long: {len(query)} characters, searched by its first {limits.characters}"
            )
            text = text.strip()[: limits.characters].strip()
        texts.append(text)
    return texts, problems


async def answer(
    batcher: Batcher, queries: Sequence[str], k: int, scores: bool, problems: dict[int, str]
) -> bytes:
    """The answer as JSON; what fails is added to ``problems``.

    Raises:
        Overloaded: the queue is full.
        Exception: the engine's, where it fails for all that it is asked.
    """
    blocks = [b"[]"] * len(queries)
    asked = [position for position, query in enumerate(queries) if query]
    rest, found_any = iter(asked), False
    async with aclosing(batcher.search([queries[position] for position in asked], k)) as pieces:
        async for piece in pieces:
            failure: Exception | None = None
            for found in piece:
                position = next(rest)
                try:
                    if isinstance(found, Exception):
                        raise found
                    blocks[position], found_any = render(found, scores), True
                except (
                    Exception
                ) as error:  # the engine's, or a score or text of its hits that JSON cannot hold
                    failure, problems[position] = error, f"failed: {failed(error)}"
            if failure is not None and not found_any:
                raise failure
    told = f', "problems": {json.dumps(problems, ensure_ascii=False)}' if problems else ""
    return b'{"result": [' + b", ".join(blocks) + b"]" + told.encode("utf-8", "replace") + b"}"


def failed(error: Exception) -> str:
    """What the engine says of its failure."""
    told = str(error) if isinstance(error, RetrievalError) else f"{type(error).__name__}: {error}"
    return f"the retriever failed: {told}"


def count(problems: dict[int, str], queries: int, metrics: Metrics) -> None:
    """Count what was odd in a request, and say it in the server's log."""
    if problems:
        for what, number in Counter(told.partition(":")[0] for told in problems.values()).items():
            metrics.odd.labels(what).inc(number)
        position, told = next(iter(problems.items()))
        log.warning("%d of %d queries were odd; query %d: %s", len(problems), queries, position, told)


def render(block: Sequence[Hit], scores: bool) -> bytes:
    """One query's documents, as JSON."""

    def shown(hit: Hit) -> dict[str, Any]:
        document = {"id": hit.document.id, "contents": hit.document.contents}
        return {"document": document, "score": hit.score} if scores else document

    return json.dumps([shown(hit) for hit in block], ensure_ascii=False, allow_nan=False).encode("utf-8")


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
