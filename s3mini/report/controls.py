"""How the searcher searches: how often, whether that follows the hops, what a price does, a world where nothing is found;
and what it learns for generators that are not its own.

Controls, not claims of the paper: what they find is said without a verdict. Read from the studies that `CONTROLS` names;
what was not recorded is said to be so.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from markupsafe import escape
from matplotlib.figure import Figure

from .causes import NOT_MEASURED, arms
from .html import Cell, Rich, Row, table
from .plots import BEFORE, GRID, MUTED, OURS, Plot, styled, write_beside
from .shipped import Records
from .tables import NONE, fraction, markdown

PRICES = ("price", "price-longer")
LONGER_COLOUR = "#c2702b"
SET_COLOURS = ("#0b69c7", "#c2702b", "#6a994e", "#9d7cc4", "#c86b98", "#52606d", "#d9a441")


def _searches(records: Records) -> list[str]:
    methods = records.results["methods"] if records.results else {}
    names = [name for name in ("s3-untrained", "s3") if name in methods]
    return [f"{name}: {methods[name]['searches_per_question']:.2f}" for name in names]


def _each(study: str, say: Callable[[Mapping[str, Any]], str]) -> Callable[[Records], list[str]]:
    return lambda records: [f"{name}: {say(arm)}" for name, arm in arms(records, study).items()]


def _follows(arm: Mapping[str, Any]) -> str:
    """Searches by hops, and their correlation over all questions."""
    if "searches" not in arm:
        return NOT_MEASURED
    found = arm["searches"]["all"]
    by_hops = ", ".join(f"{mean:.2f}" for mean in found["hops"].values())
    return f"{by_hops} by {'/'.join(found['hops'])} hops, r = {_r(found)}"


def _r(figures: Mapping[str, Any]) -> str:
    return NONE if figures["correlation"] is None else f"{figures['correlation']:+.2f}"


def _paid(arm: Mapping[str, Any]) -> str:
    return f"GenAcc {fraction(arm['average'])}, {arm['searches_per_question']:.2f} searches"


def _answers(arm: Mapping[str, Any]) -> str:
    return f"GenAcc {fraction(arm['average'])}"


def _seeded(arm: Mapping[str, Any]) -> str:
    seeds = ", ".join(f"{value:.3f}" for value in arm["by_seed"])
    return f"GenAcc {fraction(arm['average'])}, by seed {seeds}"


CONTROLS: Sequence[tuple[str, str, Callable[[Records], list[str]]]] = (
    ("How many searches does it make per question?", "results", _searches),
    ("Do its searches follow the hops of the question, and do they when a search costs reward?",
        "price", _each("price", _follows)),
    ("What does a price on searches cost?", "price", _each("price", _paid)),
    ("And in trainings twice as long, with several seeds?", "price-longer", _each("price-longer", lambda arm: f"{_paid(arm)}, {_follows(arm)}")),
    ("Does s3 lead where its opponents get as many steps, and where they get twice as many, over several seeds?",
        "opponents", _each("opponents", _seeded)),
    ("Does it stop searching where no search finds anything of use?", "broken", _each("broken", _paid)),
    ("Which rewards teach it, where the generator answers in sentences?", "reward-sentences", _each("reward-sentences", _answers)),
    ("What does training for the generator that reads bring, where that answers in sentences?",
        "trained-for-sentences", _each("trained-for-sentences", _answers)),
    ("And where it is a weaker reader?", "trained-for-other", _each("trained-for-other", _answers)),
)  # fmt: skip
"""What is asked, the study that answers, and the answer: a line for each arm, none where it has not been recorded."""


def controls_table(shown: Sequence[Records]) -> Rich:
    """The controls of each of the records, side by side; a row for each arm."""
    rows = []
    for asked, study, answer in CONTROLS:
        lines = zip_longest(*(answer(records) or [NOT_MEASURED] for records in shown), fillvalue="")
        rows += [Row("" if i else asked, cells, "" if i else study) for i, cells in enumerate(lines)]
    return table(["control", *(records.profile for records in shown)], rows)


def markdown_controls(shown: Sequence[Records]) -> str:
    """The same for a page."""
    rows = [
        [asked, f"`{study}`", *("<br>".join(answer(records)) or NOT_MEASURED for records in shown)]
        for asked, study, answer in CONTROLS
    ]
    return markdown(["Control", "Study", *(f"At `{records.profile}`" for records in shown)], rows)


def not_recorded(study: str) -> Rich:
    """Stands where a study's figures would."""
    text = f"{study}: not recorded (`s3mini experiment {study}` makes it)"
    return Rich(text, escape(text))


def searches_table(experiments: Mapping[str, Any], study: str = "price") -> Rich:
    """Searches per question of every arm, set by set, and below each their correlation with the hops within the set."""
    if not (found := _with_searches(experiments, study)):
        return not_recorded(study)
    rows = []
    for name, arm in found.items():
        figures = {**arm["searches"]["sets"], "all": arm["searches"]["all"]}
        told = {key: "" if of["correlation"] is None else f"r = {_r(of)}" for key, of in figures.items()}
        rows.append(Row(name, [Cell(f"{of['mean']:.2f}", told[key]) for key, of in figures.items()]))
    sets = [f"{name} ({'/'.join(of['hops'])})" for name, of in figures.items()]
    note = "r: correlation of searches and hops over the questions; none where one of them is always the same. Brackets: hops."
    return table([study, *sets], rows, note)


