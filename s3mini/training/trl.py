"""What TRL's `GRPOTrainer` is given: its settings, the questions in their order, episodes as completions.

Rollouts on vLLM (``grpo.vllm``): its kernels give log-probabilities that differ from the trained model's, so that
training would be slightly off-policy. TRL weighs each sampled token by the ratio of the two; here that ratio is
cut at `RATIO_CAP` token by token (``token_truncate``). TRL's default multiplies the ratios of a whole episode and
drops it when the product is out of bounds, which would drop just the long episodes.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..profile import GrpoSpec
from ..records import Episode, Question
from ..runs.processes import ALONE, Processes
from .parts import Outcome

RATIO_CAP = 2.0
"""The most a token sampled by vLLM counts; unlike a mask, a cap loses no token, and bounds the variance."""
SAME_NAME = {
    "num_generations", "num_iterations", "max_completion_length", "temperature", "learning_rate", "lr_scheduler_type",
    "max_grad_norm", "beta", "epsilon", "loss_type", "scale_rewards",
}  # fmt: skip
"""Settings that TRL calls as a profile does."""

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental


def trl_config(
    spec: GrpoSpec,
    seed: int,
    folder: Path,
    device: str = "cpu",
    processes: Processes = ALONE,
    *,
    max_length: int | None = None,
) -> Any:
    """TRL's settings: one generation batch and one optimizer step (``num_iterations`` of them) per step.

    An "auto" precision is bfloat16 on GPUs; on a CPU it is to be settled before (`precision.settled`), and float32 else.

    Raises:
        ProfileError: the processes cannot share a step's questions evenly.
    """
    from trl import GRPOConfig

    rows = processes.share(spec.questions_per_step, "grpo.questions_per_step") * spec.num_generations
    micro = max(n for n in range(1, min(spec.micro_batch, rows) + 1) if rows % n == 0)
    on_cpu = device == "cpu"
    config = GRPOConfig(
        **spec.model_dump(include=SAME_NAME),
        output_dir=str(folder),
        seed=seed,
        max_steps=spec.steps * spec.num_iterations,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        # the reference of the KL term lies whole where the policy does, not spread over the GPUs
        model_init_kwargs={"device_map": None} if spec.beta and not on_cpu else None,
        use_vllm=spec.vllm != "off",
        vllm_mode="server" if spec.vllm == "server" else "colocate",
        vllm_server_base_url=spec.vllm_url if spec.vllm == "server" else None,
        vllm_gpu_memory_utilization=spec.vllm_memory,
        vllm_max_model_length=max_length,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=RATIO_CAP,
        shuffle_dataset=False,  # `data_order` has drawn it, once for the whole run, so that resuming is exact
        save_strategy="steps",
        save_steps=spec.save_steps * spec.num_iterations,
        logging_steps=spec.num_iterations,
        use_cpu=on_cpu,
        bf16=spec.precision == "bfloat16" or (spec.precision == "auto" and not on_cpu),
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    if processes.count == 1 and not on_cpu:
        config._n_gpu = 1  # not every GPU in sight, by nn.DataParallel, which TRL refuses
    return config


def data_order(questions: Sequence[Question], seed: int, count: int) -> Any:
    """TRL's dataset, row by row in the order of training: the first ``count`` of `drawn`."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": as_prompt(q)} for q in drawn(questions, seed, count)])


def as_prompt(question: Question) -> list[dict[str, str]]:
    """The question's id travels inside the message, the only part of a row that reaches ``rollout_func``."""
    return [{"role": "user", "content": question.question, "id": question.id}]


def drawn(questions: Sequence[Question], seed: int, count: int) -> list[Question]:
    """Seeded permutations of the questions, end to end, up to ``count``; a larger count only goes on."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(questions))
    order = np.concatenate([rng.permutation(len(questions)) for _ in range(rounds)])[:count]
    return [questions[i] for i in order]


def reserve(questions: Sequence[Question], seed: int, spec: GrpoSpec, step: int) -> list[Question]:
    """The distinct questions that may replace others in a step (from 1), in the order in which they are taken.

    Each step has its own part of what `drawn` gives after the questions of the whole run. So they are new to the run as
    long as there are questions, and depend on seed and step alone: a run that goes on after a kill takes the same.
    """
    most = spec.resample * spec.questions_per_step
    first = spec.steps * spec.questions_per_step + (step - 1) * most
    return list({q.id: q for q in drawn(questions, seed, first + most)[first:]}.values())


def given_reward(scored: list[float], **_: Any) -> list[float]:
    """TRL's reward function: the rewards that the rollout brought along."""
    return scored


def shortened(episode: Episode, limit: int) -> Episode:
    """The episode, cut to ``limit`` completion tokens (then its end is "length": TRL counts it as clipped)."""
    if len(episode.completion_ids) <= limit:
        return episode
    return replace(
        episode,
        completion_ids=episode.completion_ids[:limit],
        env_mask=episode.env_mask[:limit],
        logprobs=episode.logprobs[:limit],
        end="length",
    )


def as_completions(episodes: Sequence[Episode], outcomes: Sequence[Outcome], end_id: int) -> dict[str, Any]:
    """Episodes as TRL wants them: token ids as sampled, the environment's masked, rewards as a list.

    TRL cannot take an empty completion: one becomes the end token alone, masked.
    """
    return {
        "prompt_ids": [list(e.prompt_ids) for e in episodes],
        "completion_ids": [list(e.completion_ids) or [end_id] for e in episodes],
        "env_mask": [list(e.env_mask) or [0] for e in episodes],
        "logprobs": [list(e.logprobs) or [0.0] for e in episodes],
        "scored": [outcome.reward for outcome in outcomes],
    }
