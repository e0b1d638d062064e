"""Episodes whose model is a script: the engine, the protocol, the tokenizer and the retriever are the real ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..bench import Bench, protocol_class
from ..errors import DataError, ModelError
from ..models.base import ChatModel
from ..models.scripted import Scripted, stops_of
from ..profile import ModelSpec
from ..records import Collected, Episode, Question, hit_ids


class ScriptedModel(Scripted):
    """Writes the given turns, in order, in every row, as the model of ``spec`` would."""

    def __init__(self, spec: ModelSpec, turns: Sequence[str]) -> None:
        super().__init__(stops_of(spec), spec.max_length)
        self.turns = tuple(turns)

    def turn(self, ids: Sequence[int], number: int, seed: int) -> str:
        """See `Scripted`.

        Raises:
            ModelError: the script has no more turns.
        """
        if number == len(self.turns):
            raise ModelError(
                f"the script has {len(self.turns)} turns, and the episode goes on: give it one more"
            )
        return self.turns[number]


def chained(bench: Bench, questions: Iterable[Question]) -> Question:
    """The first of the questions that shows what a search is worth.

    Asked as it is, the first passage found is its first gold document, and its second is not among naive RAG's; the title of
    that one, which the first names and the question does not, finds it first; and from the two the generator answers rightly.

    Raises:
        DataError: there is none.
    """
    retriever, k = bench.retriever(), max(bench.profile.rag.k, bench.profile.s3.begin_k)
    for question in questions:
        if len(question.gold_ids) != 2:
            continue
        first, second = (bench.documents[i] for i in question.gold_ids)
        if second.title not in first.text or second.title in question.stem:
            continue
        asked, named = (hit_ids(hits) for hits in retriever.search([question.stem, second.title], k))
        if asked[0] != first.id or second.id in asked or named[0] != second.id:
            continue
        answers = bench.answer([question], [Collected((first, second))])
        if bench.score(answers, [question])[0].gen_acc:
            return question
    raise DataError(
        "none of these questions needs, and gets by its second gold document's title, a second search"
    )


def play(
    bench: Bench, protocol: str, question: Question, turns: Sequence[str], reader: ChatModel | None = None
) -> Episode:
    """The episode that the profile's engine makes when the model writes ``turns``.

    ``reader`` condenses documents, in protocols that have them condensed; None takes the profile's searcher.

    Raises:
        ModelError: the episode wants more turns than the script has.
    """
    kind = protocol_class(protocol)
    if kind.needs_reader and reader is None:
        from ..models import open_model

        reader = open_model(bench.profile.searcher)
    model = ScriptedModel(bench.profile.searcher, turns)
    engine = bench.engine(protocol, model, model.tokenizer, reader=reader)
    (episode,) = engine.run([question], progress=False)
    return episode
