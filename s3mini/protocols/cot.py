"""Chain of thought: no retrieval; reason inside ``<think>``, then answer (the paper's CoT baseline)."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Document
from .base import Action, History, Protocol
from .parsing import strip_reasoning
from .wordings import Message, Wordings, question_messages


class CotProtocol(Protocol):
    """One turn, no documents; what follows the reasoning is the answer."""

    name = "cot"
    stop = ()
    start_k = k = turns = 0

    def __init__(self, wordings: Wordings = "full") -> None:
        self.wordings: Wordings = wordings

    def start(self, question: str, documents: Sequence[Document]) -> list[Message]:
        """System message and question."""
        return question_messages("cot", self.wordings, question)

    def parse(self, text: str, history: History) -> Action:
        """The whole turn: valid if an answer follows the reasoning."""
        answer = strip_reasoning(text)
        problem = "" if answer else "no answer after the reasoning"
        return Action(complete=True, answer=answer, valid=bool(answer), problem=problem)

    def render(self, documents: Sequence[Document]) -> str:
        """Never called: nothing is retrieved."""
        return ""

    def context(self, history: History) -> list[Document]:
        """Nothing."""
        return []
