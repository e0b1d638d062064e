"""A stand-in of the hub on 127.0.0.1: its API's paths, headers and redirects, and files in the published formats.

Small files are served by the "hub" itself, large ones by a redirect to "storage" under another host name, as the real one
does. ``cuts`` closes connections after so many bytes, ``corrupt`` damages answers, ``status`` refuses.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 4096  # bytes from which a file is "large": known by its SHA-256, served from storage
COMMIT = "c0ffee" + "0" * 34


class ToyHub:
    """``files`` maps ("dataset" or "model", "owner/name") to {path: bytes}."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.cuts: dict[str, list[int]] = {}  # path: bytes to send before each of the next connections is cut
        self.corrupt: dict[str, int] = {}  # path: how many of the next answers are damaged
        self.status: dict[str, int] = {}  # repository: status of every answer
        self.pace: dict[str, float] = {}  # path: seconds to wait per 64 KiB
        self.requests: list[tuple[str, str, str, str | None]] = []  # method, host, path, Range
        self.tokens: list[tuple[str, str]] = []  # host, authorization
        self.sent = 0
        self.endpoint = ""
        self.storage = ""

    @contextmanager
    def running(self) -> Iterator[ToyHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        port = server.server_address[1]
        self.endpoint, self.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def gets(self, path: str) -> list[str | None]:
        """Range headers of the GETs of a file's content, in order."""
        return [
            given for method, _, asked, given in self.requests if method == "GET" and asked.endswith(path)
        ]


def _handler(hub: ToyHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            host = self.headers["Host"].partition(":")[0]
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, host, path, self.headers.get("Range")))
            if self.headers.get("Authorization"):
                hub.tokens.append((host, self.headers["Authorization"]))
            if path.startswith("/storage/"):
                _, _, kind, owner, name, rest = path.split("/", 5)
                self._content(rest, hub.files[kind, f"{owner}/{name}"][rest], body)
            elif path.startswith("/api/"):
                _, _, kinds, owner, name, *_ = path.split("/")
                self._listing(kinds[:-1], f"{owner}/{name}")
            elif path.startswith("/raw/"):
                rest = path.rpartition("/")[2]
                self._content(rest, hub.files["raw", "raw"][rest], body)
            else:
                kind, rest = ("dataset", path[10:]) if path.startswith("/datasets/") else ("model", path[1:])
                repo, _, rest = rest.partition("/resolve/")
                self._resolve(kind, repo, rest.partition("/")[2], body)

        def _refuse(self, repo: str, status: int) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("X-Error-Code", "RepoNotFound")
            if status == 403:
                self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _listing(self, kind: str, repo: str) -> None:
            if repo in hub.status or (kind, repo) not in hub.files:
                return self._refuse(repo, hub.status.get(repo, 401))
            siblings = []
            for path, data in hub.files[kind, repo].items():
                one: dict[str, Any] = {"rfilename": path, "size": len(data)}
                one["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
                if len(data) >= LARGE:
                    one["lfs"] = {
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 134,
                    }
                siblings.append(one)
            answer = {
                "id": repo,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            data = json.dumps({**answer, "likes": 0, "disabled": False, "gated": False}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _resolve(self, kind: str, repo: str, path: str, body: bool) -> None:
            if repo in hub.status or path not in hub.files.get((kind, repo), {}):
                return self._refuse(repo, hub.status.get(repo, 404))
            data = hub.files[kind, repo][path]
            if len(data) < LARGE:
                return self._content(path, data, body, {"X-Repo-Commit": COMMIT})
            self.send_response(302)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Location", f"{hub.storage}/storage/{kind}/{repo}/{path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None

        def _content(self, path: str, data: bytes, body: bool, extra: dict[str, str] | None = None) -> None:
            etag = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            first = int(self.headers["Range"][6:].partition("-")[0]) if "Range" in self.headers else 0
            part = data[first:]
            self.send_response(206 if first else 200)
            for name, value in {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **(extra or {})}.items():
                self.send_header(name, value)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if not body:
                return
            if hub.corrupt.get(path, 0) > 0 and part:
                hub.corrupt[path] -= 1
                part = bytes([part[0] ^ 1]) + part[1:]
            stop = hub.cuts[path].pop(0) if hub.cuts.get(path) else None
            part = part if stop is None else part[:stop]
            for begin in range(0, len(part), 1 << 16):
                self.wfile.write(part[begin : begin + (1 << 16)])
                time.sleep(hub.pace.get(path, 0.0))
            hub.sent += len(part)
            if stop is not None:
                self.close_connection = True

    return Handler


# ------------------------------------------------------------------ files in the published formats


def corpus_lines(count: int) -> bytes:
    """wiki-18: titles in quotes inside ``contents``."""
    rows = [
        {"id": str(i), "contents": f'"Town {i}"\nTown {i} lies on River {i * 7919 % 997}.'}
        for i in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def flat_index(vectors: int, dimension: int = 8) -> bytes:
    import faiss
    import numpy as np

    index = faiss.IndexFlatIP(dimension)
    index.add(np.random.default_rng(0).normal(size=(vectors, dimension)).astype("float32"))
    return bytes(faiss.serialize_index(index).tobytes())


def flashrag(name: str, count: int, split: str) -> bytes:
    rows = [
        {"id": f"{split}_{i}", "question": f"{name} {i}?", "golden_answers": [f"a{i}"], "metadata": {"n": i}}
        for i in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def medrag(name: str, count: int) -> bytes:
    rows = [
        {
            "id": f"{name}_{i}",
            "title": f"{name} {i}",
            "content": f"text “{i}”",
            "contents": f"{name} {i}. text",
        }
        for i in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def benchmark(counts: dict[str, int]) -> bytes:
    row = {"question": "Which nerve?\n", "options": {"B": "median", "A": "ulnar"}, "answer": "B"}
    return json.dumps({name: {f"{i:04}": row for i in range(n)} for name, n in counts.items()}).encode()


def processed_parquet(rows: int) -> bytes:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = [
        {
            "data_source": "nq" if i % 2 else "hotpotqa",
            "prompt": [{"role": "user", "content": "a long prompt"}],
            "ability": "fact-reasoning",
            "reward_model": {
                "style": "rule",
                "ground_truth": {"question": f"who {i}?", "target": [f"x{i}", f"y{i}"]},
            },
            "extra_info": {"split": "train", "index": i},
        }
        for i in range(rows)
    ]
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(table), out)
    return out.getvalue()


def filled(hub: ToyHub, documents: int = 400) -> ToyHub:
    """Everything that `s3mini.hub.download.TABLE` asks for, in small."""
    plain, index = corpus_lines(documents), flat_index(documents)
    half = len(index) // 2
    hub.files = {
        ("dataset", "PeterJinGo/wiki-18-corpus"): {
            "wiki-18.jsonl.gz": gzip.compress(plain, 1, mtime=0),
            "README.md": b"#",
        },
        ("dataset", "PeterJinGo/wiki-18-e5-index"): {"part_aa": index[:half], "part_ab": index[half:]},
        ("dataset", "RUC-NLPIR/FlashRAG_datasets"): {
            f"{folder}/{split}.jsonl": flashrag(folder, 3, split)
            for folder in ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "arc")
            for split in ("dev", "train")
        },
        ("raw", "raw"): {"benchmark.json": benchmark({"medqa": 3, "mmlu": 2})},
        ("dataset", "MedRAG/textbooks"): {"chunk/Anatomy.jsonl": medrag("Anatomy", 2)},
        ("dataset", "MedRAG/pubmed"): {"chunk/p1.jsonl": medrag("p1", 3), "chunk/p2.jsonl": medrag("p2", 1)},
        ("dataset", "MedRAG/wikipedia"): {"chunk/w.jsonl": medrag("w", 2)},
        ("dataset", "pat-jj/s3_processed_data"): {"train_e5_s3.parquet": processed_parquet(10)},
    }
    return hub
