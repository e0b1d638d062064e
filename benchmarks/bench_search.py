"""Benchmark of exact search against the machine's own limit, measured in the same run and in turn with it.

    python benchmarks/bench_search.py [--sizes 10000 1000000] [--dimension 384] [--rounds 5] [--threads 1] [--record]

The limit: the bare matrix product of the same vectors, as float32, with the same queries (two where there is one), by the
faster of numpy and torch. ``roof``, which no library's product reaches at every number: reading the vectors once at the rate of
a sum, or doing the product's operations at the rate of a large square one, whichever takes longer. With one thread the
processor's time is counted, which other programs change less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from common import Row, options, row, tell

from s3mini.runs.machine import cap_threads

QUERIES = (1, 2, 4, 8, 16, 64, 256)
GOAL = "ratio ≥ 0.7"
_SIDE = 1536  # of the square product
_CACHED = 1 << 26  # bytes of vectors, of which a cache may keep a part
_ON_END = 10
_K = 18  # ten neighbours and the spare ones


def in_turn(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call in each round, one after another, so that what disturbs one disturbs all.

    ``warm``: the mean of `_ON_END` calls on end, after as many that warm up: they find in the cache what fits, and the
    other library's threads, which spin for a while before they sleep, out of their way.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    number = _ON_END if warm else 1
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            for _again in range(number if warm else 0):
                call()
            began = clock()
            for _again in range(number):
                call()
            took[name].append((clock() - began) / number)
    return took


def search_rows(
    sizes: Sequence[int], dimension: int, rounds: int, clock: Callable[[], float]
) -> dict[str, Row]:
    """The rows of exact search, in ms, by size, type and number of queries; ``roof``: the share of it that is reached."""
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
            took = in_turn(calls, rounds, clock, vectors.nbytes < _CACHED)
            # by themselves: a core that has worked so hard is slower for a while
            roofs = {"sum": torch.from_numpy(vectors).sum, "square": partial(torch.mm, square, square)}
            took |= in_turn(roofs, rounds, clock)
            took = {name: [1000 * seconds for seconds in runs] for name, runs in took.items()}
            limit = [min(pair) for pair in zip(took["numpy"], took["torch"], strict=True)]
            work = number * size * dimension / _SIDE**3 * statistics.median(took["square"])
            roof = max(statistics.median(took["sum"]), work)
            for dtype in searches:
                made = row("ms", GOAL, took[dtype], limit, less_is_more=True)
                made["roof"] = roof / made["ours"]["median"]
                rows[f"{dtype}, {size} vectors, {number} queries"] = made
            halves = row("ms", "ratio ≥ 1", took["float16"], took["float32"], less_is_more=True)
            rows[f"float16, float32 as the limit, {size} vectors, {number} queries"] = halves
    return rows


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    clock = time.process_time if cap_threads(given.threads) == 1 else time.perf_counter
    tell(__file__, search_rows(given.sizes, given.dimension, given.rounds, clock), given.record)


if __name__ == "__main__":
    main()
