"""GRPO over whole search episodes, by TRL: roll out, score, update (paper, section 4; Shao et al. 2024).

    questions --Engine, n episodes each--> episodes --frozen generator, judge--> rewards --TRL--> update

`Loop` is TRL's ``rollout_func``: it rolls out and scores a whole step in batches and hands over token ids as
they were sampled; TRL makes advantages, ratios and the clipped loss of them. Protocol and reward are names,
so the same loop trains any method.

Departures from the paper, all deliberate:

- GRPO instead of PPO: no critic. Naive RAG's term of GBR cancels in a group (`reward.group_advantages`); what
  remains of GBR is the filter on the training questions.
- Training sees exactly what evaluation sees (the public code trains on a longer first block).
- A step without signal moves nothing: where all groups are alike the optimizer does not step (`training.trainer`).
  ``grpo.resample`` has such groups replaced first, by fresh questions (dynamic sampling: DAPO, Yu et al. 2025).
- ``grpo.search_cost`` (off) takes a price for each search off the reward that is trained with; never in evaluation.
- A step scores all its episodes in one batch; a generator, judge or retriever that fails stops the run, which resumes.

Several processes (`runs.processes`) share a step's questions: each rolls out and scores its own, with the seeds that
one process would use, and the first writes what is recorded of all. The number of processes changes no result.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .bench import protocol_class
from .profile import GrpoSpec, Profile
from .records import Episode, Question
from .runs.machine import cap_threads
from .runs.processes import join
from .runs.stages import Stage
from .training.parts import Parts, PricedScorer, identity, open_parts
from .training.trl import as_completions, shortened


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
    """Train the profile's searcher; returns ``build/<profile>/train/<run>-seed<seed>/`` (see `training.recorder`).

    A finished run is found, a killed one goes on from its last checkpoint; the same seed gives the same run.

    Args:
        run: names the folder; None takes the protocol's name.
        protocol: a name of the protocol registry.
        reward: a name of `reward.REWARDS` or `reward.DOCUMENT_REWARDS`; None takes the protocol's own.
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
        if processes.from_main(lambda: stage.done):  # found without loading torch
            return stage.path
        processes.share(spec.questions_per_step, "grpo.questions_per_step")  # before anything is opened
        cap_threads(profile.threads)
        opened = parts or processes.main_first(lambda: open_parts(profile, protocol, name, processes.sharded))
        if spec.search_cost:
            opened = replace(opened, score=PricedScorer(opened.score, spec.search_cost))
        from .training.run import Training

        training = Training(stage, opened, spec, seed, processes, progress)
        if training.resume():
            training.train(Loop(training.parts, spec, seed))
            training.save()
        if processes.main:
            stage.finish(steps=spec.steps, **training.facts())
    return stage.path


class Loop:
    """TRL's ``rollout_func``: a step's prompts in, scored completions out."""

    def __init__(self, parts: Parts, spec: GrpoSpec, seed: int) -> None:
        self.parts, self.spec, self.seed = parts, spec, seed
        self.questions = {question.id: question for question in parts.questions}

    def __call__(self, prompts: Sequence[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        """Prompts hold each question ``num_generations`` times in a row; one completion is returned per row."""
        episodes = self.roll_out(self.asked(prompts), self.step_of(trainer))
        outcomes = self.parts.score(episodes)
        return as_completions(episodes, outcomes, self.parts.tokenizer.eos_token_id)  # TRL updates with them

    def asked(self, prompts: Sequence[list[dict[str, str]]]) -> list[Question]:
        """The questions of the prompts, once each; a prompt carries its question's id."""
        return [self.questions[prompt[-1]["id"]] for prompt in prompts[:: self.spec.num_generations]]

    def step_of(self, trainer: Any) -> int:
        """Which step this is, from 1; TRL counts updates, of which a step makes ``num_iterations``."""
        return int(trainer.state.global_step) // self.spec.num_iterations + 1

    def roll_out(self, questions: Sequence[Question], step: int) -> list[Episode]:
        """A group of sampled episodes per question, by the policy as it is now."""
        import torch

        from .training.adapters import merged

        own = int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0])
        torch.manual_seed(own)  # TRL shuffles the batch with the global generator
        n, temperature = self.spec.num_generations, self.spec.temperature
        self.parts.model.eval()  # no gradient checkpointing: it switches the KV cache off
        try:
            with merged(self.parts.model):
                episodes = self.parts.engine.run(questions, n, temperature, own, progress=False)
        finally:
            self.parts.model.train()
        return [shortened(episode, self.spec.max_completion_length) for episode in episodes]
