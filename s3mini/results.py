"""What ``results.json`` holds: means, intervals, paired differences and selection's effect, from the answers.

``average`` is the mean over sets, every set counting the same (paper, table 1). A search that begins an episode, or that
naive RAG makes, is not the searcher's: it does not count in ``searches_per_question``. ``searcher_tokens`` are those it
wrote, ``generator_tokens`` those the frozen generator read, prompt and question included.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import correlation, fmean
from typing import Any, NotRequired, TypedDict

from .errors import DataError
from .profile import Profile
from .runs.stages import JsonlLog, machine, read_manifest, stage_times, versions
from .statistics import bootstrap_average, paired_difference

BOUNDS = ("oracle",)  # not a method to beat: what perfect search would give
WITHOUT_SELECTION = "-without-selection"


class Answer(TypedDict):
    """One answered question, a line of ``answers.jsonl``; lengths in the generator's tokens."""

    id: str
    question: str
    golden_answers: list[str]
    context: list[str]  # ids of the documents that the generator read, in order
    answer: str
    gen_acc: float
    em: float
    f1: float
    span: bool
    judge: bool | None  # None where the span match made asking needless
    searches: int
    searcher_tokens: int
    generator_tokens: int
    context_tokens: int
    seconds: float
    seconds_collecting: float  # of these, until the context stood
    episode: dict[str, Any] | None  # None where the method runs none
    cut: NotRequired[bool]  # the generator's limit ended its reply


AnswersBySet = Mapping[str, Sequence[Answer]]


def by_id(answers: AnswersBySet) -> dict[str, Answer]:
    """The records of all sets by their question's id."""
    return {record["id"]: record for records in answers.values() for record in records}


class Results(TypedDict):
    """``results.json``: accuracies in [0, 1], lengths in the generator's tokens, seconds of this machine."""

    profile: str
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    methods: dict[str, dict[str, Any]]  # {METHOD: `method_summary`}
    # {"s3 - METHOD": {"sets": {SET: {"n", "mean", "ci95"}}, "average"…}}
    differences: dict[str, dict[str, Any]]
    selection: NotRequired[dict[str, Any]]  # `selection_effect`
    searchers: NotRequired[dict[str, str]]  # {METHOD: fingerprint of its trained model}
    training: dict[str, dict[str, Any]]  # {RUN: {"steps", "episodes", "examples", "seconds", "curve"}}
    stages: dict[str, dict[str, Any]]  # {STAGE: {"seconds", "resumed"}}


def summarise(profile: Profile, answers: Mapping[str, AnswersBySet], seed: int) -> Results:
    """``results.json`` from the answers, by method."""
    draws = profile.evaluation.bootstrap
    shown = {name: sets for name, sets in answers.items() if not name.endswith(WITHOUT_SELECTION)}
    results: Results = {
        "profile": profile.name,
        "seed": seed,
        "versions": versions(),
        "machine": machine(),
        "methods": {name: method_summary(sets, draws, seed) for name, sets in shown.items()},
        "differences": differences(profile, shown, seed),
        "training": training_runs(profile),
        "stages": stage_times(profile),
    }
    if (unselected := answers.get("s3" + WITHOUT_SELECTION)) is not None:
        results["selection"] = selection_effect(answers["s3"], unselected, draws, seed)
    return results


def _mean(answers: Sequence[Answer], key: str) -> float:
    values: list[float] = [dict(answer)[key] for answer in answers]  # type: ignore[misc]
    return sum(values) / len(values)


def _figures(groups: Sequence[Sequence[Answer]], draws: int, seed: int) -> dict[str, Any]:
    """``{"n", "gen_acc", "ci95": of GenAcc, "span": GenAcc without the judge, "em", "f1"}``, means over sets."""
    estimate = bootstrap_average([[a["gen_acc"] for a in group] for group in groups], draws, seed)
    means = {key: sum(_mean(group, key) for group in groups) / len(groups) for key in ("span", "em", "f1")}
    return estimate.as_json("gen_acc") | {key: round(mean, 6) for key, mean in means.items()}


def method_summary(sets: AnswersBySet, draws: int, seed: int) -> dict[str, Any]:
    """One method's entry of ``results.json``, its intervals from ``draws`` of the bootstrap."""
    answers = [answer for group in sets.values() for answer in group]
    turns = [turn for answer in answers if answer["episode"] for turn in answer["episode"]["turns"]]
    tokens = ("searcher_tokens", "generator_tokens", "context_tokens")
    seconds = sum(answer["seconds"] for answer in answers)
    summary = {
        "sets": {name: _figures([group], draws, seed) for name, group in sets.items()},
        "average": _figures(list(sets.values()), draws, seed),
        "searches_per_question": round(_mean(answers, "searches"), 4),
        **{key: round(_mean(answers, key), 2) for key in tokens},
        "documents": round(sum(len(answer["context"]) for answer in answers) / len(answers), 3),
        "seconds": round(seconds, 3),
        "seconds_per_question": round(seconds / len(answers), 4),
    }
    if turns:
        summary["valid_format"] = round(sum(turn["valid"] for turn in turns) / len(turns), 4)
    return summary


