"""Experiments beside the main table: ablations, another generator, data efficiency (paper, sections 5 and 6).

    experiment(profile, study) = for each arm: change the profile -> train -> evaluate -> one entry

A *study* is a table of the paper, an *arm* a row of it: a few keys of the profile that differ. The arm without
changes is the main run, which is trained once. Trainings and answers are stages, so a study that was killed goes
on; what it found is added to ``build/<profile>/experiments.json``::

    {STUDY: {"seed", "n", "arms": {ARM: {"settings", "average", "sets", "context_tokens", "searches_per_question",
                                         "searches": `results.searching`, "difference": to the first arm, "seconds"}}}}

Others differ in what they change: ``generator`` has another model read the contexts that were
collected for the first, ``efficiency`` stops along one training, ``opponents`` (`opponents`) trains all methods with
several seeds, those of `SEEDED` their arms; those of `FOREIGN` train for another generator.
Studies may run at once, each in a process of its own: where two share a training, one waits and finds it done.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from .bench import Bench
from .corpus import load_questions
from .errors import DataError
from .evaluation import answer_sets, load_answers
from .methods import METHODS, Method
from .opponents import FACTOR, OPPONENTS, opponents, over_seeds
from .profile import Profile, changed
from .records import Collected, Question
from .results import Answer, AnswersBySet, accuracies, by_id, method_summary, read_record, searching
from .runs.machine import cores
from .runs.stages import alone, atomic_write, read_manifest
from .statistics import paired_difference

FILE = "experiments.json"
REREAD = ("rag-dense", "s3-untrained", "s3", "oracle")
ALONG = 100
TRAINED = ("s3", *OPPONENTS)


@dataclass(frozen=True)
class Arm:
    """One row: its name, and the profile's keys it changes."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """Name of its training run and of its answers: the main ones where nothing is changed."""
        return "s3-" + self.name.replace(",", "").replace(" ", "-") if self.settings else "s3"


Evaluated = tuple[Arm, dict[str, list[Answer]], float | None]
"""An arm, its answers by question set, and the seconds of its training, if it was trained."""


def turns_arms(profile: Profile) -> list[Arm]:
    """k-select-turns in the paper's proportions: 8-3-3, 5-3-3, 5-3-4, 3-3-4, 3-3-3 where k is 8."""
    s3 = profile.s3
    middle, small, more = ceil(s3.k * 5 / 8), ceil(s3.k * 3 / 8), s3.turns + 1
    numbers = [(s3.k, s3.turns), (middle, s3.turns), (middle, more), (small, more), (small, s3.turns)]
    return [
        Arm(f"{k}-{s3.select}-{turns}", {"s3.k": k, "s3.turns": turns} if number else {})
        for number, (k, turns) in enumerate(dict.fromkeys(numbers))  # where k is small, two are one
    ]


def reward_arms(profile: Profile) -> list[Arm]:
    """Those of the paper, and the profile's own. GBR and GenAcc are one arm: in a group the naive RAG term cancels."""
    own = "gen_acc" if profile.grpo.reward == "gbr" else profile.grpo.reward
    names = dict.fromkeys(("gen_acc", "judge", "span", "em", own))
    return [Arm(name, {} if name == own else {"grpo.reward": name}) for name in names]


def priced(cost: float) -> dict[str, Any]:
    """The settings of a training in which a search costs so much reward."""
    return {"grpo.search_cost": cost}


SELECT, BEGIN = {"s3.select": 0}, {"s3.begin_k": 0}
ABLATIONS: dict[str, Callable[[Profile], list[Arm]]] = {
    "turns": turns_arms,
    # What is left out of the loop.
    "loop": lambda _: [
        Arm("full"), Arm("no selection", SELECT), Arm("no begin", BEGIN), Arm("neither", SELECT | BEGIN)
    ],
    # What is rewarded.
    "reward": reward_arms,
    # Training questions with and without those that naive RAG answers: what is left of GBR under GRPO.
    "filter": lambda profile: [
        Arm(name, {} if filtered is profile.grpo.filtered else {"grpo.filtered": filtered})
        for name, filtered in (("filtered", True), ("unfiltered", False))
    ],
    # A price for every search: accuracy against searches.
    "price": lambda _: [Arm("free"), *(Arm(f"{cost} a search", priced(cost)) for cost in (0.02, 0.05, 0.1, 0.2))],
    # What a search is worth is learnt after what finds the answer: the same in a longer training.
    "price-longer": lambda profile: [
        Arm(f"{name}, {FACTOR * profile.grpo.steps} steps", {"grpo.steps": FACTOR * profile.grpo.steps} | paid)
        for name, paid in (("free", {}), ("0.02 a search", priced(0.02)))
    ],
    # A control: trained and tested where no query finds anything of use, does it still search? Without a price no episode
    # fares otherwise than another there, and nothing is learnt.
    "broken": lambda _: [
        Arm("as it is"),
        Arm("0.05 a search", priced(0.05)),
        *(Arm(name, {"retrieval.kind": name} | priced(0.05)) for name in ("random", "empty")),
    ],
    # More of the same.
    "steps": lambda profile: [
        Arm(f"{steps} steps", {"grpo.steps": steps} if steps > profile.grpo.steps else {})
        for steps in (profile.grpo.steps, 3 * profile.grpo.steps)
    ],
}  # fmt: skip
SEEDED = {"price-longer": 2}
"""Ablations of which each arm is trained with several seeds, and how many."""
FOREIGN = {"other": "other_generator", "sentences": "sentence_generator"}
"""Generators that are not the profile's own, for which a searcher is trained as well: their keys in ``evaluation``."""
NEEDS = {"generator": "other", "reward-sentences": "sentences"} | {
    f"trained-for-{name}": name for name in FOREIGN
}
"""Studies that need a generator of `FOREIGN`."""
BESIDE = ("search-r1", "rag-dense", "s3-untrained", "oracle")
"""Methods whose contexts the same generator reads beside s3's."""
STUDIES = (
    *ABLATIONS,
    "generator",
    "efficiency",
    *(f"trained-for-{name}" for name in FOREIGN),
    "reward-sentences",
    "opponents",
)


