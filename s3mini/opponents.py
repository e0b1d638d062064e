"""s3 and its trained opponents over several seeds, at the same number of steps and at twice as many.

One training of each tells how questions scatter, not how trainings do. Here every method is trained with the seeds
``seed``, ``seed + 1``, …, and its difference to s3 has an interval over both (`statistics.across_seeds`). s3's runs are
the main ones; the opponents' are named by their steps (``search-r1-20-steps``), so that `evaluate` never takes them for
the main ones. Any of them can be trained beforehand, in a process of its own: ``s3mini train --run NAME``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .bench import Bench
from .evaluation import answer_sets
from .methods import METHODS
from .profile import Profile, changed
from .results import AnswersBySet, accuracies, method_summary, searching
from .runs.stages import alone, read_manifest
from .statistics import across_seeds

SEEDS = 3
FACTOR = 2
"""How many times s3's steps the opponents get beside the same number."""
OPPONENTS = ("search-r1", "deepretrieval")
Run = Callable[[int], tuple[AnswersBySet, float]]
"""Trains with a seed and answers the test questions: the answers, and the seconds of the training."""


def opponents(profile: Profile, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Train and evaluate s3 and each opponent, `SEEDS` times each.

    Returns:
        An entry of ``experiments.json`` with ``"seeds"``; an arm is a method and its steps, s3 the first, and its
        figures are means over the seeds, ``"by_seed"`` GenAcc of each. ``"seconds"``: of all its trainings.

    Raises:
        As `experiments.experiment`.
    """
    equal = profile.grpo.steps
    budgets = [("s3", equal), *((name, factor * equal) for name in OPPONENTS for factor in (1, FACTOR))]
    arms = {
        f"{protocol}, {steps} steps": (
            {"protocol": protocol, "grpo.steps": steps},
            partial(_run, profile, protocol, steps, progress=progress),
        )
        for protocol, steps in budgets
    }
    return over_seeds(arms, range(seed, seed + SEEDS), profile.evaluation.bootstrap)


def over_seeds(
    arms: Mapping[str, tuple[Mapping[str, Any], Run]],
    seeds: Sequence[int],
    resamples: int,
    hops: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The entry of a study whose arms, by name their settings and their `Run`, are trained with each of ``seeds``.

    ``hops``, by question id, where the searches of all seeds together are to be told as well (`results.searching`).
    """
    found: dict[str, Any] = {}
    first: Sequence[AnswersBySet] = ()
    for name, (settings, run) in arms.items():
        runs, seconds = zip(*map(run, seeds), strict=True)
        pooled = {key: [answer for answers in runs for answer in answers[key]] for key in runs[0]}
        found[name] = {
            "settings": dict(settings),
            **seeded(runs, first, resamples, seeds[0]),
            **({} if hops is None else {"searches": searching(pooled, hops)}),
            "seconds": round(sum(seconds), 3),
        }
        first = first or runs
    n = next(iter(found.values()))["average"]["n"]
    return {"seed": seeds[0], "seeds": list(seeds), "n": n, "arms": found}


def seeded(
    runs: Sequence[AnswersBySet], first: Sequence[AnswersBySet], resamples: int, seed: int
) -> dict[str, Any]:
    """The figures of an arm that was trained with several seeds: answers of each, and of the first arm's (none: it is it).

    Means over the seeds, ``"by_seed"`` GenAcc of each, and ``"difference"`` to the first arm, None for that.
    """
    values, theirs = ([accuracies(answers) for answers in side] for side in (runs, first))
    summaries = [method_summary(answers, resamples, seed) for answers in runs]
    averaged = ("searches_per_question", "context_tokens", "documents")
    return {
        "average": across_seeds(values, resamples=resamples, seed=seed).as_json("gen_acc"),
        "by_seed": [summary["average"]["gen_acc"] for summary in summaries],
        **{key: round(sum(s[key] for s in summaries) / len(runs), 4) for key in averaged},
        "difference": across_seeds(values, theirs, resamples, seed).as_json() if theirs else None,
    }


def _run(
    profile: Profile, protocol: str, steps: int, seed: int, progress: bool
) -> tuple[AnswersBySet, float]:
    """One training's answers to the test questions, and its seconds."""
    from .grpo import train

    run = protocol if protocol == "s3" else f"{protocol}-{steps}-steps"
    its = changed(profile, {"grpo.steps": steps})
    with alone(its, f"{run}-seed{seed}"):
        folder = train(its, seed, run, protocol=protocol, progress=progress)
        bench, method = Bench(its, seed, folder, protocol), replace(METHODS[protocol], name=run)
        answers = answer_sets(bench, method, progress)
    return answers, read_manifest(folder).get("seconds", 0.0)


def best_opponent(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The arm that s3 has to beat, whatever its steps, and s3's difference *to* it (s3 - opponent)."""
    _, *others = entry["arms"].items()
    name, arm = max(others, key=lambda item: item[1]["average"]["gen_acc"])
    given = arm["difference"]
    low, high = given["ci95"]
    return name, {"n": given["n"], "mean": -given["mean"], "ci95": [-high, -low]}
