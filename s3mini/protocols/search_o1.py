"""Search-o1 (Li et al. 2025): searches inside the reasoning, results condensed before they are shown.

The model reasons inside ``<think>``; ``<|begin_search_query|>…<|end_search_query|>`` asks. A *reader* (the same
model, another prompt: "reason in documents") states what helps of the ``k`` documents found, and only
that is inserted, between ``<|begin_search_result|>`` and ``<|end_search_result|>``. What follows ``</think>`` is the
model's own answer; the generator's context is everything that was retrieved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..records import Document
from .base import Action, History, Protocol
from .parsing import fold, strip_reasoning
from .wordings import Message, Wordings, context_messages, neutralise

Reader = Callable[[Sequence[Sequence[Message]]], list[str]]
"""Answers conversations: the ``reply`` of a chat model."""

BEGIN, END = "<|begin_search_query|>", "<|end_search_query|>"
RESULT, RESULT_END = "<|begin_search_result|>", "<|end_search_result|>"
_QUERY = re.compile(rf"{re.escape(BEGIN)}(.*?)(?:{re.escape(END)}|$)", re.DOTALL)


class SearchO1Protocol(Protocol):
    """``reader`` condenses what was found; None shows the documents themselves."""

    name = "search-o1"
    stop = (END, RESULT)
    start_k = 0
    numbers, needs_reader = ("k", "turns"), True

    def __init__(
        self, k: int = 3, turns: int = 4, wordings: Wordings = "full", reader: Reader | None = None
    ) -> None:
        super().__init__(wordings)
        self.k, self.turns, self.reader = k, turns, reader

    def parse(self, text: str, history: History) -> Action:
        """A query, or reasoning that is closed and followed by an answer."""
        if RESULT in text:
            return Action(valid=False, problem="wrote a search result itself")
        queries = [fold(inner) for inner in _QUERY.findall(text)]
        if queries:
            if len(queries) > 1 or not queries[0]:
                return Action(valid=False, problem="empty or more than one query")
            return Action(query=queries[0])
        answer = strip_reasoning(text) if "</think>" in text else ""
        problem = "" if answer else "neither a query nor an answer after </think>"
        return Action(complete=True, answer=answer, valid=bool(answer), problem=problem)

    def render(self, documents: Sequence[Document]) -> str:
        """Documents as they are, for a protocol without a reader."""
        return self._result("\n".join(f"{d.title}: {d.text}" for d in documents))

    def observe(self, histories: Sequence[History]) -> list[str]:
        """What the reader makes of each history's last block, all in one call.

        Raises:
            ModelError: the reader failed.
        """
        if self.reader is None:
            return super().observe(histories)
        asked = [
            context_messages(
                "reader",
                self.wordings,
                f"{history.question.stem} Search: {history.turns[-1].query}",
                [hit.document for hit in history.block],
            )
            for history in histories
        ]
        return [self._result(strip_reasoning(reply)) for reply in self.reader(asked)]

    @staticmethod
    def _result(text: str) -> str:
        return f"{RESULT} {neutralise(text.strip())}{RESULT_END}"
