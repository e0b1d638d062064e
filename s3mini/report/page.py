"""Tables of the results, episodes before and after training, and ``report.html`` (one file, nothing fetched).

Notebooks show the same objects that the report embeds: tables and episodes from `report_html`, plots
from `report_plots`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpus import load_questions
from ..evaluation import load_answers
from ..methods import METHODS
from ..profile import Profile
from ..records import Document, Score, episode_from_json
from ..results import BOUNDS, Record, main_rivals, read_record
from ..retrieval import open_corpus
from ..runs.stages import atomic_write
from . import plots
from .ablations import cost_table, paper_table
from .html import Cell, Rich, Row, episode_html, style, table, templates
from .tables import interval, markdown, percent


def results_table(results: Mapping[str, Any]) -> Rich:
    """GenAcc in percent, methods x sets, with the average's interval (the layout of the paper's table 1).

    The best of each column is bold, the oracle aside, which is a bound and not a method.
    """
    methods = results["methods"]
    sets = list(next(iter(methods.values()))["sets"])
    rivals = [m for name, m in methods.items() if name not in BOUNDS] or list(methods.values())
    best = {name: max(m["sets"][name]["gen_acc"] for m in rivals) for name in sets}
    best_average = max(m["average"]["gen_acc"] for m in rivals)
    sizes = {name: next(iter(methods.values()))["sets"][name]["n"] for name in sets}
    heads = [Cell("method"), *(Cell(name, f"n = {sizes[name]}") for name in sets)]
    heads += [
        Cell("average", "95 % interval"),
        Cell("span", "no judge"),
        Cell("EM"),
        Cell("context", "tokens"),
        Cell("searches"),
    ]
    rows = []
    for name, method in methods.items():
        bound = name in BOUNDS
        cells = [_best(method["sets"][s]["gen_acc"], best[s], bound) for s in sets]
        average = _best(method["average"]["gen_acc"], best_average, bound)
        cells.append(Cell(average.text, interval(method["average"]), f"average {average.kind}".strip()))
        cells += [Cell(percent(method["average"][key])) for key in ("span", "em")]
        cells.append(Cell(f"{method['context_tokens']:.0f}"))
        cells.append(Cell(f"{method['searches_per_question']:.2f}"))
        kind = "bound" if bound else "ours" if name == "s3" else ""
        rows.append(Row(name, cells, METHODS[name].about if name in METHODS else "", kind))
    note = (
        "GenAcc in percent: an accepted answer occurs in the generator's answer, or the judge says it does. "
    )
    return table(
        heads, rows, note + "Searches: those the searcher asked for. The oracle is a bound, not a method."
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """The same table for a README: GenAcc in [0, 1], and the average's interval."""
    methods = results["methods"]
    sets = list(next(iter(methods.values()))["sets"])
    lines = ["Method", *sets, "average [95 % interval]", "searches", "context tokens"]
    rows = [lines, ["---"] * len(lines)]
    for name, method in methods.items():
        low, high = method["average"]["ci95"]
        rows.append(
            [f"`{name}`", *(f"{method['sets'][s]['gen_acc']:.3f}" for s in sets)]
            + [f"{method['average']['gen_acc']:.3f} [{low:.3f}, {high:.3f}]"]
            + [f"{method['searches_per_question']:.2f}", f"{method['context_tokens']:.0f}"]
        )
    return markdown(rows)


