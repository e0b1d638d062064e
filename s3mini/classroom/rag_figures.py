"""Naive RAG in figures: how often it succeeds per question set, beside what its retriever found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ..errors import DataError
from ..protocols.parsing import strip_reasoning, thoughts
from ..rag import RagCache
from ..records import Hit, Question, Score
from ..report.html import Rich, render, verdict
from ..report.plots import COLOURS, MUTED, Plot, styled
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


COLUMNS = {
    "GenAcc": "gen_acc", "EM": "em", "F1": "f1", "gold recall": "recall", "all gold read": "all_gold",
    "GenAcc where all gold read": "given_gold", "failed, gold unread": "room",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class RagFigures(Rich):
    """Naive RAG per question set, as a table, and the mean over sets (each set counts the same)."""

    sets: tuple[SetFigures, ...]
    average: float

    @styled
    def plot(self) -> Plot:
        """Per set: how often naive RAG succeeds, beside how often it read every gold document."""
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(self.sets))
        read, right = [s.all_gold or 0.0 for s in self.sets], [s.gen_acc for s in self.sets]
        axes.bar(places - 0.2, read, 0.36, color="#cbd2d9", label="all gold documents read")
        axes.bar(places + 0.2, right, 0.36, color=COLOURS["rag-dense"], label="GenAcc")
        axes.axhline(self.average, color=MUTED, lw=1, ls="--", label=f"average GenAcc {self.average:.2f}")
        axes.set_xticks(places, [s.name for s in self.sets])
        axes.set_ylim(0, 1.02)
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=3)
        return Plot("Naive RAG per question set: gold documents read, and GenAcc", figure)


def rag_figures(questions: Sequence[Question], cache: RagCache) -> RagFigures:
    """Naive RAG's figures on the questions, by their set, in order of appearance.

    Raises:
        DataError: no questions. StageError: one that naive RAG did not answer.
    """
    if not questions:
        raise DataError("no questions to report on")
    by_set: dict[str, list[Question]] = {}
    for question in questions:
        by_set.setdefault(str(question.metadata.get("set", "questions")), []).append(question)
    sets = tuple(_figures(name, members, cache) for name, members in by_set.items())
    average = sum(s.gen_acc for s in sets) / len(sets)
    rows = [
        {"set": (s.name, f"n = {s.n}")} | {head: getattr(s, name) for head, name in COLUMNS.items()}
        for s in sets
    ]
    note = f"GenAcc averaged over the sets: {average:.3f}. Recall: share of a question's gold documents read."
    shown = rows_table(rows, note)
    return RagFigures(shown.text, shown.html, sets, average)


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
    gold, answer = set(question.gold_ids), strip_reasoning(reply)
    told = verdict(score) if score else ""
    html = render(
        "rag.html.j2", question=question, hits=hits, gold=gold, answer=answer, score=score, told=told, reply=reply,
        thought=" ".join(thoughts(reply)), missed=len(gold - {hit.document.id for hit in hits}),
    )  # fmt: skip
    lines = [f"question: {question.question}"]
    for rank, hit in enumerate(hits, 1):
        mark = " [gold]" if hit.document.id in gold else ""
        lines.append(f"  {rank}. {hit.document.title}{mark}  {hit.score:.3f}")
    if reply:
        lines += [f"reply: {reply}", f"accepted: {'; '.join(question.golden_answers)}", f"score: {told}"]
    return Rich("\n".join(lines), Markup(html))
