"""Fuzzed requests to the retrieval server, well-formed and not, some below HTTP itself.

Each is answered by the right documents, or refused by a 4xx with a message (or 503, its queue full); never another 5xx; and
a good request right behind it gets its answer.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from noise import STRANGE, At, Outcome, damaged, drawn, mixed, nowhere, timed
from retrieval_toys import DOCUMENTS, QUERIES, SPEC
from server_toys import serving

from s3mini.retrieval import DenseRetriever, Encoder, Retriever
from s3mini.retrieval.base import searchable
from s3mini.retrieval.dense import build_dense
from s3mini.retrieval.http.server import Limits, make_app

TOPK = 3  # the server's own
LONGEST = Limits().characters
JSON = {"content-type": "application/json"}
GOOD = json.dumps({"queries": QUERIES, "topk": 2}).encode()
PARTS = [
    *(piece.encode("utf-8", "replace") for piece in STRANGE),
    b"\xff",
    b'"queries"',
    b"[[",
    b"true",
    b"1e9",
    b"\\ud800",
]
HEADERS = [
    {}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=latin-1"},
    {"content-type": "JSON"}, {"content-encoding": "gzip", **JSON}, {"accept": "image/png", **JSON}, {"expect": "nothing", **JSON},
    {"x": "a" * 5000, **JSON},
]  # fmt: skip
RAW = [
    b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
    b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
    b"GET /health HTTP/1.0\r\nContent-Length: %d\r\n\r\n", b"PUT * HTTP/1.1\r\n%d\r\n\r\n", b"\x16\x03\x01%d", b"%d",
]  # fmt: skip


def ask(rng: random.Random) -> dict[str, Any]:
    """A request as an object: good, odd, or of the wrong types."""
    pool = [*QUERIES, *QUERIES, mixed(rng, QUERIES, 4), rng.choice(STRANGE), ""]
    queries: Any = [rng.choice(pool) for _ in range(rng.choice([1, 1, 2, 5]))]
    rare = rng.random()
    if rare < 0.15:
        queries = rng.choice(
            [
                None,
                "Karst",
                7,
                {},
                [],
                [None],
                [["Karst"]],
                QUERIES * 103,
                ["a" * 8193],
                ["東" * 8192],
                ["\x00"],
            ]
        )
    made = {
        "queries": queries,
        "topk": rng.choice([1, 2, 3, 12, 100, None]),
        "return_scores": rng.random() < 0.5,
    }
    if rng.random() < 0.2:
        key = rng.choice(list(made))
        made[key] = rng.choice([None, 0, -1, 101, 10**30, 2.0, 2.5, "2", "true", [], {}, float("nan"), True])
    if rng.random() < 0.1:
        made.pop(rng.choice(list(made)))
    return made | ({"other": mixed(rng, QUERIES, 3)} if rng.random() < 0.1 else {})


class Answers:
    """What is right, by an engine of its own."""

    def __init__(self, engine: Retriever) -> None:
        self.engine, self.known = engine, dict[tuple[str, int], list[str]]()
        self.texts = {document.id: document.contents for document in DOCUMENTS}

    def wrong(self, queries: Sequence[Any], k: int, content: Any) -> str:
        """What is wrong with an answer; "" where nothing is. Numbers are given as they were written."""
        result = content.get("result") if isinstance(content, dict) else None
        if not isinstance(result, list) or len(result) != len(queries):
            return f"not one list for each of {len(queries)} queries: {str(content)[:200]}"
        for query, rows in zip(queries, result, strict=True):
            documents = [row.get("document", row) for row in rows]
            if [document["id"] for document in documents] != self.ids(query, k):
                return f"other documents than the engine finds for {query!r}, k {k}"
            if any(self.texts[document["id"]] != document["contents"] for document in documents):
                return f"another text than the document's, for {query!r}"
        return ""

    def ids(self, query: Any, k: int) -> list[str]:
        """What asks for nothing finds nothing; a long query is searched by its beginning (`wire`)."""
        text = searchable(query).strip()[:LONGEST].strip() if isinstance(query, str) else ""
        if not text:
            return []
        if (text, k) not in self.known:
            self.known[text, k] = [hit.document.id for hit in self.engine.search([text], k)[0]]
        return self.known[text, k]


def by_socket(url: str, data: bytes) -> tuple[int | None, str]:
    """Status and body of what answers raw bytes; no status where the server hangs up."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as link:
        received = b""
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while part := link.recv(65536):
                received += part
        except ConnectionError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    return int(status[0]) if status else None, body.decode("utf-8", "replace")


