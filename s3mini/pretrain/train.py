"""Pretrain the mini model from scratch: curriculum over fresh worlds, Muon + AdamW, resumable.

What made it learn on two CPU cores, each measured in the record of a run: names as single tokens (`tokenizer`); evidence
first, each fact restated before the reply ends (`examples.read`); several questions per set of documents (`examples`);
query-key norm (Qwen3), Muon for the matrices, `torch.compile` with bfloat16 autocast (4x the tokens per second). And
above all the drills (`drills`): without them the model never ties a fact to its subject, nor looks from a name back to
what stands before it (its document's number, its option's letter); with them each takes about half a million tokens.
"""

import csv
import io
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from ..errors import StageError
from ..runs.machine import memory_kept
from ..runs.progress import tqdm
from ..runs.stages import atomic_write
from ..world.write import SETS
from .batches import LEVELS, Batch, examples, fresh_worlds, make_batch
from .tokenizer import make_tokenizer

ADVANCE_AT = 0.75  # share of replies that are right to the last token before the curriculum moves on
JUDGED = {"lists": ("list 0", "list 1"), "statements": ("binding",), "labels": ("label", "numbered")}
"""The kinds that are judged, by drill; among documents, the six sets."""
FIELDS = ("tokens", "seconds", "step", "level", "loss", "exact", "lr", "kinds")


def model_config(tokenizer: Any, width: int = 128, layers: int = 5) -> Qwen3Config:
    """The mini architecture: Qwen3, heads of 32, tied embeddings."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        # Slow rotations leave most of a head's 32 dimensions to content: 11 of 16 pairs turn by less than half
        # a circle over a whole context, against 5 at the usual 1e4.
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def lr_factor(tokens: int, budget: int) -> float:
    """Warm up over 200,000 tokens, stay, then fall linearly to 2 % over the last 70 % of the budget."""
    left = max(0.0, (budget - tokens) / (0.7 * budget))
    return min(1.0, (tokens + 1) / 200_000, 0.02 + 0.98 * left)


class _Learner:
    """Model, optimizers and the counters that a checkpoint holds."""

    def __init__(self, folder: Path, width: int, layers: int, device: str, compiled: bool) -> None:
        torch.manual_seed(0)
        self.checkpoint, self.folder, self.device = folder / "checkpoint.pt", folder / "model", device
        if not (self.folder / "tokenizer.json").exists():
            make_tokenizer().save_pretrained(self.folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = Qwen3ForCausalLM(model_config(self.tokenizer, width, layers))
        torch.nn.Module.to(self.model, device)
        self.optimizers = optimizers(self.model)
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.state: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "step": 0, "level": 0, "exact": 0.0}
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.state = saved["state"]
        self.body = torch.compile(self.model.model, dynamic=False) if compiled else self.model.model

    def save(self) -> None:
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        checkpoint = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizers": states, "state": self.state}, checkpoint)
        atomic_write(self.checkpoint, checkpoint.getvalue())
        self.model.save_pretrained(self.folder)

    def learn(self, batch: Batch, factor: float) -> tuple[float, dict[str, list[bool]]]:
        """One update; returns the loss and, by kind, whether each reply was right to the last token."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor

        def put(array: Any) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device)

        with torch.autocast(self.device, dtype=torch.bfloat16):
            hidden = self.body(
                input_ids=put(batch.ids), attention_mask=put(batch.mask), position_ids=put(batch.positions), use_cache=False
            ).last_hidden_state  # fmt: skip
            logits = self.model.lm_head(hidden.flatten(0, 1).index_select(0, put(batch.where)))
        targets, weights = put(batch.targets), put(batch.weights)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wrong = (logits.argmax(-1) != targets).cpu().numpy() & (batch.owner >= 0)
        bad = set(batch.owner[wrong].tolist())
        exact: dict[str, list[bool]] = defaultdict(list)
        for number in set(batch.owner[batch.owner >= 0].tolist()):
            exact[batch.kinds[number]].append(number not in bad)
        return loss.item(), exact


def pretrain(
    folder: Path,
    tokens: int = 30_000_000,
    step_tokens: int = 6144,
    width: int = 128,
    layers: int = 5,
    seed: int = 0,
    device: str = "cpu",
    save_every: float = 240.0,
    compiled: bool = True,
) -> Path:
    """Pretrain in ``folder`` until ``tokens`` tokens were seen; called again, it goes on from its checkpoint.

    Returns the folder of the model in Hugging Face layout. ``record.csv`` gets a line every 20 steps:
    tokens, seconds, curriculum level, loss, share of exactly right replies overall and by kind.
    ``save_every``: seconds between checkpoints.

    Raises:
        StageError: the folder cannot be written.
    """
    record = folder / "record.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StageError(f"{folder}: cannot be created ({error}); choose another --out") from error
    if not record.exists():
        atomic_write(record, ",".join(FIELDS) + "\n")
    learner = _Learner(folder, width, layers, device, compiled)
    state = learner.state
    rng = random.Random(f"{seed} {state['step']}")
    worlds = fresh_worlds(f"{seed} {state['step']}")
    source = examples(LEVELS[state["level"]], rng, worlds)
    began, saved = time.time() - state["seconds"], time.time()
    window: dict[str, list[bool]] = defaultdict(list)
    losses: list[float] = []
    with (
        memory_kept(),
        tqdm(total=tokens, initial=state["tokens"], unit="tok", unit_scale=True, desc="pretrain") as bar,
    ):
        while state["tokens"] < tokens:
            level = LEVELS[state["level"]]
            rows = round(step_tokens / level.length)
            batch = make_batch(source, learner.tokenizer, rows, level.length, rng)
            factor = lr_factor(state["tokens"], tokens)
            loss, exact = learner.learn(batch, factor)
            losses.append(loss)
            for kind, values in exact.items():
                window[kind] += values
            state["tokens"] += batch.ids.size
            state["step"] += 1
            state["seconds"] = time.time() - began
            bar.update(batch.ids.size)
            if state["step"] % 20 == 0:
                judged = [right for kind in JUDGED.get(level.drill, SETS) for right in window[kind]]
                state["exact"] = sum(judged) / max(1, len(judged))
                kinds = {k: [round(sum(v) / len(v), 3), len(v)] for k, v in sorted(window.items()) if v}
                row = state | {
                    "seconds": round(state["seconds"]),
                    "loss": round(sum(losses) / len(losses), 4),
                    "exact": round(state["exact"], 4),
                    "lr": round(factor, 3),
                    "kinds": json.dumps(kinds),
                }
                with record.open("a", newline="") as file:
                    csv.DictWriter(file, FIELDS).writerow(row)
                bar.set_postfix({name: row[name] for name in ("level", "loss", "exact")})
                if state["exact"] > ADVANCE_AT and state["level"] + 1 < len(LEVELS):
                    state["level"] += 1
                    source = examples(LEVELS[state["level"]], rng, worlds)
                window.clear()
                losses.clear()
            if time.time() - saved > save_every:
                learner.save()
                saved = time.time()
    learner.save()
    return learner.folder
