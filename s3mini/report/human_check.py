"""A person's check of the metrics: outputs that somebody has read and labelled (paper, section 6, the human study).

A file of lines ``{"question", "golden_answers", "output", "accepted", "kind"}``; ``accepted`` is the person's verdict,
``kind`` says what is awkward about the output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def agreement_table(people: Mapping[str, Any], counts: tuple[int, int]) -> Rich:
    """How each metric agrees with the person (`agreement`); ``counts`` of accepted and rejected outputs."""
    rows = []
    for metric, sides in people.items():
        cells = [Cell(percent(sides[name]["mean"]), interval(sides[name])) for name in ("finds", "false")]
        rows.append(Row(metric, cells, kind="ours" if metric == "gen_acc" else ""))
    right, wrong = (f"n = {count}" for count in counts)
    heads = ["metric", ("accepts of the right ones", right), ("accepts of the wrong ones", wrong)]
    return table(heads, rows, "Percent, with 95 % intervals; right and wrong as labelled.")
