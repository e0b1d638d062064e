"""A script in a model's place: tokens, stops and budgets are a model's, what is written is not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..profile import ModelSpec
from .base import Sample, Session
from .stops import Stops
from .tokenizer import end_ids, generation_config, open_tokenizer, settle_end, source_of


def stops_of(spec: ModelSpec) -> Stops:
    """Where the turns of a model end, and its tokenizer, without reading its weights."""
    source = source_of(spec)
    tokenizer = open_tokenizer(source)
    ends = end_ids(tokenizer, generation_config(source))
    settle_end(tokenizer, ends)
    return Stops(tokenizer, ends)


class Scripted(ABC):
    """A `models.base.Sampler` that writes what `turn` says.

    A turn ends after a stop string of the protocol, at the budget, or, at the end of its text, with the end token.
    Log-probabilities are 0: a script is certain of what it writes.
    """

    def __init__(self, stops: Stops, positions: int) -> None:
        self.tokenizer, self.stops, self.positions = stops.tokenizer, stops, positions

    @abstractmethod
    def turn(self, ids: Sequence[int], number: int, seed: int) -> str:
        """The text of a row's ``number``-th turn, from 0; ``ids`` is the row so far, ``seed`` the row's own."""

    def texts(self, rows: Sequence[tuple[Sequence[int], int, int]]) -> list[str]:
        """`turn` of several rows."""
        return [self.turn(*row) for row in rows]

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> Session:
        """See ``models.base.Sampler``."""
        return _ScriptedSession(self, prompts, seeds)


class _ScriptedSession(Session):
    def __init__(
        self, script: Scripted, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None
    ) -> None:
        super().__init__(prompts, seeds, script.stops, script.positions)
        self.script, self.written = script, [0] * len(prompts)

    def _sample(self, budgets: dict[int, int], temperature: float, stop: tuple[str, ...]) -> list[Sample]:
        texts = self.script.texts([(self.ids[row], self.written[row], self.seeds[row]) for row in budgets])
        rows = zip(budgets.items(), texts, strict=True)
        return [self._write(row, budget, stop, text) for (row, budget), text in rows]

    def _write(self, row: int, budget: int, stop: tuple[str, ...], text: str) -> Sample:
        self.written[row] += 1
        tokenizer = self.script.tokenizer
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        count, stopped = self.stops.cut(ids, stop)
        if count > budget:
            count, stopped = budget, None
        ids = ids[:count]
        self.ids[row] += ids
        return Sample(tuple(ids), (0.0,) * count, self.stops.shown(ids, stopped), stopped)
