"""DeepRetrieval (Jiang et al. 2025): one rewritten query, boolean, for BM25; trained on retrieval recall.

The model thinks, then writes ``<answer>{"query": "(A AND B) OR C"}</answer>``. Its ``k`` documents are the
generator's context; there is no second turn. The query is boolean: the retriever must read it so
(``retrieval.boolean``).
"""

from __future__ import annotations

from .base import Action, History, Protocol
from .parsing import parse_query, tagged, without_thoughts
from .wordings import Wordings


class DeepRetrievalProtocol(Protocol):
    """A single search, run after the model is done."""

    name = "deepretrieval"
    stop = ("</answer>", "<information>")
    start_k = 0
    turns = 1
    retriever, reward, filtered = "boolean", "recall", False
    numbers = ("k",)

    def __init__(self, k: int = 3, wordings: Wordings = "full") -> None:
        super().__init__(wordings)
        self.k = k

    def parse(self, text: str, history: History) -> Action:
        """Valid is one ``<answer>`` with one query that is not empty."""
        queries = [parse_query(inner) for inner in tagged(without_thoughts(text), "answer")]
        if len(queries) != 1 or not queries[0]:
            problem = "empty query" if queries == [""] else f"{len(queries)} queries instead of one"
            return Action(valid=False, problem=problem)
        return Action(query=queries[0], complete=True)
