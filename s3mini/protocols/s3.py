"""s3's loop (paper, sections 3 and A): search, select, decide, at most ``turns`` times.

The episode opens with the question and its own first ``begin_k`` documents. Each turn the model may
select documents of the last block, then either declares the search complete or asks a query, which is
answered by ``k`` documents. ``k``-``select``-``turns`` is how the paper names a configuration (8-3-3).

How a turn is read:

- *Valid* is exactly one of: complete; or not complete, with one non-empty query. A query without
  ``<search_complete>`` is read as "False" (models that ask have decided), which ``problem`` records.
  Anything else is invalid and ends the episode with what has been collected.
- A block the model selected from gives the first ``select`` numbers it named. A block it did not select
  from is kept whole, and so is one whose selection names no document of it; an explicit empty
  selection (``[]``, "none") drops the block.
- With ``select`` 0 nothing is selected: every block is kept whole, whatever the model names.
- A model that writes ``<information>`` itself is cut there and the turn is invalid: what it invented is
  never evidence.
- With ``skip_kept`` a search shows the ``k`` best documents of those that are not kept already, so that who asks the same again
  reads on in its ranking. (The paper's shows them again.)
- Generation also stops at a forged ``<information>``, so no budget is spent on inventing documents.

Departures from the original code: the first block is shown and used at the same length in training and
evaluation; numbers above 8 and titles with quotation marks or brackets are ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Document, Hit
from .base import Action, History, Protocol, union
from .parsing import parse_flag, parse_ids, parse_query, split_forged, tagged, without_thoughts
from .wordings import Message, Wordings, question_messages, selecting


class S3Protocol(Protocol):
    """The paper's protocol; arguments as in the profile's ``s3`` block."""

    name = "s3"
    stop = (
        "</query>",
        "<search_complete>True</search_complete>",
        "<search_complete>true</search_complete>",
        "<information>",
    )
    numbers = ("k", "select", "turns", "begin_k", "skip_kept")

    def __init__(
        self,
        k: int = 8,
        select: int = 3,
        turns: int = 3,
        begin_k: int = 3,
        wordings: Wordings = "full",
        skip_kept: bool = False,
    ) -> None:
        if min(k, turns) < 1 or min(select, begin_k) < 0:
            raise ValueError(
                f"k and turns start at 1, select and begin_k at 0: got {k}, {turns}, {select}, {begin_k}"
            )
        super().__init__(wordings)
        self.k, self.select, self.turns, self.start_k = k, select, turns, begin_k
        self.skip_kept = skip_kept

    def start(self, question: str, documents: Sequence[Document]) -> list[Message]:
        """System message, question and the first documents."""
        told = selecting(self.select)
        return question_messages("s3", self.wordings, question, documents, selecting=told, turns=self.turns)

    def parse(self, text: str, history: History) -> Action:
        """Read one turn; see the module's docstring for the rules."""
        text, forged = split_forged(text)
        text = without_thoughts(text)
        selected, problems = self._selected(text, len(history.block))
        flags = {parse_flag(t) for t in tagged(text, "search_complete")}
        queries = list(dict.fromkeys(parse_query(t) for t in tagged(text, "query")))
        query = queries[0] if len(queries) == 1 else ""
        fault = ""
        if forged:
            fault = "wrote <information> itself"
        elif None in flags:
            fault = "search_complete is neither True nor False"
        elif len(flags) == 2:
            fault = "search_complete is both True and False"
        elif len(queries) > 1:
            fault = f"{len(queries)} queries in one turn"
        elif flags == {True} and query:
            fault = "search_complete is True, yet there is a query"
        elif flags != {True} and not query:
            fault = (
                "empty query" if queries else "no query" if flags else "neither search_complete nor a query"
            )
        elif not flags:
            problems.append("search_complete missing: read as False")
        if fault:
            return Action(selected=selected, valid=False, problem="; ".join([fault, *problems]))
        return Action(query or None, flags == {True}, selected, True, "; ".join(problems))

    def _selected(self, text: str, count: int) -> tuple[tuple[int, ...] | None, list[str]]:
        found = tagged(text, "important_info")
        if not found:
            return None, []
        if not self.select:
            return None, ["selection is switched off: block kept whole"]
        if not count:
            return None, ["selected from a block that does not exist"]
        choice = parse_ids(", ".join(found), count)
        problems = [f"no document {n} in the last block" for n in choice.dropped]
        if not choice.readable:
            return None, [*problems, "selection not readable: block kept whole"]
        if len(choice.ids) > self.select:
            problems.append(f"selected {len(choice.ids)} documents: the first {self.select} are kept")
        return choice.ids[: self.select], problems

    def context(self, history: History) -> list[Document]:
        """Selected documents of every block, unjudged blocks whole, each document once, in order."""
        blocks: list[tuple[Hit, ...]] = [history.start, *(turn.shown for turn in history.turns)]
        judgements = [turn.selected for turn in history.turns] + [None]
        kept = []
        for block, selected in zip(blocks, judgements, strict=True):
            documents = {hit.document.id: hit.document for hit in block}
            kept.append(
                [documents[i] for i in (documents if selected is None else selected) if i in documents]
            )
        return union(kept)
