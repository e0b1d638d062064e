"""The README's results and the page of claims, written from the shipped records, so that no figure there is typed by hand."""

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..results import best_rival
from .beside_paper import markdown_ablation
from .claims import SMALL, Boards, claims, markdown_claims
from .controls import markdown_controls
from .html import render
from .page import markdown_runs, markdown_table
from .plots import Plot, overview_plot
from .shipped import MAIN, Records, all_shipped, shipped_runs
from .tables import points

PICTURE = "overview.png"
CLAIMS = "docs/claims.md"
BEGIN, END = "<!-- written by `s3mini readme` from the records in data/ -->\n", "<!-- end -->\n"
VERDICTS = ("shown", "not shown", "contradicted", "not measured")


def results_section(folder: Path, shipped: list[Records] | None = None) -> str:
    """The text between the README's two marks, ``templates/readme.md.j2``; its picture is `overview`.

    Args:
        folder: the mini profile's records.
        shipped: mini's first, then other profiles'; None: those that ship.

    Raises:
        DataError: a record is missing or malformed.
    """
    runs = shipped_runs(folder)
    main = runs[MAIN]
    shipped = all_shipped() if shipped is None else shipped
    experiments = shipped[0].experiments
    longer_name, longer = list(experiments["steps"]["arms"].items())[-1]
    opponent = (folder.parent / "opponents" / "search-r1" / "curve.jsonl").read_text(encoding="utf-8")
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
        others={r.profile: markdown_table(r.results) for r in shipped[1:] if r.results is not None},
        claims=CLAIMS,
        counts=_counts({r.profile: claims(r) for r in shipped}),
        ablations=markdown_ablation(experiments),
    )
    return text + "\n"


def claims_page(shipped: list[Records] | None = None) -> str:
    """The page ``docs/claims.md``, ``templates/claims.md.j2``; ``shipped`` as in `results_section`.

    Raises:
        DataError: a record is missing or malformed.
    """
    shipped = all_shipped() if shipped is None else shipped
    found: Boards = {records.profile: claims(records) for records in shipped}
    failing: dict[str, list[Any]] = {}
    for records in shipped:
        for claim in found[records.profile]:
            if claim.fails:
                failing.setdefault(claim.text, []).append((records, claim))
    text = render(
        "claims.md.j2",
        counts=_counts(found),
        small=SMALL,
        claims=markdown_claims(found),
        failing=failing,
        controls=markdown_controls(shipped),
    )
    return text + "\n"


def _counts(found: Boards) -> dict[str, str]:
    """How many claims have each verdict, in words, by profile."""
    verdicts = {name: [claim.verdict for claim in board] for name, board in found.items()}
    return {
        name: ", ".join(f"{given.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in given)
        for name, given in verdicts.items()
    }


def overview(folder: Path) -> Plot:
    """The README's picture, from the runs recorded in ``folder``."""
    return overview_plot(shipped_runs(folder))


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
