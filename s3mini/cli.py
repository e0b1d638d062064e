"""The command line, ``s3mini``: the same steps as the notebooks, on a profile.

Each command loads only what it needs (``ask`` never imports the training stack). An expected failure is one
line on stderr and exit code 1; wrong usage is exit code 2.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import DataError, S3Error
from .machine import cap_threads
from .profile import ROOT, Profile, load_profile

app = typer.Typer(
    help="Learn, reproduce and use s3: train only the searcher of a RAG system, by reinforcement learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SHIPPED_SEARCHER = "data/mini/searcher"  # trained from this base model, so it stands in for it only
SHIPPED_BASE = "data/mini/model"

ProfileName = Annotated[
    str, typer.Option("--profile", help="Name of a profile, or the path of a .yaml file.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A profile key to change, e.g. grpo.steps=5. Repeatable."
    ),
]
Sets = Annotated[
    list[str] | None, typer.Option("--sets", help="A question set; repeatable. Default: the profile's.")
]


def pairs(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """``["a=1", "b=[x, y]"]`` as a dict, values read as YAML.

    Raises:
        typer.BadParameter: no ``=``, or a value that is not YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint=option)
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{item!r}: the value is not valid YAML", param_hint=option) from error
    return found


def opened(profile_name: str, settings: Sequence[str] | None) -> Profile:
    """The profile with its overrides; caps the threads before any numeric library is imported."""
    profile = load_profile(profile_name, **pairs(settings, "--set"))
    cap_threads(profile.threads)
    return profile


def find_searcher(profile: Profile, seed: int) -> tuple[Path | None, str]:
    """The best searcher there is for a profile, and a word on where it comes from.

    First what training of this seed left, then the shipped one (when the profile starts from the shipped
    base model), else None: the untrained one.
    """
    trained = profile.build / "train" / f"s3-seed{seed}" / "model"
    if (trained / "config.json").is_file():
        return trained, f"trained here, seed {seed}"
    shipped = ROOT / SHIPPED_SEARCHER
    if profile.searcher.path == SHIPPED_BASE and (shipped / "config.json").is_file():
        return shipped, "trained, shipped with the repository"
    return None, f"untrained: run `s3mini train --profile {profile.name} --seed {seed}` for a trained one"


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    searcher: Annotated[Path | None, typer.Option(help="Folder of a searcher to use instead.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Use the searcher before training.")] = False,
) -> None:
    """Answer a question with the trained searcher, and show its search."""
    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    profile = opened(profile_name, settings)
    from transformers.utils import logging as transformers_logging

    from .methods import Bench, Collected
    from .records import Question
    from .report_html import episode_html

    folder, origin = (searcher, str(searcher)) if searcher else find_searcher(profile, seed)
    if untrained:
        folder, origin = None, "untrained, as asked"
    transformers_logging.disable_progress_bar()
    typer.echo(f"searcher: {origin}", err=True)
    bench = Bench(profile, seed, folder)
    asked = Question("asked", question, ())
    (episode,) = bench.episodes("s3", folder is not None, [asked])
    (answer,) = bench.answer([asked], [Collected(episode.context, episode)])
    typer.echo(episode_html(episode).text)
    typer.echo(f"Answer: {answer}")


@app.command()
def index(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    kind: Annotated[str, typer.Option(help="lexical, dense, or all.")] = "all",
) -> None:
    """Build the indexes: BM25 (Lucene) and dense (FAISS)."""
    if kind not in ("lexical", "dense", "all"):
        raise typer.BadParameter(f"{kind!r} is not one of lexical, dense, all", param_hint="--kind")
    profile = opened(profile_name, settings)
    from .retrieval import build_index

    for one in ("lexical", "dense") if kind == "all" else (kind,):
        build_index(profile, one)
        typer.echo(f"{one} index: {profile.build / 'index' / one}")


@app.command()
def precompute(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    sets: Sets = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="train, dev, test; repeatable.")] = None,
) -> None:
    """Answer every question by naive RAG (the reward's second term); resumable."""
    profile = opened(profile_name, settings)
    from .corpus import load_questions
    from .rag import precompute as run
    from .rag import training_filter

    splits = tuple(split or ("train", "test"))
    cache = run(profile, sets, splits)
    typer.echo(f"naive RAG: {len(cache)} answers under {profile.build}")
    if "train" in splits:
        questions = [
            q for name in sets or profile.data.train_sets for q in load_questions(profile, name, "train")
        ]
        typer.echo(str(training_filter(questions, cache)[1]))


