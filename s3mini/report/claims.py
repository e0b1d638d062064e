"""The claims board: what the paper claims, its figure, ours with interval and n, and the verdict.

A verdict is computed, never written: *shown* when the whole interval lies on the claim's side, *contradicted* when it
lies on the other, *not shown* in between, *not measured* where the experiment has not been run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..results import best_rival
from .paper import TRAINED_ON, ablation, average, general, paper

Verdict = Literal["shown", "not shown", "contradicted", "not measured"]
SMALL = 0.02  # a difference of GenAcc below which "costs nothing" and "adds little" count as true


@dataclass(frozen=True)
class Claim:
    """One row of the board. ``why`` explains a verdict that a reader would not expect."""

    text: str
    theirs: str
    ours: str = "–"
    n: int | None = None
    verdict: Verdict = "not measured"
    why: str = ""


def side(estimate: Mapping[str, Any]) -> Verdict:
    """On which side of zero an estimate's interval lies."""
    low, high = estimate["ci95"]
    return "shown" if low > 0 else "contradicted" if high < 0 else "not shown"


def points(estimate: Mapping[str, Any]) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    mean, low, high = (round(100 * x, 1) + 0.0 for x in (estimate["mean"], *estimate["ci95"]))  # no -0.0
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def claims(
    results: Mapping[str, Any],
    experiments: Mapping[str, Any],
    herbal: Mapping[str, Any] | None = None,
    people: Mapping[str, Any] | None = None,
) -> list[Claim]:
    """Every claim, in the paper's order; what was not run is not measured.

    Args:
        results: a ``results.json``.
        experiments: an ``experiments.json``.
        herbal: the ``results.json`` of the multiple-choice profile.
        people: `labelled.agreement` of the hand-labelled outputs.
    """
    found = [
        _beats_the_best(results, "s3 beats every baseline", _gap("s3", "search-r1")),
        _difference(results, "s3 - rag-dense", "average", "s3 beats naive RAG", _gap("s3", "rag-dense")),
        _difference(results, "s3 - rag-dense", "transfer", "… also on sets it was not trained on", _transfer_gap()),
        _difference(results, "s3 - s3-untrained", "average", "what training adds to the same loop", "no such row"),
    ]  # fmt: skip
    found.append(_examples(experiments))
    found.append(_seconds(experiments))
    medical = paper()["medical"]
    gap = medical["s3"][1] - max(value[1] for name, value in medical.items() if name != "s3")
    found.append(_beats_the_best(herbal or {}, "s3 is best on medical questions, zero-shot", f"{gap:+.1f}"))
    found.append(_selection(results))
    found += [
        _arm(experiments, "loop", 2, "beginning with a search helps"),
        _arm(experiments, "loop", 1, "selecting documents helps"),
        _arm(experiments, "reward", 3, "GenAcc is a better reward than exact match"),
        _arm(experiments, "reward", 2, "… and than span match"),
        _more_steps(experiments),
        _other_generator(experiments),
        _people(people),
    ]
    return found


def _gap(a: str, b: str) -> str:
    left, right = average(a), average(b)
    assert left is not None and right is not None  # both are in the paper's table
    return f"{100 * (left - right):+.1f}"


def _transfer_gap() -> str:
    ours, rag = general("s3"), general("rag-dense")
    moved = [ours[name] - rag[name] for name in ours if name not in TRAINED_ON]
    return f"{100 * sum(moved) / len(moved):+.1f}"


def _difference(results: Mapping[str, Any], pair: str, group: str, text: str, theirs: str) -> Claim:
    estimate = results.get("differences", {}).get(pair, {}).get(group)
    if estimate is None:
        return Claim(text, theirs)
    return Claim(text, theirs, points(estimate), estimate["n"], side(estimate))


def _beats_the_best(results: Mapping[str, Any], text: str, theirs: str) -> Claim:
    methods = results.get("methods", {})
    best = best_rival(methods)
    if best is None:
        return Claim(text, theirs)
    claim = _difference(results, f"s3 - {best}", "average", text, theirs)
    why = ""
    if "rag-dense" in methods and methods["rag-dense"]["average"]["gen_acc"] > 0.95:
        why = "naive retrieval answers nearly all of them already"
    elif claim.verdict == "contradicted":
        why = "where one small model plays searcher and generator, a searcher that also answers reads as well as the generator"
    return Claim(claim.text, theirs, f"{claim.ours} (to {best})", claim.n, claim.verdict, why)


def reached(curve: list[dict[str, Any]], accuracy: float) -> dict[str, Any] | None:
    """The first point of an efficiency curve at ``accuracy`` or above."""
    return next((point for point in curve if point["gen_acc"] >= accuracy), None)


def _examples(experiments: Mapping[str, Any]) -> Claim:
    trained = paper()["training"]
    ratio = max(trained["search-r1"][0], trained["deepretrieval"][0]) / trained["s3"][0]
    return _ratio(
        experiments, "s3 needs far fewer examples than its opponents", f"{ratio:.0f} × fewer", "examples"
    )


