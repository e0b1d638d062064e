"""Naive RAG in figures: how often it succeeds per question set, beside what its retriever found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..errors import DataError
from ..protocols.parsing import strip_reasoning
from ..rag import RagCache
from ..records import Hit, Question, Score
from ..report.html import Rich, templates, verdict
from ..report.plots import COLOURS, GRID, MUTED, STYLE, Plot
from ..report.tables import rows_table


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Naive RAG on one question set; all shares in [0, 1].

    ``recall``: mean share of a question's gold documents among those read; ``all_gold``: share of questions
    with every gold document among them; both None where the questions name no gold documents.
    ``given_gold``: GenAcc where every gold document was read, None when it never was. ``room``: share of
    questions that fail with a gold document unread: what better search can win.
    """

    name: str
    n: int
    gen_acc: float
    em: float
    f1: float
    recall: float | None
    all_gold: float | None
    given_gold: float | None
    room: float | None


@dataclass(frozen=True, slots=True, repr=False)
class RagFigures:
    """Naive RAG per question set, and the mean over sets (each set counts the same)."""

    sets: tuple[SetFigures, ...]

    @property
    def average(self) -> float:
        """Mean GenAcc over the sets."""
        return sum(s.gen_acc for s in self.sets) / len(self.sets)

    def _table(self) -> Rich:
        rows = [
            {
                "set": (s.name, f"n = {s.n}"),
                "GenAcc": s.gen_acc,
                "EM": s.em,
                "F1": s.f1,
                "gold recall": s.recall,
                "all gold read": s.all_gold,
                "GenAcc where all gold read": s.given_gold,
                "failed, gold unread": s.room,
            }
            for s in self.sets
        ]
        note = f"GenAcc averaged over the sets: {self.average:.3f}. Recall: share of a question's gold documents read."
        return rows_table(rows, note)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def plot(self) -> Plot:
        """Per set: how often naive RAG succeeds, beside how often it read every gold document."""
        with rc_context(STYLE):
            figure = Figure(figsize=(9, 3.2), layout="constrained")
            axes = figure.subplots()
            places = np.arange(len(self.sets))
            read, right = [s.all_gold or 0.0 for s in self.sets], [s.gen_acc for s in self.sets]
            axes.bar(places - 0.2, read, 0.36, color="#cbd2d9", label="all gold documents read")
            axes.bar(places + 0.2, right, 0.36, color=COLOURS["rag-dense"], label="GenAcc")
            axes.axhline(self.average, color=MUTED, lw=1, ls="--", label=f"average GenAcc {self.average:.2f}")
            axes.set_xticks(places, [s.name for s in self.sets])
            axes.set_ylim(0, 1.02)
            axes.grid(axis="y", color=GRID)
            axes.tick_params(length=0)
            figure.legend(loc="outside upper left", ncols=3)
        return Plot("Naive RAG per question set: gold documents read, and GenAcc", figure)


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
    recalls = [gold_recall(question, cache) for question in questions]
    known = [(share, s.gen_acc) for share, s in zip(recalls, scores, strict=True) if share is not None]
    n = len(questions)
    return SetFigures(
        name,
        n,
        gen_acc=sum(score.gen_acc for score in scores) / n,
        em=sum(score.em for score in scores) / n,
        f1=sum(score.f1 for score in scores) / n,
        recall=_mean([share for share, _ in known]),
        all_gold=_mean([float(share == 1) for share, _ in known]),
        given_gold=_mean([right for share, right in known if share == 1]),
        room=_mean([float(share < 1 and not right) for share, right in known]),
    )


def rag_view(question: Question, hits: Sequence[Hit], reply: str = "", score: Score | None = None) -> Rich:
    """Naive RAG on one question, to look at: what it read (gold documents marked), the whole reply, the score."""
    gold = set(question.gold_ids)
    answer = strip_reasoning(reply)
    told = verdict(score) if score else ""
    shown = {"question": question, "hits": hits, "gold": gold, "answer": answer, "score": score, "told": told}
    html = templates().get_template("rag.html.j2").render(
        shown, reply=reply, thought=reply.removesuffix(answer).strip(),
        missed=len(gold - {hit.document.id for hit in hits}),
    )  # fmt: skip
    lines = [f"question: {question.question}"]
    for rank, hit in enumerate(hits, 1):
        mark = " [gold]" if hit.document.id in gold else ""
        lines.append(f"  {rank}. {hit.document.title}{mark}  {hit.score:.3f}")
    if reply:
        lines += [f"reply: {reply}", f"accepted: {'; '.join(question.golden_answers)}", f"score: {told}"]
    return Rich("\n".join(lines), Markup(html))
