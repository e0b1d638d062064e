"""What a training run leaves behind: its curve, a few episodes per step, and checkpoints it can resume from.

curve.jsonl      one line per step (`whole_step`, and TRL's figures)
episodes.jsonl   per step, the best and the worst episode of one group, as text
checkpoints/     the trainer's state; only a folder marked complete is resumed from
precision.json   what ``grpo.precision: auto`` was settled as, and why
adapters/        what was trained, where that is adapters (``grpo.lora_rank``)
kept/step-N/     the searcher after step N, for the steps named in `grpo.keep_steps`
model/           the trained searcher (safetensors, tokenizer)
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from ..records import Episode, episode_as_json
from ..reward import alike
from ..runs.progress import tqdm
from ..runs.stages import JsonlLog, atomic_dir, atomic_write
from .parts import Outcome
from .trainer import completion_logprobs

CURVE, EPISODES = "curve.jsonl", "episodes.jsonl"
CHECKPOINTS, KEPT, LORA, MODEL = "checkpoints", "kept", "adapters", "model"
COMPLETE = "complete"
FROM_TRL = {name: name for name in ("loss", "grad_norm", "learning_rate", "kl")}
FROM_TRL["clip_ratio/region_mean"] = "clipped"
BESIDE_THE_BAR = ("reward", "searches", "valid_format")  # more is cut off by the width of a notebook's bar


@dataclass(frozen=True, slots=True)
class Played:
    """What is recorded of one episode: small enough to be sent to the process that writes."""

    reward: float
    gen_acc: float | None
    gbr: float | None
    valid_format: float
    searches: int
    documents: int
    context_tokens: int
    tokens: int  # the model's own
    surprise: float  # of all of them, nats
    cut: bool
    earned: float | None = None

    @staticmethod
    def of(episode: Episode, outcome: Outcome) -> Played:
        """An episode and how it fared."""
        return Played(
            outcome.reward,
            None if outcome.score is None else outcome.score.gen_acc,
            outcome.gbr,
            episode.valid_format,
            episode.searches,
            len(episode.context),
            outcome.context_tokens,
            sum(episode.env_mask),
            -sum(episode.logprobs),
            episode.end == "length",
            outcome.earned,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What one process tells of its share of a step."""

    played: list[Played]
    shown: list[dict[str, Any]]
    kl: tuple[float, int] | None  # a mean, and the number of tokens it is over
    seconds_rollout: float
    seconds_score: float
    wasted: int | None = (
        None  # episodes played for questions that were then replaced; None where none ever are
    )


