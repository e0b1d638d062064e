"""Search-R1 (Jin et al. 2025; the paper's strongest baseline): the model searches and answers by itself.

Each turn holds ``<search>query</search>``, answered by ``k`` documents, or ``<answer>…</answer>``, which ends the
episode; thoughts may stand before either. It is trained on the exact match of its *own* answer. The "(Ret)" rows
of the paper give what it retrieved to the frozen generator instead.
"""

from __future__ import annotations

from .base import Action, History, Protocol
from .parsing import parse_query, split_forged, tagged, without_thoughts
from .wordings import Wordings


class SearchR1Protocol(Protocol):
    """Numbers as in the paper: 3 documents a search, at most 4 searches, no search before the model asks."""

    name = "search-r1"
    stop = ("</search>", "</answer>", "<information>")
    start_k = 0
    reward, own_answer, filtered = "em", True, False
    numbers = ("k", "turns")

    def __init__(self, k: int = 3, turns: int = 4, wordings: Wordings = "full") -> None:
        super().__init__(wordings)
        self.k, self.turns = k, turns

    def parse(self, text: str, history: History) -> Action:
        """Valid is exactly one of: one search with words in it, or one answer."""
        text, forged = split_forged(text)
        text = without_thoughts(text)
        answers = tagged(text, "answer")
        queries = [parse_query(inner) for inner in tagged(text, "search")]
        if forged:
            return Action(valid=False, problem="wrote <information> itself")
        if len(answers) + len(queries) != 1:
            wrote = f"{len(queries)} searches and {len(answers)} answers"
            return Action(valid=False, problem=f"{wrote} in one turn instead of one of either")
        if answers:
            return Action(complete=True, answer=answers[0])
        if not queries[0]:
            return Action(valid=False, problem="empty search")
        return Action(query=queries[0])
