"""Exact search: every way finds what sorting all scores finds, whatever the order of the vectors and the threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from s3mini.retrieval import exact, flat
from s3mini.retrieval.exact import ExactSearch


@pytest.fixture(autouse=True, params=[(1, 0), (3, 0), (3, 1 << 23)])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Small blocks, shared between so many threads, and all in one block."""
    number, at_once = request.param
    monkeypatch.setattr(exact, "_BLOCK", 1 << 12)
    monkeypatch.setattr(exact, "_AT_ONCE", at_once)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield number
    torch.set_num_threads(before)


def searching(vectors: np.ndarray, dtype: flat.DType, product_from: int | None = 1) -> ExactSearch:
    index = flat.empty(vectors.shape[1], dtype)
    index.add(vectors)
    return ExactSearch(index, product_from)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_finds_what_sorting_finds(dtype: flat.DType, order: str) -> None:
    random = np.random.default_rng(0)
    vectors = random.integers(-8, 9, (3000, 16)).astype(
        np.float32
    )  # whose products are exact, and often equal
    asked = random.integers(-8, 9, (70, 16)).astype(np.float32)
    if order != "random":
        vectors = vectors[np.argsort(vectors @ asked[0])][:: 1 if order == "rising" else -1]
    search = searching(vectors, dtype)
    for number, k in ((1, 1), (1, 700), (2, 18), (7, 3000), (40, 18), (70, 3)):
        scores = asked[:number] @ vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equals the lower
        found = search(asked[:number], k)
        assert np.array_equal(found[1], rows)
        assert np.array_equal(found[0], np.take_along_axis(scores, rows, 1))
        if dtype == "float16":
            assert np.array_equal(search.scan(asked[:number], k)[0], found[0])


def test_fewer_vectors_than_groups_blocks_or_threads() -> None:
    vectors = np.eye(4, dtype=np.float32)
    for number in (1, 2, 4):
        scores, rows = searching(vectors[:number], "float32")(vectors[:1], number)
        assert rows.tolist() == [list(range(number))] and scores[0].tolist() == [1.0] + [0.0] * (number - 1)


def test_a_search_leaves_torch_its_threads(threads: int) -> None:
    exact._single_threaded.cache_clear()
    search = searching(np.eye(40, dtype=np.float32), "float32")
    search(np.eye(40, dtype=np.float32), 3)
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == threads
    with pytest.raises(RuntimeError):
        search(np.ones((1, 7), np.float32), 3)


def test_calibration_takes_the_faster_way(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching(np.eye(40, dtype=np.float32), "float16")
    costs = {"scan": 1.0, "product": 6.0}
    monkeypatch.setattr(search, "scan", lambda queries, k: (costs["scan"] * len(queries), k))
    monkeypatch.setattr(search, "product", lambda queries, k: (costs["product"], k))
    monkeypatch.setattr(exact.timeit, "repeat", lambda call, number, repeat: [call()[0]])
    assert exact.calibrate(search, seconds=60) == 8  # the first of 1, 2, 4 … that costs more than 6
    costs["product"] = 1000.0
    assert exact.calibrate(search, seconds=60) == 64
    assert exact.calibrate(search, seconds=-1) == 1, "no time to measure"


def test_few_queries_of_halves_are_scanned_and_many_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching(np.eye(40, dtype=np.float32), "float16", product_from=3)
    for way in ("scan", "product"):
        monkeypatch.setattr(search, way, lambda queries, k, way=way: (way, len(queries)))
    asked = np.eye(4, 40, dtype=np.float32)
    assert [search(asked[:n], 1) for n in (1, 2, 3, 4)] == [
        ("scan", 1),
        ("scan", 2),
        ("product", 3),
        ("product", 4),
    ]
    assert searching(np.eye(4, dtype=np.float32), "float32", None).product_from == 1
