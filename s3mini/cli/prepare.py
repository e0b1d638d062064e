"""Commands that get a machine ready: download what a profile needs, examine what is there."""

from __future__ import annotations

from typing import Annotated

import typer

from .base import ProfileName, Settings, Texts, app, opened

ONLY = "corpus, index, questions, mirage, medcorp, s3-data or models; repeatable. Default: what the profile needs."


@app.command()
def download(
    profile_name: ProfileName = "paper",
    settings: Settings = None,
    only: Annotated[Texts, typer.Option(help=ONLY)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would come, fetch nothing.")] = False,
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
    if not run(profile, only or (), tell=typer.echo):
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
