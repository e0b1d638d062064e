"""Long lists of questions, answered block by block into a log: by this process, or by many (`runs.ray`).

Naive RAG and evaluation say what is done with a block; an executor says where. The blocks, their order and the
records are the same with every executor, so a run begun with one goes on with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..records import Question
from .progress import tqdm
from .stages import JsonlLog, Stage

ANSWERS = "answers.jsonl"

Context = TypeVar("Context")
Record = Any
"""What is stored of a question: a dict that JSON takes, with the question's ``id``."""
Work = Callable[[Context, Sequence[Question]], list[Record]]
"""What is done with a block of questions, given what it is done with (models, a retriever): one record each, with
the question's ``id``, in their order."""
Executor = Callable[[Work[Any], Any, Iterable[Sequence[Question]]], Iterator[list[Record]]]
"""Who does the work, in the given context: yields what it makes of each block, in the blocks' order."""


def in_process(work: Work[Any], context: Any, blocks: Iterable[Sequence[Question]]) -> Iterator[list[Record]]:
    """The local executor: one block after the other, by this process and the context it is given."""
    return (work(context, block) for block in blocks)


def answer_missing(
    stage: Stage,
    questions: Sequence[Question],
    size: int,
    work: Work[Context],
    context: Context,
    executor: Executor = in_process,
    bar: tqdm | None = None,
) -> list[Record]:
    """One record per question, in the questions' order: those in the stage's log, and the missing ones made now.

    ``size`` questions make a block, which is what a kill can lose.
    """
    with JsonlLog(stage.dir / ANSWERS) as log:
        answered: dict[str, Record] = {record["id"]: record for record in log}
        missing = [question for question in questions if question.id not in answered]
        if bar is not None:
            bar.update(len(questions) - len(missing))
        blocks = (missing[first : first + size] for first in range(0, len(missing), size))
        for new in executor(work, context, blocks):
            log.extend(new)
            answered.update((record["id"], record) for record in new)
            if bar is not None:
                bar.update(len(new))
    return [answered[question.id] for question in questions]
