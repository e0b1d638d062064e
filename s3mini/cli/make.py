"""Commands that make what ships: a fictional world, the mini model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..profile import ROOT
from ..runs.machine import cap_threads
from .base import ProfileName, Seed, Settings, app, opened
from .terminal import command


@app.command()
def world(out: Annotated[Path, typer.Option(help="Folder to write.")], seed: Seed = 0) -> None:
    """Write a fresh fictional encyclopedia and its question sets."""
    from ..world import make_world

    card = out / "world.json"
    if card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("seed") != seed:
        raise DataError(f"{out}: holds the world of another seed; name another folder")
    made = make_world(seed, out).resolve()
    typer.echo(f"{made}: {json.loads(card.read_text(encoding='utf-8'))['documents']} documents")
    settings = {
        "name": f"world{seed}",
        "data.corpus": f"{made}/corpus.jsonl",
        "data.questions": f"{made}/questions",
    }
    typer.echo(f"To use it, give any command:\n  {command(settings=settings)}")


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of checkpoint, record and model; resumes what is there.")],
    seed: Seed = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to see.")] = 30_000_000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Pretrain the mini model from scratch, then examine it on an unseen world; resumable."""
    cap_threads()
    from ..pretrain.exam import examine, write_card
    from ..pretrain.train import pretrain as run

    model = run(out, tokens=tokens, seed=seed, device=device)
    typer.echo(f"model: {model}; its card: {write_card(model, out / 'record.csv', examine(model))}")


@app.command()
def sentences(
    out: Annotated[Path, typer.Option(help="Folder of adapters, curve and model; resumes what is there.")],
    seed: Seed = 0,
    base: Annotated[Path, typer.Option(help="Folder of the model to copy.")] = ROOT / "data/mini/model",
) -> None:
    """Teach a copy of the mini model to answer in whole sentences, then examine it on an unseen world; resumable."""
    cap_threads()
    from ..pretrain.sentences import make_sentence_generator

    typer.echo(f"model, curve, examination and card: {make_sentence_generator(base, out, seed)}")


@app.command()
def coldstart(
    profile_name: ProfileName = "wiki",
    seed: Seed = 0,
    questions: Annotated[int, typer.Option(min=1, help="Training questions to examine on.")] = 30,
    settings: Settings = None,
) -> None:
    """Teach an instruct model the protocols' formats, without judgement, as the searcher was before GRPO (profile wiki)."""
    profile = opened(profile_name, settings)
    from ..wiki.make import examine, make_searcher

    typer.echo(f"adapters, curve and whole model: {make_searcher(profile, seed)}")
    path = examine(profile, seed, questions)
    typer.echo(f"its examination: {path}\n{path.read_text(encoding='utf-8')}")


@app.command()
def reader(profile_name: ProfileName = "wiki", seed: Seed = 0, settings: Settings = None) -> None:
    """Teach the generator to say evidence and answer, before it is frozen (profile wiki)."""
    profile = opened(profile_name, settings)
    from ..wiki.make import make_reader

    typer.echo(f"adapters, curve and whole model: {make_reader(profile, seed)}")
