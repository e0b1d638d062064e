"""The road's steps: index, precompute, train, evaluate, experiment; reproduce runs them as notebooks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .base import EngineName, ProfileName, Seed, Sets, Settings, Workers, app, known_engine, opened, pairs


@app.command()
def index(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    kind: Annotated[str, typer.Option(help="lexical, dense, milvus, or all: lexical and dense.")] = "all",
    adopt: Annotated[
        Path | None,
        typer.Option("--from", help="A prebuilt flat FAISS index of the corpus, taken instead of encoding."),
    ] = None,
) -> None:
    """Build the indexes: BM25 (Lucene) and dense (FAISS, Milvus)."""
    if kind not in ("lexical", "dense", "milvus", "all"):
        raise typer.BadParameter(f"{kind!r} is not one of lexical, dense, milvus, all", param_hint="--kind")
    if adopt is not None and kind == "lexical":
        raise typer.BadParameter("a lexical index is not built from vectors", param_hint="--from")
    profile = opened(profile_name, settings)
    from ..retrieval import build_index

    for one in ("lexical", "dense") if kind == "all" else (kind,):
        folder = build_index(profile, one, adopt=None if one == "lexical" else adopt)
        typer.echo(f"{one} index: {folder}")


@app.command()
def precompute(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    sets: Sets = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="train, dev or test; repeatable. Default: train and test."),
    ] = None,
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Answer the training and test questions by naive RAG (the reward's second term); resumable."""
    known_engine(engine)
    profile = opened(profile_name, settings)
    from ..bench import Bench
    from ..corpus import load_questions
    from ..rag import precompute as run
    from ..rag import training_filter
    from ..runs.ray import open_executor

    splits = tuple(split or ("train", "test"))
    with open_executor(engine, partial(Bench, profile), workers) as chosen:
        cache = run(profile, sets, splits, executor=chosen)
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
    run: Annotated[str | None, typer.Option(help="Name of the run. Default: the protocol's.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again instead of resuming.")] = False,
) -> None:
    """Train the searcher by GRPO; goes on from its last checkpoint. Several GPUs: see s3mini/runs/processes.py."""
    profile = opened(profile_name, settings)
    from ..grpo import train as learn
    from ..runs.processes import join

    folder = learn(profile, seed=seed, run=run, protocol=protocol, resume=not fresh)
    if join().main:
        typer.echo(f"searcher: {folder}")


@app.command()
def evaluate(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="A method, e.g. s3, rag-dense, search-r1; repeatable. Default: the profile's."
        ),
    ] = None,
    sets: Sets = None,
    searcher: Annotated[
        Path | None, typer.Option(help="Folder of a trained searcher. Default: the one trained here.")
    ] = None,
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Evaluate methods on the test sets; writes results.json and report.html."""
    known_engine(engine)
    profile = opened(profile_name, settings)
    from ..bench import Bench
    from ..evaluation import evaluate as run
    from ..report.page import differences_table, results_table, write_report
    from ..runs.ray import open_executor

    with open_executor(engine, partial(Bench, profile, seed, searcher), workers) as chosen:
        results = run(profile, method, sets, seed, searcher, executor=chosen)
    typer.echo(results_table(results).text)
    if results["differences"]:
        typer.echo(differences_table(results).text)
    typer.echo(f"{profile.build / 'results.json'}\n{write_report(profile, results)}")


@app.command()
def experiment(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="turns, loop, reward, filter, steps, generator, efficiency. Default: all."),
    ] = None,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    timed: Annotated[
        bool, typer.Option("--timed", help="Record seconds; only when nothing else runs on this machine.")
    ] = False,
) -> None:
    """Run the paper's ablations, another generator, data efficiency; adds to experiments.json."""
    profile = opened(profile_name, settings)
    from ..experiments import FILE, STUDIES
    from ..experiments import experiment as run
    from ..report.beside_paper import ablation_table, efficiency_plot

    for study in studies or STUDIES:
        found = run(profile, study, seed, timed=timed)
        shown = efficiency_plot(found).caption if study == "efficiency" else ablation_table(study, found).text
        typer.echo(shown)
    typer.echo(str(profile.build / FILE))


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
    """Run the notebooks in order, into build/<profile>/notebooks/, with results.json and report.html beside; resumable."""
    from ..classroom.notebooks import reproduce as run

    parameters = pairs(parameter, "--parameter")
    name = str(parameters.pop("PROFILE", profile_name))
    chosen_seed = parameters.pop("SEED", seed)
    run(name, chosen_seed, pairs(settings, "--set"), parameters, tuple(only or ()), tell=typer.echo)
