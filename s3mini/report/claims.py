"""The claims board: what the paper claims, its figure, ours with interval and n, and the verdict.

A verdict is computed, never written: *shown* when the whole interval lies on the claim's side, *contradicted* when it
lies on the other, *not shown* in between, *not measured* where the experiment has not been run. Why a claim does not
hold is `causes`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from ..opponents import OPPONENTS, best_opponent
from ..results import Results, best_rival
from . import causes
from .beside_paper import TRAINED_ON, ablation, average, general, paper
from .causes import Cause, Causes
from .html import Cell, Rich, Row, table
from .shipped import Records, all_shipped
from .tables import markdown, percent, points

Verdict = Literal["shown", "not shown", "contradicted", "not measured"]
MARKS = {"shown": "✓", "not shown": "?", "contradicted": "✗", "not measured": "–"}
SMALL = 0.02  # a difference of GenAcc below which "costs nothing" and "adds little" count as true


@dataclass(frozen=True)
class Measured:
    """Our side of a claim. ``why`` says how the figure came about, where a reader would not expect it."""

    ours: str = "–"
    n: int | None = None
    verdict: Verdict = "not measured"
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim(Measured):
    """One row of the board: the claim, the paper's figure, and ours."""

    text: str
    theirs: str
    cause: Cause | None = None  # of its not holding; None where it holds, was not measured, or nobody knows

    @property
    def fails(self) -> bool:
        return self.verdict in ("not shown", "contradicted")

    @property
    def about(self) -> str:
        """What a reader of the verdict wants to know besides."""
        why = f"{self.why[0].upper()}{self.why[1:]}." if self.why else ""
        return " ".join(filter(None, [self.cause.text if self.cause else "", why]))


Boards = Mapping[str, Sequence[Claim]]
"""A board by the name of the profile it was measured at."""


def boards(first: Records) -> dict[str, list[Claim]]:
    """The board of these records, then those that ship for other profiles."""
    return {records.profile: claims(records) for records in (first, *all_shipped(but=first.profile))}


def claims(records: Records) -> list[Claim]:
    """Every claim, in the paper's order; what was not run is not measured."""
    results: Any = records.results or {}
    experiments = records.experiments
    pairs = results.get("differences", {})
    to_rag, to_untrained = (pairs.get(f"s3 - {rival}", {}) for rival in ("rag-dense", "s3-untrained"))
    reread = experiments.get("generator", {}).get("arms", {}).get("s3", {})
    medical = {name: accuracies[1] / 100 for name, accuracies in paper()["medical"].items()}
    next_medical = max(accuracy for name, accuracy in medical.items() if name != "s3")
    s3, rag = ([x for name, x in general(m).items() if name not in TRAINED_ON] for m in ("s3", "rag-dense"))
    examples, minutes = ({name: row[i] for name, row in paper()["training"].items()} for i in (0, 1))
    fewer = max(examples["search-r1"], examples["deepretrieval"]) / examples["s3"]
    said = "{gen_acc_finds} % against {em_finds} %".format(**paper()["people"])
    more_steps = f"{_gap(ablation('steps', 1), ablation('steps', 0))} (15 × the steps)"
    board: list[tuple[str, str, Measured, Causes]] = [
        ("s3 beats every baseline", _gap(average("s3"), average("search-r1")), _to_the_best(records.results, experiments.get("opponents")), causes.TOO_SHORT),
        ("s3 beats naive RAG",
            _gap(average("s3"), average("rag-dense")), _beside_zero(to_rag.get("average")), {}),
        ("… also on sets it was not trained on",
            _gap(fmean(s3), fmean(rag)), _beside_zero(to_rag.get("transfer")), {}),
        ("what training adds to the same loop", "no such row", _beside_zero(to_untrained.get("average")), {}),
        ("s3 needs far fewer examples than its opponents",
            f"{fewer:.0f} × fewer", _needed(experiments, "examples"), causes.FEWER),
        ("… and less time",
            f"{minutes['search-r1'] / minutes['s3']:.0f} × less", _needed(experiments, "seconds"), causes.SLOWER),
        ("s3 is best on medical questions, zero-shot",
            _gap(medical["s3"], next_medical), _to_the_best(records.herbal), {}),
        ("selection shortens the context at no cost", "{}–{} ×".format(*paper()["selection_shortens"]), _selection(results), {}),
        ("beginning with a search helps", *_without(experiments, "loop", 2), causes.BEGIN_CANCELS),
        ("selecting documents helps", *_without(experiments, "loop", 1), causes.NOT_MISLED),
        ("GenAcc is a better reward than exact match", *_without(experiments, "reward", 3), causes.BARE_NAMES),
        ("… and than span match", *_without(experiments, "reward", 2), causes.BARE_NAMES),
        ("20 steps are enough: more add little", more_steps, _more_steps(experiments), causes.SMALLER_STEPS),
        ("what s3 finds helps a generator it was not trained with",
            _gap(average("s3", "qwen-7b"), average("rag-dense", "qwen-7b")),
            _beside_zero(reread.get("difference")), {}),
        ("GenAcc finds what a person accepts, exact match does not", said, _people(records.people), {}),
    ]  # fmt: skip
    found = [(Claim(**vars(ours), text=text, theirs=theirs), known) for text, theirs, ours, known in board]
    return [
        replace(claim, cause=known.get(records.profile)) if claim.fails else claim for claim, known in found
    ]


