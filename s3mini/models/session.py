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

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .base import Sample, budgets
from .cache import RowCache

if TYPE_CHECKING:
    from .local import LocalModel

READ_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens per forward pass while filling the cache: what stays in a core's cache, or fills a GPU."""


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
    """Next tokens and their log-probabilities.

    Args:
        logits: ``[n, vocabulary]``.
        temperature: 0 takes the largest logit and reports log-probabilities at temperature 1.
        draws: ``[n]`` numbers in [0, 1) for inverse-CDF sampling; unused when greedy.

    Returns:
        ids ``[n]`` (int64) and natural-log probabilities ``[n]`` (float32).
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
        ids = torch.searchsorted(cdf, target, right=True)
    else:
        ids = logprobs.argmax(-1, keepdim=True)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0]


class LocalSession:
    """Rows over one model; made by ``LocalModel.start``. See ``models.base.Session``."""

    def __init__(self, model: LocalModel, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
        self.model = model
        self.ids: list[list[int]] = [list(p) for p in prompts]
        self.seeds = np.array([s % 2**64 for s in seeds], dtype=np.uint64)
        self._read = [0] * len(self.ids)  # tokens of each row that are in the cache
        self._slot = list(range(len(self.ids)))  # row -> slot
        self._row = list(range(len(self.ids)))  # slot -> row
        self._cache = RowCache(len(self.ids))

    def append(self, row: int, ids: Sequence[int]) -> None:
        """Add environment tokens to a row; they are read (batched) at the next ``sample``."""
        self.ids[row].extend(ids)

    @torch.inference_mode()
    def sample(
        self,
        rows: Sequence[int],
        max_new_tokens: int | Sequence[int],
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> list[Sample]:
        """See ``models.base.Session.sample``.

        Raises:
            ModelError: a row would outgrow the positions the model has.
        """
        if not rows:
            return []
        limits = budgets(rows, [len(self.ids[r]) for r in rows], max_new_tokens, self.model.positions)
        with self.model.evaluating():
            self._fill(rows)
            written, logprobs, stopped = self._decode(rows, limits, temperature, tuple(stop))
        out = []
        for row in rows:
            text = self.model.stops.shown(written[row], stopped[row])
            out.append(Sample(tuple(written[row]), tuple(logprobs[row]), text, stopped[row]))
        return out

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
            new = self.ids[row][self._read[row] : -1]
            tokens[i, : len(new)] = torch.tensor(new)
        begins = torch.tensor([self._read[r] for r in rows], device=device)
        positions = begins[:, None] + torch.arange(width, device=device)
        slots = torch.tensor([self._slot[r] for r in rows], device=device)
        span = int(begins.max()) + width
        self._cache.aim(slots, positions, span, reading=True)
        self.model.forward(tokens.to(device), positions, self._cache, span, logits=False)
        for row in rows:
            self._read[row] = len(self.ids[row]) - 1

    def _decode(
        self, rows: Sequence[int], limits: Sequence[int], temperature: float, stop: tuple[str, ...]
    ) -> tuple[dict[int, list[int]], dict[int, list[float]], dict[int, str | None]]:
        left = dict(zip(rows, limits, strict=True))
        written: dict[int, list[int]] = {r: [] for r in rows}
        logprobs: dict[int, list[float]] = {r: [] for r in rows}
        stopped: dict[int, str | None] = dict.fromkeys(rows)
        finder = self.model.stops.finder(stop)
        device = self.model.device
        live = list(rows)
        batch: list[int] = []
        while live:
            if not batch or len(live) <= 0.8 * len(batch):
                self._gather(live)
                batch = self._row[: len(live)]
                slots = torch.arange(len(batch), device=device)
                lengths = np.array([len(self.ids[r]) for r in batch])
                positions = torch.tensor(lengths - 1, device=device)[:, None]
                tokens = torch.tensor([[self.ids[r][-1]] for r in batch], device=device)
                seeds = self.seeds[batch]
            span = int(lengths.max())
            self._cache.aim(slots, positions, span, reading=False)
            logits = self.model.forward(tokens, positions, self._cache, span, logits=True)
            draws = torch.from_numpy(uniforms(seeds, lengths)).to(device) if temperature > 0 else None
            chosen, chosen_logprobs = choose(logits, temperature, draws)
            for row, token, logprob in zip(batch, chosen.tolist(), chosen_logprobs.tolist(), strict=True):
                if left[row] == 0:
                    continue  # finished rows ride along until the next gather; what they sample is dropped
                mine = written[row]
                mine.append(token)
                logprobs[row].append(logprob)
                left[row] -= 1
                stopped[row] = finder(token, mine)
                if stopped[row] is not None:
                    left[row] = 0
                self.ids[row].append(token)
                self._read[row] = len(self.ids[row]) - 1
            live = [r for r in live if left[r]]
            tokens, positions, lengths = chosen[:, None], positions + 1, lengths + 1
        return written, logprobs, stopped

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
