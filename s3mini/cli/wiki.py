"""Making the profile `wiki`: its reader and the cold start of its searchers, from the questions that ship."""

from __future__ import annotations

import typer

from .base import ProfileName, Seed, Settings, app, opened


@app.command()
def coldstart(profile_name: ProfileName = "wiki", seed: Seed = 0, settings: Settings = None) -> None:
    """Teach an instruct model the protocols' formats, without judgement; writes adapters, curve and whole model."""
    profile = opened(profile_name, settings)
    from ..wiki.make import make_searcher

    typer.echo(f"searcher before GRPO: {make_searcher(profile, seed)}")


@app.command()
def reader(profile_name: ProfileName = "wiki", seed: Seed = 0, settings: Settings = None) -> None:
    """Teach the generator to say evidence and answer, before it is frozen; writes adapters, curve and whole model."""
    profile = opened(profile_name, settings)
    from ..wiki.make import make_reader

    typer.echo(f"reader: {make_reader(profile, seed)}")
