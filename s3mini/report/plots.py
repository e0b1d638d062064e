"""The plots of the results, drawn without global state, the same in a notebook and in the report."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from ..results import Results, main_rivals

INK, MUTED, GRID, OURS, BEFORE = "#1f2933", "#7b8794", "#e8ecf0", "#0b69c7", "#8ec3f5"
COLOURS = {
    "direct": "#cbd2d9", "cot": "#b8c0c9", "rag-bm25": "#d9a441", "rag-dense": "#c2702b",
    "deepretrieval": "#a3b18a", "ircot": "#6a994e", "search-o1": "#9d7cc4", "search-r1": "#c86b98",
    "search-r1-own": "#e3a9c4", "s3-untrained": BEFORE, "s3": OURS, "oracle": "#52606d",
}  # fmt: skip
STYLE: Any = {
    "font.family": ["DejaVu Sans"], "font.size": 10, "figure.facecolor": "white", "legend.frameon": False,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.edgecolor": "#cbd2d9", "axes.labelcolor": INK, "axes.axisbelow": True, "grid.color": GRID,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.color": "#52606d", "ytick.color": "#52606d",
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
}  # fmt: skip
styled = rc_context(STYLE)
"""Decorates what draws, so that it draws in `STYLE` and leaves matplotlib's settings alone."""
CURVES = {
    "reward": "Reward", "earned": "Reward before searches are paid", "gen_acc": "GenAcc of the episodes", "valid_format": "Turns in valid format",
    "searches": "Searches per question", "context_tokens": "Context tokens",
    "zero_variance": "Groups all alike", "wasted": "Episodes of replaced questions", "kl": "KL to the start", "entropy": "Entropy",
}  # fmt: skip
SHARES = {"gen_acc", "valid_format", "zero_variance", "wasted"}
GROUPS = ("average", "trained", "transfer")  # of sets, in the order in which differences are shown
BESIDE = [
    ((8, 0), "left", "center"), ((-8, 0), "right", "center"), ((8, -5), "left", "top"), ((8, 5), "left", "bottom"),
    ((-8, -5), "right", "top"), ((-8, 5), "right", "bottom"), ((0, -8), "center", "top"), ((0, 8), "center", "bottom"),
]  # fmt: skip
"""Where a label may stand, in points from its place, best first."""
WINDOW = 5  # steps in the running mean of a learning curve

Place = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """A drawn figure with a sentence that says what it shows (its text form, and the image's alt)."""

    caption: str
    figure: Figure = field(repr=False)

    def __repr__(self) -> str:
        return f"[plot] {self.caption}"

    def png(self, dpi: int = 110) -> bytes:
        """The picture; equal figures give equal bytes."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
        return out.getvalue()

    _repr_png_ = png

    def __html__(self) -> Markup:
        data = base64.b64encode(self.png(dpi=140)).decode("ascii")
        return Markup('<figure><img alt="{}" width="{}" src="data:image/png;base64,{}"></figure>').format(
            self.caption, round(self.figure.get_figwidth() * 96), data
        )


@styled
def accuracy_plot(results: Results) -> Plot:
    """GenAcc of every method on every set and on average, with 95 % intervals."""
    methods = results["methods"]
    columns = [*next(iter(methods.values()))["sets"], "average"]
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(len(columns) - 1.5, len(columns) - 0.5, color="#f5f7fa", lw=0)
    for place, (name, method) in enumerate(methods.items()):
        shift = (place - (len(methods) - 1) / 2) * 0.82 / len(methods)
        figures = [*method["sets"].values(), method["average"]]
        means = np.array([f["gen_acc"] for f in figures])
        low, high = np.array([f["ci95"] for f in figures]).T
        ours = name.startswith("s3")
        axes.errorbar(
            np.arange(len(columns)) + shift, means, yerr=np.clip([means - low, high - means], 0, None),
            fmt="o", color=COLOURS.get(name, MUTED), label=name, capsize=0,
            markersize=7 if ours else 5.5, elinewidth=2.2 if ours else 1.5, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.02, 1.02), ylabel="GenAcc")
    axes.grid(axis="y")
    rows = -(-len(methods) // 8)  # more names in a row are wider than the figure
    columns_of_names = -(-len(methods) // rows)
    figure.legend(loc="outside upper left", ncols=columns_of_names, handletextpad=0.3, columnspacing=1.4)
    return Plot("GenAcc of every method on every question set, with 95 % bootstrap intervals", figure)


@styled
def differences_plot(results: Results) -> Plot:
    """Paired differences in GenAcc to the main rivals, per set and group of sets, with 95 % intervals."""
    pairs = {rival: results["differences"][f"s3 - {rival}"] for rival in main_rivals(results["methods"])}
    most_rows = max(len(pair["sets"]) + len(pair) - 1 for pair in pairs.values())
    figure = Figure(figsize=(11, 0.7 + 0.36 * most_rows), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharex=True, squeeze=False)[0]
    for axes, (rival, pair) in zip(panels, pairs.items(), strict=True):
        groups = {name: pair[name] for name in GROUPS if name in pair}
        rows = {**pair["sets"], **groups}
        for height, (name, estimate) in zip(range(len(rows), 0, -1), rows.items(), strict=True):
            colour = OURS if name in groups else BEFORE
            axes.plot(estimate["ci95"], [height] * 2, color=colour, lw=2.4, solid_capstyle="round")
            axes.plot([estimate["mean"]], [height], "o", color=colour, ms=7)
        axes.axvline(0, color=MUTED, lw=1)
        axes.plot([-0.05, 0.05], [1, 1], alpha=0)  # never narrower than this, when nothing differs
        axes.set_yticks(range(len(rows), 0, -1), list(rows))
        axes.set_title(f"GenAcc, s3 − {rival}")
        axes.grid(axis="x")
    return Plot("Paired differences in GenAcc with 95 % bootstrap intervals", figure)


@styled
def tokens_plot(results: Results) -> Plot:
    """What a context costs the generator, in tokens, against the average GenAcc it brings."""
    methods = results["methods"].items()
    points = {name: (method["context_tokens"], method["average"]["gen_acc"]) for name, method in methods}
    labels = dict(points)
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots()
    if selection := results.get("selection"):
        unselected = selection["all"]["context_tokens"], selection["all"]["gen_acc"]
        labels["s3, nothing selected away"] = unselected
        arrow = {"arrowstyle": "->", "color": MUTED, "lw": 1.2}
        axes.annotate("", points["s3"], unselected, arrowprops=arrow)
        axes.plot(*unselected, "o", mfc="white", color=OURS, ms=8)
    for name, point in points.items():
        axes.plot(*point, "o", color=COLOURS.get(name, MUTED), ms=9 if name.startswith("s3") else 7)
    axes.set(xlabel="tokens the generator reads per question", ylabel="average GenAcc", ylim=(-0.03, 1.05))
    axes.margins(x=0.18)
    axes.grid()
    named = _labels(labels)
    write_beside(axes, named, points.values(), [(points["s3"], unselected)] if selection else [])
    return Plot("Average GenAcc against the length of the generator's context", figure)


def _labels(points: Mapping[str, Place]) -> list[tuple[str, Place]]:
    """One label per place: points too close for two lines of text share one, at the first of them."""
    width = max(tokens for tokens, _ in points.values()) or 1.0
    placed: list[tuple[str, Place]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        for i, (names, (left, top)) in enumerate(placed):
            if abs(left - x) < 0.15 * width and abs(top - y) < 0.02:
                placed[i] = (f"{names}, {name}", (left, top))
                break
        else:
            placed.append((name, (x, y)))
    return placed


def write_beside(
    axes: Axes, labels: Iterable[tuple[str, Place]], points: Iterable[Place], lines: Iterable[Sequence[Place]]
) -> None:
    """Writes each label beside its place, clear of points, lines and earlier labels, and inside the axes, where that can be.

    Called last, when limits and axis labels are set.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes that were not removed
    figure.draw_without_rendering()  # the layout, without which nothing has a place
    drawn = [Path(axes.transData.transform(line)) for line in lines]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in map(axes.transData.transform, points)]
    for name, place in labels:
        text = axes.annotate(name, place, (0, 0), textcoords="offset points", fontsize=9, color=INK)
        tried: list[tuple[int, bool, int, Bbox]] = []
        for number, (offset, across, up) in enumerate(BESIDE):
            text.set(position=offset, ha=across, va=up)
            box = text.get_window_extent()
            crossed = sum(path.intersects_bbox(box, filled=False) for path in drawn)
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            tried.append((crossed + box.count_overlaps(taken), outside, number, box))
        *_, number, box = min(tried, key=lambda one: one[:3])
        offset, across, up = BESIDE[number]
        text.set(position=offset, ha=across, va=up)
        taken.append(box)


