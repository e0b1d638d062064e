"""Sampling with an engine that keeps nothing between calls: every turn is asked with all the row's tokens.

vLLM finds what it has read before in its prefix cache, so no more is computed than with a session of its own;
and since the ids are kept here, an engine that is restarted in the middle of an episode changes nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ModelError
from ..base import Sample, Session
from ..stops import Stops

PLAIN = {"n": 1, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Sampling from the model's own distribution, in the parameters of OpenAI's interface."""
PLAIN_VLLM = {**PLAIN, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False}
"""The same with those that vLLM adds."""


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


class StatelessSampler(ABC):
    """A ``Sampler`` over ``write``. ``name`` tells the engine in errors; ``positions`` is the most tokens a row may have."""

    name: str
    stops: Stops
    positions: int

    @abstractmethod
    def write(self, asks: Sequence[Ask]) -> list[Written]:
        """One answer per ask, in order."""

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> StatelessSession:
        """Open one row per prompt; see ``models.base.Sampler``. The engine's prefix cache reads equal ones once."""
        return StatelessSession(self, prompts, seeds)

    def settings(self, ask: Ask) -> dict[str, Any]:
        """What vLLM is to do with an ask, under the names that it has for it in Python and over HTTP."""
        return {
            **PLAIN_VLLM,
            "max_tokens": ask.budget,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "stop": list(ask.stop),
            "include_stop_str_in_output": True,
            "stop_token_ids": sorted(self.stops.end_ids),
            "logprobs": 0,
        }


class StatelessSession(Session):
    """Rows over a `StatelessSampler`; greedy rows with equal tokens are asked once."""

    def __init__(
        self, sampler: StatelessSampler, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None
    ) -> None:
        super().__init__(prompts, seeds, sampler.stops, sampler.positions)
        self.sampler = sampler

    def _sample(self, budgets: dict[int, int], temperature: float, stop: tuple[str, ...]) -> list[Sample]:
        asks = [
            Ask(tuple(self.ids[row]), budget, temperature, stop, self._seed(row) if temperature else 0)
            for row, budget in budgets.items()
        ]
        distinct = list(dict.fromkeys(asks))
        written = dict(zip(distinct, self.sampler.write(distinct), strict=True))
        samples = [self._checked(ask, written[ask]) for ask in asks]
        for row, sample in zip(budgets, samples, strict=True):
            self.append(row, sample.ids)
        return samples

    def _seed(self, row: int) -> int:
        """A number for the row's stream at its length: what it draws depends on nothing else."""
        words = np.random.SeedSequence([self.seeds[row], len(self.ids[row])]).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1  # positive in 64 bits, with sign

    def _checked(self, ask: Ask, written: Written) -> Sample:
        # An engine may run a few tokens past a stop string: where a turn ends is decided here, as everywhere.
        count, stopped = self.stops.cut(written.ids, ask.stop)
        ids, logprobs = tuple(written.ids[:count]), tuple(map(float, written.logprobs[:count]))
        unfinished = stopped is None and count < ask.budget
        if unfinished or len(logprobs) != len(ids) or not all(map(math.isfinite, logprobs)):
            what = f"ended after {count} of {ask.budget} tokens without a stop (reason {written.reason!r})"
            raise ModelError(
                f"{self.sampler.name}: a turn {what if unfinished else 'came without a log-probability for each token'}; "
                "is the model served whole, with its own tokenizer and a long enough --max-model-len?"
            )
        return Sample(ids, logprobs, self.stops.shown(ids, stopped), stopped)
