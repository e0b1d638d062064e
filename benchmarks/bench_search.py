"""Benchmark of exact search against the machine's own limit, measured in the same run and in turn with it.

    python benchmarks/bench_search.py [--sizes 10000 1000000] [--dimension 384] [--rounds 5] [--threads 1]

The limit: the bare matrix product of the same vectors, as float32, with the same queries (two where there is one), by the
faster of numpy and torch. ``roof``, which no library's product reaches at every number: reading the vectors once at the rate of
a sum, or doing the product's operations at the rate of a large square one, whichever takes longer. With one thread the
processor's time is counted, which other programs change less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from s3mini.runs.machine import cap_threads, machine

QUERIES = (1, 2, 4, 8, 16, 64, 256)
GOAL = 0.7
_SIDE = 1536  # of the square product
_CACHED = 1 << 26  # bytes of vectors, of which a cache may keep a part
_K = 18  # ten neighbours and the spare ones


def in_turn(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call in each round, one after another, so that what disturbs one disturbs all.

    ``warm``: of two calls on end the second, which finds in the cache what fits.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            if warm:
                call()
            began = clock()
            call()
            took[name].append(clock() - began)
    return took


def row(limit: Sequence[float], ours: Sequence[float], goal: float) -> dict[str, float]:
    """``limit`` and ``ours``: median seconds; ``ratio``: of the limit reached, the rounds' median; best and worst of ours."""
    ratio = statistics.median(one / other for one, other in zip(limit, ours, strict=True))
    told = {"limit": statistics.median(limit), "ours": statistics.median(ours), "ratio": ratio, "goal": goal}
    return told | {"best": min(ours), "worst": max(ours)}


def search_rows(
    sizes: Sequence[int], dimension: int, rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """The rows of exact search by size, type and number of queries; see `row`."""
    import numpy as np
    import torch

    from s3mini.retrieval import flat
    from s3mini.retrieval.exact import ExactSearch

    random, rows = np.random.default_rng(0), {}
    square = torch.rand(_SIDE, _SIDE)
    for size in sizes:
        vectors = random.random((size, dimension), dtype=np.float32) - np.float32(0.5)
        asked = random.random((max(QUERIES), dimension), dtype=np.float32) - np.float32(0.5)
        searches = {}
        for dtype in ("float32", "float16"):
            index = flat.empty(dimension, dtype)
            index.add(vectors)
            searches[dtype] = ExactSearch(index)
        vectors = searches["float32"].vectors
        for number in QUERIES:
            calls = {name: partial(search, asked[:number], _K) for name, search in searches.items()}
            calls |= {"numpy": partial(np.matmul, vectors, asked[: max(2, number)].T)}
            calls |= {
                "torch": partial(
                    torch.mm, torch.from_numpy(vectors), torch.from_numpy(asked[: max(2, number)]).T
                )
            }
            calls |= {"sum": torch.from_numpy(vectors).sum, "square": partial(torch.mm, square, square)}
            took = in_turn(calls, rounds, clock, vectors.nbytes < _CACHED)
            limit = [min(pair) for pair in zip(took["numpy"], took["torch"], strict=True)]
            work = number * size * dimension / _SIDE**3 * statistics.median(took["square"])
            roof = max(statistics.median(took["sum"]), work)
            for dtype in searches:
                told = row(limit, took[dtype], GOAL)
                rows[f"{dtype}, {size} vectors, {number} queries"] = told | {"roof": roof / told["ours"]}
            rows[f"float16 against float32, {size} vectors, {number} queries"] = row(
                took["float32"], took["float16"], 1.0
            )
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    """One line a row, times in ms."""
    for name, it in rows.items():
        times = ", ".join(f"{what} {1000 * it[what]:.2f}" for what in ("limit", "ours", "best", "worst"))
        roof = f", of the roof {it['roof']:.2f}" if "roof" in it else ""
        print(f"{name:52} ms: {times}; ratio {it['ratio']:.2f}, goal {it['goal']}{roof}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    threads = cap_threads(given.threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    print(f"{machine()['processor']}, {threads} threads")
    show(search_rows(given.sizes, given.dimension, given.rounds, clock))


if __name__ == "__main__":
    main()
