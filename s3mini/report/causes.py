"""Why a claim does not hold at a profile, in words, and the controls that show it, in figures of the records.

A cause is written once, here, and holds no figure. It is shown only where its claim does not hold; its controls say
``not measured`` where the study has not been recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..results import best_rival
from .beside_paper import paper
from .shipped import Records
from .tables import fraction, percent, points

NOT_MEASURED = "not measured"
METRICS = {"GenAcc": "gen_acc", "span match": "span", "exact match": "em"}
Figure = Callable[[Records], str | None]
"""What a control found, None where it has not been recorded."""


@dataclass(frozen=True)
class Control:
    """A study (its name in ``experiments.json``), or another record, and what it found."""

    study: str
    figure: Figure

    def found(self, records: Records) -> str:
        return self.figure(records) or NOT_MEASURED


@dataclass(frozen=True)
class Cause:
    """Why, at one profile."""

    text: str
    controls: tuple[Control, ...]


Causes = Mapping[str, Cause]
"""By profile."""


def arms(records: Records, study: str) -> dict[str, Any]:
    """The arms of a study by name; {} where it has not been recorded."""
    found: dict[str, Any] = records.experiments.get(study, {}).get("arms", {})
    return found


def arms_found(study: str) -> Figure:
    """GenAcc of the first arm, and each other's difference to it in points."""

    def figure(records: Records) -> str | None:
        if not (found := arms(records, study)):
            return None
        (first, main), *others = found.items()
        said = [f"{name} {points(arm['difference'])}" for name, arm in others]
        return f"GenAcc {fraction(main['average'])} ({first}); " + ", ".join(said)

    return figure


def by_set(study: str, row: int) -> Figure:
    """The first arm minus the ``row``-th, set by set, in points."""

    def figure(records: Records) -> str | None:
        found = list(arms(records, study).items())
        if row >= len(found):
            return None
        (first, main), (name, arm) = found[0], found[row]
        gaps = {s: main["sets"][s]["gen_acc"] - arm["sets"][s]["gen_acc"] for s in main["sets"]}
        said = ", ".join(f"{s} {100 * gap + 0.0:+.1f}" for s, gap in gaps.items())
        return f"{first} minus {name}: {said}"

    return figure


def longer(records: Records) -> str | None:
    """GenAcc after more steps, beside the best opponent's."""
    best = best_rival(records.results["methods"]) if records.results else None
    if best is None or records.results is None or not (found := arms(records, "steps")):
        return None
    said = ", ".join(f"{fraction(arm['average'])} with {name}" for name, arm in found.items())
    return f"GenAcc {said}; {best}: {fraction(records.results['methods'][best]['average'])}"


def _methods(records: Records, *names: str) -> dict[str, Any]:
    """Those methods of the main run; {} where one is missing."""
    methods = records.results.get("methods", {}) if records.results else {}
    return {name: methods[name] for name in names} if set(names) <= set(methods) else {}


def _own_answer(records: Records) -> str | None:
    found = _methods(records, "search-r1-own", "search-r1")
    return ", ".join(f"{name}: {fraction(m['average'])}" for name, m in found.items()) or None


def _searches(records: Records) -> str | None:
    found = _methods(records, "s3", "search-r1")
    said = ", ".join(f"{name} {m['searches_per_question']:.2f}" for name, m in found.items())
    return f"searches per question: {said}" if said else None


def _selection(records: Records) -> str | None:
    selection = records.results.get("selection") if records.results else None
    if not selection or not selection["shrink"]:
        return None
    return f"the same episodes, as selected minus all: {points(selection['difference'])}, the context {selection['shrink']:.2f} times shorter"


def _metrics(records: Records) -> str | None:
    if not (found := _methods(records, "s3")):
        return None
    figures = found["s3"]["average"]
    return ", ".join(f"{name} {percent(figures[key])} %" for name, key in METRICS.items())


def _questions(records: Records) -> str | None:
    results: Any = records.results or {}
    if (run := results.get("training", {}).get(f"s3-seed{results.get('seed')}")) is None:
        return None
    return (
        f"{run['examples']:,} questions in {run['steps']} steps; the paper: {paper()['training']['s3'][0]:,}"
    )


LONGER = Control("steps", longer)
TOO_SHORT = {
    "mini": Cause(
        "s3's training ends before it has learnt all it can, and the opponent's is longer; with as many steps, over three seeds, the two are alike."
        " And searcher and generator start as one small model, so that the answer for which Search-R1 is rewarded is nearly the one that the"
        " generator gives: its reward tells it nearly what s3's does. Where another generator reads, the two are closer if that one is weaker, and no closer if it answers in sentences.",
        (
            LONGER,
            Control("opponents", arms_found("opponents")),
            Control("results", _own_answer),
            *(
                Control(f"trained-for-{name}", arms_found(f"trained-for-{name}"))
                for name in ("other", "sentences")
            ),
        ),
    )
}
FEWER = {
    "mini": Cause(
        "s3's training ends before it has learnt all it can, below what the opponent reaches in a longer one.",
        (LONGER,),
    )
}
SLOWER = {
    "mini": Cause(
        "The same; and a search costs s3 nothing, so that it learns to use all it may: its steps take longer.",
        (LONGER, Control("results", _searches), Control("price", arms_found("price"))),
    )
}
BEGIN_CANCELS = {
    "mini": Cause(
        "The average hides two effects that cancel: where a question takes as many hops as there are searches, the first look saves one;"
        " where it describes what it asks about, without a name, training without the look does better.",
        (Control("loop", by_set("loop", 2)),),
    )
}
NOT_MISLED = {
    "mini": Cause(
        "This generator is not misled by passages of no use, so that a longer context costs it nothing; what is selected away can only be missed.",
        (Control("results", _selection), Control("other-generators", arms_found("other-generators"))),
    )
}
BARE_NAMES = {
    "mini": Cause(
        "This generator answers in bare names, so that every reward pays the same.",
        (Control("results", _metrics), Control("reward-sentences", arms_found("reward-sentences"))),
    )
}
SMALLER_STEPS = {
    "mini": Cause(
        "A step here has fewer questions than the paper's, so that as many steps see a fraction of its questions.",
        (Control("results", _questions), Control("steps", by_set("steps", 1))),
    )
}
