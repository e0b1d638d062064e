"""Tables of the results, episodes before and after training, ``report.html`` (one file, nothing fetched)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from markupsafe import Markup

from ..corpus import load_questions
from ..evaluation import load_answers
from ..methods import METHODS
from ..profile import Profile
from ..records import Score, episode_from_json
from ..results import BOUNDS, Results, main_rivals, read_results
from ..retrieval import open_corpus
from ..runs.stages import atomic_write
from . import plots
from .beside_paper import paper_table
from .claims import boards, claims_table
from .html import Cell, Rich, Row, episode_html, render, style, table
from .plots import GROUPS
from .shipped import Records, own_records
from .tables import accuracy, difference, fraction, interval, markdown, percent


def results_table(results: Results) -> Rich:
    """GenAcc in percent, methods x sets, with the average's interval (the layout of the paper's table 1).

    The best of each column is bold, the oracle aside, which is a bound and not a method.
    """
    columns = {name: {**m["sets"], "average": m["average"]} for name, m in results["methods"].items()}
    rivals = [column for name, column in columns.items() if name not in BOUNDS] or list(columns.values())
    best = {where: max(column[where]["gen_acc"] for column in rivals) for where in rivals[0]}
    rows = []
    for name, method in results["methods"].items():
        cells: list[Sequence[str]] = []
        for where, figures in columns[name].items():
            is_best = figures["gen_acc"] == best[where] > 0 and name not in BOUNDS
            cell = accuracy(figures, "average") if where == "average" else Cell(percent(figures["gen_acc"]))
            cells.append(cell._replace(kind=f"{cell.kind} {'best' * is_best}".strip()))
        cells += [percent(method["average"]["span"]), percent(method["average"]["em"])]
        cells += [f"{method['context_tokens']:.0f}", f"{method['searches_per_question']:.2f}"]
        kind = "bound" if name in BOUNDS else "ours" if name == "s3" else ""
        rows.append(Row(name, cells, METHODS[name].about if name in METHODS else "", kind))
    *sets, average = ((where, f"n = {figures['n']}") for where, figures in rivals[0].items())
    heads = ["method", *sets, ("average", "95 % interval"), ("span", "no judge"), "EM", ("context", "tokens")]
    note = (
        "GenAcc in percent: an accepted answer occurs in the generator's answer, or the judge says it does."
    )
    note += " Searches: those the searcher asked for."
    if not columns.keys().isdisjoint(BOUNDS):
        note += " The oracle is given the gold documents: for comparison, not a method."
    return table([*heads, "searches"], rows, note)


def markdown_table(results: Results) -> str:
    """The same table for a README: GenAcc in [0, 1], and the average's interval."""
    rows = []
    for name, method in results["methods"].items():
        accuracies = [f"{figures['gen_acc']:.3f}" for figures in method["sets"].values()]
        costs = [f"{method['searches_per_question']:.2f}", f"{method['context_tokens']:.0f}"]
        rows.append([f"`{name}`", *accuracies, fraction(method["average"]), *costs])
    sets = next(iter(results["methods"].values()))["sets"]
    return markdown(["Method", *sets, "average [95 % interval]", "searches", "context tokens"], rows)


def markdown_runs(runs: Mapping[str, Results]) -> str:
    """One row per run: s3's average GenAcc, its paired differences, what selection does. Names to results."""
    heads = ["Run", "s3", "− s3-untrained", "… on transfer sets", "− rag-dense"]
    heads += ["context, by selection", "GenAcc, by selection"]
    rows = []
    for name, results in runs.items():
        untrained, rag = (results["differences"][f"s3 - {rival}"] for rival in ("s3-untrained", "rag-dense"))
        selection = results["selection"]
        gains = (untrained["average"], untrained["transfer"], rag["average"], selection["difference"])
        *to_rivals, by_selection = (fraction(gain, "mean", "+.3f") for gain in gains)
        s3 = f"{results['methods']['s3']['average']['gen_acc']:.3f}"
        rows.append([name, s3, *to_rivals, f"{selection['shrink']:.2f} × shorter", by_selection])
    return markdown(heads, rows)


def cost_table(results: Results) -> Rich:
    """What an answer costs: searches, tokens written and read, seconds on this machine."""
    columns = {
        "searches": ("searches_per_question", ".2f"),
        "searcher wrote": ("searcher_tokens", ".0f"),
        "context": ("context_tokens", ".0f"),
        "generator read": ("generator_tokens", ".0f"),
        "seconds": ("seconds_per_question", ".3f"),
    }
    methods = results["methods"].items()
    rows = [Row(name, [format(m[key], spec) for key, spec in columns.values()]) for name, m in methods]
    note = "Per question; tokens are the generator's, those written the searcher's. Seconds are of this machine, in batches."
    return table(["method", *columns], rows, note)


