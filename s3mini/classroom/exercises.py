"""The exercises of the notebooks and their checker: it says what is wrong, and never gives the answer away.

``check("f1", your_function)`` calls the function on cases and compares it with the package;
``check("span-cost", 2)`` compares a value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .. import reward
from ..errors import DataError
from ..report.html import Rich
from . import theory
from .study import reciprocal_rank_fusion

Case = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Exercise:
    """What is asked, the right answer (a function for functions), and the cases a function is tried on."""

    asks: str
    expected: Any
    cases: tuple[Case, ...] = ()


GOLDS = ("The Silver Mill", "Silver Mill (film)")

EXERCISES: dict[str, Exercise] = {
    "fusion": Exercise(
        "fusion(rankings): one ranking from several, by the sum of 1 / (60 + rank), ranks from 1",
        reciprocal_rank_fusion,
        (([[7, 3, 5]],), ([[1, 2, 3], [3, 1, 4]],), ([[1, 2, 3, 4, 5], [5, 6]],), ([[], [2, 1]],)),
    ),
    "f1": Exercise(
        "f1(answer, golds): SQuAD's F1, the best over the golden answers",
        reward.f1_score,
        (
            ("Silver Mill", GOLDS),
            ("the old silver mill by the river", GOLDS),
            ("silver mill film", GOLDS),
            ("silver silver", ("silver mill", "gold")),
            ("nothing like it", GOLDS),
            ("", GOLDS),
        ),
    ),
    "span-cost": Exercise("how many of the four answers the judge has to be asked about", 2),
    "advantages": Exercise(
        "advantages(rewards): GRPO's advantages of one group, without scaling",
        lambda rewards: reward.group_advantages(rewards, len(rewards), "none").tolist(),
        (([1.0, 0.0, 0.0, 1.0],), ([0.0, -1.0, -1.0],), ([1.0, 1.0, 1.0],), ([0.0, 0.0, 0.0, 1.0, 0.0],)),
    ),
    "batch-scale": Exercise('whether GBR and GenAcc give the same advantages with scale="batch"', False),
}

EXERCISES |= {  # of notebooks 05 to 08
    "clipped-loss": Exercise(
        "clipped_loss(ratio, advantage, epsilon): minus the clipped objective of one token",
        theory.clipped_loss,
        (
            (1.0, 1.0, 0.2),
            (1.5, 1.0, 0.2),
            (0.5, 1.0, 0.2),
            (1.5, -2.0, 0.2),
            (0.5, -2.0, 0.2),
            (1.05, 0.5, 0.1),
        ),
    ),
    "gae": Exercise(
        "gae(rewards, values, gamma, lam): one advantage a token; nothing comes after the last",
        theory.gae,
        (
            ([0.0, 0.0, 1.0], [0.2, 0.5, 0.9], 1.0, 1.0),
            ([0.0, 0.0, 1.0], [0.2, 0.5, 0.9], 1.0, 0.0),
            ([0.0, 0.5, 0.0, -1.0], [0.1, 0.4, -0.2, 0.3], 0.9, 0.95),
            ([1.0], [0.25], 1.0, 0.95),
        ),
    ),
    "paired-interval": Exercise(
        "paired_interval(a, b, draws): mean of a - b, and its 95 % interval over the draws (rows of indices)",
        theory.paired_interval,
        (
            (
                [1.0, 1.0, 0.0, 1.0],
                [0.0, 1.0, 0.0, 0.0],
                [[0, 1, 2, 3], [3, 3, 1, 0], [2, 2, 1, 1], [0, 0, 3, 3]],
            ),
            ([1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [[0, 0, 0], [1, 2, 1], [2, 2, 2], [0, 1, 2], [1, 1, 1]]),
        ),
    ),
    "cuts": Exercise(
        "cuts(sentences, limit): after which words the passages end, given each sentence's number of words",
        theory.cuts,
        (([4, 4, 4], 9), ([10], 4), ([3, 9, 3], 8), ([2, 7, 1, 6], 8), ([5], 5)),
    ),
    "kept": Exercise("how many of the 500 old questions change their split when 100 are added", 0),
    "growth": Exercise(
        "growth(sizes, values): exponent and factor of value = factor * size ** exponent",
        theory.growth,
        (
            ([1e3, 1e4, 1e5], [2e3, 2e4, 2e5]),
            ([1e4, 1e5, 1e6], [0.3, 0.95, 3.0]),
            ([10.0, 20.0, 50.0, 70.0], [1.0, 3.5, 11.0, 30.0]),
        ),
    ),
    "half-bytes": Exercise("GB (10⁹ bytes) of a float16 index of 21 million vectors of 768 numbers", 32.256),
}


def check(name: str, given: Any) -> Rich:
    """Whether ``given`` solves the exercise; shows the first case it fails, with its own result.

    Raises:
        DataError: no exercise of that name.
    """
    if name not in EXERCISES:
        raise DataError(f"no exercise {name!r}: choose one of {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    if given is None or given is ...:
        return _verdict(name, None, exercise.asks)
    if not exercise.cases:
        right = type(given) is type(exercise.expected) and given == exercise.expected
        return _verdict(name, right, "" if right else f"not {given!r}")
    if not callable(given):
        return _verdict(name, False, f"give the function itself, not {given!r}")
    for case in exercise.cases:
        call = f"on {', '.join(map(repr, case))}"
        try:
            result = given(*case)
        except Exception as error:  # whatever a learner's function raises is shown to the learner
            return _verdict(name, False, f"{call} it raises {type(error).__name__}: {error}")
        if not _same(result, exercise.expected(*case)):
            return _verdict(name, False, f"{call} it gives {result!r}")
    return _verdict(name, True, "")


def _same(result: Any, expected: Any) -> bool:
    if isinstance(expected, Sequence):
        try:
            values = list(result)
        except TypeError:
            return False
        return len(values) == len(expected) and all(map(_same, values, expected))
    return isinstance(result, (int, float)) and math.isclose(result, expected, rel_tol=1e-6, abs_tol=1e-9)


def _verdict(name: str, right: bool | None, told: str) -> Rich:
    word, kind = {None: ("open", ""), True: ("right", "good"), False: ("not yet", "bad")}[right]
    text = f"{name}: {word}" + (f": {told}" if told else "")
    return Rich(text, Markup('<span class="badge {}">{}: {}</span> {}').format(kind, name, word, told))
