"""Experiments beside the main table: ablations, another generator, data efficiency (paper, sections 5 and 6).

    experiment(profile, study) = for each arm: change the profile -> train -> evaluate -> one entry

A *study* is a table of the paper, an *arm* a row of it: a few keys of the profile that differ. The arm without
changes is the main run, which is trained once. Trainings and answers are stages, so a study that was killed goes
on; what it found is added to ``build/<profile>/experiments.json``::

    {STUDY: {"seed", "n", "arms": {ARM: {"settings", "average", "sets", "context_tokens", "searches_per_question",
                                         "difference": to the first arm, "seconds"}}}}

The two others differ in what they change: ``generator`` has another model read the contexts that were
collected for the first, ``efficiency`` stops along one training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .bench import Bench
from .corpus import load_questions
from .errors import DataError
from .evaluation import answer_set, load_answers
from .methods import METHODS, Method
from .profile import Profile, changed
from .records import Collected, Question
from .results import Answer, accuracies, method_summary, read_record
from .runs.machine import cores
from .runs.stages import atomic_write, read_manifest
from .statistics import paired_difference

FILE = "experiments.json"
REREAD = ("rag-dense", "s3-untrained", "s3", "oracle")
FACTOR = 2
ALONG = 100
TRAINED = ("s3", "search-r1", "deepretrieval")


@dataclass(frozen=True)
class Arm:
    """One row: its name, and the profile's keys it changes."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """Name of its training run and of its answers: the main ones where nothing is changed."""
        return "s3-" + self.name.replace(" ", "-") if self.settings else "s3"


def turns_arms(profile: Profile) -> list[Arm]:
    """k-select-turns in the paper's proportions: 8-3-3, 5-3-3, 5-3-4, 3-3-4, 3-3-3 where k is 8."""
    s3 = profile.s3
    middle, small = ceil(s3.k * 5 / 8), ceil(s3.k * 3 / 8)
    numbers = [
        (s3.k, s3.turns), (middle, s3.turns), (middle, s3.turns + 1), (small, s3.turns + 1), (small, s3.turns),
    ]  # fmt: skip
    return [
        Arm(f"{k}-{s3.select}-{turns}", {"s3.k": k, "s3.turns": turns} if number else {})
        for number, (k, turns) in enumerate(numbers)
    ]


def loop_arms(profile: Profile) -> list[Arm]:
    """What is left out of the loop."""
    select, begin = {"s3.select": 0}, {"s3.begin_k": 0}
    return [
        Arm("full"), Arm("no selection", select), Arm("no begin", begin), Arm("neither", {**select, **begin}),
    ]  # fmt: skip


def reward_arms(profile: Profile) -> list[Arm]:
    """What is rewarded. GBR and GenAcc are one arm: in a group the naive RAG term cancels."""
    return [Arm("gen_acc"), *(Arm(name, {"grpo.reward": name}) for name in ("judge", "span", "em"))]


def filter_arms(profile: Profile) -> list[Arm]:
    """Training questions with and without those that naive RAG answers: what is left of GBR under GRPO."""
    return [Arm("filtered"), Arm("unfiltered", {"grpo.filtered": False})]


def steps_arms(profile: Profile) -> list[Arm]:
    """More of the same."""
    steps = profile.grpo.steps
    return [Arm(f"{steps} steps"), Arm(f"{3 * steps} steps", {"grpo.steps": 3 * steps})]


ABLATIONS: dict[str, Callable[[Profile], list[Arm]]] = {
    "turns": turns_arms, "loop": loop_arms, "reward": reward_arms, "filter": filter_arms, "steps": steps_arms,
}  # fmt: skip
STUDIES = (*ABLATIONS, "generator", "efficiency")


def experiment(
    profile: Profile, study: str, seed: int = 0, progress: bool = True, timed: bool = False
) -> dict[str, Any]:
    """Run a study of `STUDIES` and add its entry to ``experiments.json``; returns the entry.

    ``timed``: nothing else ran on the machine, so that seconds of training can be compared.

    Raises:
        DataError: unknown study; for ``generator``, no other generator in the profile or nothing evaluated yet.
        StageError, RetrievalError, ModelError: a part failed; run again to go on.
    """
    if study in ABLATIONS:
        found = ablation(profile, ABLATIONS[study](profile), seed, progress)
    elif study == "generator":
        found = other_generator(profile, seed, progress)
    elif study == "efficiency":
        found = efficiency(profile, seed, progress=progress, timed=timed)
    else:
        raise DataError(f"unknown experiment {study!r}: choose from {', '.join(STUDIES)}")
    path = profile.build / FILE
    known = read_experiments(path) if path.is_file() else {}
    atomic_write(path, json.dumps({**known, study: found}, indent=1) + "\n")
    return found


def recorded(profile: Profile) -> Path:
    """The experiments of this build where it ran any, else those that ship with the repository."""
    own = profile.build / FILE
    return own if own.is_file() else profile.resolve(f"data/mini/results/{FILE}")