def markdown_runs(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per run: s3's average GenAcc, its paired differences, what selection does. Names to results."""
    heads = [
        "Run",
        "s3",
        "− s3-untrained",
        "… on transfer sets",
        "− rag-dense",
        "context, by selection",
        "GenAcc, by selection",
    ]
    rows = [heads, ["---"] * len(heads)]
    for name, results in runs.items():
        untrained, dense = (
            results["differences"][f"s3 - {rival}"] for rival in ("s3-untrained", "rag-dense")
        )
        found = (untrained["average"], untrained["transfer"], dense["average"])
        selection = results["selection"]
        rows.append(
            [name, f"{results['methods']['s3']['average']['gen_acc']:.3f}", *map(_signed, found)]
            + [f"{selection['shrink']:.2f} × shorter", _signed(selection["difference"])]
        )
    return markdown(rows)


def _signed(difference: Mapping[str, Any]) -> str:
    low, high = difference["ci95"]
    return f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _best(value: float, best: float, bound: bool) -> Cell:
    return Cell(percent(value), kind="best" if value == best > 0 and not bound else "")


def differences_table(results: Mapping[str, Any]) -> Rich:
    """Paired differences in GenAcc, in percentage points: per set, averaged, on sets trained on and not."""
    pairs = results["differences"]
    sets = list(next(iter(pairs.values()))["sets"])
    groups = [g for g in ("average", "trained", "transfer") if any(g in pair for pair in pairs.values())]
    about = {"trained": "sets trained on", "transfer": "sets not trained on", "average": "all sets"}
    heads = [Cell("difference"), *map(Cell, sets), *(Cell(g, about[g]) for g in groups)]
    rows = []
    for name, pair in pairs.items():
        found = [*(pair["sets"][s] for s in sets), *(pair[g] for g in groups)]
        kinds = ["" for _ in sets] + ["average" for _ in groups]
        cells = [
            Cell(f"{100 * f['mean']:+.1f}", interval(f), kind) for f, kind in zip(found, kinds, strict=True)
        ]
        rows.append(Row(name.replace(" - ", " − "), cells))
    return table(heads, rows, "Percentage points, with 95 % bootstrap intervals over questions.")


def selection_table(results: Mapping[str, Any]) -> Rich:
    """The generator reading what s3 selected, against everything the same episodes were shown."""
    selection = results["selection"]
    names = {"selected": "as selected", "all": "nothing selected away"}
    rows = [
        Row(
            label,
            [
                Cell(percent(selection[key]["gen_acc"]), interval(selection[key])),
                Cell(f"{selection[key]['context_tokens']:.0f}"),
                Cell(f"{selection[key]['documents']:.1f}"),
            ],
            kind="ours" if key == "selected" else "",
        )
        for key, label in names.items()
    ]
    difference = selection["difference"]
    shrink = selection["shrink"]
    note = f"Difference in GenAcc {100 * difference['mean']:+.1f} points {interval(difference)}"
    note += f"; the context is {shrink:.1f} times shorter." if shrink else "."
    heads = [
        Cell("s3's episodes, read"),
        Cell("GenAcc", "95 % interval"),
        Cell("context", "tokens"),
        Cell("documents"),
    ]
    return table(heads, rows, note)


def seeds_table(runs: Sequence[Mapping[str, Any]]) -> Rich:
    """One row per training seed: s3's average GenAcc and what it gained, on all sets and by transfer.

    Args:
        runs: `results.json` contents that hold s3, of different seeds.
    """
    pairs = list(runs[0]["differences"])
    heads = [Cell("training seed"), Cell("s3", "average GenAcc"), Cell("context", "tokens")]
    for name in pairs:
        other = name.removeprefix("s3 - ")
        heads += [Cell(f"− {other}", "all sets"), Cell(f"− {other}", "transfer")]
    rows = []
    for run in runs:
        s3 = run["methods"]["s3"]
        cells = [Cell(percent(s3["average"]["gen_acc"]), interval(s3["average"]))]
        cells.append(Cell(f"{s3['context_tokens']:.0f}"))
        for name in pairs:
            found = [run["differences"][name].get(group) for group in ("average", "transfer")]
            cells += [Cell(f"{100 * f['mean']:+.1f}", interval(f)) if f else Cell("–") for f in found]
        rows.append(Row(f"seed {run['seed']}", cells))
    return table(heads, rows, "Each row is a training of its own; the intervals are over questions.")


def blame_table(profile: Profile, methods: Sequence[str], seed: int = 0) -> Rich:
    """Where the wrong answers come from: a gold document that never reached the generator, or the generator.

    Percent of all questions, sets counting by their size.

    Raises:
        DataError: a method was not evaluated on every set of the profile.
    """
    heads = ["method", "right", "wrong: gold document missing", "wrong: all gold documents there"]
    gold = {
        name: {q.id: set(q.gold_ids) for q in load_questions(profile, name, "test")}
        for name in profile.data.sets
    }
    rows = []
    for method in methods:
        counts = [0, 0, 0]
        for name in profile.data.sets:
            for record in load_answers(profile, method, name, seed):
                complete = gold[name][record["id"]] <= set(record["context"])
                counts[0 if record["gen_acc"] else 2 if complete else 1] += 1
        shares = [percent(count / sum(counts)) for count in counts]
        rows.append(Row(method, [Cell(share) for share in shares], kind="ours" if method == "s3" else ""))
    return table([Cell(head) for head in heads], rows, "Percent of the questions.")


def headline(results: Mapping[str, Any]) -> str:
    """The result in a sentence or two."""
    methods = results["methods"]
    if "s3" not in methods:
        return f"Methods evaluated: {', '.join(methods)}."
    text = f"With a trained searcher, the frozen generator answers {percent(methods['s3']['average']['gen_acc'])} % of the questions."
    for other in main_rivals(methods):
        found = results["differences"][f"s3 - {other}"]["average"]
        sure = "" if found["ci95"][0] > 0 or found["ci95"][1] < 0 else ", which may be luck"
        text += f" Against {other}: {100 * found['mean']:+.1f} points {interval(found)}{sure}."
    return text


# ------------------------------------------------------------------------------------- episodes


@dataclass(frozen=True)
class Pair:
    """One question's episodes with the untrained and the trained searcher."""

    title: str
    before: Rich
    after: Rich


def stored_episode(
    record: Record, documents: Mapping[str, Document], gold: Sequence[str], set_name: str
) -> Rich:
    """A stored record as a rich episode, its answer and score included."""
    score = Score(record["answer"], record["em"], record["f1"], record["span"], record["judge"])
    return episode_html(episode_from_json(record, documents), record["answer"], score, gold, set_name)


KINDS = (
    ("What training gained", 0.0, 1.0),
    ("What training lost", 1.0, 0.0),
    ("What still fails", 0.0, 0.0),
)


def episodes_before_after(profile: Profile, seed: int = 0, gained: int = 3) -> list[Pair]:
    """Whole episodes before and after training: the first of each kind, in the order of sets and files.

    ``gained`` questions answered only after training, each from another set, hardest sets first (the
    profile's order reversed), then one that training lost and one that still fails, where there are any.

    Raises:
        DataError: s3 or s3-untrained was not evaluated.
    """
    documents = open_corpus(profile).by_id
    pairs: list[Pair] = []
    for title, before_right, after_right in KINDS:
        wanted = gained if after_right > before_right else 1
        for set_name in reversed(profile.data.sets):
            if wanted == 0:
                break
            before = {r["id"]: r for r in load_answers(profile, "s3-untrained", set_name)}
            gold = {q.id: q.gold_ids for q in load_questions(profile, set_name, "test")}
            for after in load_answers(profile, "s3", set_name, seed):
                first = before.get(after["id"])
                if first is None or (first["gen_acc"], after["gen_acc"]) != (before_right, after_right):
                    continue
                shown = [stored_episode(r, documents, gold[r["id"]], set_name) for r in (first, after)]
                pairs.append(Pair(title, *shown))
                wanted -= 1
                break
    return pairs


# --------------------------------------------------------------------------------------- report


def read_results(profile: Profile) -> dict[str, Any]:
    """``results.json`` of a profile.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    return load_results(profile.build / "results.json", profile.name)


def load_results(path: Path, profile: str = "mini") -> dict[str, Any]:
    """A ``results.json``, wherever it lies.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    return read_record(path, f"s3mini evaluate --profile {profile}")


def read_seeds(profile: Profile) -> list[dict[str, Any]]:
    """The results of every training seed evaluated so far, those without s3 left out, by seed."""
    paths = (profile.build / "evaluation").glob("results-seed*.json")
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted((run for run in runs if "s3" in run["methods"]), key=lambda run: run["seed"])


def write_report(profile: Profile, results: Mapping[str, Any] | None = None) -> Path:
    """Write ``build/<profile>/report.html``: tables, plots and whole episodes in one self-contained file.

    Args:
        results: None reads ``results.json``.

    Raises:
        DataError: nothing was evaluated yet. StageError: the disk is full.
    """
    results = read_results(profile) if results is None else results
    both = {"s3", "s3-untrained"} <= results["methods"].keys()
    differences = bool(results["differences"])
    runs = read_seeds(profile)
    page = templates().get_template("report.html.j2").render(
        results=results,
        style=plots.Markup(style()),
        headline=headline(results),
        tiles=_tiles(results),
        table=results_table(results),
        paper=paper_table(results),
        costs=cost_table(results),
        differences=differences_table(results) if differences else None,
        seeds=seeds_table(runs) if len(runs) > 1 else None,
        selection=selection_table(results) if "selection" in results else None,
        plots={
            "accuracy": plots.accuracy_plot(results),
            "differences": plots.differences_plot(results) if differences else None,
            "tokens": plots.tokens_plot(results),
        },
        curves=[
            (name, plots.learning_curves(run["curve"], name))
            for name, run in results["training"].items()
            if run["curve"]
        ],
        pairs=episodes_before_after(profile, results["seed"]) if both else [],
        evaluation_seconds=sum(m["seconds"] for m in results["methods"].values()),
    )  # fmt: skip
    return atomic_write(profile.build / "report.html", page)


def _tiles(results: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = []
    for name in ("rag-dense", "s3-untrained", "s3", "oracle"):
        if name in results["methods"]:
            average = results["methods"][name]["average"]
            value = f"{percent(average['gen_acc'])} %"
            tiles.append({"label": f"GenAcc, {name}", "value": value, "small": interval(average)})
    if "selection" in results and results["selection"]["shrink"]:
        value = f"{results['selection']['shrink']:.1f}× shorter"
        small = f"{100 * results['selection']['difference']['mean']:+.1f} points of GenAcc"
        tiles.append({"label": "context, by selection", "value": value, "small": small})
    return tiles
