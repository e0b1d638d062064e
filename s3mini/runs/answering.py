"""Long lists of questions, answered block by block into a log: by this process, or by many (`ray_engine`).

Naive RAG and evaluation say what is done with a block; an engine says where. The blocks, their order and the
records are the same with every engine, so a run begun with one goes on with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..records import Question
from ..results import Record
from .stages import JsonlLog, Stage

if TYPE_CHECKING:
    from ..methods import Bench

ANSWERS = "answers.jsonl"

Work = Callable[["Bench", Sequence[Question]], list[Record]]
"""What is done with a block of questions: one record each, with the question's ``id``, in their order."""
Engine = Callable[[Work, "Bench", Iterable[Sequence[Question]]], Iterator[list[Record]]]
"""Yields what the work makes of each block, in the blocks' order."""


def here(work: Work, bench: Bench, blocks: Iterable[Sequence[Question]]) -> Iterator[list[Record]]:
    """The local engine: one block after the other, by this process and the bench it is given."""
    for block in blocks:
        yield work(bench, block)


@contextmanager
def open_engine(name: str, open_bench: Callable[[], Bench], workers: int | None = None) -> Iterator[Engine]:
    """The engine called "local" or "ray"; the latter's processes open a bench each and end with the context.

    Raises:
        DataError: more workers than processors.
    """
    if name == "local":
        yield here
        return
    from .ray import RayEngine

    with RayEngine(open_bench, workers) as engine:
        yield engine


def answer_missing(
    stage: Stage,
    questions: Sequence[Question],
    size: int,
    work: Work,
    bench: Bench,
    engine: Engine = here,
    bar: tqdm[Any] | None = None,
) -> list[Record]:
    """One record per question, in the questions' order: those in the stage's log, and the missing ones made now.

    ``size`` questions make a block, which is what a kill can lose.
    """
    with JsonlLog(stage.dir / ANSWERS) as log:
        made: dict[str, Record] = {record["id"]: record for record in log}
        missing = [question for question in questions if question.id not in made]
        if bar is not None:
            bar.update(len(questions) - len(missing))
        blocks = (missing[first : first + size] for first in range(0, len(missing), size))
        for new in engine(work, bench, blocks):
            log.extend(new)
            made.update((record["id"], record) for record in new)
            if bar is not None:
                bar.update(len(new))
    return [made[question.id] for question in questions]
