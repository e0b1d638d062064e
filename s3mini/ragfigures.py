"""Naive RAG in figures: how often it succeeds per question set, beside what its retriever found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import DataError
from .rag import RagCache
from .records import Question
from .tables import html_table


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Naive RAG on one question set; all shares in [0, 1].

    ``recall``: mean share of a question's gold documents among those read; ``all_gold``: share of questions
    with every gold document among them; both None where the questions name no gold documents.
    ``given_gold``: GenAcc where every gold document was read, None when it never was.
    """

    name: str
    n: int
    gen_acc: float
    em: float
    f1: float
    recall: float | None
    all_gold: float | None
    given_gold: float | None


@dataclass(frozen=True, slots=True)
class RagFigures:
    """Naive RAG per question set, and the mean over sets (each set counts the same)."""

    sets: tuple[SetFigures, ...]

    @property
    def average(self) -> float:
        """Mean GenAcc over the sets."""
        return sum(s.gen_acc for s in self.sets) / len(self.sets)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per set, for tables."""
        return [
            {
                "set": s.name,
                "questions": s.n,
                **{
                    label: "–" if value is None else f"{value:.3f}"
                    for label, value in (
                        ("GenAcc", s.gen_acc),
                        ("EM", s.em),
                        ("F1", s.f1),
                        ("gold recall", s.recall),
                        ("all gold read", s.all_gold),
                        ("GenAcc if all read", s.given_gold),
                    )
                },
            }
            for s in self.sets
        ]

    def __str__(self) -> str:
        return "\n".join(f"{s.name}: GenAcc {s.gen_acc:.3f} (n={s.n})" for s in self.sets)

    def _repr_html_(self) -> str:
        return html_table(self.rows)


def rag_figures(questions: Sequence[Question], cache: RagCache) -> RagFigures:
    """Naive RAG's figures on the questions, by their set, in order of appearance.

    Raises:
        DataError: no questions. StageError: one that naive RAG did not answer.
    """
    if not questions:
        raise DataError("no questions to report on")
    sets: dict[str, list[Question]] = {}
    for question in questions:
        sets.setdefault(str(question.metadata.get("set", "questions")), []).append(question)
    return RagFigures(tuple(_figures(name, members, cache) for name, members in sets.items()))


def gold_recall(question: Question, cache: RagCache) -> float | None:
    """Share of the question's gold documents that naive RAG read; None when it names none."""
    gold = set(question.gold_ids)
    return len(gold & set(cache[question].context)) / len(gold) if gold else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _figures(name: str, questions: Sequence[Question], cache: RagCache) -> SetFigures:
    scores = [cache[question].score for question in questions]
    found = [gold_recall(question, cache) for question in questions]
    known = [share for share in found if share is not None]
    given = [score.gen_acc for score, share in zip(scores, found, strict=True) if share == 1.0]
    n = len(questions)
    return SetFigures(
        name,
        n,
        sum(score.gen_acc for score in scores) / n,
        sum(score.em for score in scores) / n,
        sum(score.f1 for score in scores) / n,
        _mean(known),
        _mean([float(share == 1.0) for share in known]),
        _mean(given),
    )
