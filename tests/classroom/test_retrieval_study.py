"""The measurements of notebook 01: recall, fusion, latency, approximate indexes, memory; stages found again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mini.classroom.plots import indexes_plot, latency_plot, recall_plot
from s3mini.classroom.study import (
    FusedRetriever,
    enlarge,
    measure_indexes,
    measure_latency,
    measure_recall,
    mixed_queries,
    projected_memory,
    recall_rows,
    reciprocal_rank_fusion,
)
from s3mini.corpus import write_corpus, write_questions
from s3mini.errors import DataError
from s3mini.profile import Profile, load_profile
from s3mini.records import Document, Hit, Question
from s3mini.retrieval import DenseRetriever, open_retriever

DOCUMENTS = [Document(str(i), f"Title {i}", f"Text number {i} about rivers.") for i in range(40)]
SETS = ("one", "two")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS)
    for name, gold in (("one", ["3"]), ("two", ["3", "1"])):
        asked = [Question(f"{name}-{i}", f"{name} {i}", ("x",), {"gold_ids": gold}) for i in range(4)]
        write_questions(tmp_path / "questions" / name / "test.jsonl", asked)
    data = {
        "data.corpus": "corpus.jsonl",
        "data.questions": "questions",
        "data.sets": SETS,
        "data.train_sets": (),
    }
    return load_profile("mini", **data)


class Scripted:
    """Returns the documents its script names for a query, in that order."""

    def __init__(self, name: str, script: dict[str, list[int]], default: list[int]) -> None:
        self.name, self.fingerprint = name, f"{name}{script}{default}"
        self.script, self.default = script, default
        self.calls = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls += 1
        orders = [self.script.get(query, self.default)[:k] for query in queries]
        return [[Hit(DOCUMENTS[i], 1.0 / (rank + 1)) for rank, i in enumerate(order)] for order in orders]


def test_recall_per_set_is_worked_out_by_hand_and_measured_once(profile: Profile) -> None:
    toy = Scripted("toy", {"one 0": [3], "two 0": [1, 3], "two 1": [3, 9]}, [7, 3])
    result = measure_recall(profile, [toy], ks=(1, 2))
    assert result["sets"]["one"] == {
        "n": 4, "gold": 1.0, "toy": {"any": [0.25, 1.0], "all": [0.25, 1.0], "mean": [0.25, 1.0]},
    }  # fmt: skip
    assert result["sets"]["two"] == {
        "n": 4, "gold": 2.0, "toy": {"any": [0.5, 1.0], "all": [0.0, 0.25], "mean": [0.25, 0.625]},
    }  # fmt: skip
    assert json.loads((profile.build / "retrieval.json").read_text()) == result
    assert measure_recall(profile, [toy], ks=(1, 2)) == result and toy.calls == 2  # once a set, never again
    measure_recall(profile, [Scripted("toy", {}, [3])], ks=(1, 2))
    assert json.loads((profile.build / "retrieval.json").read_text())["sets"]["one"]["toy"]["all"] == [
        1.0,
        1.0,
    ]
    rows = recall_rows(result, "all", (2,))
    assert [(row["set"], row["@2"]) for row in rows] == [("one, toy", 1.0), ("two, toy", 0.25)]
    assert len(recall_plot(result, 3).png()) > 5000


def test_recall_needs_gold_documents(profile: Profile) -> None:
    write_questions(profile.resolve("questions/one/test.jsonl"), [Question("q", "who", ("x",))])
    with pytest.raises(DataError, match="'one': no question names its gold documents"):
        measure_recall(profile, [Scripted("toy", {}, [3])])


def test_fusion_by_hand() -> None:
    # 2: 1/62 + 1/61; 1: 1/61; 3: 1/62
    assert reciprocal_rank_fusion([[1, 2], [2, 3]]) == [2, 1, 3]
    assert reciprocal_rank_fusion([[1, 2, 3], [3]]) == [3, 1, 2]
    assert reciprocal_rank_fusion([[1, 2, 3], [3]], constant=0) == [3, 1, 2]  # 1/3 + 1 against 1
    assert reciprocal_rank_fusion([[1, 2, 3], [4, 3]], constant=0) == [1, 4, 3, 2]  # 1/3 + 1/2 against 1
    assert reciprocal_rank_fusion([]) == []


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=4))
def test_fusion_keeps_every_item_once_and_unanimity(rankings: list[list[int]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(fused) == sorted({item for ranking in rankings for item in ranking})
    assert reciprocal_rank_fusion([fused, fused]) == fused


def test_fused_retriever() -> None:
    first, second = Scripted("a", {}, [1, 2]), Scripted("b", {}, [2, 3])
    fused = FusedRetriever([first, second])
    [hits] = fused.search(["q"], 2)
    assert [h.document.id for h in hits] == ["2", "1"]
    assert hits[0].score > hits[1].score
    assert fused.fingerprint != FusedRetriever([second, first]).fingerprint


def test_queries_take_turns_between_sets(profile: Profile) -> None:
    assert mixed_queries(profile)[:3] == ["one 0", "two 0", "one 1"]


def test_latency_and_indexes_are_measured_once(profile: Profile) -> None:
    dense = open_retriever(profile, "dense", cache=False)
    assert isinstance(dense, DenseRetriever)
    rows = measure_latency(profile, [Scripted("bm25", {}, [3]), dense], batches=(1, 2))
    assert [(r["part"], r["batch"]) for r in rows] == [
        (part, batch) for part, batch in (("bm25", 1), ("bm25", 2))
    ] + [(f"dense: {what}", batch) for batch in (1, 2) for what in ("encode", "search")]
    assert all(row["per_second"] == pytest.approx(row["batch"] / row["seconds"]) for row in rows)
    assert (
        measure_latency(profile, [Scripted("bm25", {}, [3]), dense], batches=(1, 2)) == rows
    )  # times repeat

    found = measure_indexes(profile, dense, size=5200, queries=8)
    assert measure_indexes(profile, dense, size=5200, queries=8) == found
    by_name = {(row["index"], row["setting"]): row for row in found}
    assert by_name["Flat", ""]["recall"] == 1.0
    assert by_name["Flat", ""]["bytes"] == pytest.approx(4 * 384, rel=0.01)
    assert by_name["SQ8", ""]["bytes"] == pytest.approx(384, rel=0.01)
    cells = [by_name["IVF128,Flat", f"nprobe {n}"]["recall"] for n in (1, 4, 16)]
    assert cells == sorted(cells) and cells[-1] > 0.9
    assert by_name["PQ96x4fs", ""]["recall"] < 1.0  # not exact, and seen not to be
    assert len(latency_plot(rows).png()) > 5000 and len(indexes_plot(found).png()) > 5000


def test_blends_keep_the_originals_and_unit_length() -> None:
    vectors = np.eye(5, 8, dtype=np.float32)
    large = enlarge(vectors, 50, seed=3)
    assert large.shape == (50, 8) and large.dtype == np.float32
    assert np.array_equal(large[:5], vectors)
    assert np.allclose(np.linalg.norm(large, axis=1), 1, atol=1e-6)
    assert np.array_equal(large, enlarge(vectors, 50, seed=3)) and not np.array_equal(
        large, enlarge(vectors, 50, 4)
    )
    assert len(enlarge(vectors, 3, seed=0)) == 5


def test_projected_memory_of_the_paper() -> None:
    weights = {row["index"]: row["GB"] for row in projected_memory()}
    assert weights["Flat fp32 (the paper's)"] == pytest.approx(64.5, abs=0.05)
    assert weights["SQfp16"] == pytest.approx(32.3, abs=0.05)
    assert weights["SQ8"] == pytest.approx(16.1, abs=0.05)
    assert weights["1 bit a number"] == pytest.approx(2.0, abs=0.05)