def experiment(
    profile: Profile, study: str, seed: int = 0, progress: bool = True, timed: bool = False
) -> dict[str, Any]:
    """Run a study of `STUDIES` and add its entry to ``experiments.json``; returns the entry.

    ``timed``: nothing else ran on the machine, so that seconds of training can be compared.

    Raises:
        DataError: unknown study; the profile lacks its generator; for ``generator``, nothing evaluated yet.
        StageError, RetrievalError, ModelError: a part failed; run again to go on.
    """
    check_studies(profile, [study])
    if study in SEEDED:
        arms = {a.name: (a.settings, partial(_run, profile, a, progress)) for a in ABLATIONS[study](profile)}
        seeds = range(seed, seed + SEEDED[study])
        entry = over_seeds(arms, seeds, profile.evaluation.bootstrap, _hops(profile))
    elif study in ABLATIONS:
        entry = ablation(profile, ABLATIONS[study](profile), seed, progress)
    elif study == "generator":
        entry = other_generator(profile, seed, progress)
    elif study == "opponents":
        entry = opponents(profile, seed, progress)
    elif study == "reward-sentences":
        its = foreign(profile, NEEDS[study])
        entry = ablation(its, ABLATIONS["reward"](its), seed, progress, ("s3-untrained",))
    elif study != "efficiency":
        entry = trained_for(profile, NEEDS[study], seed, progress)
    else:
        entry = efficiency(profile, seed, progress=progress, timed=timed)
    path = profile.build / FILE
    with alone(profile, FILE):
        known = read_experiments(path) if path.is_file() else {}
        atomic_write(path, json.dumps({**known, study: entry}, indent=1) + "\n")
    return entry


def check_studies(profile: Profile, studies: Sequence[str]) -> None:
    """To be called before the first of them, which may take hours.

    Raises:
        DataError: unknown study; the profile lacks the generator of one.
    """
    for study in studies:
        if study not in STUDIES:
            raise DataError(f"unknown experiment {study!r}: choose from {', '.join(STUDIES)}")
        if study in NEEDS:
            foreign(profile, NEEDS[study])


def recorded(profile: Profile) -> Path | None:
    """The experiments of this build where it ran any, else those that ship for the profile; None: there are none."""
    folders = (profile.build, profile.shipped)
    return next((folder / FILE for folder in folders if folder and (folder / FILE).is_file()), None)


def read_experiments(path: Path | None) -> dict[str, Any]:
    """The content of an ``experiments.json``; {} where `recorded` found none.

    Raises:
        DataError: there is none at ``path``, or it cannot be read.
    """
    return {} if path is None else read_record(path, "s3mini experiment")


