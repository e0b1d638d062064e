"""The person's check: the shipped labels can be read, and agreement is counted per side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_toys import ToyJudge

from s3mini.errors import DataError
from s3mini.records import Question
from s3mini.report.human_check import (
    Labelled,
    agreement,
    best_threshold,
    calibrate,
    calibration_table,
    read_labelled,
)
from s3mini.reward import Judge

SHIPPED = Path(__file__).parents[2] / "data" / "mini" / "labelled.jsonl"


def test_the_shipped_labels() -> None:
    labelled = read_labelled(SHIPPED)
    assert len(labelled) >= 90 and 0.3 < sum(one.accepted for one in labelled) / len(labelled) < 0.7
    assert {"negation", "hedge", "shortened", "sentence", "bare"} <= {one.kind for one in labelled}


def test_agreement_counts_each_side(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    line = '{{"question": "q", "golden_answers": ["Tarn"], "output": "{}", "accepted": {}, "kind": "k"}}\n'
    cases = (("Tarn", "true"), ("It is Tarn.", "true"), ("Holm", "false"), ("not Tarn", "false"))
    path.write_text("".join(line.format(*case) for case in cases))
    found = agreement(read_labelled(path), Judge(ToyJudge("yes"), "brief"))
    assert found["em"]["finds"]["mean"] == 0.5 and found["em"]["false"]["mean"] == 0
    assert found["span"]["finds"]["mean"] == 1 and found["span"]["false"]["mean"] == 0.5
    assert found["judge"]["false"]["mean"] == 1 and found["judge"]["finds"]["n"] == 2


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"question": "q"}\n')
    with pytest.raises(DataError, match="l.jsonl:1"):
        read_labelled(path)
    path.write_text(
        '{"question": "q", "golden_answers": ["T"], "output": "T", "accepted": true, "kind": "k"}\n'
    )
    with pytest.raises(DataError, match="both"):
        agreement(read_labelled(path), Judge(ToyJudge("yes"), "brief"))
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "none.jsonl")


# -------------------------------------------------------------------------------- the judge's threshold


labels = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None, derandomize=True)
@given(labels)
def test_no_threshold_agrees_more_often(pairs: list[tuple[float, bool]]) -> None:
    p, person = (np.array(column) for column in zip(*pairs, strict=True))
    best = best_threshold(p, person)
    assert 0 < best < 1 and best not in p
    tried = [t for t in [*np.linspace(0.001, 0.999, 997), *p, *np.nextafter(p, 0)] if 1e-300 < t < 1 - 1e-9]
    assert np.mean((p > best) == person) >= max(np.mean((p > t) == person) for t in tried)


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_taken_in_few_digits() -> None:
    assert best_threshold([0.1, 0.9], [False, True]) == 0.5
    assert best_threshold([0.01, 0.31, 0.34, 0.4], [False, False, True, True]) == 0.33
    assert best_threshold([0.0, 1.0], [False, True]) == 0.5  # a judge that gives no probabilities


class Leaning:
    """Yes is as probable as the number that ends the response."""

    def preference(self, conversations, options) -> list[list[float]]:
        p = [float(c[-1]["content"].split()[-1]) for c in conversations]
        return [[math.log(x), math.log1p(-x)] for x in p]


def outputs(*probabilities: tuple[str, float, bool]) -> list[Labelled]:
    return [Labelled(Question(q, q, ("T",)), f"says {p}", right, "k") for q, p, right in probabilities]


def test_a_judge_that_leans_to_no_is_calibrated() -> None:
    """Every p is below a half: as set it refuses everything; on question c its order is the wrong way round.

    Without c the best is between 0.12 and 0.3, which errs once on c; without a between 0.31 and 0.32, once on a.
    """
    labelled = outputs(
        ("a", 0.1, False), ("a", 0.3, True), ("b", 0.12, False), ("b", 0.32, True), ("c", 0.31, False), ("c", 0.29, True)
    )  # fmt: skip
    judge = Judge(Leaning())
    found = calibrate(labelled, judge)
    counts = {name: sum(person == said for person, said in pairs) for name, pairs in found.verdicts.items()}
    assert list(counts.values()) == [3, 5, 4, 3] and list(counts)[-1] == "always yes"
    assert judge.threshold == 0.5  # what is found is not applied in silence
    better = Judge(Leaning(), threshold=found.threshold)
    said = better([one.output for one in labelled], [one.question.golden_answers for one in labelled])
    assert sum(v == one.accepted for v, one in zip(said, labelled, strict=True)) == 5
    assert found.ranking == pytest.approx(7 / 9)  # pairs, counted by hand: 0.29 is below 0.31 and so is 0.30
    text = calibration_table(found).text
    assert "83.3" in text and "0 of 3" in text and "3 of 3" in text


def test_what_is_learned_on_a_question_is_tried_on_others() -> None:
    """Both questions alone are ordered, but at different heights: a threshold of one is of no use for the other."""
    labelled = outputs(("a", 0.1, False), ("a", 0.2, True), ("b", 0.7, False), ("b", 0.9, True))
    found = calibrate(labelled, Judge(Leaning()))
    agrees = {name: np.mean([a == b for a, b in pairs]) for name, pairs in found.verdicts.items()}
    assert agrees[f"calibrated, {found.threshold:g}"] == 0.75
    assert agrees["calibrated on the other questions"] == 0.5


@pytest.mark.parametrize(
    "labelled",
    [outputs(("a", 0.1, True), ("b", 0.2, True)), outputs(("a", 0.1, True), ("a", 0.2, False)), []],
    ids=["one side", "one question", "nothing"],
)
def test_what_cannot_calibrate_is_an_error(labelled: list[Labelled]) -> None:
    with pytest.raises(DataError, match="two questions"):
        calibrate(labelled, Judge(Leaning()))
