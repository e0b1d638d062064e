"""What stands around the loop of `grpo`: the processes beside this one, the weights it samples with, the record.

The loop rolls out and scores one process's share of a step as if there were no other.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..episodes import Engine
from ..models.http.colocated import rollout_sampler
from ..models.local import LocalModel
from ..profile import GrpoSpec
from ..records import Episode
from ..runs.processes import Processes
from .parts import Outcome, Parts
from .recorder import Played, Recorder, Report, kl_to_start, shown_episodes, whole_step
from .trainer import gather_weights

RolloutFunc = Callable[[Sequence[list[dict[str, str]]], Any], dict[str, Any]]


class Share:
    """One process's share of every step: its episodes are seeded as one process would seed them, its figures kept.

    A loop that is made of ``self.parts`` and called by `around` needs to know nothing of it.
    """

    def __init__(self, parts: Parts, spec: GrpoSpec, processes: Processes) -> None:
        self.parts = replace(parts, engine=self, score=self.score)  # type: ignore[arg-type]  # `run` is all they need
        self._own, self._spec, self._processes = parts, spec, processes
        self._before: Counter[str] = Counter()
        self._seconds_rollout = 0.0
        self._report: Report | None = None

    def around(self, loop: RolloutFunc, recorder: Recorder | None) -> RolloutFunc:
        """The loop as TRL calls it in every process; the main one has the ``recorder``."""

        def share(prompts: Sequence[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
            self._take_weights(trainer)
            asked = self._processes.everywhere(lambda: [prompt[-1]["id"] for prompt in prompts])
            self._before = Counter(i for ids in asked[: self._processes.rank] for i in ids)
            completions = self._processes.each(lambda: loop(prompts, trainer))
            reports = self._processes.everywhere(lambda: self._report)
            if recorder is not None:
                step = trainer.state.global_step // self._spec.num_iterations + 1
                figures, shown = whole_step([r for r in reports if r], self._spec.num_generations)
                recorder.leave({"step": step, **figures}, shown)
            return completions

        return share

    def run(self, *given: Any, **named: Any) -> list[Episode]:
        """`Engine.run`, a question's episodes numbered on from those that earlier processes run."""
        started = time.perf_counter()
        episodes = self._own.engine.run(*given, **(named | {"before": self._before}))
        self._seconds_rollout = time.perf_counter() - started
        return episodes

    def score(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """The outcomes; what is recorded of them is kept for the main process."""
        started = time.perf_counter()
        outcomes = self._own.score(episodes)
        seconds = time.perf_counter() - started
        played = [Played.of(*pair) for pair in zip(episodes, outcomes, strict=True)]
        shown = shown_episodes(episodes, outcomes, self._spec.num_generations)
        self._report = Report(played, shown, self._kl(episodes), self._seconds_rollout, seconds)
        return outcomes

    def _kl(self, episodes: Sequence[Episode]) -> tuple[float, int] | None:
        """Without a KL term TRL has no reference: the start model reads one micro-batch of the step's episodes.

        The mean over this process's part of them, and that part's tokens.
        """
        if self._spec.beta > 0 or self._own.start is None:
            return None
        every = max(1, len(episodes) * self._processes.count // self._spec.micro_batch)
        some = episodes[-self._processes.rank * len(episodes) % every :: every]
        tokens = sum(sum(e.env_mask) for e in some)
        return (kl_to_start(self._own.start, some, self._spec.temperature) if tokens else 0.0), tokens

    def _take_weights(self, trainer: Any) -> None:
        """Sample with the policy as it is now: on TRL's vLLM, which has just been given it, or by this process."""
        engine = self._own.engine
        if self._spec.vllm != "off":
            if isinstance(engine, Engine) and isinstance(engine.sampler, LocalModel):  # the first time
                engine.sampler = rollout_sampler(trainer, engine.max_length, self._processes)
        elif self._processes.sharded:
            gather_weights(trainer.model, self._own.model)
