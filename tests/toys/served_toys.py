"""A small OpenAI-compatible server on 127.0.0.1, answering by a function; it can fail, be slow, or die.

Run as a script it serves naive RAG's toy generator (and, as the model ``judge``, a judge that says no), logs every
prompt it answered, and kills itself in the middle of a request once it has answered so many::

    python tests/toys/served_toys.py PORT LOG ANSWERS
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
Answer = Callable[[str, dict[str, Any]], "dict[str, Any] | Reply"]
"""JSON to send with status 200, or what to send whole."""


class Server(ThreadingHTTPServer):
    """``first`` holds what is given instead of answers at the start: (status, headers, body), None to hang up, or
    seconds to wait before answering."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Answer, port: int = 0, first: Sequence[Reply | float | None] = ()) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer, self.first = answer, list(first)
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.busy = self.peak = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append((self.path, body, dict(self.headers)))
            server.busy += 1
            server.peak = max(server.peak, server.busy)
            planned = server.first.pop(0) if server.first else 0.0
        try:
            if planned is None:
                self.close_connection = True
                return
            if isinstance(planned, tuple):
                self._send(*planned)
                return
            time.sleep(planned)
            answer = server.answer(self.path, body)
            self._send(*(answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())))
        finally:
            with server.lock:
                server.busy -= 1

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(answer: Answer, first: Sequence[Reply | float | None] = (), port: int = 0) -> Iterator[Server]:
    server = Server(answer, port, first)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def chat_answer(text: Any, reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]
    }


def toy_generator(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Naive RAG's toy generator, and its judge."""
    from rag_toys import ToyGenerator

    if body["model"] == "judge":
        return chat_answer("no")
    return chat_answer(ToyGenerator._one(body["messages"][-1]["content"]))


# ------------------------------------------------------------------------ one that really dies


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mortal:
    """The script below, on a port of its own; ``log`` holds the prompts it answered."""

    def __init__(self, log: Path) -> None:
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, answers: int = 10**9) -> None:
        """Start it again; it lives for so many answers."""
        self.child = subprocess.Popen([sys.executable, __file__, str(self.port), str(self.log), str(answers)])

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.time() + 120
        while time.time() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("the toy server did not start")

    def stop(self) -> int:
        assert self.child is not None
        self.child.kill()
        return self.child.wait()

    def answered(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def main() -> None:
    port, log, answers = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    lock, given = threading.Lock(), 0

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        nonlocal given
        reply = toy_generator(path, body)
        with lock:
            given += 1
            if given > answers:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(log, "a", encoding="utf-8") as out:
                out.write(
                    json.dumps([body["model"], body["messages"][-1]["content"].splitlines()[-1]]) + "\n"
                )
        return reply

    import rag_toys  # noqa: F401  # before listening: the first answer shall not wait for it

    Server(answer, port).serve_forever()


if __name__ == "__main__":
    main()
