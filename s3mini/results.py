"""What ``results.json`` holds: means, intervals, paired differences and selection's effect, from the answers.

The file, accuracies in [0, 1], lengths in the generator's tokens::

    {"profile", "seed", "versions", "machine",
     "methods": {METHOD: {"sets": {SET: {"n", "gen_acc", "ci95", "span", "em", "f1"}}, "average": {the same},
                          "searches_per_question", "searcher_tokens", "generator_tokens", "context_tokens",
                          "documents", "seconds", "seconds_per_question"}},
     "differences": {"A - B": {"sets": {SET: {"n", "mean", "ci95"}}, "average", "trained", "transfer"}},
     "selection": {"selected": {…}, "all": {…}, "difference": {…}, "shrink"},
     "training": {RUN: {"steps", "episodes", "examples", "seconds", "curve"}},
     "stages": {STAGE: {"seconds", "resumed"}}}

``span`` is GenAcc without the judge: where the two differ much, look at what the judge accepts.
``average`` is the mean over sets, every set counting the same (paper, table 1). A search that begins an episode, or that
naive RAG makes, is not the searcher's: it does not count in ``searches_per_question``. ``searcher_tokens`` are those it
wrote, ``generator_tokens`` those the frozen generator read, prompt and question included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DataError
from .profile import Profile
from .runs.stages import JsonlLog, machine, read_manifest, stage_times, versions
from .statistics import bootstrap_average, paired_difference

Record = dict[str, Any]
"""One answered question, as `evaluation` stores it."""

BOUNDS = ("oracle",)  # not a method to beat: what perfect search would give
WITHOUT_SELECTION = "-without-selection"


def summarise(
    profile: Profile, answers: Mapping[str, Mapping[str, list[Record]]], seed: int
) -> dict[str, Any]:
    """``results.json`` from the records: method -> set -> records."""
    draws = profile.evaluation.bootstrap
    shown = {name: sets for name, sets in answers.items() if not name.endswith(WITHOUT_SELECTION)}
    results: dict[str, Any] = {
        "profile": profile.name,
        "seed": seed,
        "versions": versions(),
        "machine": machine(),
        "methods": {name: method_summary(sets, draws, seed) for name, sets in shown.items()},
        "differences": differences(profile, shown, seed),
        "training": training_runs(profile),
        "stages": stage_times(profile),
    }
    whole = answers.get("s3" + WITHOUT_SELECTION)
    if whole is not None:
        results["selection"] = selection_effect(answers["s3"], whole, draws, seed)
    return results


def _figures(groups: Sequence[Sequence[Record]], draws: int, seed: int) -> dict[str, Any]:
    """Means over sets of GenAcc, span match (GenAcc without the judge), EM and F1; the interval is GenAcc's."""

    def mean(key: str) -> float:
        return sum(sum(r[key] for r in group) / len(group) for group in groups) / len(groups)

    estimate = bootstrap_average([[r["gen_acc"] for r in group] for group in groups], draws, seed)
    return {
        **estimate.as_json("gen_acc"),
        "span": round(mean("span"), 6),
        "em": round(mean("em"), 6),
        "f1": round(mean("f1"), 6),
    }


def method_summary(sets: Mapping[str, list[Record]], draws: int, seed: int) -> dict[str, Any]:
    """One method's entry of ``results.json`` from its records by set; ``draws`` of the bootstrap."""
    records = [record for group in sets.values() for record in group]
    turns = [turn for r in records if r["episode"] for turn in r["episode"]["turns"]]

    def per_question(key: str) -> float:
        return sum(record[key] for record in records) / len(records)

    summary = {
        "sets": {name: _figures([group], draws, seed) for name, group in sets.items()},
        "average": _figures(list(sets.values()), draws, seed),
        "searches_per_question": round(per_question("searches"), 4),
        "searcher_tokens": round(per_question("searcher_tokens"), 2),
        "generator_tokens": round(per_question("generator_tokens"), 2),
        "context_tokens": round(per_question("context_tokens"), 2),
        "documents": round(sum(len(r["context"]) for r in records) / len(records), 3),
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "seconds_per_question": round(per_question("seconds"), 4),
    }
    if turns:
        summary["valid_format"] = round(sum(turn["valid"] for turn in turns) / len(turns), 4)
    return summary