def judge(status: int | None, text: str, outcome: Outcome, where: str) -> None:
    """A refusal has a message and is the client's; anything else is told."""
    outcome.counts[f"HTTP {status}" if status else "hung up"] += 1
    if status is None:
        return
    if status >= 500 and status != 503:
        outcome.found("crashed", where, f"HTTP {status}: {text}")
    elif status >= 400:
        try:
            told = json.loads(text)["detail"]
        except (ValueError, KeyError, TypeError):
            told = text if status == 400 else ""  # the HTTP parser's own
        if not str(told).strip():
            outcome.found("crashed", where, f"HTTP {status} without a message: {text!r}")


def one(rng: random.Random, client: httpx.Client, answers: Answers, outcome: Outcome, where: str) -> None:
    """Send a request, look at the answer."""
    given = ask(rng)
    body = json.dumps(given, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    way = rng.random()
    if way < 0.15:
        head = rng.choice(RAW)
        head = (
            damaged(rng, head, PARTS)
            if rng.random() < 0.5
            else head % (len(body) + rng.choice([0, 0, 1, -1, 99]))
        )
        judge(*by_socket(str(client.base_url), head + body), outcome, where)
        return
    method, path, headers = "POST", "/retrieve", JSON
    if way < 0.4:
        body, given = damaged(rng, body, PARTS), {}
    elif way < 0.5:
        headers, given = rng.choice(HEADERS), {}
    elif way < 0.55:
        method, path = (
            rng.choice(["GET", "PUT", "HEAD", "PATCH"]),
            rng.choice(["/retrieve", "/health", "/", "/%ff", "/retrieve/"]),
        )
        given = {}
    try:
        reply = client.request(method, path, content=body, headers=headers)
    except httpx.TransportError as error:  # what is no HTTP never leaves, or is hung up on
        outcome.counts["hung up"] += 1
        if headers == JSON:
            outcome.crashed(where, error)
        return
    if method == "HEAD":
        return
    judge(reply.status_code, reply.text, outcome, where)
    if path == "/retrieve" and method == "POST" and reply.status_code == 200:
        sent = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
        k = int(float(sent.get("topk") or 0)) or TOPK
        if wrong := answers.wrong(sent["queries"], k, reply.json()):
            outcome.found("misread", where, wrong)


def run(numbers: range, seed: int, folder: Path, at: At = nowhere) -> Outcome:
    """These requests, by number, to a server of a real dense index, a good one behind each."""
    outcome = Outcome()
    folder.mkdir(parents=True, exist_ok=True)
    build_dense(folder, DOCUMENTS, Encoder(SPEC), progress=False)
    served, own = (DenseRetriever(folder, DOCUMENTS, Encoder(SPEC)) for _ in range(2))
    answers = Answers(own)
    with (
        serving(make_app(served, topk=TOPK)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        for number in numbers:
            at(number)
            where = f"request {number}"
            try:
                with timed():
                    one(drawn(seed, "requests", number), client, answers, outcome, where)
                    reply = client.post("/retrieve", content=GOOD, headers=JSON)
                    if reply.status_code != 200 or answers.wrong(QUERIES, 2, reply.json()):
                        outcome.found(
                            "crashed", where, f"the good request behind it: {reply.status_code} {reply.text}"
                        )
            except Exception as error:
                outcome.crashed(where, error)
    return outcome
