"""The exercises of notebooks 05 to 08: folded solutions are right, wrong answers are not."""

from __future__ import annotations

import ast
import re
from typing import Any

import nbformat
import numpy as np
import pytest

from s3mini.classroom import theory
from s3mini.classroom.exercises import check
from s3mini.profile import ROOT

WRONG: dict[str, Any] = {
    "clipped-loss": lambda ratio, advantage, epsilon: (
        -max(0.8, min(ratio, 1.2)) * advantage
    ),  # never pulled back
    "gae": lambda rewards, values, gamma, lam: [sum(rewards) - value for value in values],  # lambda 1 only
    "paired-interval": lambda a, b, draws: (
        np.mean(a) - np.mean(b),
        *np.percentile(np.array(a)[np.array(draws)].mean(1), [2.5, 97.5]),
    ),
    "cuts": lambda sentences, limit: [*range(limit, sum(sentences), limit), sum(sentences)],  # always full
    "kept": 100,
    "growth": lambda sizes, values: (np.polyfit(sizes, values, 1)[0], 1.0),
    "half-bytes": 64.512,
}


def solutions(number: str) -> dict[str, Any]:
    """By exercise, what the folded solution below its cell says: the last name its code binds, or its first value."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    found: dict[str, Any] = {}
    for cell, below in zip(cells, cells[1:], strict=False):
        asked = re.search(r'check\("([\w-]+)"', cell.source) if cell.cell_type == "code" else None
        if asked is None:
            continue
        folded = below.source.split("<summary>Solution</summary>")[1].split("</details>")[0]
        code = re.search(r"```python\n(.*?)```", folded, re.S)
        if code is None:
            found[asked[1]] = ast.literal_eval(re.search(r"`([^`]+)`", folded)[1])  # type: ignore[index]
            continue
        names: dict[str, Any] = {}
        exec(code[1], names)
        assert f"{list(names)[-1]} = ..." in cell.source, "the solution has the name that the cell asks for"
        found[asked[1]] = names[list(names)[-1]]
    return found


@pytest.mark.parametrize("number", ["05", "06", "07", "08"])
def test_folded_solutions_are_right_and_wrong_answers_are_not(number: str) -> None:
    found = solutions(number)
    assert found, "every notebook has an exercise that is checked"
    for name, solution in found.items():
        assert repr(check(name, solution)) == f"{name}: right"
        assert repr(check(name, WRONG[name])).startswith(f"{name}: not yet: ")


def test_formulas_at_their_edges() -> None:
    assert theory.clipped_loss(9.0, 1.0, 0.2) == -1.2 and theory.clipped_loss(9.0, -1.0, 0.2) == 9.0
    assert theory.k3(-1.0, -1.0) == 0.0 and min(theory.k3(-1.0, at) for at in (-4.0, -1.1, -0.9)) > 0
    assert theory.gae([], [], 1.0, 1.0) == []
    assert theory.cuts([3, 3], 6) == [6] and theory.cuts([3, 3], 5) == [3, 6]
    assert theory.growth([1.0, 10.0], [5.0, 50.0]) == pytest.approx((1.0, 5.0))