def accuracies(sets: Mapping[str, list[Record]]) -> dict[str, dict[str, float]]:
    """GenAcc by set and question id, as paired differences want it."""
    return {name: {r["id"]: r["gen_acc"] for r in group} for name, group in sets.items()}


def differences(
    profile: Profile, answers: Mapping[str, Mapping[str, list[Record]]], seed: int
) -> dict[str, Any]:
    """GenAcc of one method minus another's on the same questions: per set, averaged, trained on, transfer."""
    found: dict[str, Any] = {}
    rivals = [name for name in answers if name != "s3" and name not in BOUNDS]
    for a, b in [("s3", rival) for rival in rivals] if "s3" in answers else []:
        left, right = accuracies(answers[a]), accuracies(answers[b])

        def between(
            sets: Sequence[str],
            left: dict[str, dict[str, float]] = left,
            right: dict[str, dict[str, float]] = right,
        ) -> dict[str, Any]:
            pair = {s: left[s] for s in sets}, {s: right[s] for s in sets}
            return paired_difference(*pair, profile.evaluation.bootstrap, seed).as_json()

        groups = {
            "average": list(left),
            "trained": [s for s in left if s in profile.data.train_sets],
            "transfer": [s for s in left if s not in profile.data.train_sets],
        }
        found[f"{a} - {b}"] = {
            "sets": {s: between([s]) for s in left},
            **{name: between(sets) for name, sets in groups.items() if sets},
        }
    return found


def best_rival(methods: Mapping[str, Mapping[str, Any]], but: tuple[str, ...] = ()) -> str | None:
    """The best method that is not s3, its untrained loop, a bound, or one of ``but``; None where there is none."""
    others = [name for name in methods if name not in ("s3", "s3-untrained", *BOUNDS, *but)]
    return max(others, key=lambda name: methods[name]["average"]["gen_acc"], default=None)


def main_rivals(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whom s3 is measured against first: the same loop untrained, the best method besides, naive RAG."""
    first = ("s3-untrained", best_rival(methods, but=("rag-dense",)), "rag-dense")
    return [name for name in first if name is not None and name in methods]


def read_record(path: Path, command: str) -> dict[str, Any]:
    """A JSON record, such as ``results.json``, that ``command`` writes.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run `{command}` first") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run `{command}` again") from error
    return found


def selection_effect(
    selected: Mapping[str, list[Record]], whole: Mapping[str, list[Record]], draws: int, seed: int
) -> dict[str, Any]:
    """The generator reading what s3 selected against all that the same episodes retrieved."""
    sides = {"selected": selected, "all": whole}
    tokens = {name: method_summary(sets, draws, seed)["context_tokens"] for name, sets in sides.items()}
    return {
        **{
            name: {
                **_figures(list(sets.values()), draws, seed),
                "context_tokens": tokens[name],
                "documents": method_summary(sets, draws, seed)["documents"],
            }
            for name, sets in sides.items()
        },
        "difference": paired_difference(accuracies(selected), accuracies(whole), draws, seed).as_json(),
        "shrink": round(tokens["all"] / tokens["selected"], 3) if tokens["selected"] else None,
    }


def training_runs(profile: Profile) -> dict[str, Any]:
    """What every training of the profile recorded: totals, and its curve, one entry per step."""
    runs: dict[str, Any] = {}
    for path in sorted((profile.build / "train").glob("*/curve.jsonl")):
        with JsonlLog(path) as log:
            curve = log.records
        manifest = read_manifest(path.parent)
        facts = manifest.get("facts", {})
        runs[path.parent.name] = {
            "steps": len(curve),
            "episodes": facts.get("episodes"),
            "examples": facts.get("examples"),
            "seconds": manifest.get("seconds"),
            "curve": curve,
        }
    return runs