def _with_searches(experiments: Mapping[str, Any], study: str) -> dict[str, Any]:
    """The arms of a study whose searches were recorded by set."""
    found = experiments.get(study, {}).get("arms", {})
    return {name: arm for name, arm in found.items() if "searches" in arm}


@styled
def price_plot(experiments: Mapping[str, Any]) -> Plot | Rich:
    """GenAcc against searches per question, with 95 % intervals: a line for each of `PRICES`, a point for each of its arms."""
    studies = [found for study in PRICES if (found := experiments.get(study, {}).get("arms", {}))]
    if not studies:
        return not_recorded(PRICES[0])
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    lines: list[list[tuple[float, float]]] = []
    bars: list[list[tuple[float, float]]] = []
    labels: list[tuple[str, tuple[float, float]]] = []
    for found, colour in zip(studies, (OURS, LONGER_COLOUR), strict=False):
        x = [arm["searches_per_question"] for arm in found.values()]
        y = np.array([arm["average"]["gen_acc"] for arm in found.values()])
        low, high = np.array([arm["average"]["ci95"] for arm in found.values()]).T
        axes.plot(x, y, color=colour, lw=1.5, alpha=0.5, zorder=1)
        axes.errorbar(x, y, yerr=[y - low, high - y], fmt="o", color=colour, ms=7, elinewidth=1.5, zorder=2)
        means, tops = (list(zip(x, values, strict=True)) for values in (y, high))
        lines.append(means)
        bars += [[*bar] for bar in zip(zip(x, low, strict=True), tops, strict=True)]
        labels += zip(found, tops, strict=True)
    axes.set(xlabel="searches per question", ylabel="GenAcc, average of the sets")
    axes.margins(x=0.2)
    axes.grid()
    write_beside(axes, labels, sum(lines, []), [*lines, *bars])
    arms_shown = [item for found in studies for item in found.items()]
    said = ", ".join(f"{name} {arm['searches_per_question']:.2f}" for name, arm in arms_shown)
    return Plot(f"GenAcc against searches per question, by the price of a search ({said})", figure)


@styled
def seeds_plot(experiments: Mapping[str, Any], study: str = "opponents", near: float = 0.15) -> Plot | Rich:
    """GenAcc of s3 (the first arm) and of opponents ``near`` it: every seed's, and the mean's 95 % interval; others are told."""
    if not (found := experiments.get(study, {}).get("arms", {})):
        return not_recorded(study)
    means = {name: arm["average"]["gen_acc"] for name, arm in found.items()}
    first, *_ = means.values()
    drawn = [name for name, mean in means.items() if abs(mean - first) <= near]
    figure = Figure(figsize=(7.2, 0.9 + 0.55 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(drawn):
        colour = BEFORE if place else OURS
        ends, seeds = found[name]["average"]["ci95"], found[name]["by_seed"]
        axes.plot(ends, [place, place], color=colour, lw=7, alpha=0.35, solid_capstyle="butt")
        axes.plot(seeds, [place] * len(seeds), "o", color=colour, ms=7)
    far = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items() if name not in drawn)
    told = f"\nnot drawn: {far}" if far else ""
    axes.set(
        xlabel=f"GenAcc, average of the sets{told}", yticks=range(len(drawn)), ylim=(len(drawn) - 0.5, -0.5)
    )
    axes.set_yticklabels(drawn)
    axes.grid(axis="x")
    said = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    return Plot(
        f"GenAcc by method and steps (a point a seed; bar: 95 % interval over seeds and questions): {said}",
        figure,
    )


@styled
def hops_plot(experiments: Mapping[str, Any], study: str = "price") -> Plot | Rich:
    """Searches per question against the hops of the questions: a panel for each arm, a point for each set.

    The line is the mean over all questions of so many hops.
    """
    if not (found := _with_searches(experiments, study)):
        return not_recorded(study)
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, arm) in zip(panels, found.items(), strict=True):
        every, sets = arm["searches"]["all"], arm["searches"]["sets"]
        axes.plot(*_line(every), color=GRID, lw=6, solid_capstyle="round", zorder=1, label="all questions")
        for place, (set_name, figures) in enumerate(sets.items()):
            hops, means = _line(figures)
            shift = 0.3 * (place / max(1, len(sets) - 1) - 0.5)  # equal points stay apart
            colour = SET_COLOURS[place % len(SET_COLOURS)]
            axes.plot([h + shift for h in hops], means, "o", color=colour, ms=6.5, label=set_name)
        axes.set_title(f"{name}\nr = {_r(every)}")
        axes.set_xticks(_line(every)[0])
        axes.set_xlabel("hops")
        axes.grid(axis="y", color=MUTED, alpha=0.25)
    panels[0].set(ylabel="searches per question", ylim=(0, None))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), handletextpad=0.3)
    said = ", ".join(f"{name} {_r(arm['searches']['all'])}" for name, arm in found.items())
    return Plot(f"Searches per question by hops; correlation over all questions: {said}", figure)


def _line(figures: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Hops, and the mean searches at each."""
    return [int(hops) for hops in figures["hops"]], list(figures["hops"].values())
