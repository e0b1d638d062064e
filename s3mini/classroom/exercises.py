"""The exercises of the notebooks and their checker: it says what is wrong, and never gives the answer away.

``check("f1", your_function)`` calls the function on cases and compares it with the package;
``check("span-cost", 2)`` compares a value; ``check("protocol", YourClass)`` lets an engine play it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .. import reward
from ..errors import DataError
from ..protocols import Action, History, Protocol, S3Protocol
from ..protocols.wordings import Message, question_messages
from ..rag import is_yes_no
from ..records import Document, Episode, Hit, Question, Turn, hit_ids
from ..report.html import Rich
from . import theory
from .study import reciprocal_rank_fusion

Case = tuple[Any, ...]


def called(given: Callable[..., Any], *case: Any) -> Any:
    """What a function gives on a case."""
    return given(*case)


@dataclass(frozen=True, slots=True)
class Exercise:
    """What is asked, the right answer (a function for functions), the cases it is tried on, and how."""

    asks: str
    expected: Any
    cases: tuple[Case, ...] = ()
    use: Callable[..., Any] = called


GOLDS = ("The Silver Mill", "Silver Mill (film)")
SHELF = [Document(str(i), f"Title {i}", f"Fact {i}.") for i in range(6)]


def recall_at(gold: Sequence[str], ranking: Sequence[str], k: int) -> float:
    """Share of the gold documents among the first ``k`` of a ranking."""
    documents = [Document(name, "", "") for name in ranking[:k]]
    return reward.recall(Question("", "", ("",), {"gold_ids": tuple(gold)}), documents)


def kept_for_training(golds: Sequence[str], rag_gen_acc: float) -> bool:
    """Whether the training filter keeps a question."""
    return not is_yes_no(Question("", "", tuple(golds))) and not rag_gen_acc


def turn_of(text: str) -> tuple[str | None, bool]:
    """Query and completeness that s3's protocol reads in a well-formed turn."""
    action = S3Protocol().parse(text, History(Question("", "", ("",))))
    return action.query, action.complete


def collected(blocks: Sequence[Sequence[str]], selections: Sequence[Sequence[str] | None]) -> list[str]:
    """Ids of s3's context: what was selected of each block, all of it where the selection is None, each once."""
    hits = [tuple(Hit(Document(i, "", ""), 0.0) for i in block) for block in blocks]
    judged = [None if s is None else tuple(s) for s in selections]
    turns = [
        Turn("", "", False, chosen, shown, True)
        for chosen, shown in zip(judged, (*hits[1:], ()), strict=True)
    ]
    return [
        document.id for document in S3Protocol().context(History(Question("", "", ("",)), hits[0], turns))
    ]


def mask_of(pieces: Sequence[tuple[Sequence[int], bool]]) -> list[int]:
    """1 for each token of the model's own pieces, 0 for each of the environment's."""
    return [int(own) for ids, own in pieces for _ in ids]


class AskOrTell(Protocol):
    """One line a turn: ``ASK query`` searches, ``TELL answer`` ends, anything else is invalid."""

    name = "ask-or-tell"
    stop = ("\n",)
    start_k, k, turns = 0, 2, 3

    def start(self, question: str, documents: Sequence[Document]) -> list[Message]:
        """The question alone, under a system message."""
        return [
            {"role": "system", "content": "ask or tell"},
            question_messages("s3", "brief", question, documents)[1],
        ]

    def parse(self, text: str, history: History) -> Action:
        """What the line's first word says."""
        word, _, rest = text.strip().partition(" ")
        if word == "ASK" and rest.strip():
            return Action(query=rest.strip())
        if word == "TELL" and rest.strip():
            return Action(complete=True, answer=rest.strip())
        return Action(valid=False, problem="neither ASK nor TELL")


class _Shelf:
    """Six documents; a query finds those from its own length on, counted round."""

    name, fingerprint = "shelf", "0"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(SHELF[(len(q) + i) % len(SHELF)], 1 / (1 + i)) for i in range(k)] for q in queries]


def played(kind: type[Protocol], *turns: str) -> dict[str, Any]:
    """What an engine makes of a protocol when the model writes ``turns``, in the terms of `Episode`.

    Raises:
        TypeError: ``kind`` is no subclass of `Protocol`.
    """
    from ..episodes import Engine
    from ..profile import load_profile
    from .scripted import ScriptedModel

    if not (isinstance(kind, type) and issubclass(kind, Protocol)):
        raise TypeError("give a class made by `class MyProtocol(Protocol): ...`")
    model = ScriptedModel(load_profile("mini").searcher, turns)
    engine = Engine(model, model.tokenizer, _Shelf(), kind(), 40, 600)
    question = Question("q", "Who wrote it?", ("Mara Venn",))
    (episode,) = engine.run([question], progress=False)
    read = model.tokenizer.decode(list(episode.prompt_ids))
    return {"the question is in the prompt": question.question in read, **_summary(episode)}


