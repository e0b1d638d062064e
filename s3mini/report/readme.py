"""The README's results, written from the shipped records, so that no figure there is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..experiments import FILE, read_experiments
from ..results import best_rival
from .ablations import markdown_ablation, markdown_claims
from .claims import SMALL, Claim, claims, points
from .page import load_results, markdown_runs, markdown_table
from .plots import Plot, overview_plot

RUNS = ("seed0", "seed1", "seed2", "fresh-world")
PICTURE = "overview.png"
BEGIN, END = "<!-- written by `s3mini readme` from data/mini/results/ -->\n", "<!-- end -->\n"


def results_section(records: Path, people: Mapping[str, Any]) -> str:
    """The text between the README's two marks; its picture is `overview`.

    Args:
        records: folder of ``seed0.json`` and the other runs, ``experiments.json`` and ``herbal.json``.
        people: `labelled.agreement` of the hand-labelled outputs.

    Raises:
        DataError: a record is missing or malformed.
    """
    runs = {name: load_results(records / f"{name}.json") for name in RUNS}
    experiments, herbal = read_experiments(records / FILE), load_results(records / "herbal.json")
    main = runs["seed0"]
    board = claims(main, experiments, herbal, people)
    return "\n".join(
        [
            _headline(main, experiments, records.parent / "opponents"),
            f"![{overview_plot(runs).caption}](data/mini/results/{PICTURE})\n",
            markdown_table(main),
            "",
            _differences(main),
            "\nThree training seeds, and a world of another seed, made and run by command line (see below):\n",
            markdown_runs(runs),
            "\n### The paper's claims\n",
            _board(board),
            markdown_claims(board),
            "\n### Ablations\n",
            "Average GenAcc over the six sets (`s3mini experiment`). The first arm of a study is the main run; every other is a training of its own, "
            "but in `generator`,\nwhere another generator reads the stored contexts. `4-2-3`: retrieve 4, select 2, at most 3 searches. *paper* is the row in "
            "the same place there, in percent: its\n8-3-3 beside `4-2-3`, its 300 steps beside 60.\n",
            markdown_ablation(experiments),
            "",
        ]
    )


def overview(records: Path) -> Plot:
    """The README's picture, from the records of `RUNS`."""
    return overview_plot({name: load_results(records / f"{name}.json") for name in RUNS})


def write_readme(readme: Path, text: str) -> None:
    """Put ``text`` between the marks of ``readme``.

    Raises:
        DataError: the marks are missing.
    """
    old = readme.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise DataError(f"{readme}: no {BEGIN.strip()} … {END.strip()} to write between")
    head, rest = old.split(BEGIN, 1)
    readme.write_text(head + BEGIN + text + END + rest.split(END, 1)[1], encoding="utf-8")


def _headline(results: Mapping[str, Any], experiments: Mapping[str, Any], opponents: Path) -> str:
    run = results["training"][f"s3-seed{results['seed']}"]
    n = next(iter(next(iter(results["methods"].values()))["sets"].values()))["n"]
    arms = experiments["steps"]["arms"]
    longer = list(arms)[-1]
    theirs = len((opponents / "search-r1" / "curve.jsonl").read_text(encoding="utf-8").splitlines())
    return (
        f"GenAcc on {n} questions a set, as `make reproduce` leaves it with seed {results['seed']} on two cores without a GPU. "
        f"Training s3 took\n{run['seconds'] / 60:.0f} minutes: {run['steps']} steps, {run['examples']} questions, "
        f"{run['episodes']:,} episodes. `search-r1` and `deepretrieval` were trained by the same code and ship with the repository; "
        f"they had\n{theirs} steps and all training questions, s3 has {run['steps']} and those that naive RAG fails. With {longer.split()[0]} steps s3 "
        f"reaches {arms[longer]['average']['gen_acc']:.3f} (see the ablations).\n\n"
        "*GenAcc*, generation accuracy: the share of questions that the frozen generator answers right, i.e. an accepted answer occurs in its reply, "
        "or a judge model\nsays so. `direct` and `cot` read no documents; `rag-bm25` and `rag-dense` (naive RAG) search once, with the question itself; `s3-untrained` is s3's loop\n"
        "before training; `search-r1` hands what Search-R1 found to the generator, `search-r1-own` is its own answer; `oracle` reads the documents that prove the answer.\n"
    )


def _differences(results: Mapping[str, Any]) -> str:
    methods, pairs = results["methods"], results["differences"]
    best = best_rival(methods)
    untrained, selection = pairs["s3 - s3-untrained"], results["selection"]
    return (
        "Paired differences in points, with 95 % bootstrap intervals: against `s3-untrained`, the same loop before training, "
        f"{points(untrained['average'])}, and\n{points(untrained['transfer'])} on the four sets it never trained on; "
        f"against `rag-dense` {points(pairs['s3 - rag-dense']['average'])}; against the best other method, `{best}`, "
        f"{points(pairs[f's3 - {best}']['average'])}. Selection\nmakes the generator's context "
        f"{selection['shrink']:.2f} times shorter than everything the same episodes were shown, at "
        f"{points(selection['difference'])} points. The oracle is a bound, not a method."
    )


def _board(board: list[Claim]) -> str:
    counts = {v: sum(claim.verdict == v for claim in board) for v in ("shown", "not shown", "contradicted")}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return (
        f"{said}, in this small world with its small model. Verdicts are computed. Most follow the interval of the difference: *shown* when all of it\n"
        'lies on the claim\'s side, *contradicted* when it lies on the other, else *not shown*. "At no cost" and "add little" mean less than '
        f'{100 * SMALL:.0f} points; "fewer examples" and\n"less time" compare where each first reaches the best opponent\'s accuracy; the last row asks '
        "whether two intervals lie apart. Figures are points of GenAcc\nunless they say otherwise.\n"
    )