def whole_step(reports: Sequence[Report], group: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record of a step and its shown episodes, as of one process that had done it all.

    ``wasted`` is the share of all episodes played that belonged to replaced questions; no other figure is made of those.
    The seconds are the slowest's, for which the others wait.
    """
    record = step_record([p for report in reports for p in report.played], group)
    parts = [report.kl for report in reports if report.kl is not None]
    if parts:
        tokens = sum(count for _, count in parts)
        record["kl"] = round(sum(mean * count for mean, count in parts) / max(1, tokens), 6)
    wasted = [report.wasted for report in reports if report.wasted is not None]
    if wasted:
        record["wasted"] = round(sum(wasted) / (sum(wasted) + record["episodes"]), 6)
    record["seconds_rollout"] = round(max(report.seconds_rollout for report in reports), 3)
    record["seconds_score"] = round(max(report.seconds_score for report in reports), 3)
    differing = (r.shown for r in reports if r.shown[0]["reward"] > r.shown[-1]["reward"])
    return record, next(differing, reports[0].shown)


def step_record(played: Sequence[Played], group: int) -> dict[str, Any]:
    """One step's figures: means over its episodes, ``group`` of them side by side per question.

    ``entropy`` is estimated by the sampled tokens' surprise, in nats per model token; ``zero_variance`` is
    the share of groups whose rewards are all alike, which teach nothing; ``cut`` that of episodes
    stopped by the length limit; ``earned``, where searches cost something, the reward before they were paid for.
    """

    def mean(name: str) -> float | None:
        known = [value for p in played if (value := getattr(p, name)) is not None]
        return round(sum(known) / len(known), 6) if known else None

    rewards = [p.reward for p in played]
    groups = [rewards[i : i + group] for i in range(0, len(played), group)]
    earned = {} if (value := mean("earned")) is None else {"earned": value}
    means = ("reward", "gen_acc", "gbr", "valid_format", "searches", "documents", "context_tokens")
    return {
        "episodes": len(played),
        **{name: mean(name) for name in means},
        **earned,
        "zero_variance": round(sum(map(alike, groups)) / len(groups), 6),
        "entropy": round(sum(p.surprise for p in played) / max(1, sum(p.tokens for p in played)), 6),
        "completion_tokens": mean("tokens"),
        "cut": mean("cut"),
    }


@torch.no_grad()
def kl_to_start(
    start: PreTrainedModel, episodes: Sequence[Episode], temperature: float, batch_size: int = 16
) -> float:
    """KL divergence of the policy from its start, nats per model token, as TRL estimates it.

    The policy's side is what sampling recorded, so only the start model reads the episodes. The estimator is
    ``exp(d) - d - 1`` with ``d = log start - log policy`` (Schulman, "Approximating KL divergence", k3).
    """
    prompt = max(len(e.prompt_ids) for e in episodes)
    completion = max(len(e.completion_ids) for e in episodes)

    def rows(values: Sequence[tuple[Sequence[float], Sequence[float]]]) -> torch.Tensor:
        padded = [[0] * (prompt - len(p)) + [*p, *c] + [0] * (completion - len(c)) for p, c in values]
        return torch.tensor(padded).to(start.device)

    ids = rows([(e.prompt_ids, e.completion_ids) for e in episodes])
    seen = rows([([1] * len(e.prompt_ids), [1] * len(e.completion_ids)) for e in episodes])
    scored = rows([((), e.env_mask) for e in episodes])[:, prompt:]
    sampled = rows([((), e.logprobs) for e in episodes])[:, prompt:]
    before, _ = completion_logprobs(start, ids, seen, scored, temperature, batch_size)
    difference = (before - sampled) * scored
    total = (torch.exp(difference) - difference - 1).sum() / scored.sum().clamp(min=1)
    return float(total)


def shown_episodes(
    episodes: Sequence[Episode], outcomes: Sequence[Outcome], group: int
) -> list[dict[str, Any]]:
    """The best and the worst episode of the first group that has both (else of the first), for reading."""
    rewards = [outcome.reward for outcome in outcomes]
    groups = [range(first, first + group) for first in range(0, len(episodes), group)]
    members = next((g for g in groups if len({rewards[i] for i in g}) > 1), groups[0])
    ranked = sorted(members, key=lambda i: -rewards[i])
    return [
        {
            "id": episode.question.id,
            "question": episode.question.question,
            "golden_answers": list(episode.question.golden_answers),
            "context": [d.id for d in episode.context],
            "titles": [d.title for d in episode.context],
            "answer": outcome.score and outcome.score.answer,
            "gen_acc": outcome.score and outcome.score.gen_acc,
            "reward": outcome.reward,
            "episode": episode_as_json(episode),
        }
        for episode, outcome in ((episodes[i], outcomes[i]) for i in (ranked[0], ranked[-1]))
    ]


def episodes_played(curve: Iterable[dict[str, Any]]) -> int:
    """The episodes of all steps of a curve, those of replaced questions too."""
    return sum(round(step["episodes"] / (1 - step.get("wasted", 0))) for step in curve)


# ------------------------------------------------------------------------------ checkpoints


def updates(checkpoint: Path) -> int:
    """The optimizer steps that lie behind a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; later, torn ones are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=updates, reverse=True):
        if (path / COMPLETE).exists():
            return path
        shutil.rmtree(path)
    return None


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a log that belong to steps after ``step``: those steps are done again."""
    with JsonlLog(path) as log:
        kept = [record for record in log if record["step"] <= step]
        if len(kept) == len(log):
            return
    atomic_write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


class Recorder(TrainerCallback):
    """Writes the curve and the episodes, shows the bar, marks checkpoints complete.

    The rollout leaves a step's figures in `leave`; TRL's own follow when the step is over.
    """

    def __init__(self, folder: Path, steps: int, done: int = 0, progress: bool = True) -> None:
        for name in (CURVE, EPISODES):
            keep_until(folder / name, done)
        self.curve, self.episodes = JsonlLog(folder / CURVE), JsonlLog(folder / EPISODES)
        self._bar = tqdm(total=steps, initial=done, desc="GRPO", unit="step", disable=not progress)
        self._keep: dict[int, Callable[[Path], None]] = {}
        self._folder = folder
        self._left: tuple[dict[str, Any], list[dict[str, Any]], float] | None = None

    def keep(self, steps: Sequence[int], save: Callable[[Path], None]) -> None:
        """Have ``save`` write the model into a folder after each of ``steps``; a step 0 is the start."""
        self._keep = dict.fromkeys(steps, save)
        self._save_kept(0)

    def _save_kept(self, step: int) -> None:
        path = self._folder / KEPT / f"step-{step}"
        if step in self._keep and not path.exists():
            with atomic_dir(path) as folder:
                self._keep[step](folder)

    def leave(self, record: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        """Figures of the step whose update is about to begin."""
        self._left = record, shown, time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """End of a step's update."""
        if self._left is None:  # the run's closing summary
            return
        record, shown, since = self._left
        self._left = None
        record |= {ours: round(logs[trl], 8) for trl, ours in FROM_TRL.items() if logs.get(trl) is not None}
        record["seconds_update"] = round(time.perf_counter() - since, 3)
        self.episodes.extend({"step": record["step"], **episode} for episode in shown)
        self._save_kept(record["step"])
        self.curve.append(record)
        self._bar.set_postfix({name: f"{record[name]:.2f}" for name in BESIDE_THE_BAR})
        self._bar.update()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint is on the disk: say so, and drop the older ones."""
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        atomic_write(newest / COMPLETE, "")
        for path in newest.parent.glob("checkpoint-*"):
            if path != newest:
                shutil.rmtree(path)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self.curve, self.episodes, self._bar):
            opened.close()
