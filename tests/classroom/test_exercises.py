"""The exercise checker accepts right answers and says what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest

from s3mini.classroom.exercises import EXERCISES, check
from s3mini.errors import DataError
from s3mini.reward import f1_score


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_is_right_and_an_open_one_is_open(name: str) -> None:
    assert repr(check(name, EXERCISES[name].expected)) == f"{name}: right"
    assert repr(check(name, ...)).startswith(f"{name}: open: {EXERCISES[name].asks}")


def test_wrong_answers_are_told_their_own_result() -> None:
    assert repr(check("f1", lambda answer, golds: f1_score(answer, golds[:1]))).startswith("f1: not yet: on ")
    assert "it gives 1.0" in repr(check("f1", lambda answer, golds: 1.0))
    assert "raises KeyError" in repr(check("f1", lambda answer, golds: {}["x"]))
    assert "the function itself" in repr(check("f1", 0.5))
    assert repr(check("span-cost", 3)) == "span-cost: not yet: not 3"
    assert repr(check("batch-scale", 0)) == "batch-scale: not yet: not 0"
    assert "not yet" in repr(check("advantages", lambda rewards: rewards))
    assert "not yet" in repr(check("advantages", lambda rewards: None))
    assert "right" in repr(check("advantages", lambda rewards: np.array(rewards) - np.mean(rewards)))
    assert "<script>" not in check("f1", "<script>")._repr_html_()
    with pytest.raises(DataError, match="no exercise 'f2'"):
        check("f2", 1)
