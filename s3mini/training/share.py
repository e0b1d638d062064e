"""What stands around the loop of `grpo`: the processes beside this one, the weights it samples with, the record.

The loop rolls out and scores one process's share of a step as if there were no other.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from ..episodes import Engine
from ..models.http.colocated import rollout_sampler
from ..models.local import LocalModel
from ..profile import GrpoSpec
from ..records import Episode, Question
from ..reward import alike
from ..runs.machine import memory_kept
from ..runs.processes import Processes
from .parts import Outcome, Parts
from .recorder import Played, Recorder, Report, kl_to_start, shown_episodes, whole_step
from .trainer import gather_weights, in_bfloat16, unwrapped
from .trl import as_prompt, reserve

FEWEST = 8
"""Episodes of a step, at least, by which the policy's divergence from its start is measured."""
RolloutFunc = Callable[[Sequence[list[dict[str, str]]], Any], dict[str, Any]]


class Share:
    """One process's share of every step: its episodes are seeded as one process would seed them, its figures kept.

    A loop that is made of ``self.parts`` and called by `around` needs to know nothing of it. With ``grpo.resample`` it is
    called again for the questions whose episodes fared all alike: TRL wants a completion for each of its rows, and takes
    prompts and completions as they are returned, so the fresh question's stand in the rows of the one that it replaces.
    """

    def __init__(self, parts: Parts, spec: GrpoSpec, seed: int, processes: Processes) -> None:
        self.parts = replace(parts, engine=self, score=self.score)  # type: ignore[arg-type]  # `run` is all they need
        self._own, self._spec, self._seed, self._processes = parts, spec, seed, processes
        self._before: Counter[str] = Counter()
        self._groups: dict[int, list[tuple[Episode, Outcome]]] = {}  # this step's, in TRL's order
        self._playing: Sequence[int] = ()  # the groups that the loop has been called for
        self._wasted = 0
        self.narrow = False  # whether episodes are sampled in bfloat16
        self._seconds_rollout = self._seconds_score = 0.0

    def around(self, loop: RolloutFunc, recorder: Recorder | None) -> RolloutFunc:
        """The loop as TRL calls it in every process; the main one has the ``recorder``."""

        @memory_kept(False)  # neither across the rollouts nor what the update before them freed
        def share(prompts: Sequence[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
            self._take_weights(trainer)
            step = trainer.state.global_step // self._spec.num_iterations + 1
            asked = self._processes.everywhere(lambda: [prompt[-1]["id"] for prompt in prompts])
            self._before = Counter(i for ids in asked[: self._processes.rank] for i in ids)
            self._groups, self._playing = {}, range(len(prompts) // self._spec.num_generations)
            self._wasted, self._seconds_rollout, self._seconds_score = 0, 0.0, 0.0
            completions = self._processes.each(lambda: loop(prompts, trainer))
            if self._spec.resample:
                fresh = reserve(self._own.questions, self._seed, self._spec, step)
                self._replace(
                    [q for q in fresh if q.id not in set().union(*asked)], loop, completions, trainer
                )
            reports = self._processes.everywhere(self._report)
            if recorder is not None:
                figures, shown = whole_step(reports, self._spec.num_generations)
                recorder.leave({"step": step, **figures}, shown)
            return completions

        return share

    def _replace(
        self, fresh: list[Question], loop: RolloutFunc, completions: dict[str, Any], trainer: Any
    ) -> None:
        """Put ``fresh`` questions in the place of those that are all alike, in some rounds, while there are any of both.

        All processes take from the same ``fresh``, in the order of one process.
        """
        self._before = Counter()  # nobody else plays them
        for _ in range(self._spec.resample):
            everybodys = self._processes.everywhere(self._alike)
            first = sum(map(len, everybodys[: self._processes.rank]))
            own = list(zip(everybodys[self._processes.rank], fresh[first:], strict=False))
            del fresh[: sum(map(len, everybodys))]
            self._processes.each(partial(self._play_again, own, loop, completions, trainer))

    def _alike(self) -> list[int]:
        return [i for i, group in self._groups.items() if alike([outcome.reward for _, outcome in group])]

    def _play_again(
        self,
        own: Sequence[tuple[int, Question]],
        loop: RolloutFunc,
        completions: dict[str, Any],
        trainer: Any,
    ) -> None:
        if not own:
            return
        size = self._spec.num_generations
        self._playing = [group for group, _ in own]
        self._wasted += len(own) * size
        made = loop([as_prompt(question) for _, question in own for _ in range(size)], trainer)
        for key, rows in made.items():
            for i, group in enumerate(self._playing):
                completions[key][group * size : (group + 1) * size] = rows[i * size : (i + 1) * size]

    def run(self, *given: Any, **named: Any) -> list[Episode]:
        """`Engine.run`, a question's episodes numbered on from those that earlier processes run."""
        started = time.perf_counter()
        with unwrapped(self._own.model), in_bfloat16(self._own.model) if self.narrow else nullcontext():
            episodes = self._own.engine.run(*given, **(named | {"before": self._before}))
        self._seconds_rollout += time.perf_counter() - started
        return episodes

    def score(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """The outcomes; what is recorded of them is kept for the main process."""
        started = time.perf_counter()
        outcomes = self._own.score(episodes)
        self._seconds_score += time.perf_counter() - started
        played, size = list(zip(episodes, outcomes, strict=True)), self._spec.num_generations
        self._groups |= {g: played[i * size : (i + 1) * size] for i, g in enumerate(self._playing)}
        return outcomes

    def _report(self) -> Report:
        played = [pair for group in self._groups.values() for pair in group]
        episodes, outcomes = [episode for episode, _ in played], [outcome for _, outcome in played]
        return Report(
            [Played.of(*pair) for pair in played],
            shown_episodes(episodes, outcomes, self._spec.num_generations),
            self._kl(episodes),
            self._seconds_rollout,
            self._seconds_score,
            self._wasted if self._spec.resample else None,
        )

    def _kl(self, episodes: Sequence[Episode]) -> tuple[float, int] | None:
        """Without a KL term TRL has no reference: the start model reads some of the step's episodes, a micro-batch at a time.

        The mean over this process's part of them, and that part's tokens.
        """
        if self._spec.beta > 0 or self._own.start is None:
            return None
        micro = self._spec.micro_batch
        every = max(1, len(episodes) * self._processes.count // max(micro, FEWEST))
        some = episodes[-self._processes.rank * len(episodes) % every :: every]
        tokens = sum(sum(e.env_mask) for e in some)
        if not tokens:
            return 0.0, 0
        return kl_to_start(self._own.start, some, self._spec.temperature, batch_size=micro), tokens

    def _take_weights(self, trainer: Any) -> None:
        """Sample with the policy as it is now: on TRL's vLLM, which has just been given it, or by this process."""
        engine = self._own.engine
        if self._spec.vllm != "off":
            if isinstance(engine, Engine) and isinstance(engine.sampler, LocalModel):  # the first time
                engine.sampler = rollout_sampler(trainer, engine.max_length, self._processes)
        elif self._processes.sharded:
            gather_weights(trainer.model, self._own.model)
