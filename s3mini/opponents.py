"""s3 and its trained opponents over several seeds, at the same number of steps and at twice as many.

One training of each tells how questions scatter, not how trainings do. Here every method is trained with the seeds
``seed``, ``seed + 1``, …, and its difference to s3 has an interval over both (`statistics.across_seeds`). s3's runs are
the main ones; the opponents' are named by their steps (``search-r1-20-steps``), so that `evaluate` never takes them for
the main ones. Any of them can be trained beforehand, in a process of its own: ``s3mini train --run NAME``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .bench import Bench
from .evaluation import answer_sets
from .methods import METHODS
from .profile import Profile, changed
from .results import AnswersBySet, accuracies, method_summary
from .runs.stages import alone, read_manifest
from .statistics import across_seeds

SEEDS = 3
FACTOR = 2
"""How many times s3's steps the opponents get beside the same number."""
OPPONENTS = ("search-r1", "deepretrieval")


def opponents(profile: Profile, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Train and evaluate s3 and each opponent, `SEEDS` times each.

    Returns:
        An entry of ``experiments.json`` with ``"seeds"``; an arm is a method and its steps, s3 the first, and its
        figures are means over the seeds, ``"by_seed"`` GenAcc of each. ``"seconds"``: of all its trainings.

    Raises:
        As `experiments.experiment`.
    """
    seeds, equal = range(seed, seed + SEEDS), profile.grpo.steps
    budgets = [("s3", equal), *((name, factor * equal) for name in OPPONENTS for factor in (1, FACTOR))]
    arms: dict[str, Any] = {}
    first: Sequence[AnswersBySet] = ()
    for protocol, steps in budgets:
        runs, seconds = zip(*(_run(profile, protocol, steps, each, progress) for each in seeds), strict=True)
        arms[f"{protocol}, {steps} steps"] = {
            "settings": {"protocol": protocol, "grpo.steps": steps},
            **seeded(runs, first, profile.evaluation.bootstrap, seed),
            "seconds": sum(seconds),
        }
        first = first or runs
    return {"seed": seed, "seeds": list(seeds), "n": arms[f"s3, {equal} steps"]["average"]["n"], "arms": arms}


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
