"""What one GRPO update costs: TRL's own trainer against the package's lean one, on the same episodes.

    python benchmarks/bench_grpo.py [--questions 12] [--generations 8] [--threads 2]

A random Qwen3 of the mini model's size, episodes of realistic lengths (a prompt with three documents, no to
three searches, four documents each), half of the groups without variance. Prints seconds per update,
tokens per second and how far the weights of the two end apart. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer

from s3mini.profile import load_profile
from s3mini.records import Question
from s3mini.runs.machine import cap_threads
from s3mini.training.trainer import LeanGRPOTrainer
from s3mini.training.trl import data_order, given_reward, trl_config

VOCABULARY, PROMPT, TURN, BLOCK = 4864, 180, 32, 200  # tokens, as counted in the mini profile


def made_up(questions: int, group: int) -> dict[str, list[Any]]:
    """Episodes as a rollout function returns them; the groups with even numbers have rewards all alike."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {name: [] for name in ("prompt_ids", "completion_ids", "env_mask", "scored")}
    for q in range(questions):
        prompt = rng.integers(10, VOCABULARY, PROMPT + int(rng.integers(-20, 20))).tolist()
        for _ in range(group):
            mask: list[int] = []
            for _ in range(int(rng.integers(0, 4))):
                mask += [1] * TURN + [0] * (BLOCK + int(rng.integers(-40, 40)))
            mask += [1] * (TURN // 2)
            out["prompt_ids"].append(prompt)
            out["completion_ids"].append([*rng.integers(10, VOCABULARY, len(mask)).tolist(), 1])
            out["env_mask"].append([*mask, 0])
            out["scored"].append(float(rng.integers(0, 2)) if q % 2 else 0.0)
    return {**out, "logprobs": None}


def update(kind: type[GRPOTrainer], episodes: dict[str, list[Any]], spec: Any) -> tuple[float, torch.Tensor]:
    """Seconds of one optimizer step, scoring passes included, and the weights after it."""
    torch.manual_seed(0)
    words = ["<pad>", "<|im_end|>", *(f"w{i}" for i in range(VOCABULARY - 2))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<pad>")
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    questions = [Question(str(i), f"q{i}", ("a",)) for i in range(spec.questions_per_step)]
    settings = trl_config(spec, 0, Path(tempfile.mkdtemp()))
    settings.save_strategy = "no"
    trainer = kind(
        model=model, processing_class=tokenizer, args=settings, train_dataset=data_order(questions, 0, len(questions)),
        rollout_func=lambda prompts, trainer: episodes, reward_funcs=given_reward,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started, torch.cat([p.detach().flatten() for p in model.parameters()])


def main() -> None:
    """Compare the two."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--questions", type=int, default=12)
    arguments.add_argument("--generations", type=int, default=8)
    arguments.add_argument("--threads", type=int, default=None)
    asked = arguments.parse_args()
    print(f"threads: {cap_threads(asked.threads)}")
    changes = {"grpo.steps": 1, "grpo.questions_per_step": asked.questions, "grpo.beta": 0.0}
    spec = load_profile("mini", **changes, **{"grpo.num_generations": asked.generations}).grpo
    episodes = made_up(asked.questions, asked.generations)
    tokens = sum(map(len, episodes["prompt_ids"])) + sum(map(len, episodes["completion_ids"]))
    print(f"{len(episodes['scored'])} episodes, {tokens} tokens, half of the groups without variance")
    ends = {}
    for kind in (GRPOTrainer, LeanGRPOTrainer):
        seconds, ends[kind] = update(kind, episodes, spec)
        print(f"{kind.__name__:18} {seconds:6.1f} s  {tokens / seconds:8.0f} tokens/s")
    gap = (ends[GRPOTrainer] - ends[LeanGRPOTrainer]).abs()
    print(f"largest difference between the weights afterwards: {gap.max():.1e} (mean {gap.mean():.1e})")


if __name__ == "__main__":
    main()
