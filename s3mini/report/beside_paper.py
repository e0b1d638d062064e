"""Ours beside the paper's own figures, which stand in ``paper.yaml`` only: methods, ablations, data efficiency."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from ..experiments import STUDIES
from ..results import Results
from .html import Rich, Row, table
from .plots import COLOURS, MUTED, Plot, styled
from .tables import NONE, accuracy, fraction, markdown, percent, points

GENERATOR = "claude-3-haiku"  # the only column that has every method
TRAINED_ON = ("nq", "hotpotqa")  # the other four sets measure transfer


@cache
def paper() -> dict[str, Any]:
    """The file's content, accuracies in percent as printed; the functions below have them in [0, 1]."""
    text = Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def general(method: str, generator: str = GENERATOR) -> dict[str, float]:
    """GenAcc of a method by set (table 1); empty where the paper has none."""
    row = paper()["general"][generator].get(method)
    return {name: value / 100 for name, value in zip(paper()["sets"], row, strict=True)} if row else {}


def average(method: str, generator: str = GENERATOR) -> float | None:
    """Mean over the six sets, None where the paper has none."""
    row = general(method, generator)
    return sum(row.values()) / len(row) if row else None


def ablation(study: str, arm: int) -> float | None:
    """Average GenAcc of the ``arm``-th row of an ablation, None where the paper has no such table."""
    rows = list(paper().get(study, {}).values())
    if arm >= len(rows):
        return None
    row = rows[arm]
    return (sum(row) / len(row) if isinstance(row, list) else row) / 100


def paper_table(results: Results) -> Rich:
    """GenAcc of every method: ours, and the paper's below it in small, set by set and on average."""
    methods, generators = results["methods"], list(paper()["general"])
    sets = list(next(iter(methods.values()))["sets"])
    rows = []
    for name, method in methods.items():
        theirs = general(name)
        cells = [(percent(method["sets"][s]["gen_acc"]), percent(theirs.get(s))) for s in sets]
        averages = [percent(average(name, generator)) for generator in generators]
        kind = "ours" if name == "s3" else ""
        rows.append(Row(name, [*cells, accuracy(method["average"]), *averages], kind=kind))
    heads = ["method", *((s, "ours, paper") for s in sets), ("average", "ours")]
    note = "GenAcc in percent. Small figures under a set are the paper's (Claude 3 Haiku reads); other questions, other models."
    return table([*heads, *(("paper", generator) for generator in generators)], rows, note)


def ablation_table(study: str, entry: Mapping[str, Any]) -> Rich:
    """An experiment's arms, the paper's average beside ours where it has the study."""
    rows = []
    theirs = any(ablation(study, number) is not None for number in range(len(entry["arms"])))
    for number, (name, arm) in enumerate(entry["arms"].items()):
        cells = [
            accuracy(arm["average"]),
            points(arm["difference"]) if number else NONE,
            f"{arm['context_tokens']:.0f}",
            # another generator reads contexts that were searched for before
            NONE if study == "generator" else f"{arm['searches_per_question']:.2f}",
            *([percent(ablation(study, number))] if theirs else []),
        ]
        rows.append(Row(name, cells, kind="" if number else "ours"))
    heads = [study, ("GenAcc", "95 % interval"), (f"− {rows[0].name}", "points"), ("context", "tokens")]
    trained = any(arm["seconds"] for arm in entry["arms"].values())
    how = "one training each" if trained else "nothing trained anew"
    if seeds := entry.get("seeds"):
        seen = f"seeds {', '.join(map(str, seeds))}, means over them; intervals over seeds and questions"
    else:
        seen = f"seed {entry['seed']}, {how}; paired differences"
    note = f"n = {entry['n']}, {seen}."
    return table([*heads, "searches", *([("paper", "average")] if theirs else [])], rows, note)


def markdown_ablation(experiments: Mapping[str, Any]) -> str:
    """Every ablation's arms for a README: ours, the difference to the study's first arm, the paper's average."""
    rows = []
    for study in STUDIES:
        for number, (name, arm) in enumerate(experiments.get(study, {}).get("arms", {}).items()):
            to_first = points(arm["difference"]) if number else NONE
            row = ["" if number else study, name, fraction(arm["average"]), to_first]
            rows.append([*row, f"{arm['context_tokens']:.0f}", percent(ablation(study, number))])
    return markdown(["Study", "Arm", "GenAcc [95 % interval]", "difference", "context tokens", "paper"], rows)


@styled
def efficiency_plot(entry: Mapping[str, Any]) -> Plot:
    """GenAcc against training examples, and against seconds where they were timed, for every trained method."""
    labels = {"examples": "training examples"}
    if all(point["seconds"] is not None for curve in entry["curves"].values() for point in curve):
        labels["seconds"] = f"seconds of training, threads: {entry['threads']}"
    figure = Figure(figsize=(4.8 * len(labels) + 1, 3.4), layout="constrained")
    panels = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for name, curve in entry["curves"].items():
            x, means = [point[key] for point in curve], [point["gen_acc"] for point in curve]
            low, high = zip(*(point["ci95"] for point in curve), strict=True)
            colour = COLOURS.get(name, MUTED)
            axes.plot(x, means, marker="o", markersize=4, color=colour, label=name)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(label)
        axes.grid(axis="y")
    figure.axes[0].set_ylabel("GenAcc, average of the sets")
    figure.axes[0].legend(loc="lower right")
    best = {name: max(p["gen_acc"] for p in curve) for name, curve in entry["curves"].items()}
    said = ", ".join(f"{name} {percent(value)} %" for name, value in best.items())
    return Plot(f"Accuracy along training (best: {said}); bands are 95 % intervals.", figure)