def _summary(episode: Episode) -> dict[str, Any]:
    return {
        "queries": [turn.query for turn in episode.turns],
        "valid": [turn.valid for turn in episode.turns],
        "shown": [hit_ids(turn.shown) for turn in episode.turns],
        "context": [document.id for document in episode.context],
        "end": episode.end,
        "answer": episode.answer,
    }


EXERCISES: dict[str, Exercise] = {
    "gain": Exercise(
        "gain(right_with_s3, right_with_rag): Gain Beyond RAG of one question, from two truth values",
        lambda with_s3, with_rag: reward.gbr(float(with_s3), float(with_rag)),
        ((True, True), (True, False), (False, True), (False, False)),
    ),
    "fusion": Exercise(
        "fusion(rankings): one ranking from several, by the sum of 1 / (60 + rank), ranks from 1",
        reciprocal_rank_fusion,
        (
            ([[7, 3, 5]],),
            ([[1, 2, 3], [3, 1, 4]],),
            ([[1, 2, 3, 4, 5], [5, 6]],),
            ([[1, 2, 3, 4], [2, 4, 3]],),  # without the 60 a single first place outweighs two lower ones
            ([[], [2, 1]],),
        ),
    ),
    "recall": Exercise(
        "recall_at(gold, ranking, k): share of the gold ids among the first k of a ranking of ids",
        recall_at,
        (
            (["a"], ["a", "b", "c"], 1),
            (["c"], ["a", "b", "c"], 2),
            (["a", "c"], ["a", "b", "c"], 2),
            (["x", "y", "z"], ["z", "y"], 5),
        ),
    ),
    "filter": Exercise(
        "keeps(golden_answers, rag_gen_acc): whether a question stays in the training set",
        kept_for_training,
        ((["Paris"], 0.0), (["Paris"], 1.0), (["yes"], 0.0), (["No."], 0.0), (["yes", "Paris"], 0.0)),
    ),
    "f1": Exercise(
        "f1(answer, golds): SQuAD's F1, the best over the golden answers",
        reward.f1_score,
        (
            ("Silver Mill", GOLDS),
            ("the old silver mill by the river", GOLDS),
            ("silver mill film", GOLDS),
            ("silver silver", ("silver mill", "gold")),
            ("nothing like it", GOLDS),
            ("", GOLDS),
        ),
    ),
    "span-cost": Exercise("how many of the four answers the judge has to be asked about", 2),
    "advantages": Exercise(
        "advantages(rewards): GRPO's advantages of one group, without scaling",
        lambda rewards: reward.group_advantages(rewards, len(rewards), "none").tolist(),
        (([1.0, 0.0, 0.0, 1.0],), ([0.0, -1.0, -1.0],), ([1.0, 1.0, 1.0],), ([0.0, 0.0, 0.0, 1.0, 0.0],)),
    ),
    "batch-scale": Exercise('whether GBR and GenAcc give the same advantages with scale="batch"', False),
    "turn": Exercise(
        "read(turn): a well-formed turn of s3 as a pair, the query (or None) and whether it says complete",
        turn_of,
        (
            ("<search_complete>True</search_complete>",),
            ('<search_complete>False</search_complete>\n<query>{"query": " Hazel Bay"}</query>',),
            (
                '<think> the river? </think><search_complete>False</search_complete><query>{"query": "Ruk"}</query>',
            ),
            ("<important_info>[2]</important_info>\n<search_complete>True</search_complete>",),
        ),
    ),
    "context": Exercise(
        "context(blocks, selections): the ids that reach the generator; a selection of None keeps its block whole",
        collected,
        (
            ([["a", "b"], ["c", "d"]], [["a"], ["d"]]),
            ([["a", "b"], ["c", "d"]], [None, ["c"]]),
            ([["a", "b"], ["b", "c"]], [["b"], None]),
            ([["a", "b"], ["c"]], [[], ["c"]]),
        ),
    ),
    "mask": Exercise(
        "mask(pieces): one number a token, from pairs of a piece's token ids and whether the model wrote it",
        mask_of,
        (([([5, 6], True), ([7, 8, 9], False), ([1], True)],), ([([], True), ([3], False)],), ([],)),
    ),
    "protocol": Exercise(
        "a subclass of Protocol: `ASK query` on a line searches (2 documents, at most 3 searches), `TELL answer` ends",
        AskOrTell,
        (
            ("ASK who wrote it\n", "TELL Mara Venn\n"),
            ("TELL nobody knows\n",),
            ("ASK one\n", "ASK three\n", "TELL x\n"),
            ("I think so\n",),
            ("ASK\n",),
            ("ASK a\n", "ASK b\n", "ASK c\n", "ASK d\n"),
        ),
        played,
    ),
}

