"""IRCoT (Trivedi et al. 2023; the paper's baseline): reasoning and retrieval take turns.

The question's own ``k`` documents open the episode. Each turn the model writes one sentence of reasoning, a line;
the sentence is the next query. The line that begins with "So the answer is:" ends the episode. At
most ``turns`` sentences are searched for. The generator's context is everything that was retrieved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..records import Document
from .base import Action, History, Protocol
from .parsing import fold, split_forged, without_thoughts
from .wordings import Wordings

_ANSWER = re.compile(r"\bso the answer is\b[:\s]*(.*)", re.IGNORECASE | re.DOTALL)


class IrcotProtocol(Protocol):
    """Numbers as in the paper: 3 documents a step, at most 4 steps."""

    name = "ircot"
    stop = ("\n", "<information>")
    numbers = ("k", "turns")

    def __init__(self, k: int = 3, turns: int = 4, wordings: Wordings = "full") -> None:
        super().__init__(wordings)
        self.k, self.start_k, self.turns = k, k, turns

    def parse(self, text: str, history: History) -> Action:
        """The answer, or a sentence that is the next query."""
        text, forged = split_forged(text)
        sentence = fold(without_thoughts(text))
        if forged:
            return Action(valid=False, problem="wrote <information> itself")
        if answer := _ANSWER.search(sentence):
            return Action(complete=True, answer=answer[1].strip().rstrip("."))
        if not sentence:
            return Action(valid=False, problem="an empty line instead of a sentence")
        return Action(query=sentence)

    def render(self, documents: Sequence[Document]) -> str:
        """The usual block; the model's line has ended in a newline already."""
        return super().render(documents).lstrip("\n")