@app.command()
def train(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    protocol: Annotated[str, typer.Option(help="s3, search-r1 or deepretrieval.")] = "s3",
    run: Annotated[
        str | None, typer.Option(help="Name of the run; its folder is train/<run>-seed<seed>. [protocol]")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again instead of resuming.")] = False,
) -> None:
    """Train the searcher by GRPO; goes on from its last checkpoint."""
    profile = opened(profile_name, settings)
    from .grpo import train as learn

    typer.echo(f"searcher: {learn(profile, seed=seed, run=run, protocol=protocol, resume=not fresh)}")


@app.command()
def evaluate(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    method: Annotated[list[str] | None, typer.Option("--method", help="A method; repeatable.")] = None,
    sets: Sets = None,
    searcher: Annotated[
        Path | None, typer.Option(help="Folder of a trained searcher to use instead.")
    ] = None,
) -> None:
    """Evaluate methods on the test sets; writes results.json and report.html."""
    profile = opened(profile_name, settings)
    from .evaluation import evaluate as run
    from .report import differences_table, results_table, write_report

    results = run(profile, method, sets, seed, searcher)
    typer.echo(results_table(results).text)
    if results["differences"]:
        typer.echo(differences_table(results).text)
    typer.echo(f"{profile.build / 'results.json'}\n{write_report(profile, results)}")


@app.command()
def experiment(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="turns, loop, reward, filter, steps, generator, efficiency. [all]"),
    ] = None,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    timed: Annotated[bool, typer.Option("--timed", help="Record seconds: nothing else runs here.")] = False,
) -> None:
    """Run the paper's ablations, another generator, data efficiency; adds to experiments.json."""
    profile = opened(profile_name, settings)
    from .experiments import FILE, STUDIES
    from .experiments import experiment as run
    from .report_experiments import ablation_table, efficiency_plot

    for study in studies or STUDIES:
        found = run(profile, study, seed, timed=timed)
        shown = efficiency_plot(found).caption if study == "efficiency" else ablation_table(study, found).text
        typer.echo(shown)
    typer.echo(str(profile.build / FILE))


@app.command()
def readme(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
) -> None:
    """Write the results of data/mini/results into README.md."""
    profile = opened(profile_name, settings)
    from .labelled import LABELLED, agreement, read_labelled
    from .models.local import load_model
    from .report_readme import results_section, write_readme
    from .reward import Judge

    judge = Judge(load_model(profile.judge), profile.judge.wordings)
    people = agreement(read_labelled(profile.resolve(LABELLED)), judge)
    write_readme(ROOT / "README.md", results_section(ROOT / "data/mini/results", people))
    typer.echo(str(ROOT / "README.md"))


@app.command()
def table(
    results: Annotated[list[Path], typer.Argument(help="A results.json; several: a row for each.")],
) -> None:
    """Print the table of a results.json in Markdown, or one of several runs, as the README shows them."""
    from .report import load_results, markdown_runs, markdown_table

    read = {path.stem: load_results(path) for path in results}
    typer.echo(markdown_runs(read) if len(read) > 1 else markdown_table(*read.values()))


@app.command()
def reproduce(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A notebook parameter. Repeatable."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Beginning of a notebook's name, e.g. 01. Repeatable.")
    ] = None,
) -> None:
    """Run the notebooks in order, into build/<profile>/notebooks/."""
    from .notebooks import reproduce as run

    parameters = pairs(parameter, "--parameter")
    name = str(parameters.pop("PROFILE", profile_name))
    chosen_seed = parameters.pop("SEED", seed)
    run(name, chosen_seed, pairs(settings, "--set"), parameters, tuple(only or ()), tell=typer.echo)


@app.command()
def world(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Seed = 0,
) -> None:
    """Write a fresh fictional encyclopedia and its question sets."""
    import json

    card = out / "world.json"
    if card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("seed") != seed:
        raise DataError(f"{out}: holds the world of another seed; name another folder")
    from .world import make_world

    made = make_world(seed, out).resolve()
    typer.echo(f"{made}: {json.loads(card.read_text(encoding='utf-8'))['documents']} documents")
    typer.echo("To use it, give any command:")
    typer.echo(
        f"  --set name=world{seed} --set data.corpus={made}/corpus.jsonl --set data.questions={made}/questions"
    )


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of checkpoint, record and model; resumes what is there.")],
    seed: Seed = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to see.")] = 30_000_000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Pretrain the mini model from scratch, then examine it on an unseen world; resumable."""
    cap_threads()
    from .pretrain.exam import examine, write_card
    from .pretrain.train import pretrain as run

    model = run(out, tokens=tokens, seed=seed, device=device)
    typer.echo(f"model: {model}; its card: {write_card(model, out / 'record.csv', examine(model))}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: expected failures become one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="s3mini")
    except S3Error as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        extra = {"trl": "train", "datasets": "train", "papermill": "notebooks", "faiss": "cpu"}.get(
            error.name or ""
        )
        if extra is None:
            raise
        _fail(f"{error.name!r} is not installed; pip install 's3mini[{extra}]', or run make setup")
    except OSError as error:
        from .stages import disk_error

        told = disk_error(error, Path(os.curdir))
        if told is None:
            raise
        _fail(str(told))


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
