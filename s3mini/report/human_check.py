"""A person's check of the metrics: outputs that somebody has read and labelled (paper, section 6, the human study).

A file of lines ``{"question", "golden_answers", "output", "accepted", "kind"}``; ``accepted`` is the person's verdict,
``kind`` says what is awkward about the output.

A judge's threshold is calibrated on them (`calibrate`): a small model leans to yes or to no whatever it is asked, and the
probability at which it changes its mind is then far from a half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..corpus import json_lines
from ..errors import DataError
from ..records import Question
from ..reward import Judge, score_answers
from ..statistics import bootstrap_mean
from .html import Cell, Rich, Row, table
from .tables import interval, percent

LABELLED = "data/mini/labelled.jsonl"
F1_ACCEPTS = 0.5  # F1 is a share; from here on it counts as accepting


@dataclass(frozen=True)
class Labelled:
    """One output and what a person thinks of it."""

    question: Question
    output: str
    accepted: bool
    kind: str


def read_labelled(path: Path) -> list[Labelled]:
    """The outputs of a file.

    Raises:
        DataError: no such file, or a malformed line, which is named.
    """
    labelled = []
    for _, place, record in json_lines(path):
        try:
            question = Question(place, record["question"], tuple(record["golden_answers"]))
            output, accepted = record["output"], record["accepted"]
            if not isinstance(accepted, bool) or not isinstance(output, str):
                raise ValueError("accepted must be true or false, output a text")
            labelled.append(Labelled(question, output, accepted, record["kind"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}: not a labelled output ({error!r})") from error
    return labelled


def verdicts(labelled: Sequence[Labelled], judge: Judge) -> list[dict[str, bool]]:
    """What each metric says of each output; the judge is asked about all of them."""
    outputs, questions = [one.output for one in labelled], [one.question for one in labelled]
    return [
        {
            "em": score.em == 1.0,
            "f1": score.f1 >= F1_ACCEPTS,
            "span": score.span,
            "judge": bool(score.judge),
            "gen_acc": score.gen_acc == 1.0,
        }
        for score in score_answers(outputs, questions, judge, judge_all=True)
    ]


def agreement(labelled: Sequence[Labelled], judge: Judge, seed: int = 0) -> dict[str, Any]:
    """Per metric, with intervals: ``finds``, the share it accepts of what the person accepts; ``false``, of what not.

    Raises:
        DataError: the person accepted none of the outputs, or all.
    """
    said = verdicts(labelled, judge)
    sides = {
        name: [metrics for metrics, one in zip(said, labelled, strict=True) if one.accepted is accepted]
        for name, accepted in (("finds", True), ("false", False))
    }
    if not all(sides.values()):
        raise DataError("the labelled outputs need both accepted and rejected ones")
    return {
        metric: {
            name: bootstrap_mean([float(metrics[metric]) for metrics in chosen], seed=seed).as_json()
            for name, chosen in sides.items()
        }
        for metric in said[0]
    }


def best_threshold(
    probabilities: Sequence[float] | np.ndarray, accepted: Sequence[bool] | np.ndarray
) -> float:
    """The threshold above which yes agrees with the person most often; of equals, the one nearest to a half.

    In (0, 1) and between two of the probabilities, so that none lies on it.
    """
    p, person = np.array(probabilities), np.array(accepted)
    edges = np.unique([0.0, 1.0, *p])
    gaps = [(low, high) for low, high in zip(edges, edges[1:], strict=False) if low < (low + high) / 2 < high]
    middles = [_between(low, high) for low, high in gaps]
    return max(middles, key=lambda t: (np.mean((p > t) == person), -abs(t - 0.5)))


def _between(low: float, high: float) -> float:
    """A number between two, with few digits: it is to be written into a profile."""
    middle = (low + high) / 2
    short = (float(f"{middle:.{digits}g}") for digits in range(1, 17))
    return next((t for t in short if low < t < high), middle)


@dataclass(frozen=True)
class Calibration:
    """A judge beside a person.

    ``threshold`` is the best; ``ranking`` the chance that the judge finds a right output likelier than a wrong one
    (area under the ROC curve; 0.5 is a guess), which no threshold changes. ``verdicts`` are (the person's, the judge's)
    by how the judge's were made: at the threshold set, at the best, at the best for the outputs to all other questions
    (what to expect of the calibration elsewhere), and always the same (what has to be beaten).
    """

    threshold: float
    ranking: float
    verdicts: Mapping[str, Sequence[tuple[bool, bool]]]


def calibrate(labelled: Sequence[Labelled], judge: Judge) -> Calibration:
    """The threshold at which the judge agrees best with the person, and how well it agrees at all.

    Raises:
        DataError: the person accepted none of the outputs, or all; or they answer one question only.
        ModelError: the judge failed.
    """
    person = np.array([one.accepted for one in labelled])
    asked = np.array([one.question.question for one in labelled])
    if len(set(person)) < 2 or len(set(asked)) < 2:
        raise DataError("to calibrate a judge takes accepted and rejected outputs, to two questions at least")
    p = np.array(
        judge.probabilities(
            [one.output for one in labelled], [one.question.golden_answers for one in labelled]
        )
    )
    best = best_threshold(p, person)
    others = {q: best_threshold(p[asked != q], person[asked != q]) for q in set(asked)}
    thresholds: dict[str, Any] = {
        f"threshold as set, {judge.threshold:g}": judge.threshold,
        f"calibrated, {best:g}": best,
        "calibrated on the other questions": np.array([others[q] for q in asked]),
    }
    said = {name: list(zip(person, p > t, strict=True)) for name, t in thresholds.items()}
    often = bool(person.mean() >= 0.5)
    said[f"always {'yes' if often else 'no'}"] = [(accepted, often) for accepted in person]
    ranking = stats.mannwhitneyu(p[person], p[~person]).statistic / (person.sum() * (~person).sum())
    return Calibration(best, float(ranking), said)


def calibration_table(found: Calibration) -> Rich:
    """How often the judge agrees with the person, and how often it errs on either side."""
    rows = []
    for name, pairs in found.verdicts.items():
        agrees = bootstrap_mean([float(person == judge) for person, judge in pairs]).as_json()
        wrong, right = ([judge for person, judge in pairs if person == side] for side in (False, True))
        counts = (f"{sum(wrong)} of {len(wrong)}", f"{len(right) - sum(right)} of {len(right)}")
        rows.append(Row(name, [Cell(percent(agrees["mean"]), interval(agrees)), *counts]))
    heads = ["judge", ("agrees", "95 % interval"), "yes to wrong ones", "no to right ones"]
    note = f"Percent of {len(pairs)} labelled outputs. Right ones get a higher probability than wrong ones"
    return table(heads, rows, f"{note} in {percent(found.ranking)} of 100 pairs.")


def agreement_table(people: Mapping[str, Any], counts: tuple[int, int]) -> Rich:
    """How each metric agrees with the person (`agreement`); ``counts`` of accepted and rejected outputs."""
    rows = []
    for metric, sides in people.items():
        cells = [Cell(percent(sides[name]["mean"]), interval(sides[name])) for name in ("finds", "false")]
        rows.append(Row(metric, cells, kind="ours" if metric == "gen_acc" else ""))
    right, wrong = (f"n = {count}" for count in counts)
    heads = ["metric", ("accepts of the right ones", right), ("accepts of the wrong ones", wrong)]
    return table(heads, rows, "Percent, with 95 % intervals; right and wrong as labelled.")
