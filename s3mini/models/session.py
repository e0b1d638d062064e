"""Many rows of tokens at once, sampled with a key-value cache that lives across turns.

Layout. Every row owns one slot of a preallocated cache ``[slots, heads, capacity, head_dim]`` per
layer and fills it from the left: no padding inside a row, so positions are plain indices and rows of
any length share a batch. The rows being decoded are kept in the first slots (finished rows swap places
with live ones), which makes the decode batch a view of the cache, not a copy.

A row's last token is never in the cache: feeding it is what yields the next token's logits. All other
unread tokens (prompt, environment) are read in batches first; rows with equal histories are read once
and copied, which covers the members of a GRPO group at the start and for as long as they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..errors import ModelError
from .base import Sample, Session
from .kv_cache import ATTENTION, RowCache
from .stops import Stops

READ_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens per forward pass while filling the cache: what stays in a core's cache, or fills a GPU."""
SHARED = 8
"""Tokens that rows must have in common at their start for a pass of its own to pay."""


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (row seed, token position), by the splitmix64 finaliser.

    Stateless on purpose: what a row draws depends on nothing but its seed and how long it is.
    """
    with np.errstate(over="ignore"):
        x = seeds.astype(np.uint64) + (positions.astype(np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(
    logits: torch.Tensor, temperature: float, draws: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next tokens ``[n]`` (int64) and their natural-log probabilities ``[n]`` (float32), of logits ``[n, vocabulary]``.

    Temperature 0 takes the largest logit and reports log-probabilities at temperature 1; above it ``draws`` ``[n]``,
    numbers in [0, 1), sample by the inverse of the cumulative distribution.
    """
    scaled = logits.float()
    if temperature > 0:
        scaled = scaled / temperature
    logprobs = scaled.log_softmax(-1)
    if temperature > 0 and draws is not None:
        # In single precision the many rare tokens of a vocabulary would round to nothing, or to too much.
        cdf = logprobs.exp().cumsum(-1, dtype=torch.float64)
        # A draw just below 1 must land below the total, whatever rounding made of it.
        target = draws.to(cdf)[:, None].clamp(max=1 - 1e-6) * cdf[:, -1:]
        # Among numbers that are none every search ends behind the last; the caller is shown their log-probability.
        ids = torch.searchsorted(cdf, target, right=True).clamp(max=cdf.shape[-1] - 1)
    else:
        ids = logprobs.argmax(-1, keepdim=True)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0]


@dataclass(slots=True)
class _Turn:
    """What a row writes in one ``sample``; ``left`` is the rest of its budget, 0 when it has stopped."""

    left: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: str | None = None


