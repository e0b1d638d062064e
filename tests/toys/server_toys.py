"""Servers for tests, on this machine only: in a thread, in a process that can be killed, and a stand-in of theirs.

Run as a script it serves the toy world of `rag_toys`, so that a test can kill it::

    S3MINI_ROOT=DIR python tests/toys/server_toys.py PORT [SECONDS_PER_SEARCH]
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from evaluation_toys import evaluation_profile
from fastapi import FastAPI
from rag_toys import ToyRetriever, toy_profile

from s3mini.corpus import read_corpus
from s3mini.profile import Profile, changed
from s3mini.records import Document, Hit
from s3mini.retrieval.http.server import bind, make_app, run

PATIENCE = 60.0  # seconds for anything to happen on a busy machine


IMPATIENT = 1.0  # seconds that a client goes on trying where it is to give up


class WordRetriever:
    """Documents named after the query, ``<query>-0`` first; remembers its batches, and can wait or fail.

    ``gate``: a search waits for it. Queries that begin with "bad" raise; the scores of "nan" are no numbers.
    """

    name = "words"
    fingerprint = "words-1"

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.batches: list[tuple[list[str], int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.batches.append((list(queries), k))
        self.threads.add(threading.get_ident())
        assert self.gate.wait(PATIENCE)
        if bad := [query for query in queries if query.startswith("bad")]:
            if bad[0].startswith("bad panic"):  # as a Rust library ends a call: it is no Exception
                raise type("PanicException", (BaseException,), {})("index out of bounds")
            raise ValueError(f"cannot search {bad[0]!r}")
        return [[word_hit(query, i) for i in range(min(k, self.size))] for query in queries]


def word_hit(query: str, rank: int) -> Hit:
    return Hit(
        Document(f"{query}-{rank}", f'"{query}" ({rank})', f"About {query}.\nRank {rank}."),
        float("nan") if query == "nan" else 1.0 / (1 + rank),
    )


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The URL of an app served by a thread."""
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        bound.close()


def wait_until(condition: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Process:
    """The toy server as a process of its own; `start` again after `kill` serves at the same URL."""

    def __init__(self, root: Path, pause: float = 0.0) -> None:
        self.root, self.pause, self.port = root, pause, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, __file__, str(self.port), str(self.pause)]
        environment = {**os.environ, "S3MINI_ROOT": str(self.root)}
        self.child = subprocess.Popen(command, env=environment)
        if wait:
            wait_until(self.answers)

    def answers(self) -> bool:
        assert self.child is not None and self.child.poll() is None, "the toy server ended"
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait(PATIENCE)


class TheirServer:
    """A stand-in of the originals' server: their format, no /health, no header, no limits.

    ``reply`` changes the answer before it is sent: a function of the request and the honest result.
    """

    def __init__(self, documents: Sequence[Document], topk: int = 3) -> None:
        self.documents, self.topk = list(documents), topk
        self.asked: list[dict[str, Any]] = []
        self.statuses: list[tuple[int, dict[str, str]]] = []  # sent first, one per request
        self.reply: Any = lambda request, result: {"result": result}

    def answer(self, request: dict[str, Any]) -> Any:
        self.asked.append(request)
        k = request.get("topk") or self.topk
        rows = [{"id": d.id, "contents": d.contents, "source": "wiki"} for d in self.documents[:k]]
        if request.get("return_scores"):
            rows = [{"document": row, "score": 0.9 - 0.1 * rank} for rank, row in enumerate(rows)]
        return self.reply(request, [rows for _ in request["queries"]])

    @contextmanager
    def serving(self) -> Iterator[str]:
        theirs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send(404, b'{"detail": "Not Found"}')

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if theirs.statuses:
                    status, headers = theirs.statuses.pop(0)
                    self.send(status, b'{"detail": "a moment"}', headers)
                    return
                answer = theirs.answer(request)
                self.send(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                sent = {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    **(headers or {}),
                }
                for name, value in sent.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def remote_profile(url: str, patience: float = IMPATIENT) -> Profile:
    keys = {"retrieval.kind": "remote", "retrieval.url": url, "retrieval.patience": patience}
    return changed(evaluation_profile(), keys)


class SlowToyRetriever(ToyRetriever):
    def __init__(self, documents: Sequence[Document], pause: float) -> None:
        super().__init__(documents)
        self.pause = pause

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        time.sleep(self.pause)
        return super().search(queries, k)


def main() -> None:
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    profile = toy_profile()
    documents = read_corpus(profile.resolve(profile.data.corpus))
    bound = bind("127.0.0.1", int(sys.argv[1]))
    retriever = SlowToyRetriever(documents, float(sys.argv[2]))
    run(make_app(retriever, documents=len(documents)), bound)


if __name__ == "__main__":
    main()
