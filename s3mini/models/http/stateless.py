"""Sessions over an engine that keeps nothing between calls: every turn is asked with all the row's tokens.

vLLM finds what it has read before in its prefix cache, so no more is computed than with a session of its own;
and since the ids are kept here, an engine that is restarted in the middle of an episode changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ModelError
from ..base import Sample, budgets
from ..stops import Stops


@dataclass(frozen=True, slots=True)
class Ask:
    """One row's turn: continue ``prompt`` by at most ``budget`` tokens, up to a stop string or an end token."""

    prompt: tuple[int, ...]
    budget: int
    temperature: float
    stop: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Written:
    """What the engine wrote: as many ``logprobs`` as ``ids``, and its own word on why it ended."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    reason: str | None


Write = Callable[[Sequence[Ask]], list[Written]]


class StatelessSession:
    """Rows over ``write``, one answer per ask, in order. See ``models.base.Session``.

    ``name`` tells the engine in errors.
    """

    def __init__(
        self,
        write: Write,
        stops: Stops,
        positions: int,
        name: str,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
    ) -> None:
        self.write, self.stops, self.positions, self.name = write, stops, positions, name
        self.ids: list[list[int]] = [list(p) for p in prompts]
        self.seeds = list(seeds)

    def append(self, row: int, ids: Sequence[int]) -> None:
        """Add environment tokens to a row; they are sent with the next ``sample``."""
        self.ids[row].extend(ids)

    def sample(
        self,
        rows: Sequence[int],
        max_new_tokens: int | Sequence[int],
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> list[Sample]:
        """See ``models.base.Session.sample``; greedy rows with equal tokens are asked once.

        Raises:
            ModelError: a row would outgrow ``positions``, the engine failed, or it ended a turn that has no end.
        """
        limits = budgets(rows, [len(self.ids[r]) for r in rows], max_new_tokens, self.positions)
        asks = [
            Ask(tuple(self.ids[row]), limit, temperature, tuple(stop), self._seed(row) if temperature else 0)
            for row, limit in zip(rows, limits, strict=True)
        ]
        distinct = list(dict.fromkeys(asks))
        written = dict(zip(distinct, self.write(distinct), strict=True))
        samples = [self._sample(ask, written[ask]) for ask in asks]
        for row, sample in zip(rows, samples, strict=True):
            self.ids[row].extend(sample.ids)
        return samples

    def _seed(self, row: int) -> int:
        """A number for the row's stream at its length: what it draws depends on nothing else."""
        words = np.random.SeedSequence([self.seeds[row] % 2**64, len(self.ids[row])]).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1  # positive in 64 bits, with sign

    def _sample(self, ask: Ask, written: Written) -> Sample:
        # An engine may run a few tokens past a stop string: where a turn ends is decided here, as everywhere.
        count, stopped = self.stops.cut(written.ids, ask.stop)
        ids, logprobs = tuple(written.ids[:count]), tuple(map(float, written.logprobs[:count]))
        unfinished = stopped is None and count < ask.budget
        if unfinished or len(logprobs) != len(ids) or not all(map(math.isfinite, logprobs)):
            what = f"ended after {count} of {ask.budget} tokens without a stop (reason {written.reason!r})"
            raise ModelError(
                f"{self.name}: a turn {what if unfinished else 'came without a log-probability for each token'}; "
                "is the model served whole, with its own tokenizer and a long enough --max-model-len?"
            )
        return Sample(ids, logprobs, self.stops.shown(ids, stopped), stopped)
