"""The key-value cache of a session, and the attention that reads it.

transformers' own caches pad rows to one length and concatenate at every step; here a step writes each
row's new column in place and attention looks at a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
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
    time, and grouped heads need no repeated keys. In bfloat16 the products would copy the cache, of which the columns seen
    are a part with gaps: there SDPA is given each group's heads as its queries, a third of the time.

    Shapes: query ``[n, heads, 1, d]``, key and value ``[n, kv_heads, span, d]``, mask (additive) ``[n, 1, 1, span]``;
    returns ``[n, 1, heads, d]``.
    """
    n, heads, steps, size = query.shape
    if steps > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    groups = key.shape[1]
    if query.dtype != torch.float32 and query.device.type == "cpu":
        own = query.view(n, groups, heads // groups, size)
        fused = scaled_dot_product_attention(own, key, value, attn_mask=attention_mask, scale=scaling)
        return fused.reshape(n, 1, heads, size), None
    grouped = query.reshape(n * groups, heads // groups, size) * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(n, heads, -1)
    weights = (scores + attention_mask[:, 0]).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = torch.bmm(weights.view(n * groups, heads // groups, -1), value.flatten(0, 1))
    return out.view(n, 1, heads, -1), None


AttentionInterface.register(ATTENTION, attend)


class RowCache:
    """The part of a transformers cache that decoder layers call: ``update``. See `session` for the layout."""

    is_compileable = False
    seen: torch.Tensor | slice

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.capacity = 0
        self.keys: list[torch.Tensor] = []  # one buffer a layer
        self.values: list[torch.Tensor] = []

    def aim(self, slots: torch.Tensor, positions: torch.Tensor, span: int, reading: bool) -> None:
        """Say where the next forward pass writes, slots ``[n]`` at ``positions`` ``[n, t]``, and how many columns it sees.

        Unless ``reading``, the slots are the first ones, which attention then sees as a view.
        """
        if span > self.capacity:
            self._grow(span)
        self.into, self.positions, self.span = slots[:, None], positions, span
        self.seen = slots if reading else slice(len(slots))

    def _grow(self, span: int) -> None:
        capacity = -(-max(span, self.capacity * 3 // 2) // 64) * 64
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_zeros((*old.shape[:2], capacity, old.shape[3]))  # zeros: as in ``update``
                new[:, :, : self.capacity] = old
                buffers[layer] = new
        self.capacity = capacity

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store ``[n, heads, t, head_dim]`` and return all that attention may look at."""
        if layer == len(self.keys):
            for buffers, new in ((self.keys, keys), (self.values, values)):
                # Zeros, not empty: masked columns still enter a product, and 0 * nan is nan.
                buffers.append(new.new_zeros((self.slots, new.shape[1], self.capacity, new.shape[3])))
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            buffer[self.into, :, self.positions] = new.transpose(1, 2)
        return self.keys[layer][self.seen, :, : self.span], self.values[layer][self.seen, :, : self.span]

    def copy(self, source: int, targets: Sequence[int], begin: int, end: int) -> None:
        """Give ``targets`` the columns ``begin:end`` of ``source``."""
        for buffer in (*self.keys, *self.values):
            for target in targets:
                buffer[target, :, begin:end] = buffer[source, :, begin:end]

    def swap(self, first: Sequence[int], second: Sequence[int], span: int) -> None:
        """Exchange slots pairwise, up to column ``span``."""
        to, of = [*first, *second], [*second, *first]
        for buffer in (*self.keys, *self.values):
            buffer[to, :, :span] = buffer[of, :, :span]
