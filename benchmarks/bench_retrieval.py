"""Benchmark of retrieval: import, open, encode queries, search.

    python benchmarks/bench_retrieval.py [--profile mini]

The indexes must exist (``s3mini index``). Encoding and exact search against the machine's limit: bench_encode, bench_search.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import cast

from s3mini.classroom.study import best_time, mixed_queries
from s3mini.profile import load_profile
from s3mini.retrieval import DenseRetriever, open_retriever
from s3mini.runs.machine import cap_threads, machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    given = parser.parse_args()
    profile = load_profile(given.profile)
    print(f"{machine()['processor']}, {cap_threads(profile.threads)} threads")
    retrievers = {}
    for kind in ("lexical", "dense"):
        started = time.perf_counter()
        retrievers[kind] = open_retriever(profile, kind, cache=False)
        print(f"open {kind}, imports included: {time.perf_counter() - started:.1f} s")
    dense = cast(DenseRetriever, retrievers["dense"])
    dense.encoder.queries(["warm up"])
    queries = mixed_queries(profile)
    for size in (1, 16, 96, 256):
        batch = queries[:size]
        vectors = dense.encoder.queries(batch)
        row = [f"bm25 {1000 * best_time(partial(retrievers['lexical'].search, batch, 10), 3):.1f} ms"]
        row.append(f"encode {1000 * best_time(partial(dense.encoder.queries, batch), 3):.1f} ms")
        seconds = best_time(partial(dense.search_vectors, vectors, 10), 3)
        row.append(f"search {1000 * seconds:.1f} ms")
        print(f"{size:4} queries:", ", ".join(row))


if __name__ == "__main__":
    main()
