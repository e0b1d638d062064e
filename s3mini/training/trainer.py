"""TRL's `GRPOTrainer`, the same update from fewer tokens, and none where there is nothing to learn.

On a CPU most of TRL's update goes into numbers it then multiplies by zero: the language-model head runs on
every token (prompts, documents and padding included), micro-batches pad to the longest episode of the
whole batch, and groups whose rewards are all alike are read although their advantage is zero. This
subclass leaves those out and changes no result (``tests/test_grpo.py`` compares losses and
gradients with TRL's own). Among several processes only the packing is used: gradients are exchanged in the
wrapped model's own passes, of which each process makes as many. Tensors are named and shaped as in TRL 1.16: B rows, P prompt and C completion columns,
prompts padded on the left, completions on the right.

One result is another than TRL's, on purpose: **a step without signal moves nothing**. Where every advantage is zero (and there is no
KL term, which is a signal of its own) so is the gradient, but AdamW would step on by its momentum and shrink the weights
by its decay. Here weights and optimizer stay as they are, to the bit. The learning rate's schedule goes on: it is laid over the
steps of the run, not over the updates among them, so that a decay ends where the run ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel
from trl import GRPOTrainer

from ..runs.machine import give_back_memory

PROMPT_KEYS = ("prompt_ids", "prompt_mask")
COMPLETION_KEYS = (
    "completion_ids", "completion_mask", "tool_mask", "old_per_token_logps", "ref_per_token_logps",
    "sampling_per_token_logps", "importance_sampling_ratio",
)  # fmt: skip

Batch = dict[str, Any]


def pack(batches: Sequence[Batch], by_prompt: bool = False) -> list[Batch]:
    """The same rows in as many equal micro-batches: rows without advantage together, then by length.

    Each micro-batch is cut to its own longest prompt and completion. Values without rows (0-dimensional) are
    carried over. ``by_prompt`` keeps rows of one prompt side by side, before length.
    """
    whole = {
        key: value if value.ndim == 0 else torch.cat([batch[key] for batch in batches])
        for key, value in batches[0].items()
    }
    idle = whole["advantages"] == 0
    lengths = whole["prompt_mask"].sum(1) + whole["completion_mask"].sum(1)
    keys = [lengths, idle]  # the last one decides first
    if by_prompt:
        keys.insert(1, torch.unique(whole["prompt_ids"], dim=0, return_inverse=True)[1])
    order = torch.arange(len(lengths), device=lengths.device)
    for key in keys:
        order = order[torch.argsort(key[order], stable=True)]
    size = len(order) // len(batches)
    return [_cut({k: v if v.ndim == 0 else v[rows] for k, v in whole.items()}) for rows in order.split(size)]


def _cut(batch: Batch) -> Batch:
    prompt = int(batch["prompt_mask"].sum(1).max())
    completion = max(1, int(batch["completion_mask"].sum(1).max()))
    first = batch["prompt_ids"].shape[1] - prompt
    kept = dict.fromkeys(PROMPT_KEYS, slice(first, None)) | dict.fromkeys(COMPLETION_KEYS, slice(completion))
    return {key: value[:, kept[key]] if key in kept else value for key, value in batch.items()}


class SharedPrompt:
    """What rows begin with, read once for all micro-batches of one prompt, one after the other.

    They are given copies of its keys and values, in which their backward passes end. `settle` takes the gradients that have met
    there through the prompt itself, once.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._ids: torch.Tensor | None = None
        self._layers: list[Any] = []
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def read(self, model: PreTrainedModel, ids: torch.Tensor, rows: int) -> Any:
        """A cache of ``ids`` ``[t]`` for so many rows; another prompt than the last one settles that first."""
        cache: Any = DynamicCache(config=model.config)
        if self._ids is None or not torch.equal(ids, self._ids):
            self.settle()
            model.base_model(input_ids=ids[None], past_key_values=cache, use_cache=True)
            self._ids, self._layers = ids, cache.layers
            self._copies = [(_leaf(layer.keys), _leaf(layer.values)) for layer in self._layers]
        cache.layers = [copy(layer) for layer in self._layers]  # which know how long the prompt was
        for layer, held in zip(cache.layers, self._copies, strict=True):
            layer.keys, layer.values = (of_one.expand(rows, -1, -1, -1) for of_one in held)
        return cache

    def settle(self) -> None:
        """Add to the weights' gradients what has come to the prompt since it was read, and forget it."""
        held = [tensor for layer in self._layers for tensor in (layer.keys, layer.values)]
        copies = [tensor for pair in self._copies for tensor in pair]
        owed = [
            (of_prompt, own.grad) for of_prompt, own in zip(held, copies, strict=True) if own.grad is not None
        ]
        if owed:
            torch.autograd.backward([of_prompt for of_prompt, _ in owed], [grad for _, grad in owed])
        self._forget()


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def completion_logprobs(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    scored: torch.Tensor,
    temperature: float,
    batch_size: int | None = None,
    entropy_gradient: bool = False,
    prompt: SharedPrompt | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies (nats) of the scored completion tokens; zero elsewhere.

    Rows are shifted to start in column 0: padding is then on the right, where a causal model never looks, and no
    attention mask is needed.

    With ``prompt``, what all rows read at once begin with is read by it, and rows stay in their order, in which those of one prompt
    are neighbours. The results are the same up to rounding; gradients reach the weights by way of the prompt when it is settled.

    Args:
        input_ids: (B, P + C), and ``attention_mask`` like it: 1 on one unbroken run per row.
        scored: (B, C), nonzero on the tokens that are wanted.
        temperature: divides the logits, as in sampling.
        batch_size: rows read at once; None reads all.

    Returns:
        Two tensors (B, C).
    """

    def score(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids, start, wanted = input_ids[part], first[part], scored[part].bool()
        columns = start[:, None] + torch.arange(int(lengths[part].max()), device=ids.device)
        shifted = ids.gather(1, columns.clamp(max=ids.shape[1] - 1))
        row, column = wanted.nonzero(as_tuple=True)
        target = column + ids.shape[1] - wanted.shape[1]
        before = target - start[row] - 1  # the token whose output says the wanted one
        common = _in_common(shifted, before) if prompt is not None else 0
        cache = (
            prompt.read(model, shifted[0, :common], len(shifted)) if prompt is not None and common else None
        )
        read = model.base_model(
            input_ids=shifted[:, common:], past_key_values=cache, use_cache=cache is not None
        )
        hidden = read.last_hidden_state
        logits = model.get_output_embeddings()(hidden[row, before - common]).float() / temperature
        logp = torch.log_softmax(logits, dim=-1)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = -(logp.exp() * logp).sum(-1)
        empty = logp.new_zeros(wanted.shape)
        chosen = logp.gather(1, ids[row, target][:, None])[:, 0]
        return empty.index_put((row, column), chosen), empty.index_put((row, column), entropy)

    lengths, first = attention_mask.sum(1), attention_mask.argmax(1)
    order = torch.argsort(lengths, stable=True) if prompt is None else torch.arange(len(lengths))
    parts = order.split(batch_size or len(scored))
    back = torch.argsort(torch.cat(parts))
    logps, entropies = (torch.cat(column)[back] for column in zip(*map(score, parts), strict=True))
    return logps, entropies


def _in_common(rows: torch.Tensor, before: torch.Tensor) -> int:
    """How many tokens all rows begin with, up to the first whose output is needed."""
    if len(before) == 0:
        return 0
    alike = (rows == rows[:1]).all(0).long().cumprod(0).sum()
    return int(torch.minimum(alike, before.min()))


def whole_weights(sharded: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, by name, of a model in training that is sharded over the processes. To be walked by all of them."""
    for name, weight in sharded.named_parameters():
        yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight


@contextmanager
def unwrapped(model: torch.nn.Module) -> Iterator[None]:
    """For the length of a block, ``model`` without the autocast that accelerate hangs over its ``forward``.

    It would cast all weights anew for every token that is sampled, and write bfloat16 into a float32 cache.
    """
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


@contextmanager
def in_bfloat16(model: torch.nn.Module) -> Iterator[None]:
    """For the length of a block, ``model`` with its weights rounded; afterwards they are what they were, to the bit."""
    kept = {weight: weight.data for weight in model.parameters()}
    try:
        for weight in kept:
            weight.data = weight.data.bfloat16()
        yield
    finally:
        for weight, data in kept.items():
            weight.data = data


@torch.no_grad()
def gather_weights(sharded: torch.nn.Module, whole: torch.nn.Module) -> None:
    """Copy a model in training, sharded over the processes, into this process's whole one, weight by weight.

    To be called by all processes. Rollouts need it: each process takes as many turns as its own episodes last,
    while every pass through a sharded model is a joint one.
    """
    kept = dict(whole.named_parameters())
    for name, weight in whole_weights(sharded):
        kept[name].copy_(weight)


class LeanGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that skips what cannot change the result (see the module). Elsewhere than on a CPU, where
    TRL has kernels of its own, only the packing is used."""

    prompt: SharedPrompt | None = None
    """Given one, episodes of one prompt are read one after the other, the prompt once (``grpo.share_prompts``)."""
    _scored: torch.Tensor | None = None

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        completion_ids, masks = generated[1], generated[2]
        width = max(map(len, completion_ids))
        rows = masks if masks is not None else [[1] * len(ids) for ids in completion_ids]
        self._scored = torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])
        return generated

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        """Advantages of exactly zero where a group is all alike: the mean of equal rewards can differ from them in the
        last bit (eight times 1/3), and AdamW makes a whole step of the smallest gradient."""
        made = super()._generate_and_score_completions(inputs)
        groups = made["advantages"].view(-1, self.num_generations)  # type: ignore[arg-type]  # a default is not None
        made["advantages"] = groups.masked_fill((groups == groups[:, :1]).all(1, keepdim=True), 0.0).flatten()
        return made

    def _clip_grad_norm(self, model: Any) -> Any:
        """The gradient's norm over all processes, the last prompt's share included. Where it is zero the gradient is taken away, and
        AdamW passes over weights that have none."""
        if self.prompt is not None:
            self.prompt.settle()
        norm = super()._clip_grad_norm(model)
        if (norm.full_tensor() if isinstance(norm, DTensor) else norm) == 0:
            model.zero_grad(set_to_none=True)
        return norm

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or len(self._buffered_inputs) == 0:
            return inputs
        self._buffered_inputs = pack(self._buffered_inputs, by_prompt=self.prompt is not None)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        # The gaps that tensors of many sizes leave add up over an update; but what is given back early is soon asked for anew.
        give_back_memory(beyond=2 << 30)
        alone = self.accelerator.num_processes == 1 and not self._dist.is_fsdp
        idle = alone and self.beta == 0.0 and not self._entropy_bonus_enabled and not self.aux_loss_enabled
        if idle and model.training and not inputs["advantages"].any():
            return inputs["advantages"].sum().requires_grad_()  # zero, and reaches no weight
        self._scored = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **extra: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        scored = self._scored
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters sit inside
        if (
            scored is None
            or scored.shape != (len(input_ids), logits_to_keep)
            or compute_aux_loss
            or input_ids.device.type != "cpu"
            or self._dist.is_fsdp
            or not isinstance(causal, PreTrainedModel)
        ):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **extra
            )  # fmt: skip
        entropy_gradient = self._entropy_bonus_enabled
        # Without gradients nothing tells when weights change or adapters are off: then it lasts for this pass.
        prompt = self.prompt if torch.is_grad_enabled() else self.prompt and SharedPrompt()
        with self.accelerator.autocast():  # which hangs over the model's own ``forward`` alone
            logps, entropies = completion_logprobs(
                causal, input_ids, attention_mask, scored, self.temperature, batch_size, entropy_gradient, prompt,
            )  # fmt: skip
        return logps, entropies if compute_entropy else None, None
