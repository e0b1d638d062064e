"""Benchmark of the retrieval server: what micro-batching gives, and what HTTP costs.

    python benchmarks/bench_server.py [--profile mini] [--passages 0 300000] [--clients 32] [--queries 256]

The same opened index is served twice, with batches of one query (``--max-batch 1``) and with the default, in turns;
clients, in a process of their own, send one distinct query at a time and wait for its answer. No cache. ``--passages 0`` is
the profile's own index; other sizes are random unit vectors behind the same encoder. Two ratios are told: of queries
a second by the clock, and of the server's processor seconds per query, which other load on the machine moves less.
Latency is the time of one request.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from s3mini.classroom.study import mixed_queries
from s3mini.profile import Profile, load_profile
from s3mini.records import Document
from s3mini.retrieval import DenseRetriever, Encoder, Retriever, open_retriever
from s3mini.retrieval.flat import IDS, INDEX
from s3mini.retrieval.http.server import bind, make_app
from s3mini.retrieval.http.wire import Limits
from s3mini.runs.machine import cap_threads, machine


def synthetic(profile: Profile, passages: int, folder: Path, seed: int = 0) -> DenseRetriever:
    """A flat index of random unit vectors, with the profile's encoder in front."""
    import faiss

    encoder = Encoder(profile.retrieval.dense)
    index: Any = faiss.IndexFlatIP(encoder.dimension)
    rng = np.random.default_rng(seed)
    for start in range(0, passages, 10_000):
        vectors = rng.standard_normal((min(10_000, passages - start), encoder.dimension), dtype=np.float32)
        index.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    documents = [Document(str(i), f"Title {i}", "A sentence or two. " * 12) for i in range(passages)]
    faiss.write_index(index, str(folder / INDEX))
    (folder / IDS).write_text(json.dumps([document.id for document in documents]))
    return DenseRetriever(folder, documents, encoder)


def clients(url: str, queries: Sequence[str], number: int) -> tuple[float, list[float]]:
    """Seconds for all, and of each request, with ``number`` clients that ask one query at a time."""
    share = [list(queries[i::number]) for i in range(number)]
    start = threading.Barrier(number + 1)

    def client(mine: Sequence[str]) -> list[float]:
        took = []
        with closing(HTTPConnection(url, timeout=600)) as session:
            session.connect()  # before the clock starts
            start.wait()
            for query in mine:
                began = time.perf_counter()
                asked = json.dumps({"queries": [query], "topk": 3})
                session.request("POST", "/retrieve", asked, {"Content-Type": "application/json"})
                answer = session.getresponse()
                found = json.loads(answer.read())
                assert answer.status == 200 and len(found["result"][0]) == 3
                took.append(time.perf_counter() - began)
        return took

    with ThreadPoolExecutor(number) as pool:
        running = [pool.submit(client, mine) for mine in share]
        start.wait()
        began = time.perf_counter()
        latencies = [second for one in running for second in one.result()]
        return time.perf_counter() - began, latencies


class Nothing:
    """A retriever that costs nothing: what is left is HTTP."""

    name = "nothing"
    fingerprint = "0"

    def search(self, queries: Sequence[str], k: int) -> list[list[Any]]:
        from s3mini.records import Hit

        hits = [Hit(Document(str(i), "Title", "A sentence or two. " * 12), 1.0) for i in range(k)]
        return [hits for _ in queries]


def measure(
    engine: Retriever, batch: int, queries: Sequence[str], number: int, pool: Any
) -> tuple[float, float, list[float]]:
    """Seconds, the server's processor seconds, and latencies."""
    bound = bind("127.0.0.1", 0)
    app = make_app(engine, limits=Limits(batch=batch), cache=0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        before = time.process_time()
        url = f"127.0.0.1:{bound.getsockname()[1]}"
        seconds, latencies = pool.apply(clients, (url, queries, number))
        return seconds, time.process_time() - before, latencies
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--passages", type=int, nargs="*", default=[0, 300_000])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--queries", type=int, default=256, help="per round")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    profile = load_profile(given.profile)
    print(f"{machine()['processor']}, {cap_threads(profile.threads)} threads, {given.clients} clients")
    questions = mixed_queries(profile)
    ways = {"one by one": 1, "micro-batches": Limits().batch}
    with multiprocessing.get_context("spawn").Pool(1) as pool, tempfile.TemporaryDirectory() as folder:
        for passages in [*given.passages, -1]:
            engine: Retriever = Nothing()
            if passages >= 0:
                engine = (
                    synthetic(profile, passages, Path(folder))
                    if passages
                    else open_retriever(profile, "dense", cache=False)
                )
            label = "HTTP alone" if passages < 0 else f"{passages or 'own'} passages"
            engine.search(questions[: given.clients], 3)
            rates: dict[str, list[float]] = {way: [] for way in ways}
            costs: dict[str, list[float]] = {way: [] for way in ways}
            for round_ in range(given.rounds):
                for place, (way, batch) in enumerate(ways.items()):
                    first = (2 * round_ + place) * given.queries
                    asked = [
                        f"{questions[i % len(questions)]} {i}" for i in range(first, first + given.queries)
                    ]
                    seconds, cpu, latencies = measure(engine, batch, asked, given.clients, pool)
                    rates[way].append(given.queries / seconds)
                    costs[way].append(cpu / given.queries)
                    middle, worst = np.percentile(latencies, [50, 95])
                    print(
                        f"{label}, {way}: {given.queries / seconds:.1f} queries/s, {1000 * cpu / given.queries:.2f} ms of "
                        f"processor each, latency {1000 * middle:.0f} ms (95 %: {1000 * worst:.0f})",
                        flush=True,
                    )
            one, many = ways
            faster = np.median(rates[many]) / np.median(rates[one])
            cheaper = np.median(costs[one]) / np.median(costs[many])
            print(
                f"{label}: {faster:.1f} times the throughput, {cheaper:.1f} times less processor", flush=True
            )


if __name__ == "__main__":
    main()
