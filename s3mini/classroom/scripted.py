"""Episodes whose model is a script: the engine, the protocol, the tokenizer and the retriever are the real ones."""

from __future__ import annotations

from collections.abc import Sequence

from ..bench import Bench, protocol_class
from ..errors import ModelError
from ..models.base import ChatModel, Sample, Session
from ..models.stops import Stops
from ..models.tokenizer import end_ids, generation_config, open_tokenizer, settle_end, source_of
from ..profile import ModelSpec
from ..records import Episode, Question


class ScriptedModel:
    """A `models.base.Sampler` that writes the given turns, in order, in every row.

    It tokenises and stops as the model of ``spec`` would: a turn ends after a stop string of the protocol, at the budget,
    or, at the end of its text, with the end token. Log-probabilities are 0: a script is certain of what it writes.
    """

    def __init__(self, spec: ModelSpec, turns: Sequence[str]) -> None:
        self.spec, self.turns = spec, tuple(turns)
        source = source_of(spec)
        self.tokenizer = open_tokenizer(source)
        ends = end_ids(self.tokenizer, generation_config(source))
        settle_end(self.tokenizer, ends)
        self.stops = Stops(self.tokenizer, ends)

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> Session:
        """One row per prompt."""
        return _ScriptedSession(self, prompts, seeds)


class _ScriptedSession(Session):
    def __init__(
        self, model: ScriptedModel, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None
    ) -> None:
        super().__init__(prompts, seeds, model.stops, model.spec.max_length)
        self.model, self.written = model, [0] * len(prompts)

    def _sample(self, budgets: dict[int, int], temperature: float, stop: tuple[str, ...]) -> list[Sample]:
        return [self._write(row, budget, stop) for row, budget in budgets.items()]

    def _write(self, row: int, budget: int, stop: tuple[str, ...]) -> Sample:
        turn, turns = self.written[row], self.model.turns
        if turn == len(turns):
            raise ModelError(f"the script has {len(turns)} turns, and the episode goes on: give it one more")
        self.written[row] += 1
        tokenizer = self.model.tokenizer
        text: list[int] = tokenizer(turns[turn], add_special_tokens=False)["input_ids"]
        ids = [*text, tokenizer.eos_token_id]
        count, stopped = self.stops.cut(ids, stop)
        if count > budget:
            count, stopped = budget, None
        ids = ids[:count]
        self.ids[row] += ids
        return Sample(tuple(ids), (0.0,) * count, self.stops.shown(ids, stopped), stopped)


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
