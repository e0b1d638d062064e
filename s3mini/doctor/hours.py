"""How long a profile's stages take, computed from operations and bytes, or measured where a stage has run or its record ships.

Workloads (tokens a question, questions a set) are those of `needs`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache

from ..hub.sizes import ENCODERS, Shape, shape_of
from ..profile import ROOT, Profile
from ..runs.stages import stage_times
from .needs import (
    ANSWER_TOKENS,
    DOCUMENT_TOKENS,
    QUESTION_TOKENS,
    ROWS,
    TURN_TOKENS,
    answer_tokens,
    documents,
    episode_tokens,
    questions,
)

CARDS = {  # dense bfloat16 operations and bytes of memory traffic a second, as their makers state them
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "A10": (125e12, 0.6e12),
    "L4": (121e12, 0.3e12),
    "4090": (165e12, 1.01e12),
    "3090": (71e12, 0.94e12),
}
REACHED = 0.4  # share of a card's operations that reading and training reach
STREAMED = 0.6  # share of its memory traffic that writing token by token reaches
RECORD = "data/mini/results/seed0.json"
_STAGES = ("index", "rag", "train", "evaluation")


@dataclass(frozen=True, slots=True)
class Speed:
    """A card's operations and bytes a second, and how many of it; and the processor's float32 operations."""

    name: str
    operations: float
    traffic: float
    count: int = 1
    processor: float = 0.6e12  # a server of 16 cores


@cache
def cpu_operations() -> float:
    """Float32 operations a second of this machine's processor in a matrix product, measured for 0.2 s."""
    try:
        import numpy as np
    except ImportError:
        return 5e10
    a = np.ones((768, 768), np.float32)
    a @ a
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        a @ a
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - started)


def generation(shape: Shape, read: float, written: float, rows: int, speed: Speed) -> float:
    """Seconds for ``read`` tokens read at once and ``written`` tokens written by ``rows`` rows side by side."""
    reading = 2.0 * shape.parameters * read / (speed.operations * REACHED)
    step = shape.file_bytes + rows * 2000 * shape.kv_bytes  # bytes that a step reads: weights and caches
    return (reading + written / rows * step / (speed.traffic * STREAMED)) / speed.count


def hours(profile: Profile, speed: Speed | None) -> list[tuple[str, float | None, str]]:
    """(stage, hours or None where nothing is known, how it comes about), in the order of a run."""
    measured = {stage: seconds for stage, seconds in _measured(profile).items() if seconds is not None}
    computed = _computed(profile, speed) if speed is not None else {}
    rows: list[tuple[str, float | None, str]] = []
    for stage in _STAGES:
        if stage == "train" and not profile.data.train_sets:
            continue
        if stage in measured:
            seconds, why = measured[stage]
            rows.append((stage, seconds / 3600, why))
        elif stage in computed:
            seconds, why = computed[stage]
            rows.append((stage, seconds / 3600, why))
        else:
            rows.append((stage, None, "not run here yet, and no record of it"))
    return rows


def _measured(profile: Profile) -> dict[str, tuple[float, str] | None]:
    """Seconds by stage of what ran here; else, for the mini world's profiles, from the record that ships, by share of the work."""
    here = _by_stage({name: float(m["seconds"]) for name, m in stage_times(profile).items()})
    found: dict[str, tuple[float, str] | None] = {s: (n, "measured: it ran here") for s, n in here.items()}
    record = ROOT / RECORD
    if profile.searcher.path != "data/mini/model" or not record.is_file():
        return found
    results = json.loads(record.read_text(encoding="utf-8"))
    theirs = _by_stage({name: float(m["seconds"]) for name, m in results["stages"].items()})
    grpo, where = (
        profile.grpo,
        f"from the record of {results['machine']['cores']} cores, by share of the work",
    )
    runs = next(run for name, run in results["training"].items() if name.startswith("s3"))
    shares = {
        "index": documents(profile) / 2680,
        "rag": (questions(profile, "train") + questions(profile, "test")) / 2600,
        "train": grpo.steps * grpo.questions_per_step * grpo.num_generations / runs["episodes"],
        "evaluation": questions(profile, "test")
        * len(profile.evaluation.methods)
        / (1200 * len(results["methods"])),
    }
    theirs["train"] = float(runs["seconds"])
    for stage, share in shares.items():
        if stage not in found and stage in theirs:
            found[stage] = (theirs[stage] * share, where)
    return found


def _by_stage(times: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in times.items():
        stage = name.partition("/")[0]
        if stage in _STAGES:
            found[stage] = found.get(stage, 0.0) + seconds
    return found


def _computed(profile: Profile, speed: Speed) -> dict[str, tuple[float, str]]:
    """Seconds by stage from operations and bytes."""
    searcher, generator = shape_of(profile.searcher.path), shape_of(profile.generator.path)
    number, grpo, s3 = documents(profile), profile.grpo, profile.s3
    if searcher is None or generator is None or not number:
        return {}
    _, dimension = ENCODERS.get(profile.retrieval.dense.encoder, (0.0, 768))
    search = 2.0 * number * dimension / (speed.processor * 0.5) if profile.retrieval.kind == "dense" else 0.01
    rows, writers = min(profile.generator.batch_size, ROWS), profile.searcher.max_rows
    train, test = questions(profile, "train"), questions(profile, "test")
    judged = 0.5  # of the answers, where the span match fails
    naive = QUESTION_TOKENS + profile.rag.k * DOCUMENT_TOKENS

    def answer(count: float, tokens: int) -> float:
        read, written = count * (tokens + judged * 150), count * (ANSWER_TOKENS + judged * 3)
        return generation(generator, read, written, rows, speed)

    def search_all(count: float, each: float) -> float:
        return generation(
            searcher, count * episode_tokens(profile), count * s3.turns * TURN_TOKENS, writers, speed
        ) + (count * each * search)

    linked = "index" in profile.data.hub
    encoder_work = 2.0 * 110e6 * DOCUMENT_TOKENS * number / (speed.operations * REACHED * speed.count)
    index = 65e9 / 0.5e9 * 2 if linked else encoder_work
    lexical = number / (1000.0 * 8)
    episodes = float(grpo.steps * grpo.questions_per_step * grpo.num_generations)
    passes = (
        8.0 if not grpo.lora_rank else 6.0
    )  # forward 2, again for the checkpoints 2, backward 4 (2 with frozen weights)
    passes += 2.0 if grpo.beta else 0.0
    update = passes * searcher.parameters * episodes * episode_tokens(profile) / (
        speed.operations * REACHED * speed.count
    )  # fmt: skip
    rollout, reading = search_all(episodes, s3.turns + 1), answer(episodes, answer_tokens(profile))
    methods = len(profile.evaluation.methods)
    return {
        "index": (
            index + lexical,
            "linked and read twice" if linked else "encoding; Lucene at 8,000 passages a second",
        ),
        "rag": (
            answer(train + test, naive) + (train + test) * search,
            f"{train + test:,} questions: {(train + test) * search / 3600:.1f} h of search at {search * 1e3:.0f} ms",
        ),
        "train": (
            rollout + reading + update,
            f"{episodes:,.0f} episodes × {episode_tokens(profile)} tokens: rollouts {rollout / 3600:.1f} h, "
            f"answers {reading / 3600:.1f} h, updates {update / 3600:.1f} h",
        ),
        "evaluation": (
            methods * (search_all(test, 2.5) + answer(test, answer_tokens(profile))) * 0.7,
            f"{methods} methods × {test:,} questions, 0.7 of s3's work each",
        ),
    }
