"""Ours beside the paper's: the table of methods, costs, ablations, data efficiency, the claims board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..experiments import STUDIES
from . import paper
from .claims import Claim, points
from .html import Cell, Rich, Row, table
from .plots import COLOURS, STYLE, Plot
from .tables import interval, markdown, percent

MARKS = {"shown": "✓", "not shown": "?", "contradicted": "✗", "not measured": "–"}


def _theirs(value: float | None) -> str:
    return "–" if value is None else percent(value)


def paper_table(results: Mapping[str, Any]) -> Rich:
    """GenAcc of every method: ours, and the paper's below it in small, set by set and on average."""
    methods = results["methods"]
    sets = list(next(iter(methods.values()))["sets"])
    rows = []
    for name, method in methods.items():
        theirs = paper.general(name)
        cells = [Cell(percent(method["sets"][s]["gen_acc"]), _theirs(theirs.get(s))) for s in sets]
        cells.append(Cell(percent(method["average"]["gen_acc"]), interval(method["average"]), "average"))
        cells += [Cell(_theirs(paper.average(name, generator))) for generator in paper.paper()["general"]]
        rows.append(Row(name, cells, kind="ours" if name == "s3" else ""))
    heads = [Cell("method"), *(Cell(s, "ours, paper") for s in sets), Cell("average", "ours")]
    heads += [Cell("paper", generator) for generator in paper.paper()["general"]]
    note = "GenAcc in percent. Small figures under a set are the paper's (Claude 3 Haiku reads); other questions, other models."
    return table(heads, rows, note)


def cost_table(results: Mapping[str, Any]) -> Rich:
    """What an answer costs: searches, tokens written and read, seconds on this machine."""
    columns = {
        "searches": ("searches_per_question", ".2f"),
        "searcher wrote": ("searcher_tokens", ".0f"),
        "context": ("context_tokens", ".0f"),
        "generator read": ("generator_tokens", ".0f"),
        "seconds": ("seconds_per_question", ".3f"),
    }
    rows = [
        Row(name, [Cell(format(method[key], spec)) for key, spec in columns.values()])
        for name, method in results["methods"].items()
    ]
    note = "Per question; tokens are the generator's. Seconds are of this machine, in batches."
    return table([Cell("method"), *map(Cell, columns)], rows, note)


def ablation_table(study: str, entry: Mapping[str, Any]) -> Rich:
    """An experiment's arms, the paper's average beside ours."""
    rows = []
    for number, (name, arm) in enumerate(entry["arms"].items()):
        cells = [
            Cell(percent(arm["average"]["gen_acc"]), interval(arm["average"]), "average"),
            Cell(points(arm["difference"]) if number else "–"),
            Cell(f"{arm['context_tokens']:.0f}"),
            # another generator reads contexts that were searched for before
            Cell("–" if study == "generator" else f"{arm['searches_per_question']:.2f}"),
            Cell(_theirs(paper.ablation(study, number))),
        ]
        rows.append(Row(name, cells, kind="" if number else "ours"))
    first = next(iter(entry["arms"]))
    heads = [
        Cell(study),
        Cell("GenAcc", "95 % interval"),
        Cell(f"− {first}", "points"),
        Cell("context", "tokens"),
        Cell("searches"),
        Cell("paper", "average"),
    ]
    trained = any(arm["seconds"] for arm in entry["arms"].values())
    each = "one training each" if trained else "nothing trained anew"
    return table(heads, rows, f"n = {entry['n']}, seed {entry['seed']}, {each}; paired differences.")


def efficiency_plot(entry: Mapping[str, Any]) -> Plot:
    """GenAcc against training examples, and against seconds where they were timed, for every trained method."""
    with rc_context(STYLE):
        timed = all(point["seconds"] is not None for curve in entry["curves"].values() for point in curve)
        labels = {"examples": "training examples"}
        if timed:
            labels["seconds"] = f"seconds of training, threads: {entry['threads']}"
        figure = Figure(figsize=(4.8 * len(labels) + 1, 3.4), layout="constrained")
        panels = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
        for axes, (key, label) in zip(panels, labels.items(), strict=True):
            for name, curve in entry["curves"].items():
                x = [point[key] for point in curve]
                low, high = zip(*(point["ci95"] for point in curve), strict=True)
                colour = COLOURS.get(name, "#52606d")
                shown = [point["gen_acc"] for point in curve]
                axes.plot(x, shown, marker="o", markersize=4, color=colour, label=name)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_xlabel(label)
            axes.grid(axis="y", color="#e8ecf0")
        figure.axes[0].set_ylabel("GenAcc, average of the sets")
        figure.axes[0].legend(loc="lower right")
    best = {name: max(p["gen_acc"] for p in curve) for name, curve in entry["curves"].items()}
    said = ", ".join(f"{name} {percent(value)} %" for name, value in best.items())
    return Plot(f"Accuracy along training (best: {said}); bands are 95 % intervals.", figure)


def claims_table(board: Sequence[Claim]) -> Rich:
    """The claims board."""
    rows = [
        Row(
            claim.text,
            [
                Cell(claim.theirs),
                Cell(claim.ours, f"n = {claim.n}" if claim.n else ""),
                Cell(f"{MARKS[claim.verdict]} {claim.verdict}"),
            ],
            claim.why,
        )
        for claim in board
    ]
    heads = [Cell("claim"), Cell("paper"), Cell("ours", "95 % interval"), Cell("verdict")]
    return table(
        heads, rows, "Points are percentage points of GenAcc. Verdicts are computed: see the text above."
    )


def markdown_claims(board: Sequence[Claim]) -> str:
    """The board for a README."""
    rows = [["Claim", "Paper", "Here", "n", "Verdict"], ["---"] * 5]
    rows += [
        [c.text, c.theirs, c.ours, str(c.n or "–"), f"{c.verdict}: {c.why}" if c.why else c.verdict]
        for c in board
    ]
    return markdown(rows)


def markdown_ablation(experiments: Mapping[str, Any]) -> str:
    """Every ablation's arms for a README: ours, the difference to the study's first arm, the paper's average."""
    rows = [["Study", "Arm", "GenAcc [95 % interval]", "difference", "context tokens", "paper"], ["---"] * 6]
    for study, entry in sorted(experiments.items(), key=lambda found: STUDIES.index(found[0])):
        for number, (name, arm) in enumerate(entry.get("arms", {}).items()):
            low, high = arm["average"]["ci95"]
            rows.append(
                [
                    study if number == 0 else "",
                    name,
                    f"{arm['average']['gen_acc']:.3f} [{low:.3f}, {high:.3f}]",
                ]
                + [points(arm["difference"]) if number else "–", f"{arm['context_tokens']:.0f}"]
                + [_theirs(paper.ablation(study, number))]
            )
    return markdown(rows)


def agreement_table(found: Mapping[str, Any], counts: tuple[int, int]) -> Rich:
    """How each metric agrees with the person; ``counts`` of accepted and rejected outputs."""
    rows = [
        Row(
            metric,
            [Cell(percent(sides[name]["mean"]), interval(sides[name])) for name in ("finds", "false")],
            kind="ours" if metric == "gen_acc" else "",
        )
        for metric, sides in found.items()
    ]
    heads = [
        Cell("metric"),
        Cell("accepts of the right ones", f"n = {counts[0]}"),
        Cell("accepts of the wrong ones", f"n = {counts[1]}"),
    ]
    return table(heads, rows, "Percent, with 95 % intervals; right and wrong as labelled.")