EXERCISES |= {  # of notebooks 05 to 08
    "clipped-loss": Exercise(
        "clipped_loss(ratio, advantage, epsilon): minus the clipped objective of one token",
        theory.clipped_loss,
        (
            (1.0, 1.0, 0.2),
            (1.5, 1.0, 0.2),
            (0.5, 1.0, 0.2),
            (1.5, -2.0, 0.2),
            (0.5, -2.0, 0.2),
            (1.05, 0.5, 0.1),
        ),
    ),
    "gae": Exercise(
        "gae(rewards, values, gamma, lam): one advantage a token; nothing comes after the last",
        theory.gae,
        (
            ([0.0, 0.0, 1.0], [0.2, 0.5, 0.9], 1.0, 1.0),
            ([0.0, 0.0, 1.0], [0.2, 0.5, 0.9], 1.0, 0.0),
            ([0.0, 0.5, 0.0, -1.0], [0.1, 0.4, -0.2, 0.3], 0.9, 0.95),
            ([1.0], [0.25], 1.0, 0.95),
        ),
    ),
    "paired-interval": Exercise(
        "paired_interval(a, b, draws): mean of a - b, and its 95 % interval over the draws (rows of indices)",
        theory.paired_interval,
        (
            (
                [1.0, 1.0, 0.0, 1.0],
                [0.0, 1.0, 0.0, 0.0],
                [[0, 1, 2, 3], [3, 3, 1, 0], [2, 2, 1, 1], [0, 0, 3, 3]],
            ),
            ([1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [[0, 0, 0], [1, 2, 1], [2, 2, 2], [0, 1, 2], [1, 1, 1]]),
        ),
    ),
    "cuts": Exercise(
        "cuts(sentences, limit): after which words the passages end, given each sentence's number of words",
        theory.cuts,
        (([4, 4, 4], 9), ([10], 4), ([3, 9, 3], 8), ([2, 7, 1, 6], 8), ([5], 5), ([4, 8], 9)),
    ),
    "kept": Exercise("how many of the 500 old questions change their split when 100 are added", 0),
    "growth": Exercise(
        "growth(sizes, values): exponent and factor of value = factor * size ** exponent",
        theory.growth,
        (
            ([1e3, 1e4, 1e5], [2e3, 2e4, 2e5]),
            ([1e4, 1e5, 1e6], [0.3, 0.95, 3.0]),
            ([10.0, 20.0, 50.0, 70.0], [1.0, 3.5, 11.0, 30.0]),
        ),
    ),
    "half-bytes": Exercise("GB (10⁹ bytes) of a float16 index of 21 million vectors of 768 numbers", 32.256),
}


def check(name: str, given: Any) -> Rich:
    """Whether ``given`` solves the exercise; shows the first case it fails, with its own result.

    Raises:
        DataError: no exercise of that name.
    """
    if name not in EXERCISES:
        raise DataError(f"no exercise {name!r}: choose one of {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    if given is None or given is ...:
        return _verdict(name, None, exercise.asks)
    if not exercise.cases:
        right = type(given) is type(exercise.expected) and _same(given, exercise.expected)
        return _verdict(name, right, "" if right else f"not {given!r}")
    if not callable(given):
        return _verdict(name, False, f"give the function itself, not {given!r}")
    for case in exercise.cases:
        call = f"on {', '.join(map(repr, case))}"
        try:
            result = exercise.use(given, *case)
        except Exception as error:  # whatever a learner's function raises is shown to the learner
            return _verdict(name, False, f"{call} it raises {type(error).__name__}: {error}")
        if not _same(result, expected := exercise.use(exercise.expected, *case)):
            if isinstance(expected, Mapping):  # too much to show at once: what differs, and no more
                result = {key: result[key] for key in expected if not _same(result[key], expected[key])}
            return _verdict(name, False, f"{call} it gives {result!r}")
    return _verdict(name, True, "")


def _same(result: Any, expected: Any) -> bool:
    if expected is None or isinstance(expected, (str, bool)):
        return type(result) is type(expected) and bool(result == expected)
    if isinstance(expected, Mapping):
        return all(_same(result[key], value) for key, value in expected.items())
    if isinstance(expected, Sequence):
        try:
            values = list(result)
        except TypeError:
            return False
        return len(values) == len(expected) and all(map(_same, values, expected))
    return isinstance(result, (int, float)) and math.isclose(result, expected, rel_tol=1e-6, abs_tol=1e-9)


def _verdict(name: str, right: bool | None, told: str) -> Rich:
    word, kind = {None: ("open", ""), True: ("right", "good"), False: ("not yet", "bad")}[right]
    text = f"{name}: {word}" + (f": {told}" if told else "")
    return Rich(text, Markup('<span class="badge {}"><b>{}: {}</b></span> {}').format(kind, name, word, told))