def _gap(left: float | None, right: float | None) -> str:
    """A difference of the paper's, in points."""
    assert left is not None and right is not None  # asked only of rows that the paper has
    return f"{100 * (left - right):+.1f}"


def side(estimate: Mapping[str, Any]) -> Verdict:
    """On which side of zero an estimate's interval lies."""
    low, high = estimate["ci95"]
    return "shown" if low > 0 else "contradicted" if high < 0 else "not shown"


def _beside_zero(estimate: Mapping[str, Any] | None) -> Measured:
    """A difference that the claim says is positive."""
    return Measured(points(estimate), estimate["n"], side(estimate)) if estimate else Measured()


def _to_the_best(results: Results | None, seeds: Mapping[str, Any] | None = None) -> Measured:
    """To the best method; where that is an opponent trained with several ``seeds``, over seeds as well.

    Who beats all that were run has not beaten those that were not: without the trained opponents it is not shown.
    """
    best = best_rival(results.get("methods", {})) if results else None
    if results is None or best is None:
        return Measured()
    estimate = results["differences"].get(f"s3 - {best}", {}).get("average")
    if seeds and best.startswith(OPPONENTS):
        best, estimate = best_opponent(seeds)
        best += f"; over {len(seeds['seeds'])} seeds"
    measured = _beside_zero(estimate)
    if not estimate:
        return measured
    absent = [name for name in OPPONENTS if name not in results["methods"]]
    if absent and measured.verdict == "shown":
        measured = replace(
            measured, verdict="not shown", why=f"without {' and '.join(absent)}, not trained here"
        )
    return replace(measured, ours=f"{measured.ours} (to {best})")


def reached(curve: Sequence[Mapping[str, Any]], accuracy: float) -> Mapping[str, Any]:
    """The first point of an efficiency curve at ``accuracy`` or above; {} where it never gets there."""
    return next((point for point in curve if point["gen_acc"] >= accuracy), {})


def _needed(experiments: Mapping[str, Any], key: str) -> Measured:
    """What the best opponent needs over what s3 needs, up to that opponent's best accuracy."""
    if (entry := experiments.get("efficiency")) is None:
        return Measured()
    best = {name: max(curve, key=lambda p: p["gen_acc"]) for name, curve in entry["curves"].items()}
    rival = max((name for name in best if name != "s3"), key=lambda name: best[name]["gen_acc"])
    s3, top, n = best["s3"], best[rival], entry["n"]
    if s3[key] is None or top[key] is None:
        return Measured(why="the trainings did not have the machine to themselves")
    ours = reached(entry["curves"]["s3"], top["gen_acc"])
    if not ours:
        theirs = reached(entry["curves"][rival], s3["gen_acc"])
        why = f"up to s3's own best, {percent(s3['gen_acc'])}, it takes {s3[key]:.0f} {key} "
        why += f"against {theirs[key]:.0f}"
        return Measured(f"s3 never reaches {rival}'s {percent(top['gen_acc'])}", n, "contradicted", why)
    ratio = top[key] / max(ours[key], 1e-9)
    said = f"{ratio:.1f} × ({ours[key]:.0f} against {top[key]:.0f} {key} to {percent(top['gen_acc'])})"
    why = "one training each; the opponents were given more steps"
    return Measured(said, n, "shown" if ratio > 1 else "contradicted", why)


