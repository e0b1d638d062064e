"""GRPO over whole search episodes, by TRL: roll out, score, update (paper, section 4; Shao et al. 2024).

    questions --Engine, n episodes each--> episodes --frozen generator, judge--> rewards --TRL--> update

`Loop` is TRL's ``rollout_func``: it rolls out and scores a whole step in batches and hands over token ids as
they were sampled; TRL makes advantages, ratios and the clipped loss of them. Protocol and reward are names,
so the same loop trains any method.

Departures from the paper, all deliberate:

- GRPO instead of PPO: no critic. Naive RAG's term of GBR cancels in a group (`reward.group_advantages`); what
  remains of GBR is the filter on the training questions.
- Training sees exactly what evaluation sees (the public code trains on a longer first block).
- A step scores all its episodes in one batch; a generator, judge or retriever that fails stops the run, which resumes.

Several processes (`processes`) share a step's questions: each rolls out and scores its own, with the seeds that
one process would use, and the first writes what is recorded of all. The number of processes changes no result.

Rollouts on vLLM (``grpo.vllm``): its kernels give log-probabilities that differ from the trained model's, so that
training would be slightly off-policy. TRL weighs each sampled token by the ratio of the two; here that ratio is
cut at `RATIO_CAP` token by token (``token_truncate``). TRL's default multiplies the ratios of a whole episode and
drops it when the product is out of bounds, which would drop just the long episodes.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bench import protocol_class
from .errors import DataError, ProfileError, StageError
from .profile import GrpoSpec, Profile
from .records import Episode, Question
from .runs.machine import cap_threads
from .runs.processes import ALONE, Processes, join
from .runs.stages import Stage, atomic_dir
from .training.adapters import lora_config, save_whole
from .training.parts import Outcome, Parts, identity, open_parts

if TYPE_CHECKING:  # a finished run is found without loading torch
    import torch

    from .training.recorder import Recorder, Report

RATIO_CAP = 2.0
"""The most a token sampled by vLLM counts; unlike a mask, a cap loses no token, and bounds the variance."""

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental


def train(
    profile: Profile,
    seed: int = 0,
    run: str | None = None,
    *,
    protocol: str = "s3",
    reward: str | None = None,
    resume: bool = True,
    progress: bool = True,
    parts: Parts | None = None,
) -> Path:
    """Train the profile's searcher; returns ``build/<profile>/train/<run>-seed<seed>/`` (see `grpo_records`).

    A finished run is found, a killed one goes on from its last checkpoint; the same seed gives the same run.

    Args:
        run: names the folder; None takes the protocol's name.
        protocol: a name of the protocol registry.
        reward: "recall" or a name of `reward.REWARDS`; None takes the protocol's own.
        resume: False throws away what an earlier run left.
        parts: opened parts to use, for tests and other methods; None opens the profile's.

    Raises:
        DataError: no question to train on, unknown protocol or reward.
        RetrievalError, ModelError: a part failed; run again to go on.
        StageError: full disk, damaged files, another process failed.
        ProfileError: launched on several processes in a way that cannot work.
    """
    processes, spec = join(), profile.grpo
    name = reward or protocol_class(protocol).reward or spec.reward
    stage = Stage(profile, f"train/{run or protocol}-seed{seed}", *identity(profile, seed, protocol, name))
    if not resume and processes.main:
        shutil.rmtree(stage.path, ignore_errors=True)
    with stage:
        if processes.from_main(lambda: stage.done):
            return stage.path
        processes.share(spec.questions_per_step, "grpo.questions_per_step")  # before anything is opened
        cap_threads(profile.threads)
        opened = parts or processes.main_first(lambda: open_parts(profile, protocol, name, processes.sharded))
        _update_until_done(profile, seed, stage, opened, progress and processes.main, processes)
        if processes.main:
            stage.finish(
                steps=spec.steps,
                episodes=spec.steps * spec.questions_per_step * spec.num_generations,
                examples=spec.steps * spec.questions_per_step,
            )
    return stage.path


# --------------------------------------------------------------------------- the three verbs


class Loop:
    """TRL's ``rollout_func``: a step's prompts in, scored completions out."""

    def __init__(
        self,
        parts: Parts,
        spec: GrpoSpec,
        seed: int,
        recorder: Recorder | None,
        processes: Processes = ALONE,
    ) -> None:
        self.parts = parts
        self.processes = processes
        self.spec = spec
        self.seed = seed
        self.recorder = recorder
        self.questions = {question.id: question for question in parts.questions}

    def __call__(self, prompts: Sequence[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        """Prompts hold each question ``num_generations`` times in a row; one completion is returned per row.

        Of several processes each is given its own prompts.
        """
        from .training.recorder import Played, Report, shown_episodes, whole_step

        group = self.spec.num_generations
        step = trainer.state.global_step // self.spec.num_iterations + 1
        if self.spec.vllm != "off":
            self._roll_out_on_vllm(trainer)
        elif self.processes.sharded:
            from .training.trainer import gather_weights

            gather_weights(trainer.model, self.parts.model)
        asked = [self.questions[prompt[-1]["id"]] for prompt in prompts[::group]]
        earlier = self.processes.everywhere(lambda: [q.id for q in asked])[: self.processes.rank]
        before = Counter(i for ids in earlier for i in ids for _ in range(group))
        played: list[tuple[list[Episode], list[Outcome]]] = []

        def play() -> Report:
            started = time.perf_counter()
            episodes = self.roll_out(asked, step, before)
            rolled = time.perf_counter()
            outcomes = self.parts.score(episodes)
            scored = time.perf_counter()
            played.append((episodes, outcomes))
            shown = shown_episodes(episodes, outcomes, group)
            figures = [Played.of(*pair) for pair in zip(episodes, outcomes, strict=True)]
            return Report(figures, shown, self._kl(episodes), rolled - started, scored - rolled)

        reports = self.processes.everywhere(play)
        if self.recorder is not None:
            record, shown = whole_step(reports, group)
            self.recorder.leave({"step": step, **record}, shown)
        return as_completions(*played[0], self.parts.tokenizer.eos_token_id)

    def roll_out(
        self, questions: Sequence[Question], step: int, before: Mapping[str, int] | None = None
    ) -> list[Episode]:
        """A group of sampled episodes per question, by the policy as it is now.

        ``before``: how many episodes of a question other processes run, see `Engine.run`.
        """
        import torch

        own = int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0])
        torch.manual_seed(own)  # TRL shuffles the batch with the global generator
        self.parts.model.eval()  # no gradient checkpointing: it switches the KV cache off
        try:
            episodes = self.parts.engine.run(
                questions,
                self.spec.num_generations,
                self.spec.temperature,
                own,
                progress=False,
                before=before,
            )
        finally:
            self.parts.model.train()
        limit = self.spec.max_completion_length
        return [shortened(episode, limit) for episode in episodes]

    def _roll_out_on_vllm(self, trainer: Any) -> None:
        """TRL has just given its engine the policy's weights: the episodes are sampled there."""
        from .episodes import Engine
        from .models.http.colocated import rollout_sampler
        from .models.local import LocalModel

        engine = self.parts.engine
        if isinstance(engine, Engine) and isinstance(engine.sampler, LocalModel):  # the first time
            engine.sampler = rollout_sampler(trainer, engine.max_length, self.processes)

    def _kl(self, episodes: Sequence[Episode]) -> tuple[float, int] | None:
        """Without a KL term TRL has no reference: the start model reads one micro-batch of the step's episodes.

        The mean over this process's part of them, and that part's tokens.
        """
        from .training.recorder import kl_to_start

        if self.spec.beta > 0 or self.parts.start is None:
            return None
        every = max(1, len(episodes) * self.processes.count // self.spec.micro_batch)
        some = episodes[-self.processes.rank * len(episodes) % every :: every]
        tokens = sum(sum(e.env_mask) for e in some)
        return (kl_to_start(self.parts.start, some, self.spec.temperature) if tokens else 0.0), tokens


def _update_until_done(
    profile: Profile, seed: int, stage: Stage, parts: Parts, progress: bool, processes: Processes
) -> None:
    """TRL's training from the last checkpoint, or the start, to the last step; then the model is saved."""
    from transformers import PrinterCallback

    from .training.recorder import CHECKPOINTS, MODEL, Recorder, Together, latest_checkpoint
    from .training.trainer import LeanGRPOTrainer, whole_weights

    spec = profile.grpo
    if not parts.questions:
        raise DataError("no question to train on: give more or harder training questions")
    if processes.sharded and spec.lora_rank:
        raise ProfileError(
            "adapters are not sharded: launch with s3mini/training/accelerate/ddp.yaml, or set grpo.lora_rank=0"
        )
    home = processes.from_main(lambda: stage.dir)
    if processes.from_main((home / MODEL).exists):  # killed between saving and finishing
        if processes.main:
            shutil.rmtree(home / CHECKPOINTS, ignore_errors=True)
        return
    checkpoint = processes.from_main(lambda: latest_checkpoint(home / CHECKPOINTS))
    done = int(checkpoint.name.rpartition("-")[2]) // spec.num_iterations if checkpoint else 0
    recorder = Recorder(home, spec.steps, done, progress) if processes.main else None
    # Sharded, it can roll out nothing: the parts keep a whole one, brought up to date before each rollout.
    whole: dict[str, torch.Tensor] = {}  # of the main process, to be saved
    model = copy.deepcopy(parts.model).float() if processes.sharded else parts.model

    def save(folder: Path) -> None:
        save_whole(parts.model, folder, whole)
        parts.tokenizer.save_pretrained(folder)

    def gather() -> None:
        for name, weight in whole_weights(trainer.model) if processes.sharded else ():  # type: ignore[arg-type]
            if processes.main:
                whole[name] = weight.detach().cpu()

    try:
        if recorder is not None:
            recorder.keep(spec.keep_steps, save)
        together = Together(processes, gather, [n * spec.num_iterations for n in spec.keep_steps])
        trainer = LeanGRPOTrainer(
            model=model,
            processing_class=parts.tokenizer,
            args=trl_config(
                spec,
                seed,
                home / CHECKPOINTS,
                str(parts.model.device),
                processes,
                max_length=getattr(parts.engine, "max_length", None),
            ),  # fmt: skip
            train_dataset=data_order(parts.questions, seed, spec.steps * spec.questions_per_step),
            rollout_func=Loop(parts, spec, seed, recorder, processes),  # type: ignore[arg-type]  # prompts are messages
            reward_funcs=given_reward,  # type: ignore[arg-type]  # called by keyword
            callbacks=[together, *([recorder] if recorder else [])],
            peft_config=lora_config(spec),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if recorder is not None and len(recorder.curve) != spec.steps:
            raise StageError(f"{home}: {len(recorder.curve)} steps recorded of {spec.steps}; train again")
    finally:
        if recorder is not None:
            recorder.close()
    gather()
    if processes.main:
        with atomic_dir(home / MODEL) as folder:
            save(folder)
        shutil.rmtree(home / CHECKPOINTS)


# -------------------------------------------------------------------------- what TRL is given


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

    Raises:
        ProfileError: the processes cannot share a step's questions evenly.
    """
    from trl import GRPOConfig

    rows = processes.share(spec.questions_per_step, "grpo.questions_per_step") * spec.num_generations
    micro = max(n for n in range(1, min(spec.micro_batch, rows) + 1) if rows % n == 0)
    on_cpu = device == "cpu"
    config = GRPOConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=spec.steps * spec.num_iterations,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=spec.num_generations,
        num_iterations=spec.num_iterations,
        max_completion_length=spec.max_completion_length,
        temperature=spec.temperature,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        max_grad_norm=spec.max_grad_norm,
        beta=spec.beta,
        # the reference of the KL term lies whole where the policy does, not spread over the GPUs
        model_init_kwargs={"device_map": None} if spec.beta and not on_cpu else None,
        epsilon=spec.epsilon,
        loss_type=spec.loss_type,
        scale_rewards=spec.scale_rewards,
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
        bf16=not on_cpu,
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
    """TRL's dataset, row by row in the order of training: seeded permutations of the questions, end to end.

    The question's id travels inside the message, the only part of a row that reaches ``rollout_func``.
    """
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    rounds = -(-count // len(questions))
    order = np.concatenate([rng.permutation(len(questions)) for _ in range(rounds)])[:count]
    chosen = [questions[i] for i in order]
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": q.question, "id": q.id}]} for q in chosen]
    )


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
    completions = [e.completion_ids or (end_id,) for e in episodes]
    return {
        "prompt_ids": [list(e.prompt_ids) for e in episodes],
        "completion_ids": [list(ids) for ids in completions],
        "env_mask": [list(e.env_mask) if e.completion_ids else [0] for e in episodes],
        "logprobs": [list(e.logprobs) if e.completion_ids else [0.0] for e in episodes],
        "scored": [outcome.reward for outcome in outcomes],
    }
