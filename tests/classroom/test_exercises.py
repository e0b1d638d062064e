"""The exercise checker accepts right answers and says what is wrong with others; the notebooks' solutions are right."""

from __future__ import annotations

import ast
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from test_later_exercises import WRONG as LATER

from s3mini.classroom.exercises import EXERCISES, AskOrTell, check
from s3mini.errors import DataError
from s3mini.profile import ROOT
from s3mini.protocols import Action, History
from s3mini.reward import f1_score

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ASKED = re.compile(r"\bcheck\(\"([\w-]+)\", (\w+|\.\.\.)\)")
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)


class Deaf(AskOrTell):
    """Takes every line as an answer."""

    def parse(self, text: str, history: History) -> Action:
        return Action(complete=True, answer=text.strip())


WRONG: dict[str, Any] = {
    "gain": lambda with_s3, with_rag: float(with_s3),
    "fusion": lambda rankings: [item for ranking in rankings for item in ranking],
    "recall": lambda gold, ranking, k: float(any(g in ranking[:k] for g in gold)),
    "filter": lambda golds, rag: not rag,
    "f1": lambda answer, golds: f1_score(answer, golds[:1]),
    "span-cost": 3,
    "advantages": lambda rewards: rewards,
    "batch-scale": True,
    "turn": lambda text: (None, "True" in text),
    "context": lambda blocks, selections: [i for chosen in selections for i in chosen or ()],
    "mask": lambda pieces: [int(own) for _, own in pieces],
    "protocol": Deaf,
    **LATER,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_is_right_and_an_open_one_is_open(name: str) -> None:
    assert repr(check(name, EXERCISES[name].expected)) == f"{name}: right"
    assert repr(check(name, ...)).startswith(f"{name}: open: {EXERCISES[name].asks}")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_wrong_answer_is_not_right(name: str) -> None:
    assert repr(check(name, WRONG[name])).startswith(f"{name}: not yet: ")


def reciprocal_sum(rankings: list[list[int]], constant: int) -> list[int]:
    earned: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            earned[item] = earned.get(item, 0.0) + 1 / (constant + rank)
    return sorted(earned, key=lambda item: -earned[item])


def half_open_cuts(sentences: list[int], limit: int) -> list[int]:
    """As the exercise asks, but a sentence that ends just at the half is passed over."""
    ends, total, first, found = list(accumulate(sentences)), sum(sentences), 0, []
    while first < total:
        last = min(first + limit, total)
        if last < total:
            half = first + max(1, (last - first) // 2)
            last = max((end for end in ends if half < end <= last), default=last)
        found.append(last)
        first = last
    return found


def test_answers_that_are_nearly_right_are_wrong() -> None:
    assert repr(check("fusion", lambda rankings: reciprocal_sum(rankings, 60))) == "fusion: right"
    assert repr(check("fusion", lambda rankings: reciprocal_sum(rankings, 0))).startswith("fusion: not yet: ")
    assert repr(check("cuts", half_open_cuts)).startswith("cuts: not yet: ")


def test_a_number_may_be_rounded_by_the_machine() -> None:
    assert repr(check("half-bytes", math.nextafter(32.256, 33))) == "half-bytes: right"
    assert repr(check("half-bytes", 32.25)).startswith("half-bytes: not yet: ")


def test_wrong_answers_are_told_their_own_result() -> None:
    assert repr(check("f1", WRONG["f1"])).startswith("f1: not yet: on ")
    assert "it gives 1.0" in repr(check("f1", lambda answer, golds: 1.0))
    assert "raises KeyError" in repr(check("f1", lambda answer, golds: {}["x"]))
    assert "the function itself" in repr(check("f1", 0.5))
    assert repr(check("span-cost", 3)) == "span-cost: not yet: not 3"
    assert repr(check("batch-scale", 0)) == "batch-scale: not yet: not 0"
    assert "not yet" in repr(check("advantages", lambda rewards: None))
    assert "right" in repr(check("advantages", lambda rewards: np.array(rewards) - np.mean(rewards)))
    assert "not yet" in repr(check("turn", lambda text: "query"))
    assert "<script>" not in check("f1", "<script>")._repr_html_()
    with pytest.raises(DataError, match="no exercise 'f2'"):
        check("f2", 1)


def test_of_a_protocol_only_what_differs_is_told() -> None:
    told = repr(check("protocol", Deaf))
    assert "'queries': [None]" in told and "the question is in the prompt" not in told
    assert "raises TypeError: give a class" in repr(check("protocol", f1_score))
    assert "raises TypeError: give a class" in repr(check("protocol", int))


# ---------------------------------------------------------------- the notebooks' own solutions


def asked_in(path: Path) -> list[tuple[str, str, str, list[str]]]:
    """Of each exercise of a notebook: its name, the variable that is checked, the solution, the imports above it."""
    cells = nbformat.read(path, as_version=4).cells
    imports: list[str] = []
    exercises = []
    for number, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        imports += [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        for name, variable in ASKED.findall(cell.source):
            below = next(c.source for c in cells[number + 1 :] if c.cell_type == "markdown")
            folded = SOLUTION.search(below)
            exercises.append((name, variable, folded[1].strip() if folded else "", list(imports)))
    return exercises


FOUND = [(path.stem, *exercise) for path in NOTEBOOKS for exercise in asked_in(path)]


@pytest.mark.parametrize(
    ("notebook", "name", "variable", "solution", "imports"),
    FOUND,
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_folded_solution_is_right(
    notebook: str, name: str, variable: str, solution: str, imports: list[str]
) -> None:
    assert solution, f"{notebook}: no folded solution under the exercise {name!r}"
    if variable == "...":
        given = ast.literal_eval(re.match(r"`(.+?)`", solution)[1])  # type: ignore[index]
    else:
        space: dict[str, Any] = {}
        exec("\n".join(imports), space)
        exec(re.search(r"```python\n(.*?)```", solution, re.DOTALL)[1], space)  # type: ignore[index]
        given = space[variable]
    assert repr(check(name, given)) == f"{name}: right"


def test_every_exercise_stands_in_a_notebook() -> None:
    assert {name for _, name, *_ in FOUND} == set(EXERCISES) == set(WRONG)
