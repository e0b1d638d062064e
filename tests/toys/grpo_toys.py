"""A tiny random searcher with something to learn, for GRPO.

Its reward is the share of sampled tokens below a fixed id, so that a few steps show in the curve. Run as a
script it trains and kills itself during the rollout of one step::

    S3MINI_ROOT=DIR python tests/toys/grpo_toys.py DIR STEP
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rag_toys import make_world, toy_profile
from toy_model import toy_local

from s3mini.corpus import load_questions, read_corpus
from s3mini.episodes import Engine
from s3mini.grpo import train
from s3mini.profile import Profile
from s3mini.protocols import S3Protocol
from s3mini.records import Document, Episode, Hit, Question, Score, Turn
from s3mini.training.parts import Outcome, Parts


class FixedRetriever:
    """The same documents for every query; ``fail`` raises instead."""

    name = "fixed"
    fingerprint = "fixed"

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)
        self.fail: Exception | None = None

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if self.fail is not None:
            raise self.fail
        return [[Hit(d, 1.0) for d in self.documents[:k]] for _ in queries]


def low_ids(episode: Episode) -> float:
    """Share of the model's own tokens with an id below 160."""
    own = [i for i, mine in zip(episode.completion_ids, episode.env_mask, strict=True) if mine]
    return sum(i < 160 for i in own) / max(1, len(own))


def score_low_ids(episodes: Sequence[Episode]) -> list[Outcome]:
    return [Outcome(low_ids(e), Score("", 0.0, 0.0, low_ids(e) > 0.5, None), 0.0, 7) for e in episodes]


class KillingEngine:
    """An engine that ends its process at the ``step``-th rollout, as ``kill -9`` would."""

    def __init__(self, engine: Engine, step: int) -> None:
        self.engine, self.step, self.calls = engine, step, 0

    def run(self, questions: Sequence[Question], *args: object, **kwargs: object) -> list[Episode]:
        self.calls += 1
        if self.calls == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.engine.run(questions, *args, **kwargs)


def grpo_profile(**overrides: object) -> Profile:
    settings = {
        "grpo.steps": 6,
        "grpo.questions_per_step": 2,
        "grpo.num_generations": 4,
        "grpo.micro_batch": 4,
        "grpo.learning_rate": 5e-3,
        "grpo.lr_scheduler_type": "linear",
        "grpo.beta": 0.0,
        "grpo.max_completion_length": 200,
        "grpo.save_steps": 2,
        **overrides,
    }
    return toy_profile(**settings)


def grpo_parts(profile: Profile, seed: int = 0) -> Parts:
    """Parts with a tiny random policy; call after `make_world`."""
    policy, start = toy_local(seed), toy_local(seed)
    documents = read_corpus(profile.resolve(profile.data.corpus))
    engine = Engine(
        policy, policy.tokenizer, FixedRetriever(documents), S3Protocol(2, 1, 2, 1, "brief"), 12, 400
    )
    questions = load_questions(profile, "nq", "train")
    return Parts(policy.model, policy.tokenizer, questions, engine, score_low_ids, start.model)


def episode(own: int = 3, env: int = 2, context: int = 1, question: str = "q", **changes: object) -> Episode:
    ids = tuple(range(10, 10 + own + env))
    documents = tuple(Document(f"d{i}", f"T{i}", "text") for i in range(context))
    made = Episode(
        Question(question, "who?", ("x",)), (5, 6, 7), ids, (1,) * own + (0,) * env, (-0.5,) * own + (0.0,) * env,
        (Turn("t", "query", False, None, (), True), Turn("t", None, True, None, (), False)), (), documents, "complete",
    )  # fmt: skip
    return replace(made, **changes)


def outcome(reward: float, gen_acc: bool = False, gbr: float | None = None) -> Outcome:
    return Outcome(reward, Score("a", 0.0, 0.0, gen_acc, None), gbr, 10)


if __name__ == "__main__":
    root, step = Path(sys.argv[1]), int(sys.argv[2])
    make_world(root)
    profile = grpo_profile()
    parts = grpo_parts(profile)
    parts.engine = KillingEngine(parts.engine, step)
    train(profile, 0, "toy", progress=False, parts=parts)