def searching(sets: AnswersBySet, hops: Mapping[str, int]) -> dict[str, Any]:
    """How often was searched, and whether that follows the hops that a question takes (`Question.hops`, by id).

    ``{"sets": {SET: FIGURES}, "all": FIGURES}`` with FIGURES ``{"n", "mean", "hops": {HOPS: mean}, "correlation"}``:
    Pearson's, over questions, None where searches or hops are all alike. A mini set has one number of hops.
    """

    def figures(answers: Sequence[Answer]) -> dict[str, Any]:
        pairs = [(hops[answer["id"]], answer["searches"]) for answer in answers]
        by_hops = {h: [searches for of, searches in pairs if of == h] for h in sorted({h for h, _ in pairs})}
        vary = len(by_hops) > 1 and len({searches for _, searches in pairs}) > 1
        return {
            "n": len(pairs),
            "mean": round(fmean(searches for _, searches in pairs), 4),
            "hops": {str(h): round(fmean(searches), 4) for h, searches in by_hops.items()},
            "correlation": round(correlation(*zip(*pairs, strict=True)), 4) if vary else None,
        }

    every = [answer for answers in sets.values() for answer in answers]
    return {"sets": {name: figures(answers) for name, answers in sets.items()}, "all": figures(every)}


def accuracies(sets: AnswersBySet) -> dict[str, dict[str, float]]:
    """GenAcc by set and question id, as paired differences want it."""
    return {name: {answer["id"]: answer["gen_acc"] for answer in group} for name, group in sets.items()}


def differences(profile: Profile, answers: Mapping[str, AnswersBySet], seed: int) -> dict[str, Any]:
    """GenAcc of s3 minus each other method's on the same questions: per set, averaged, trained on, transfer."""
    if "s3" not in answers:
        return {}
    s3 = accuracies(answers["s3"])
    groups = {
        "average": list(s3),
        "trained": [name for name in s3 if name in profile.data.train_sets],
        "transfer": [name for name in s3 if name not in profile.data.train_sets],
    }

    def to(rival: str, sets: Sequence[str]) -> dict[str, Any]:
        theirs = accuracies(answers[rival])
        ours, theirs = ({name: side[name] for name in sets} for side in (s3, theirs))
        return paired_difference(ours, theirs, profile.evaluation.bootstrap, seed).as_json()

    return {
        f"s3 - {rival}": {
            "sets": {name: to(rival, [name]) for name in s3},
            **{group: to(rival, sets) for group, sets in groups.items() if sets},
        }
        for rival in answers
        if rival not in ("s3", *BOUNDS)
    }


def selection_effect(
    selected: AnswersBySet, unselected: AnswersBySet, draws: int, seed: int
) -> dict[str, Any]:
    """The generator reading what s3 selected against all that the same episodes retrieved.

    ``{"selected", "all": {"gen_acc", …, "context_tokens", "documents"}, "difference", "shrink": times shorter}``
    """
    sides = {}
    for name, sets in (("selected", selected), ("all", unselected)):
        summary = method_summary(sets, draws, seed)
        sides[name] = summary["average"] | {key: summary[key] for key in ("context_tokens", "documents")}
    few, all_tokens = sides["selected"]["context_tokens"], sides["all"]["context_tokens"]
    return {
        **sides,
        "difference": paired_difference(accuracies(selected), accuracies(unselected), draws, seed).as_json(),
        "shrink": round(all_tokens / few, 3) if few else None,
    }


def training_runs(profile: Profile) -> dict[str, Any]:
    """What every training of the profile recorded: totals, and its curve, one entry per step."""
    runs: dict[str, Any] = {}
    for path in sorted((profile.build / "train").glob("*/curve.jsonl")):
        with JsonlLog(path) as log:
            curve = log.records
        manifest = read_manifest(path.parent)
        counts = {key: manifest.get("facts", {}).get(key) for key in ("episodes", "examples")}
        seconds = manifest.get("seconds")
        runs[path.parent.name] = {"steps": len(curve), **counts, "seconds": seconds, "curve": curve}
    return runs


def best_rival(methods: Mapping[str, Mapping[str, Any]], but: tuple[str, ...] = ()) -> str | None:
    """The best method but s3, its untrained loop, bounds and those of ``but``; None where there is none."""
    others = [name for name in methods if name not in ("s3", "s3-untrained", *BOUNDS, *but)]
    return max(others, key=lambda name: methods[name]["average"]["gen_acc"], default=None)


def main_rivals(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whom s3 is measured against first: the same loop untrained, the best method besides, naive RAG."""
    first = ("s3-untrained", best_rival(methods, but=("rag-dense",)), "rag-dense")
    return [name for name in first if name is not None and name in methods]


def read_record(path: Path, command: str) -> Any:
    """A JSON record that ``command`` writes.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run `{command}` first") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run `{command}` again") from error


def read_results(path: Path, option: str = "--profile mini") -> Results:
    """A ``results.json``, wherever it lies; errors as `read_record`'s."""
    return read_record(path, f"s3mini evaluate {option}")