class LocalSession(Session):
    """Rows over a model of transformers."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int] | None,
        stops: Stops,
        positions: int,
    ) -> None:
        super().__init__(prompts, seeds, stops, positions)
        self.model = model
        self._read = [0] * len(self.ids)  # tokens of each row that are in the cache
        self._slot = list(range(len(self.ids)))  # row -> slot
        self._row = list(range(len(self.ids)))  # slot -> row
        self._cache = RowCache(len(self.ids))

    @torch.inference_mode()
    def _sample(self, budgets: dict[int, int], temperature: float, stop: tuple[str, ...]) -> list[Sample]:
        turns = {row: _Turn(budget) for row, budget in budgets.items()}
        with self._running():
            self._fill(list(turns))
            self._decode(turns, temperature, stop)
        return [
            Sample(tuple(t.ids), tuple(t.logprobs), self.stops.shown(t.ids, t.stopped), t.stopped)
            for t in turns.values()
        ]

    @torch.inference_mode()
    def next_logprobs(self) -> torch.Tensor:
        """Natural-log probabilities ``[rows, vocabulary]`` (float32) of every row's next token; nothing is written.

        What all rows begin with is read once.
        """
        rows = list(range(len(self.ids)))
        with self._running():
            self._fill_start(rows)
            self._fill(rows)
            tokens, positions, lengths = self._last(self._row)
            slots = torch.arange(len(rows), device=tokens.device)
            logits = self.forward(tokens, slots, positions, int(lengths.max()), reading=False)
        return logits.float().log_softmax(-1)[self._slot]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The model without dropout, and with the attention that reads this cache; afterwards as it was."""
        training, config = self.model.training, self.model.config
        attention = config._attn_implementation
        self.model.eval()
        config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation = attention
            self.model.train(training)

    def forward(
        self, tokens: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, span: int, reading: bool
    ) -> torch.Tensor:
        """One pass over ``tokens`` ``[n, t]`` of ``slots`` ``[n]`` at ``positions`` ``[n, t]``, seeing ``span`` columns.

        Returns ``[n, vocabulary]`` logits of the last column; an empty tensor when ``reading``: only the cache is filled.
        """
        self._cache.aim(slots, positions, span, reading)
        columns = torch.arange(span, device=tokens.device)
        hidden = columns > positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=tokens.device)
        mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)
        cached: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        run = self.model.base_model if reading else self.model
        out = run(input_ids=tokens, attention_mask=mask, position_ids=positions, **cached)
        return torch.empty(0) if reading else out.logits[:, -1]

    def _fill(self, rows: Sequence[int]) -> None:
        """Read all but the last token of every row into the cache; equal histories once."""
        groups = self._alike([r for r in rows if len(self.ids[r]) - 1 > self._read[r]])
        leaders = sorted((g[0] for g in groups), key=lambda r: len(self.ids[r]) - self._read[r])
        while leaders:  # longest first, so memory peaks at once and rows of a chunk are alike
            width = len(self.ids[leaders[-1]]) - 1 - self._read[leaders[-1]]
            chunk = leaders[-max(1, READ_TOKENS.get(self.model.device.type, 4096) // width) :]
            del leaders[-len(chunk) :]
            self._read_chunk(chunk, width)
        for leader, *others in groups:
            begin = min((self._read[row] for row in others), default=0)
            self._cache.copy(self._slot[leader], [self._slot[r] for r in others], begin, self._read[leader])
            for row in others:
                self._read[row] = self._read[leader]

    def _fill_start(self, rows: Sequence[int]) -> None:
        """Read what the unread ``rows`` all begin with, once for all: about half of what a judge is asked."""
        if len(rows) < 2 or any(self._read[row] for row in rows):
            return
        starts = [self.ids[row][:-1] for row in rows]
        low, high = min(starts), max(starts)
        # The first and the last in dictionary order have no more in common than all have.
        same = next(
            (i for i, pair in enumerate(zip(low, high, strict=False)) if len(set(pair)) > 1), len(low)
        )
        if same < SHARED:
            return
        leader, *others = rows
        self._read_chunk([leader], same)
        self._cache.copy(self._slot[leader], [self._slot[row] for row in others], 0, same)
        for row in others:
            self._read[row] = same

    def _alike(self, rows: Sequence[int]) -> list[list[int]]:
        """``rows`` grouped by what is to be in their cache."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            groups.setdefault(tuple(self.ids[row][:-1]), []).append(row)
        return list(groups.values())

    def _read_chunk(self, rows: Sequence[int], width: int) -> None:
        device = self.model.device
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            new = self.ids[row][self._read[row] : -1][:width]
            tokens[i, : len(new)] = torch.tensor(new)
        begins = torch.tensor([self._read[r] for r in rows], device=device)
        positions = begins[:, None] + torch.arange(width, device=device)
        slots = torch.tensor([self._slot[r] for r in rows], device=device)
        self.forward(tokens.to(device), slots, positions, int(begins.max()) + width, reading=True)
        for row in rows:
            self._read[row] = min(self._read[row] + width, len(self.ids[row]) - 1)

    def _last(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """The last token of each row ``[n, 1]``, its position ``[n, 1]``, and the rows' lengths ``[n]``."""
        device = self.model.device
        lengths = np.array([len(self.ids[r]) for r in rows])
        tokens = torch.tensor([[self.ids[r][-1]] for r in rows], device=device)
        return tokens, torch.tensor(lengths - 1, device=device)[:, None], lengths

    def _decode(self, turns: dict[int, _Turn], temperature: float, stop: tuple[str, ...]) -> None:
        """Write every row's turn, one token of all live rows a step."""
        finder = self.stops.finder(stop)
        device = self.model.device
        live = list(turns)
        batch: list[int] = []
        while live:
            if not batch or len(live) <= 0.8 * len(batch):
                self._gather(live)
                batch = self._row[: len(live)]
                slots = torch.arange(len(batch), device=device)
                tokens, positions, lengths = self._last(batch)
                seeds = np.array([self.seeds[r] for r in batch], dtype=np.uint64)
            logits = self.forward(tokens, slots, positions, int(lengths.max()), reading=False)
            draws = torch.from_numpy(uniforms(seeds, lengths)).to(device) if temperature > 0 else None
            chosen, logprobs = choose(logits, temperature, draws)
            for row, token, logprob in zip(batch, chosen.tolist(), logprobs.tolist(), strict=True):
                turn = turns[row]
                if turn.left == 0:
                    continue  # finished rows ride along until the next gather; what they sample is dropped
                if math.isnan(logprob):
                    raise ModelError(
                        f"the model's next-token probabilities are not numbers after {len(self.ids[row])} tokens: "
                        "are its weights whole, and its dtype wide enough? Try dtype: float32"
                    )
                turn.ids.append(token)
                turn.logprobs.append(logprob)
                turn.stopped = finder(token, turn.ids)
                turn.left = turn.left - 1 if turn.stopped is None else 0
                self.ids[row].append(token)
                self._read[row] = len(self.ids[row]) - 1
            live = [r for r in live if turns[r].left]
            tokens, positions, lengths = chosen[:, None], positions + 1, lengths + 1

    def _gather(self, live: Iterable[int]) -> None:
        """Move ``live`` rows to the first slots."""
        wanted = set(live)
        holes = [s for s in range(len(wanted)) if self._row[s] not in wanted]
        strays = [s for s in (self._slot[r] for r in wanted) if s >= len(wanted)]
        if not holes:
            return
        span = max(self._read[self._row[s]] for s in (*holes, *strays))
        self._cache.swap(holes, strays, span)
        for hole, stray in zip(holes, strays, strict=True):
            self._row[hole], self._row[stray] = self._row[stray], self._row[hole]
            self._slot[self._row[hole]], self._slot[self._row[stray]] = hole, stray
