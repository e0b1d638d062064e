"""What a protocol is: a method's conversation with its model, without the model and without the retriever.

The engine (``s3mini.episodes``) owns tokens, batching and retrieval; a protocol owns words: what the
model is told, how its text is read, how documents are shown, which of them reach the generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..records import Document, Episode, Hit, Question, Turn
from .wordings import Message, Wordings, question_messages, render_information


@dataclass(frozen=True, slots=True)
class Action:
    """What a turn's text was understood to say.

    ``query``: search for this. ``complete``: stop (after the query's search, if there is one too).
    ``selected``: 1-based numbers of documents in the last block shown, None when nothing readable was
    selected. ``valid``: the format was followed; an invalid turn ends its episode. ``problem``: what was
    wrong or had to be repaired, for people. ``answer``: the model's own answer, in protocols that ask for one.
    """

    query: str | None = None
    complete: bool = False
    selected: tuple[int, ...] | None = None
    valid: bool = True
    problem: str = ""
    answer: str | None = None


@dataclass(slots=True)
class History:
    """One episode so far: the question, the first block, the turns taken."""

    question: Question
    start: tuple[Hit, ...] = ()
    turns: list[Turn] = field(default_factory=list)

    @property
    def block(self) -> tuple[Hit, ...]:
        """The documents shown last, which the next turn may select from."""
        return self.turns[-1].shown if self.turns else self.start

    @property
    def searches(self) -> int:
        """Searches run so far, the first block's not counted."""
        return sum(turn.query is not None for turn in self.turns)


class Protocol(ABC):
    """One method. Subclasses set the attributes and say how text becomes actions; the rest may stay as it is here.

    ``name`` is also the role whose prompt `wordings` holds. ``turns`` is the largest number of searches; after the last one the model has one more turn.
    ``start_k`` documents for the question itself open the episode (0: none), ``k`` answer each query.
    ``skip_kept``: a search passes over documents that the episode keeps already, and shows the next ones.
    Generation stops after any of the strings in ``stop``. ``retriever`` answers the queries (None: the profile's own).

    Training: ``reward`` is what the method is trained for, a name of `reward.REWARDS` or `reward.DOCUMENT_REWARDS` (None: the
    profile's); ``own_answer``, whether it is the model's own answer that is rewarded, not the frozen generator's;
    ``filtered``, whether questions that naive RAG answers may be left out.

    Construction: ``numbers`` names the keyword arguments that a profile may set; with ``needs_reader`` there is one
    more, ``reader``, which condenses what was found (the ``reply`` of a chat model).
    """

    name: str
    start_k: int
    k: int
    turns: int
    stop: tuple[str, ...]
    retriever: str | None = None
    reward: str | None = None
    own_answer: bool = False
    filtered: bool = True
    skip_kept: bool = False
    numbers: tuple[str, ...] = ()
    needs_reader: bool = False

    def __init__(self, wordings: Wordings = "full") -> None:
        self.wordings: Wordings = wordings

    def start(self, question: str, documents: Sequence[Document]) -> list[Message]:
        """The conversation that opens an episode: system message, question and the first documents."""
        return question_messages(self.name, self.wordings, question, documents)

    @property
    def reach(self) -> int:
        """Documents to ask the retriever for: ``k``, and as many more as an episode may keep where those are skipped."""
        return self.k + self.skip_kept * (self.start_k + (self.turns - 1) * self.k)

    @abstractmethod
    def parse(self, text: str, history: History) -> Action:
        """Read one turn's text. Never raises, whatever the model wrote."""

    def render(self, documents: Sequence[Document]) -> str:
        """A query's documents as the model is shown them: a numbered block between ``<information>`` tags."""
        return render_information(documents)

    def context(self, history: History) -> list[Document]:
        """The generator's documents, each once, in order: all that was shown, where nothing is selected."""
        return everything(history)

    def observe(self, histories: Sequence[History]) -> list[str]:
        """The environment's text after each history's last turn, all episodes at once.

        The place for methods whose observation needs a model (Search-o1's reader); by default ``render``.
        """
        return [self.render([hit.document for hit in h.block]) for h in histories]


def union(blocks: Sequence[Sequence[Document]]) -> list[Document]:
    """Documents of all blocks in order, each id once."""
    first: dict[str, Document] = {}
    for block in blocks:
        for document in block:
            first.setdefault(document.id, document)
    return list(first.values())


def everything(history: History | Episode) -> list[Document]:
    """All that an episode was shown, each document once, in order: the context of protocols that do not select."""
    blocks = [history.start, *(turn.shown for turn in history.turns)]
    return union([[hit.document for hit in block] for block in blocks])
