"""A person's check of the metrics: outputs that somebody has read and labelled (paper, section 6, the human study).

A file of lines ``{"question", "golden_answers", "output", "accepted", "kind"}``; ``accepted`` is the person's verdict,
``kind`` says what is awkward about the output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..records import Question
from ..reward import Judge, score_answers
from ..statistics import bootstrap_mean

LABELLED = "data/mini/labelled.jsonl"
METRICS = ("em", "f1", "span", "judge", "gen_acc")
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
    if not path.is_file():
        raise DataError(f"{path}: no such file of labelled outputs")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            question = Question(f"{path.stem}-{number}", record["question"], tuple(record["golden_answers"]))
            output, accepted, kind = record["output"], record["accepted"], record["kind"]
            if not isinstance(accepted, bool) or not isinstance(output, str):
                raise ValueError("accepted must be true or false, output a text")
            found.append(Labelled(question, output, accepted, kind))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a labelled output ({error!r})") from error
    return found


def verdicts(labelled: Sequence[Labelled], judge: Judge) -> list[dict[str, bool]]:
    """What each metric says of each output; the judge is asked about all of them."""
    scores = score_answers(
        [one.output for one in labelled], [one.question for one in labelled], judge, judge_all=True
    )
    return [
        {
            "em": score.em == 1.0,
            "f1": score.f1 >= F1_ACCEPTS,
            "span": score.span,
            "judge": bool(score.judge),
            "gen_acc": score.gen_acc == 1.0,
        }
        for score in scores
    ]


def agreement(labelled: Sequence[Labelled], judge: Judge, seed: int = 0) -> dict[str, Any]:
    """Per metric, with intervals: ``finds``, the share it accepts of what the person accepts; ``false``, of what not.

    Raises:
        DataError: the person accepted none of the outputs, or all.
    """
    said = verdicts(labelled, judge)
    sides = {name: [i for i, one in enumerate(labelled) if one.accepted is want] for name, want in
             (("finds", True), ("false", False))}  # fmt: skip
    if not all(sides.values()):
        raise DataError("the labelled outputs need both accepted and rejected ones")
    return {
        metric: {
            name: bootstrap_mean([float(said[i][metric]) for i in chosen], seed=seed).as_json()
            for name, chosen in sides.items()
        }
        for metric in METRICS
    }
