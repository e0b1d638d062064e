"""The README's results, written from the shipped records, so that no figure there is typed by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..experiments import FILE, read_experiments
from ..results import best_rival, read_results
from .beside_paper import markdown_ablation
from .claims import SMALL, claims, markdown_claims
from .html import render
from .page import markdown_runs, markdown_table
from .plots import Plot, overview_plot
from .tables import points

RUNS = ("seed0", "seed1", "seed2", "fresh-world")
PICTURE = "overview.png"
BEGIN, END = "<!-- written by `s3mini readme` from data/mini/results/ -->\n", "<!-- end -->\n"


def results_section(records: Path, people: Mapping[str, Any]) -> str:
    """The text between the README's two marks, ``templates/readme.md.j2``; its picture is `overview`.

    Args:
        records: folder of ``seed0.json`` and the other runs, ``experiments.json`` and ``herbal.json``.
        people: `human_check.agreement` of the hand-labelled outputs.

    Raises:
        DataError: a record is missing or malformed.
    """
    runs = {name: read_results(records / f"{name}.json") for name in RUNS}
    main, experiments = runs["seed0"], read_experiments(records / FILE)
    board = claims(main, experiments, read_results(records / "herbal.json"), people)
    longer_name, longer = list(experiments["steps"]["arms"].items())[-1]
    opponent = (records.parent / "opponents" / "search-r1" / "curve.jsonl").read_text(encoding="utf-8")
    text = render(
        "readme.md.j2",
        main=main,
        questions=next(iter(main["methods"]["s3"]["sets"].values()))["n"],
        run=main["training"][f"s3-seed{main['seed']}"],
        opponents_steps=len(opponent.splitlines()),
        longer_name=longer_name,
        longer=longer,
        caption=overview_plot(runs).caption,
        picture=PICTURE,
        methods=markdown_table(main),
        best=best_rival(main["methods"]),
        points=points,
        runs=markdown_runs(runs),
        verdicts=[claim.verdict for claim in board],
        small=SMALL,
        claims=markdown_claims(board),
        ablations=markdown_ablation(experiments),
    )
    return text + "\n"


def overview(records: Path) -> Plot:
    """The README's picture, from the records of `RUNS`."""
    return overview_plot({name: read_results(records / f"{name}.json") for name in RUNS})


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