def _selection(results: Mapping[str, Any]) -> Measured:
    effect = results.get("selection", {})
    if not effect.get("shrink"):
        return Measured()
    shrink, difference = effect["shrink"], effect["difference"]
    free = shrink > 1 and difference["ci95"][0] > -SMALL
    said = f"{shrink:.2f} ×, {points(difference)}"
    return Measured(said, difference["n"], "shown" if free else "not shown")


def _to_first_arm(experiments: Mapping[str, Any], study: str, row: int) -> Any:
    """The difference of a study's ``row``-th arm to its first, None where there is no such arm."""
    arms = list(experiments.get(study, {}).get("arms", {}).values())
    return arms[row]["difference"] if row < len(arms) else None


def _without(experiments: Mapping[str, Any], study: str, row: int) -> tuple[str, Measured]:
    """The first arm, which has everything, minus the ``row``-th: the paper's figure and ours."""
    theirs = _gap(ablation(study, 0), ablation(study, row))
    if (given := _to_first_arm(experiments, study, row)) is None:
        return theirs, Measured()
    flipped = {"mean": -given["mean"], "ci95": [-given["ci95"][1], -given["ci95"][0]], "n": given["n"]}
    return theirs, _beside_zero(flipped)


def _more_steps(experiments: Mapping[str, Any]) -> Measured:
    if (given := _to_first_arm(experiments, "steps", 1)) is None:
        return Measured()
    low, high = given["ci95"]
    verdict: Verdict = "shown" if high < SMALL else "contradicted" if low > SMALL else "not shown"
    return Measured(f"{points(given)} (3 × the steps)", given["n"], verdict)


def _people(people: Mapping[str, Any] | None) -> Measured:
    if people is None:
        return Measured()
    gen_acc, em = people["gen_acc"]["finds"], people["em"]["finds"]
    said = f"{percent(gen_acc['mean'])} % against {percent(em['mean'])} %"
    return Measured(said, gen_acc["n"], "shown" if gen_acc["ci95"][0] > em["ci95"][1] else "not shown")


def claims_table(shown: Boards) -> Rich:
    """The claims boards, side by side."""
    unmeasured = [name for name, board in shown.items() if all(c.verdict == "not measured" for c in board)]
    kept = {name: board for name, board in shown.items() if name not in unmeasured} or shown
    rows = []
    for same in zip(*kept.values(), strict=True):
        cells: list[Cell] = []
        for claim in same:
            n = f"n = {claim.n}" if claim.n else ""
            cells += [Cell(claim.ours, n), Cell(f"{MARKS[claim.verdict]} {claim.verdict}")]
        rows.append(Row(same[0].text, [Cell(same[0].theirs), *cells], _about(kept, same)))
    measured = [head for name in kept for head in (Cell(name, "95 % interval"), Cell("verdict"))]
    note = "Points are percentage points of GenAcc. Verdicts are computed: see the text above."
    note += "".join(f" At {name} no claim is measured yet." for name in unmeasured if name not in kept)
    return table([Cell("claim"), Cell("paper"), *measured], rows, note)


def _about(shown: Boards, same: Sequence[Claim]) -> str:
    """What is to be said of one claim's verdicts, each with its profile where there are several."""
    said = {name: claim.about for name, claim in zip(shown, same, strict=True) if claim.about}
    return " ".join(f"{name}: {text}" if len(shown) > 1 else text for name, text in said.items())


def markdown_claims(shown: Boards) -> str:
    """The boards for a page, side by side."""
    rows = []
    for same in zip(*shown.values(), strict=True):
        cells = [cell for c in same for cell in (c.ours, str(c.n or "–"), c.verdict)]
        rows.append([same[0].text, same[0].theirs, *cells])
    heads = [head for name in shown for head in (f"At `{name}`", "n", "Verdict")]
    return markdown(["Claim", "Paper", *heads], rows)