def _seconds(experiments: Mapping[str, Any]) -> Claim:
    trained = paper()["training"]
    ratio = trained["search-r1"][1] / trained["s3"][1]
    return _ratio(experiments, "… and less time", f"{ratio:.0f} × less", "seconds")


def _ratio(experiments: Mapping[str, Any], text: str, theirs: str, key: str) -> Claim:
    """What the best opponent needs over what s3 needs, up to that opponent's best accuracy."""
    entry = experiments.get("efficiency")
    if entry is None:
        return Claim(text, theirs)
    best = {name: max(curve, key=lambda p: p["gen_acc"]) for name, curve in entry["curves"].items()}
    rival = max((name for name in best if name != "s3"), key=lambda name: best[name]["gen_acc"])
    top, n = best[rival], entry["n"]
    if any(best[name][key] is None for name in ("s3", rival)):
        return Claim(text, theirs, why="the trainings did not have the machine to themselves")
    ours = reached(entry["curves"]["s3"], top["gen_acc"])
    if ours is None:
        theirs_there = reached(entry["curves"][rival], best["s3"]["gen_acc"])
        assert theirs_there is not None  # its best is above s3's
        return Claim(
            text, theirs, f"s3 never reaches {rival}'s {100 * top['gen_acc']:.1f}", n, "contradicted",
            f"up to s3's own best, {100 * best['s3']['gen_acc']:.1f}, it takes {best['s3'][key]:.0f} {key} "
            f"against {theirs_there[key]:.0f}",
        )  # fmt: skip
    ratio = top[key] / max(ours[key], 1e-9)
    said = f"{ratio:.1f} × ({ours[key]:.0f} against {top[key]:.0f} {key} to {100 * top['gen_acc']:.1f})"
    return Claim(
        text, theirs, said, n, "shown" if ratio > 1 else "contradicted",
        "one training each; the opponents were given more steps",
    )  # fmt: skip


def _selection(results: Mapping[str, Any]) -> Claim:
    low, high = paper()["selection_shortens"]
    text, theirs = "selection shortens the context at no cost", f"{low}–{high} ×"
    found = results.get("selection")
    if found is None or not found["shrink"]:
        return Claim(text, theirs)
    verdict: Verdict = (
        "shown" if found["shrink"] > 1 and found["difference"]["ci95"][0] > -SMALL else "not shown"
    )
    said = f"{found['shrink']:.2f} ×, {points(found['difference'])}"
    return Claim(text, theirs, said, found["difference"]["n"], verdict)


def _arm(experiments: Mapping[str, Any], study: str, row: int, text: str) -> Claim:
    first, other = ablation(study, 0), ablation(study, row)
    assert first is not None and other is not None  # the paper has these tables
    theirs = f"{100 * (first - other):+.1f}"
    arms = list(experiments.get(study, {}).get("arms", {}).values())
    if row >= len(arms):
        return Claim(text, theirs)
    given = arms[row]["difference"]
    flipped = {"mean": -given["mean"], "ci95": [-given["ci95"][1], -given["ci95"][0]], "n": given["n"]}
    same = study == "reward" and given["ci95"] == [0, 0]
    why = "this generator answers in bare names, so that every reward pays the same" if same else ""
    return Claim(text, theirs, points(flipped), given["n"], side(flipped), why)


def _more_steps(experiments: Mapping[str, Any]) -> Claim:
    first, last = ablation("steps", 0), ablation("steps", 1)
    assert first is not None and last is not None
    text, theirs = "20 steps are enough: more add little", f"{100 * (last - first):+.1f} (15 × the steps)"
    arms = list(experiments.get("steps", {}).get("arms", {}).values())
    if len(arms) < 2:
        return Claim(text, theirs)
    given = arms[1]["difference"]
    high = given["ci95"][1]
    verdict: Verdict = (
        "shown" if high < SMALL else "contradicted" if given["ci95"][0] > SMALL else "not shown"
    )
    return Claim(text, theirs, f"{points(given)} (3 × the steps)", given["n"], verdict)


def _other_generator(experiments: Mapping[str, Any]) -> Claim:
    left, right = average("s3", "qwen-7b"), average("rag-dense", "qwen-7b")
    assert left is not None and right is not None
    text, theirs = "what s3 finds helps a generator it was not trained with", f"{100 * (left - right):+.1f}"
    arm = experiments.get("generator", {}).get("arms", {}).get("s3")
    if arm is None:
        return Claim(text, theirs)
    return Claim(text, theirs, points(arm["difference"]), arm["difference"]["n"], side(arm["difference"]))


def _people(people: Mapping[str, Any] | None) -> Claim:
    theirs = paper()["people"]
    text = "GenAcc finds what a person accepts, exact match does not"
    said = f"{theirs['gen_acc_finds']} % against {theirs['em_finds']} %"
    if people is None:
        return Claim(text, said)
    gen_acc, em = people["gen_acc"]["finds"], people["em"]["finds"]
    ours = f"{100 * gen_acc['mean']:.1f} % against {100 * em['mean']:.1f} %"
    return Claim(
        text, said, ours, gen_acc["n"], "shown" if gen_acc["ci95"][0] > em["ci95"][1] else "not shown"
    )