@styled
def learning_curves(curve: Sequence[Mapping[str, Any]], title: str = "training") -> Plot:
    """Per training step: reward, GenAcc, format, searches, context, dead groups, waste, KL, entropy; those recorded.

    Points are steps, the line is their running mean over `WINDOW` steps.
    """
    shown = [(key, name) for key, name in CURVES.items() if any(step.get(key) is not None for step in curve)]
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(11, 2.15 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (key, name) in zip(panels, shown, strict=False):
        recorded = [step for step in curve if step.get(key) is not None]
        steps, values = [step["step"] for step in recorded], [float(step[key]) for step in recorded]
        axes.plot(steps, values, "o", color=BEFORE, ms=3.5)
        axes.plot(steps, running_mean(values, WINDOW), color=OURS, lw=2)
        axes.set_title(name)
        axes.grid(axis="y")
        if min(values) >= 0:
            axes.set_ylim(0, 1.05 if key in SHARES else None)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel("step")
    return Plot(f"Learning curves of {title}, {len(curve)} steps", figure)


@styled
def overview_plot(runs: Mapping[str, Results]) -> Plot:
    """What training does, step by step, in every run, and s3's place among the methods of the first run."""
    main = next(iter(runs.values()))
    curves = [results["training"][f"s3-seed{results['seed']}"]["curve"] for results in runs.values()]
    methods = main["methods"]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    reward, searches, ranks = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    reward.set_title("Reward: gain beyond RAG")
    searches.set_title("Searches per question")
    for axes, key in ((reward, "reward"), (searches, "searches")):
        for curve in curves:
            steps = [step["step"] for step in curve]
            axes.plot(steps, [step[key] for step in curve], color=OURS, lw=1.6, alpha=0.75)
        axes.set_xlabel("training step")
        axes.grid(axis="y")
    order = sorted(methods, key=lambda name: methods[name]["average"]["gen_acc"])
    means = [methods[name]["average"]["gen_acc"] for name in order]
    bars = ranks.barh(order, means, color=[COLOURS.get(name, MUTED) for name in order], height=0.72)
    ranks.bar_label(bars, [f"{mean:.3f}" for mean in means], padding=4, fontsize=8.5, color=INK)
    ranks.set(title="GenAcc, average of the sets", xlim=(0, 1.12), xticks=[])
    ranks.spines["bottom"].set_visible(False)
    ranks.tick_params(labelsize=8.5)
    return Plot(
        f"Training of s3 in {len(runs)} runs ({', '.join(runs)}), and every method's average GenAcc", figure
    )


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` values at each place (of fewer at the beginning)."""
    return [sum(values[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(values))]