def differences_table(results: Results) -> Rich:
    """Paired differences in GenAcc, in percentage points: per set, averaged, on sets trained on and not."""
    pairs = results["differences"]
    first = next(iter(pairs.values()))
    about = {"trained": "sets trained on", "transfer": "sets not trained on", "average": "all sets"}
    groups = [(group, about[group]) for group in GROUPS if group in first]
    rows = []
    for name, pair in pairs.items():
        cells = [difference(estimate) for estimate in pair["sets"].values()]
        cells += [difference(pair[group], "average") for group, _ in groups]
        rows.append(Row(name.replace(" - ", " − "), cells))
    note = "Percentage points, with 95 % bootstrap intervals over questions."
    return table(["difference", *first["sets"], *groups], rows, note)


def selection_table(results: Results) -> Rich:
    """The generator reading what s3 selected, against everything the same episodes were shown."""
    selection = results["selection"]
    rows = []
    for key, label in (("selected", "as selected"), ("all", "nothing selected away")):
        side = selection[key]
        cells = [accuracy(side, ""), f"{side['context_tokens']:.0f}", f"{side['documents']:.1f}"]
        rows.append(Row(label, cells, kind="ours" if key == "selected" else ""))
    gain, shrink = difference(selection["difference"]), selection["shrink"]
    note = f"Difference in GenAcc {gain.text} points {gain.small}"
    note += f"; the context is {shrink:.1f} times shorter." if shrink else "."
    heads = ["s3's episodes, read", ("GenAcc", "95 % interval"), ("context", "tokens"), "documents"]
    return table(heads, rows, note)


def seeds_table(runs: Sequence[Results]) -> Rich:
    """One row per training seed: s3's average GenAcc and what it gained, on all sets and by transfer.

    Args:
        runs: results that hold s3, of different seeds.
    """
    pairs = list(runs[0]["differences"])
    heads: list[Sequence[str]] = ["training seed", ("s3", "average GenAcc"), ("context", "tokens")]
    for pair in pairs:
        heads += [(pair.replace("s3 - ", "− "), about) for about in ("all sets", "transfer")]
    rows = []
    for run in runs:
        s3 = run["methods"]["s3"]
        gains = [run["differences"][pair].get(group) for pair in pairs for group in ("average", "transfer")]
        cells = [accuracy(s3["average"], ""), f"{s3['context_tokens']:.0f}", *map(difference, gains)]
        rows.append(Row(f"seed {run['seed']}", cells))
    return table(heads, rows, "Each row is a training of its own; the intervals are over questions.")


def blame_table(profile: Profile, methods: Sequence[str], seed: int = 0) -> Rich:
    """Where the wrong answers come from: a gold document that never reached the generator, or the generator.

    Percent of all questions, sets counting by their size.

    Raises:
        DataError: a method was not evaluated on every set of the profile.
    """
    counts = {method: [0, 0, 0] for method in methods}
    for name in profile.data.sets:
        gold = {q.id: set(q.gold_ids) for q in load_questions(profile, name, "test")}
        for method, count in counts.items():
            for answer in load_answers(profile, method, name, seed):
                complete = gold[answer["id"]] <= set(answer["context"])
                count[0 if answer["gen_acc"] else 2 if complete else 1] += 1
    rows = [
        Row(method, [percent(n / sum(count)) for n in count], kind="ours" if method == "s3" else "")
        for method, count in counts.items()
    ]
    heads = ["method", "right", "wrong: gold document missing", "wrong: all gold documents there"]
    return table(heads, rows, "Percent of the questions.")


def headline(results: Results) -> str:
    """The result in a sentence or two."""
    methods = results["methods"]
    if "s3" not in methods:
        return f"Methods evaluated: {', '.join(methods)}."
    share = percent(methods["s3"]["average"]["gen_acc"])
    text = f"With a trained searcher, the frozen generator answers {share} % of the questions."
    for rival in main_rivals(methods):
        estimate = results["differences"][f"s3 - {rival}"]["average"]
        luck = "" if estimate["ci95"][0] > 0 or estimate["ci95"][1] < 0 else ", which may be luck"
        gain = difference(estimate)
        text += f" Against {rival}: {gain.text} points {gain.small}{luck}."
    return text


# ------------------------------------------------------------------------------------- episodes


