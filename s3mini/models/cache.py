"""The key-value cache of a session, and the attention that reads it.

One slot per row and layer, filled from the left without padding, ``[slots, heads, capacity, head_dim]``.
transformers' own caches pad rows to one length and concatenate at every step; here a step writes each
row's new column in place and attention looks at a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "s3mini_rows"
"""Name under which ``attend`` is registered with transformers."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for one new token per row as two batched products; anything else goes to SDPA.

    The fused kernels are made for many queries: for a single one, on a CPU, two products take half the
    time, and grouped heads need no repeated keys. Shapes: query ``[n, heads, 1, d]``, key and value
    ``[n, kv_heads, span, d]``, mask (additive) ``[n, 1, 1, span]``; returns ``[n, 1, heads, d]``.
    """
    n, heads, steps, size = query.shape
    if steps > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    groups = key.shape[1]
    grouped = query.reshape(n * groups, heads // groups, size) * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(n, heads, -1)
    weights = (scores + attention_mask[:, 0]).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = torch.bmm(weights.view(n * groups, heads // groups, -1), value.flatten(0, 1))
    return out.view(n, 1, heads, -1), None


AttentionInterface.register(ATTENTION, attend)


class RowCache:
    """The part of a transformers cache that decoder layers call: ``update``.

    ``slots`` is None while decoding (the first rows of the buffer, as views) and a tensor of slot
    numbers while reading. ``positions`` ``[n, t]`` says where the new tokens go, ``span`` how many
    columns attention looks at.
    """

    is_compileable = False

    def __init__(self, slots: int) -> None:
        self.count = slots
        self.capacity = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.slots: torch.Tensor | None = None
        self.rows = torch.empty(0)
        self.positions = torch.empty(0)
        self.span = 0

    def aim(self, rows: torch.Tensor, positions: torch.Tensor, span: int, reading: bool) -> None:
        """Say where the next forward pass writes and how far it looks."""
        if span > self.capacity:
            self._grow(span)
        self.rows, self.positions, self.span = rows, positions, span
        self.slots = rows if reading else None

    def _grow(self, span: int) -> None:
        capacity = -(-max(span, self.capacity * 3 // 2) // 64) * 64
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_empty((*old.shape[:2], capacity, old.shape[3]))
                new[:, :, : self.capacity] = old
                new[:, :, self.capacity :] = 0  # as in ``update``
                buffers[layer] = new
        self.capacity = capacity

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store ``[n, heads, t, head_dim]`` and return all that attention may look at."""
        if layer == len(self.keys):
            for buffers, new in ((self.keys, keys), (self.values, values)):
                # Zeros, not empty: masked columns still enter a product, and 0 * nan is nan.
                buffers.append(new.new_zeros((self.count, new.shape[1], self.capacity, new.shape[3])))
        found = []
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            buffer[self.rows[:, None], :, self.positions] = new.transpose(1, 2)
            if self.slots is None:
                found.append(buffer[: new.shape[0], :, : self.span])
            else:
                found.append(buffer[self.slots, :, : self.span])
        return found[0], found[1]

    def copy(self, source: int, targets: Sequence[int], begin: int, end: int) -> None:
        """Give ``targets`` the columns ``begin:end`` of ``source``."""
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                for target in targets:
                    buffer[target, :, begin:end] = buffer[source, :, begin:end]

    def swap(self, first: Sequence[int], second: Sequence[int], span: int) -> None:
        """Exchange slots pairwise, up to column ``span``."""
        to, of = [*first, *second], [*second, *first]
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[to, :, :span] = buffer[of, :, :span]
