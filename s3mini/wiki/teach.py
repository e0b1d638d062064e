"""Supervised teaching of a few adapter weights (LoRA), where reinforcement learning has nothing to begin with.

    sequences (tokens, and which of them are the model's) --AdamW, adapters only--> adapters as safetensors

The reader and the cold start (`wiki.reader`, `wiki.coldstart`) differ in their sequences alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..errors import DataError
from ..runs.machine import give_back_memory, memory_kept
from ..runs.progress import tqdm
from ..runs.stages import atomic_dir, atomic_file
from ..training.adapters import of_rank, save_adapters

CURVE = "curve.csv"
SAVE_STEPS = 10


@dataclass(frozen=True, slots=True)
class Sequences:
    """Token ids, and 1 where the model is to write that token itself, 0 where it is given; of equal length."""

    ids: tuple[int, ...]
    own: tuple[int, ...]


def teach(
    model: PreTrainedModel,
    sequences: Sequence[Sequences],
    folder: Path,
    *,
    rank: int = 8,
    learning_rate: float = 5e-4,
    batch: int = 8,
    epochs: int = 1,
    micro_tokens: int = 1600,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> Path:
    """Train adapters of ``rank`` on every matrix to write each sequence's own tokens; ``model`` gets them in place.

    Writes the adapters in float16 and the loss of every step (nats a token) to ``folder``. Interrupted, the same call
    goes on from the last of the checkpoints that stand beside it every ``SAVE_STEPS`` steps.

    Args:
        micro_tokens: tokens of one forward pass, padding included; a batch takes as many passes as it needs.
        precision: of the arithmetic (autocast); weights and optimizer stay in float32.

    Raises:
        DataError: nothing to teach.
    """
    from peft import get_peft_model

    if not sequences:
        raise DataError("nothing to teach: no sequence was given")
    torch.manual_seed(seed)
    adapted = get_peft_model(model, of_rank(rank))
    weights = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    batches = _batches(len(sequences), batch, epochs, seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 5) * (1 - step / len(batches))
    )
    checkpoint = folder.with_name(f"{folder.name}.checkpoint")
    losses = _resume(checkpoint, weights, optimizer, schedule)
    adapted.train()
    with (
        memory_kept(),
        tqdm(total=len(batches), initial=len(losses), unit="step", desc=f"teaching {folder.name}") as bar,
    ):
        for chosen in batches[len(losses) :]:
            loss = _step(adapted, [sequences[i] for i in chosen], micro_tokens, precision)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss)
            bar.set_postfix(loss=f"{loss:.3f}")
            bar.update()
            if len(losses) % SAVE_STEPS == 0:
                state: dict[str, Any] = {"weights": [w.data for w in weights], "losses": losses}
                state |= {"adamw": optimizer.state_dict(), "rate": schedule.state_dict()}
                with atomic_file(checkpoint) as out:
                    torch.save(state, out)
    with atomic_dir(folder) as target:
        _save(adapted, target, losses)
    checkpoint.unlink(missing_ok=True)
    return folder


def _batches(count: int, batch: int, epochs: int, seed: int) -> list[np.ndarray]:
    """Which sequences each step reads: every epoch all of them, in an order of its own."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(count) for _ in range(epochs)]
    return [order[begin : begin + batch] for order in orders for begin in range(0, count, batch)]


def _resume(path: Path, weights: Sequence[torch.Tensor], optimizer: Any, schedule: Any) -> list[float]:
    """Fill all from the checkpoint, if there is one; the losses so far."""
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    for weight, kept in zip(weights, state["weights"], strict=True):
        weight.data.copy_(kept)
    optimizer.load_state_dict(state["adamw"])
    schedule.load_state_dict(state["rate"])
    return list(state["losses"])


def _step(model: Any, sequences: Sequence[Sequences], micro_tokens: int, precision: torch.dtype) -> float:
    """Gradients of the mean loss over the own tokens of all sequences; returns that loss."""
    total = sum(sum(s.own[1:]) for s in sequences)
    device = next(model.parameters()).device
    summed = 0.0
    rows = sorted(sequences, key=lambda s: -len(s.ids))
    while rows:
        give_back_memory(beyond=2 << 30)  # every pass is of another width, which leaves gaps
        fits = max(1, micro_tokens // len(rows[0].ids))
        part, rows = rows[:fits], rows[fits:]
        width = len(part[0].ids)
        ids = torch.tensor([[*s.ids, *[0] * (width - len(s.ids))] for s in part], device=device)
        own = torch.tensor([[*s.own, *[0] * (width - len(s.own))] for s in part], device=device)
        seen = torch.tensor([[1] * len(s.ids) + [0] * (width - len(s.ids)) for s in part], device=device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            hidden = model.base_model.model.model(input_ids=ids, attention_mask=seen).last_hidden_state
            where = own[:, 1:].bool()
            logits = model.base_model.model.lm_head(hidden[:, :-1][where])  # the head reads own tokens only
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][where], reduction="sum") / total
        loss.backward()
        summed += loss.item()
    return summed


def _save(adapted: Any, folder: Path, losses: Sequence[float]) -> None:
    save_adapters(adapted, folder)
    with open(folder / CURVE, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerows((step, f"{loss:.4f}") for step, loss in enumerate(losses, 1))


def merge(base: Path, adapters: Path, folder: Path, precision: torch.dtype = torch.float32) -> None:
    """Write the model of ``base`` with the adapters added in, and its tokenizer, as a whole model to ``folder``.

    ``precision`` is of what is written; the sum is made in float32.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32", use_safetensors=True)
    merged = PeftModel.from_pretrained(model, str(adapters)).merge_and_unload()
    with atomic_dir(folder) as target:
        merged.to(precision).save_pretrained(target)
        AutoTokenizer.from_pretrained(base).save_pretrained(target)
