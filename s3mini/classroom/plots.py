"""The plots of notebooks 01 and 08, drawn from what `study` and `scale` measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..report.plots import COLOURS, GRID, INK, MUTED, OURS, STYLE, Plot

gridded = rc_context(STYLE | {"axes.grid": True})
"""As `report.plots.styled`, with a grid."""
LINES = {"bm25": COLOURS["rag-bm25"], "dense": OURS, "fused": COLOURS["ircot"]}
PARTS = {
    "bm25": ("BM25", LINES["bm25"], "-"),
    "dense: encode": ("dense: encode the queries", LINES["dense"], "-"),
    "dense: search": ("dense: search the index", LINES["dense"], "--"),
}
FAMILIES = {
    "Flat": INK,
    "SQ": COLOURS["rag-dense"],
    "PQ": COLOURS["rag-bm25"],
    "IVF": COLOURS["ircot"],
    "HNSW": OURS,
}
SCALED = {
    "flat": ("exact, float32", INK),
    "float16": ("exact, float16", MUTED),
    "sq8": ("sq8", FAMILIES["SQ"]),
    "ivf-sq8": ("ivf-sq8", FAMILIES["IVF"]),
    "ivf-pq": ("ivf-pq", OURS),
    "bm25": ("BM25 (Lucene)", FAMILIES["PQ"]),
}
GROWN = (
    ("build_seconds", "seconds to build, encoding left out", 1.0),
    ("bytes", "GB on disk", 1e-9),
    ("own", "GB of memory of its own", 1e-9),
    ("latency 1", "milliseconds, 1 query", 1e3),
    ("latency 64", "milliseconds, 64 queries", 1e3),
)


@gridded
def recall_plot(result: Mapping[str, Any], k: int) -> Plot:
    """Per question set, recall of the gold documents against k: all of them (full lines), any (dotted).

    ``k``: where a grey line stands, the number of documents a reader is given.
    """
    sets = result["sets"]
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(9.6, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, measured) in zip(panels, sets.items(), strict=False):
        axes.axvline(k, color=GRID, lw=4)
        for retriever in result["retrievers"]:
            colour, shares = LINES.get(retriever, MUTED), measured[retriever]
            axes.plot(result["ks"], shares["any"], ":", color=colour, lw=1.5)
            axes.plot(result["ks"], shares["all"], color=colour, lw=2, label=retriever)
        title = f"{name}: {measured['gold']:.3g} gold document{'s' * (measured['gold'] > 1)}"
        axes.set(title=title, xscale="log", ylim=(-0.03, 1.05))
        axes.set_xticks([1, 3, 10, 50], ["1", "3", "10", "50"])
        axes.set_xticks([], minor=True)
    for axes in panels[len(sets) :]:
        axes.set_axis_off()
    handles, _ = panels[0].get_legend_handles_labels()
    handles += panels[0].plot([], [], ":", color=MUTED, label="any gold document")
    handles += panels[0].plot([], [], color=MUTED, lw=2, label="all gold documents")
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    figure.supxlabel("documents retrieved, k", color=INK, fontsize=10)
    figure.supylabel("share of questions", color=INK, fontsize=10)
    return Plot("Share of questions whose gold documents are among the first k, per question set", figure)


@gridded
def latency_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Milliseconds a batch takes, and queries per second, against the number of queries in it."""
    shown = (("seconds", 1000, "milliseconds a batch"), ("per_second", 1, "queries per second"))
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, (what, unit, title) in zip(figure.subplots(1, 2), shown, strict=True):
        for part, (label, colour, dash) in PARTS.items():
            own = [row for row in rows if row["part"] == part]
            sizes, values = [row["batch"] for row in own], [unit * row[what] for row in own]
            axes.plot(sizes, values, dash, marker="o", ms=4, color=colour, label=label)
        axes.set(title=title, yscale="log", xlabel="queries in the batch")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["batch"] for row in rows}))
        axes.get_xaxis().set_major_formatter("{x:.0f}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Plot("Latency and throughput against batch size", figure)


@gridded
def indexes_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Recall@10 against speed: a colour per family, a marker per index, a point per search setting."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for family, colour in FAMILIES.items():
        names = dict.fromkeys(row["index"] for row in rows if row["index"].startswith(family))
        for index, marker in zip(names, "osD", strict=False):
            line = [row for row in rows if row["index"] == index]
            points = [(row["per_second"], row["recall"]) for row in line]
            label, inner = f"{index}: {line[-1]['bytes']:.0f} bytes", colour if marker == "o" else "white"
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=7, mfc=inner, label=label)
            offset = (6, -12 if family == "IVF" else 5)
            for row, point in zip(line, points, strict=True):
                axes.annotate(
                    row["setting"], point, offset, textcoords="offset points", fontsize=8, color=MUTED
                )
    axes.set(xscale="log", xlabel="queries per second, one batch", ylabel="recall@10 of exact search")
    axes.margins(x=0.1, y=0.1)
    figure.legend(loc="outside right center", title="index, and bytes a vector", alignment="left")
    return Plot("Recall of exact search's ten best against speed, per FAISS index", figure)


@gridded
def scaling_plot(result: Mapping[str, Any]) -> Plot:
    """Time, disk and memory against the number of documents, and where the growth leads at wiki-18's (dotted, hollow)."""
    from .scale import WIKI18, projected, series

    far = WIKI18["documents"]
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, (what, title, unit) in zip(panels, GROWN, strict=False):
        for part, (label, colour) in SCALED.items():
            points = [(size, unit * value) for size, value in series(result, part, what)]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, color=colour, label=label)
            if what != "own":  # small, and mostly not of the index: no growth to speak of
                end = unit * projected(result, part, what)
                axes.plot([points[-1][0], far], [points[-1][1], end], ":", color=colour, lw=1.5)
                axes.plot([far], [end], "o", ms=6, color=colour, mfc="white")
        axes.set(title=title, xscale="log", yscale="log")
    panels[-1].set_axis_off()
    handles, _ = panels[0].get_legend_handles_labels()
    handles += panels[0].plot([], [], "o:", color=MUTED, mfc="white", label="projected: wiki-18, e5-base-v2")
    panels[-1].legend(handles=handles, loc="center left")
    figure.supxlabel("documents", color=INK, fontsize=10)
    caption = f"Time, disk and memory against documents, measured and projected to {far / 1e6:.0f} million"
    return Plot(caption, figure)