def read_experiments(path: Path) -> dict[str, Any]:
    """The content of an ``experiments.json``.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    return read_record(path, "s3mini experiment")


def ablation(profile: Profile, arms: Sequence[Arm], seed: int, progress: bool = True) -> dict[str, Any]:
    """Train and evaluate every arm; differences are paired, to the first."""
    from .grpo import train

    answers: dict[str, dict[str, list[Answer]]] = {}
    seconds: dict[str, float] = {}
    for arm in arms:
        its = changed(profile, arm.settings)
        folder = train(its, seed, arm.run, progress=progress)
        seconds[arm.name] = read_manifest(folder).get("seconds", 0.0)
        method = replace(METHODS["s3"], name=arm.run)
        answers[arm.name] = _answers(Bench(its, seed, folder), method, progress)
    return _entry(profile, arms, answers, seconds, seed)


def other_generator(profile: Profile, seed: int, progress: bool = True) -> dict[str, Any]:
    """Another frozen generator reads the contexts that each method collected for the profile's own.

    Nothing is trained or searched anew: what changes is the reader alone.
    """
    other = profile.evaluation.other_generator
    if other is None:
        raise DataError(f"profile {profile.name} names no evaluation.other_generator")
    its = profile.model_copy(update={"generator": other})
    bench = Bench(its, seed)
    answers: dict[str, dict[str, list[Answer]]] = {}
    for name in REREAD:
        stored = {set_name: load_answers(profile, name, set_name, seed) for set_name in profile.data.sets}
        answers[name] = _answers(bench, reread(METHODS[name], stored), progress)
    return _entry(profile, [Arm(name) for name in REREAD], answers, {}, seed)


def reread(method: Method, stored: Mapping[str, Sequence[Answer]]) -> Method:
    """The method with its contexts as they were collected, to be answered by another generator."""
    contexts = {record["id"]: record["context"] for records in stored.values() for record in records}

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        return [Collected(tuple(bench.documents[i] for i in contexts[q.id])) for q in questions]

    return replace(method, name=f"{method.name}-reread", collect=collect)


def efficiency(
    profile: Profile,
    seed: int,
    protocols: Sequence[str] = TRAINED,
    progress: bool = True,
    timed: bool = False,
) -> dict[str, Any]:
    """GenAcc along training: after 0, a few, and all steps; the opponents get `FACTOR` times s3's steps.

    On the first `ALONG` test questions of each set: there are many points.

    Returns:
        ``{"seed", "n", "threads", "curves": {METHOD: [{"step", "examples", "seconds", "gen_acc", "ci95"}, …]}}``, seconds
        of training alone, None unless ``timed``.
    """
    from .grpo import train

    curves: dict[str, list[dict[str, Any]]] = {}
    n = 0
    for protocol in protocols:
        steps = profile.grpo.steps * (1 if protocol == "s3" else FACTOR)
        stops = sorted({0, *(ceil(steps * share) for share in (0.2, 0.4, 0.6, 1.0))})
        limit = min(ALONG, profile.data.test_limit or ALONG)
        its = changed(profile, {"grpo.steps": steps, "grpo.keep_steps": stops, "data.test_limit": limit})
        folder = train(its, seed, f"{protocol}-curve", protocol=protocol, progress=progress)
        spent = [0.0, *_seconds(folder)]
        curves[protocol] = []
        for step in stops:
            bench = Bench(its, seed, folder / "kept" / f"step-{step}", protocol)
            method = replace(METHODS[protocol], name=f"{protocol}-curve-{step}")
            summary = method_summary(_answers(bench, method, progress), profile.evaluation.bootstrap, seed)
            n = summary["average"]["n"]
            curves[protocol].append(
                {
                    "step": step,
                    "examples": step * its.grpo.questions_per_step,
                    "seconds": round(sum(spent[: step + 1]), 1) if timed else None,
                    **{key: summary["average"][key] for key in ("gen_acc", "ci95")},
                    "valid_format": summary["valid_format"],
                }
            )
    return {"seed": seed, "n": n, "threads": profile.threads or cores(), "curves": curves}


def _seconds(folder: Path) -> list[float]:
    lines = (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    parts = ("seconds_rollout", "seconds_score", "seconds_update")
    return [sum(json.loads(line)[part] for part in parts) for line in lines]


def _answers(bench: Bench, method: Method, progress: bool) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    questions = {name: load_questions(bench.profile, name, "test") for name in bench.profile.data.sets}
    total = sum(map(len, questions.values()))
    with tqdm(total=total, unit="answer", desc=method.name, disable=not progress) as bar:
        for name, asked in questions.items():
            found[name] = answer_set(bench, method, name, asked, bar)
    return found


def _entry(
    profile: Profile,
    arms: Sequence[Arm],
    answers: Mapping[str, Mapping[str, list[Answer]]],
    seconds: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    draws = profile.evaluation.bootstrap
    first = accuracies(answers[arms[0].name])
    rows: dict[str, Any] = {}
    for arm in arms:
        summary = method_summary(answers[arm.name], draws, seed)
        kept = ("sets", "average", "searches_per_question", "context_tokens", "documents")
        rows[arm.name] = {
            "settings": dict(arm.settings),
            **{key: summary[key] for key in kept},
            "difference": paired_difference(accuracies(answers[arm.name]), first, draws, seed).as_json(),
            "seconds": seconds.get(arm.name),
        }
    return {"seed": seed, "n": rows[arms[0].name]["average"]["n"], "arms": rows}
