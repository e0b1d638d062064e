"""Commands for using what there is: ask a question, print or publish results."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..profile import ROOT, Profile, find_searcher, load_profile
from ..runs.stages import atomic_write
from .base import ProfileName, Searcher, Seed, Settings, app, in_haste, whole


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    searcher: Searcher = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Use the searcher before training.")] = False,
) -> None:
    """Answer a question with the trained searcher, and show its search."""
    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    if question != question.encode("utf-8", "replace").decode():
        raise typer.BadParameter(
            "the question is not UTF-8 (set the terminal's encoding to it)", param_hint="QUESTION"
        )
    profile = whole(profile_name, settings)
    with in_haste():
        _ask(profile, question, seed, searcher, untrained)


def _ask(profile: Profile, question: str, seed: int, searcher: Path | None, untrained: bool) -> None:
    from transformers.utils import logging as transformers_logging

    from ..bench import Bench
    from ..records import Collected, Question
    from ..report.html import episode_html

    folder, origin = (searcher, str(searcher)) if searcher else find_searcher(profile, seed)
    if untrained:
        folder, origin = None, "untrained, as asked"
    transformers_logging.disable_progress_bar()
    typer.echo(f"searcher: {origin}", err=True)
    bench = Bench(profile, seed, folder if isinstance(folder, Path) else None)
    asked = Question("asked", question, ())
    (episode,) = bench.episodes("s3", folder is not None, [asked])
    (answer,) = bench.answer([asked], [Collected(episode.context, episode)])
    typer.echo(episode_html(episode).text)
    typer.echo(f"Answer: {answer}")


@app.command()
def table(
    results: Annotated[list[Path], typer.Argument(help="A results.json; several: a row for each.")],
) -> None:
    """Print the table of a results.json in Markdown, or one of several runs, as the README shows them."""
    from ..report.page import markdown_runs, markdown_table
    from ..results import read_results

    read = {path.stem: read_results(path) for path in results}
    typer.echo(markdown_runs(read) if len(read) > 1 else markdown_table(*read.values()))


@app.command()
def judge(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Labelled outputs (.jsonl). Default: those of data/mini.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write how each metric agrees to this file, as people.json ships.")
    ] = None,
) -> None:
    """Compare the judge with outputs that a person labelled, and find the threshold at which they agree best."""
    profile = whole(profile_name, settings)
    from ..bench import Bench
    from ..report.human_check import LABELLED, agreement, calibrate, calibration_table, read_labelled

    outputs, asked = read_labelled(labelled or profile.resolve(LABELLED)), Bench(profile).judge
    if record is not None:
        atomic_write(record, json.dumps(agreement(outputs, asked), indent=1) + "\n")
    found = calibrate(outputs, asked)
    typer.echo(f"{profile.judge.path}, asked in {profile.judge.wordings} wordings")
    typer.echo(calibration_table(found).text)
    typer.echo(f"right ones get a higher probability than wrong ones in {found.ranking:.1%} of pairs")
    typer.echo(f"best threshold: --set judge.threshold={found.threshold:g}, or in the profile")


@app.command()
def readme() -> None:
    """Write the records that ship into README.md, with their picture, and into docs/claims.md."""
    from ..report.readme import CLAIMS, PICTURE, claims_page, overview, results_section, write_readme

    folder = load_profile("mini").shipped
    if folder is None:
        raise DataError("the records of the profile mini are not here: run from a checkout")
    write_readme(ROOT / "README.md", results_section(folder))
    (folder / PICTURE).write_bytes(overview(folder).png(dpi=150))
    atomic_write(ROOT / CLAIMS, claims_page())
    typer.echo(f"{ROOT / 'README.md'}\n{ROOT / CLAIMS}")
