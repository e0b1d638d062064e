"""Your own documents and questions, in one command."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from ..profile import find_searcher, shown_path
from .base import ProfileName, Searcher, Seed, Settings, app, echo_results, pairs, whole
from .terminal import command


def _field(what: str) -> Any:
    help = f"Field with the {what}. Default: guessed from common names."
    return Option(metavar="NAME", help=help, show_default=False)


@app.command()
def own(
    documents: Annotated[
        Path, Argument(help="A .jsonl, .json, .csv, .tsv or .parquet file, or a folder of text files.")
    ],
    questions: Annotated[
        Path | None, Option("--questions", "-q", help="A file of questions and answers.")
    ] = None,
    name: Annotated[
        str | None,
        Option(help="Of the question set and of the folder below build/. Default: the documents'."),
    ] = None,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    id_field: Annotated[str | None, _field("document's id")] = None,
    text_field: Annotated[str | None, _field("document's text")] = None,
    title_field: Annotated[str | None, _field("document's title")] = None,
    question_field: Annotated[str | None, _field("question")] = None,
    answer_field: Annotated[str | None, _field("answers")] = None,
    split_field: Annotated[str | None, _field("split (train, dev, test)")] = None,
    options_field: Annotated[str | None, _field("options of multiple choice")] = None,
    separator: Annotated[str, Option(help="Between several answers in one text.")] = "|",
    words: Annotated[int, Option(min=10, help="Longer documents are cut into passages.")] = 100,
    split_seed: Annotated[int, Option(help="Of the split into train, dev and test.")] = 0,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Leave out and count what cannot be used, instead of stopping.")
    ] = False,
    searcher: Searcher = None,
    untrained: Annotated[bool, Option("--untrained", help="Begin with the untrained searcher.")] = False,
    only_import: Annotated[bool, Option("--only-import", help="Stop after the import.")] = False,
    no_train: Annotated[bool, Option("--no-train", help="Evaluate without training.")] = False,
) -> None:
    """Use your own documents and questions: import, index, precompute, train, evaluate; resumable.

    Without questions it stops at the indexes, and you can ask. What it makes lies in build/NAME/, with a profile file that
    every command takes.
    """
    if not separator:
        raise typer.BadParameter("the separator is empty", param_hint="--separator")
    base = whole(profile_name, settings)
    from ..owndata import Fields
    from ..owndata import own as run

    named = (id_field, text_field, title_field, question_field, answer_field, split_field, options_field)
    fields = Fields(*named, separator)
    made = run(
        documents,
        questions,
        name=name,
        base=profile_name,
        seed=seed,
        settings=pairs(settings, "--set"),
        fields=fields,
        words=words,
        split_seed=split_seed,
        skip_bad=skip_bad,
        searcher=searcher if searcher or untrained else find_searcher(base, seed)[0],
        untrained=untrained,
        only_import=only_import,
        training=not no_train,
        tell=typer.echo,
    )
    if made.results is not None:
        echo_results(made.results)
    if made.profile.generator.wordings == "brief":
        note = "the mini model has learnt to read its fictional world only; real texts want --profile gpu"
        typer.echo(f"note: {note}", err=True)
    if not only_import:
        typer.echo(f'ask: s3mini ask "…" {command("--profile", shown_path(made.path))}')
