"""The records that cross every boundary: documents, questions, hits, turns, episodes, scores, what a method collected.

All are frozen. Token sequences are tuples of ids, exactly as the model sampled or read them:
nothing in the package ever decodes and re-encodes them (the original code does, and its
log-probabilities drift from the text they are meant to score).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """One passage of the corpus. On disk: ``{"id": id, "contents": "\\"title\\"\\ntext"}`` (wiki-18)."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title and text in the wiki-18 layout; what retrievers index."""
        return f'"{self.title}"\n{self.text}'


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its accepted answers. On disk: a line of a FlashRAG-style JSONL file.

    ``metadata`` may hold ``gold_ids`` (ids of the documents that prove the answer), ``set`` and
    ``split``; the mini world also stores ``hops`` and ``evidence``. Of multiple choice it holds ``options``, in the
    order of their letters, and ``stem``. ``place`` is where it was read, ``file:line``.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False, repr=False)

    @property
    def gold_ids(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("gold_ids", ()))

    @property
    def hops(self) -> int:
        """Facts in the chain that proves the answer, as its set says, else its gold documents; 0: not known."""
        return int(self.metadata.get("hops", len(self.gold_ids)))

    @property
    def where(self) -> str:
        """For error messages: its place, else its id."""
        return self.place or f"question {self.id!r}"

    @property
    def stem(self) -> str:
        """The question as retriever and searcher are given it: without its options, which only the generator sees.

        (Question-only retrieval, as in MIRAGE, Xiong et al. 2024.)
        """
        return str(self.metadata.get("stem", self.question))


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved document and its score (higher is better; ties are broken by document id)."""

    document: Document
    score: float


def hit_ids(hits: Iterable[Hit]) -> list[str]:
    """The ids of the documents found, best first."""
    return [hit.document.id for hit in hits]


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the model wrote, what was understood, what the environment showed next.

    ``query`` is None when the model did not search; ``selected`` holds document ids (not ranks) and is
    None when the model selected nothing, in which case the block it judged is kept whole.
    ``selected`` refers to the block shown *before* this turn, ``shown`` is what this turn's query returned.
    """

    output: str
    query: str | None
    complete: bool
    selected: tuple[str, ...] | None
    shown: tuple[Hit, ...]
    valid: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """A whole rollout of one protocol on one question.

    ``prompt_ids`` and ``completion_ids`` concatenate to what the model saw; ``env_mask`` is 1 on the
    model's own tokens and 0 on the environment's; ``logprobs`` is 0.0 where ``env_mask`` is 0.
    ``context`` is the de-duplicated list of documents handed to the generator, in order.
    ``end`` says why it stopped: "complete", "turns" (budget used), "length" or "invalid".
    """

    question: Question
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    env_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]
    start: tuple[Hit, ...]
    context: tuple[Document, ...]
    end: str
    answer: str | None = None

    @property
    def searches(self) -> int:
        """Number of queries the model issued (the initial retrieval of begin-with-search not counted)."""
        return sum(turn.query is not None for turn in self.turns)

    @property
    def valid_format(self) -> float:
        """Share of turns whose format could be read, in [0, 1]."""
        return sum(turn.valid for turn in self.turns) / max(1, len(self.turns))


@dataclass(frozen=True, slots=True)
class Score:
    """How one generator answer fared. ``judge`` is None when the span match made asking needless."""

    answer: str
    em: float
    f1: float
    span: bool
    judge: bool | None

    @property
    def gen_acc(self) -> float:
        """GenAcc: span match or judge (paper, section 3)."""
        return float(self.span or bool(self.judge))


@dataclass(frozen=True, slots=True)
class Collected:
    """What a method hands over for one question.

    The documents in order; the episode that found them, if any; its own answer, where that is to be scored instead
    of the generator's; the answer's score where the method already has it (naive RAG's cache), with the seconds it took then.
    ``written``: tokens of the searcher's own, where the episode was read back (`episode_from_json`) and knows them no more.
    """

    context: tuple[Document, ...]
    episode: Episode | None = None
    answer: str | None = None
    score: Score | None = None
    seconds: float = 0.0
    written: int | None = None


# ------------------------------------------------------------------------ episodes on disk


def episode_as_json(episode: Episode) -> dict[str, Any]:
    """An episode as stored: texts and document ids, no token ids (those belong to training)."""
    return {
        "start": hit_ids(episode.start),
        "turns": [
            {
                "output": turn.output,
                "query": turn.query,
                "complete": turn.complete,
                "selected": None if turn.selected is None else list(turn.selected),
                "shown": hit_ids(turn.shown),
                "valid": turn.valid,
                "problem": turn.problem,
            }
            for turn in episode.turns
        ],
        "end": episode.end,
        "answer": episode.answer,
    }


def episode_from_json(record: Mapping[str, Any], documents: Mapping[str, Document]) -> Episode:
    """The episode of a stored record, its documents looked up; token ids and scores are not kept.

    Raises:
        DataError: the record has no episode, or names a document that the corpus lacks.
    """
    stored = record.get("episode")
    if stored is None:
        raise DataError(f"record {record['id']!r} holds no episode: its method ran none")

    def look_up(ids: Sequence[str]) -> tuple[Document, ...]:
        for i in ids:
            if i not in documents:
                raise DataError(
                    f"record {record['id']!r}: document {i!r} is not in the corpus; evaluate again"
                )
        return tuple(documents[i] for i in ids)

    def hits(ids: Sequence[str]) -> tuple[Hit, ...]:
        return tuple(Hit(d, 0.0) for d in look_up(ids))

    turns = tuple(
        Turn(
            t["output"],
            t["query"],
            t["complete"],
            None if t["selected"] is None else tuple(t["selected"]),
            hits(t["shown"]),
            t["valid"],
            t["problem"],
        )
        for t in stored["turns"]
    )
    question = Question(record["id"], record["question"], tuple(record["golden_answers"]))
    return Episode(
        question, (), (), (), (), turns, hits(stored["start"]), look_up(record["context"]),
        stored["end"], stored["answer"],
    )  # fmt: skip