def ablation(
    profile: Profile, arms: Sequence[Arm], seed: int, progress: bool = True, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Train and evaluate every arm; differences are paired, to the first. ``beside``: methods that follow as rows."""
    trained = [_trained(profile, arm, seed, progress) for arm in arms]
    return _entry(profile, [*trained, *_beside(profile, beside, seed, progress)], seed)


def _run(profile: Profile, arm: Arm, progress: bool, seed: int) -> tuple[AnswersBySet, float]:
    """An arm's `opponents.Run`, once all but the seed is given."""
    _, answers, seconds = _trained(profile, arm, seed, progress)
    return answers, seconds or 0.0


def _trained(
    profile: Profile, arm: Arm, seed: int, progress: bool, reader: Profile | None = None
) -> Evaluated:
    """Train an arm and answer with it; ``reader`` is the profile whose generator answers, if it is not the arm's."""
    from .grpo import train

    its = changed(profile, arm.settings)
    with alone(its, f"{arm.run}-seed{seed}"):
        folder = train(its, seed, arm.run, progress=progress)
        method = replace(METHODS["s3"], name=arm.run if reader is None else f"{arm.run}-of-{profile.name}")
        answers = answer_sets(Bench(reader or its, seed, folder), method, progress)
    return arm, answers, read_manifest(folder).get("seconds", 0.0) if reader is None else None


def _beside(profile: Profile, names: Sequence[str], seed: int, progress: bool) -> list[Evaluated]:
    """Answers of other methods, which train nothing."""
    evaluated: list[Evaluated] = []
    for name in names:
        with alone(profile, f"{name}-seed{seed}"):
            evaluated.append((Arm(name), answer_sets(Bench(profile, seed), METHODS[name], progress), None))
    return evaluated


def foreign(profile: Profile, which: str) -> Profile:
    """The profile with a generator of `FOREIGN`, in a build of its own: naive RAG's cache is that of one generator.

    Raises:
        DataError: the profile names no such generator.
    """
    generator = getattr(profile.evaluation, FOREIGN[which])
    if generator is None:
        raise DataError(
            f"profile {profile.name} names no evaluation.{FOREIGN[which]}: set it, or name studies that do without"
        )
    return changed(
        profile, {"name": f"{profile.name}-{which}", "generator": generator.model_dump(mode="json")}
    )


def trained_for(profile: Profile, which: str, seed: int, progress: bool = True) -> dict[str, Any]:
    """The searcher trained for a generator of `FOREIGN`, read by it, beside others' contexts that it reads as well.

    Among them those of the searcher that was trained for the profile's own generator, and of Search-R1, which answered
    by itself as it was trained.
    """
    its = foreign(profile, which)
    evaluated = [
        _trained(its, Arm("s3, trained for it"), seed, progress),
        _trained(profile, Arm(f"s3, trained for {profile.name}'s own"), seed, progress, reader=its),
    ]
    return _entry(its, [*evaluated, *_beside(its, BESIDE, seed, progress)], seed)


def other_generator(profile: Profile, seed: int, progress: bool = True) -> dict[str, Any]:
    """Another frozen generator reads the contexts that each method collected for the profile's own.

    Nothing is trained or searched anew: what changes is the reader alone.
    """
    # read only, so that it builds where the contexts lie
    its = changed(foreign(profile, NEEDS["generator"]), {"name": profile.name})
    bench = Bench(its, seed)
    evaluated: list[Evaluated] = []
    for name in REREAD:
        stored = {set_name: load_answers(profile, name, set_name, seed) for set_name in profile.data.sets}
        evaluated.append((Arm(name), answer_sets(bench, reread(METHODS[name], stored), progress), None))
    return _entry(profile, evaluated, seed)


def reread(method: Method, stored: Mapping[str, Sequence[Answer]]) -> Method:
    """The method with its contexts as they were collected, to be answered by another generator."""
    answered = by_id(stored)

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        return [Collected(tuple(bench.documents[i] for i in answered[q.id]["context"])) for q in questions]

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
        lines = map(json.loads, (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines())
        parts = ("seconds_rollout", "seconds_score", "seconds_update")
        spent = [0.0, *(sum(line[part] for part in parts) for line in lines)]
        curves[protocol] = []
        for step in stops:
            bench = Bench(its, seed, folder / "kept" / f"step-{step}", protocol)
            method = replace(METHODS[protocol], name=f"{protocol}-curve-{step}")
            summary = method_summary(answer_sets(bench, method, progress), profile.evaluation.bootstrap, seed)
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


def _hops(profile: Profile) -> dict[str, int]:
    """Hops of the test questions, by id."""
    asked = [q for name in profile.data.sets for q in load_questions(profile, name, "test")]
    return {question.id: question.hops for question in asked}


def _entry(profile: Profile, evaluated: Sequence[Evaluated], seed: int) -> dict[str, Any]:
    draws, first = profile.evaluation.bootstrap, accuracies(evaluated[0][1])
    hops = _hops(profile)
    rows: dict[str, Any] = {}
    for arm, answers, seconds in evaluated:
        summary = method_summary(answers, draws, seed)
        kept = ("sets", "average", "searches_per_question", "context_tokens", "documents")
        rows[arm.name] = {
            "settings": dict(arm.settings),
            **{key: summary[key] for key in kept},
            "searches": searching(answers, hops),
            "difference": paired_difference(accuracies(answers), first, draws, seed).as_json(),
            "seconds": seconds,
        }
    return {"seed": seed, "n": summary["average"]["n"], "arms": rows}
