"""Chain of thought: no retrieval; reason inside ``<think>``, then answer (the paper's CoT baseline)."""

from __future__ import annotations

from .base import Action, History, Protocol
from .parsing import strip_reasoning


class CotProtocol(Protocol):
    """One turn, no documents; what follows the reasoning is the answer."""

    name = "cot"
    stop = ()
    start_k = k = turns = 0

    def parse(self, text: str, history: History) -> Action:
        """The whole turn: valid if an answer follows the reasoning."""
        answer = strip_reasoning(text)
        problem = "" if answer else "no answer after the reasoning"
        return Action(complete=True, answer=answer, valid=bool(answer), problem=problem)
