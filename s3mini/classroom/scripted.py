"""Episodes whose model is a script: the engine, the protocol, the tokenizer and the retriever are the real ones."""

from __future__ import annotations

from collections.abc import Sequence

from ..bench import Bench, protocol_class
from ..errors import ModelError
from ..models.base import ChatModel
from ..models.scripted import Scripted, stops_of
from ..profile import ModelSpec
from ..records import Episode, Question


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