@dataclass(frozen=True)
class Pair:
    """One question's episodes with the untrained and the trained searcher."""

    title: str
    before: Rich
    after: Rich


KINDS = (("What training gained", 0.0, 1.0), ("What training lost", 1.0, 0.0), ("What still fails", 0.0, 0.0))


def episodes_before_after(profile: Profile, seed: int = 0, gained: int = 3) -> list[Pair]:
    """Whole episodes before and after training: the first of each kind, in the order of sets and files.

    ``gained`` questions answered only after training, each from another set, hardest sets first (the
    profile's order reversed), then one that training lost and one that still fails, where there are any.

    Raises:
        DataError: s3 or s3-untrained was not evaluated.
    """
    documents = open_corpus(profile).by_id

    def first_of(title: str, right_before: float, right_after: float, set_name: str) -> Pair | None:
        untrained = {answer["id"]: answer for answer in load_answers(profile, "s3-untrained", set_name)}
        gold = {q.id: q.gold_ids for q in load_questions(profile, set_name, "test")}
        for after in load_answers(profile, "s3", set_name, seed):
            before = untrained.get(after["id"])
            if before and (before["gen_acc"], after["gen_acc"]) == (right_before, right_after):
                shown = []
                for a in (before, after):
                    score = Score(a["answer"], a["em"], a["f1"], a["span"], a["judge"])
                    own = gold[a["id"]]
                    shown.append(
                        episode_html(episode_from_json(a, documents), a["answer"], score, own, set_name)
                    )
                return Pair(title, *shown)
        return None

    pairs: list[Pair] = []
    for kind in KINDS:
        in_sets = (first_of(*kind, name) for name in reversed(profile.data.sets))
        pairs += islice(filter(None, in_sets), gained if kind is KINDS[0] else 1)
    return pairs


# --------------------------------------------------------------------------------------- report


def read_seeds(profile: Profile) -> list[Results]:
    """The results of every training seed evaluated so far, those without s3 left out, by seed.

    Where no training of a seed is here, what the profile names was evaluated instead: one searcher is no two trainings.
    """
    paths = (profile.build / "evaluation").glob("results-seed*.json")
    runs: list[Results] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    of_s3 = sorted((run for run in runs if "s3" in run["methods"]), key=lambda run: run["seed"])
    apart = {run.get("searchers", {}).get("s3", run["seed"]): run for run in reversed(of_s3)}
    return list(reversed(apart.values()))


def write_report(profile: Profile, results: Results | None = None, records: Records | None = None) -> Path:
    """Write ``build/<profile>/report.html``: tables, plots and whole episodes in one self-contained file.

    Args:
        results: None reads ``results.json``.
        records: what the claims board is read from; None takes what this build left, or what ships.

    Raises:
        DataError: nothing was evaluated yet. StageError: the disk is full.
    """
    results = results or read_results(profile.build / "results.json", profile.option)
    methods, compared = results["methods"], bool(results["differences"])
    runs = read_seeds(profile)
    page = render(
        "report.html.j2",
        results=results,
        style=Markup(style()),
        headline=headline(results),
        tiles=_tiles(results),
        table=results_table(results),
        paper=paper_table(results),
        claims=claims_table(boards(records or own_records(profile, results))),
        costs=cost_table(results),
        differences=differences_table(results) if compared else None,
        seeds=seeds_table(runs) if len(runs) > 1 else None,
        selection=selection_table(results) if "selection" in results else None,
        plots={
            "accuracy": plots.accuracy_plot(results),
            "differences": plots.differences_plot(results) if compared else None,
            "tokens": plots.tokens_plot(results),
        },
        curves=[
            (name, plots.learning_curves(run["curve"], name))
            for name, run in results["training"].items()
            if run["curve"]
        ],
        pairs=episodes_before_after(profile, results["seed"])
        if {"s3", "s3-untrained"} <= methods.keys()
        else [],
        evaluation_seconds=sum(method["seconds"] for method in methods.values()),
    )
    return atomic_write(profile.build / "report.html", page)


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    """The page's large figures: what it is, the figure, a small line."""
    averages = {name: method["average"] for name, method in results["methods"].items()}
    tiles = [
        (f"GenAcc, {name}", f"{percent(averages[name]['gen_acc'])} %", interval(averages[name]))
        for name in ("rag-dense", "s3-untrained", "s3", "oracle")
        if name in averages
    ]
    if (selection := results.get("selection")) and selection["shrink"]:
        small = f"{difference(selection['difference']).text} points of GenAcc"
        tiles.append(("context, by selection", f"{selection['shrink']:.1f}× shorter", small))
    return tiles
