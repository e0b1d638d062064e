"""The application object, the options that commands share, and how they open a profile and a searcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..profile import Profile, load_profile
from ..runs.machine import cap_threads

app = typer.Typer(
    help="Learn, reproduce and use s3: train only the searcher of a RAG system, by reinforcement learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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

EngineName = Annotated[str, typer.Option("--engine", help="Who answers: local (this process) or ray (many).")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Ray's processes; each opens the models. Default: one per GPU, else one per core."
    ),
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


def known_engine(name: str) -> str:
    """``name``, one of local and ray.

    Raises:
        typer.BadParameter: it is neither.
    """
    if name not in ("local", "ray"):
        raise typer.BadParameter(f"{name!r} is not one of local, ray", param_hint="--engine")
    return name


def find_searcher(profile: Profile, seed: int) -> tuple[Path | str | None, str]:
    """The best searcher there is for a profile, and a word on where it comes from.

    First what training of this seed left (a folder), then the checkpoint that the profile names (as it names it), else
    None: the one that it starts from.
    """
    trained = profile.build / "train" / f"s3-seed{seed}" / "model"
    if (trained / "config.json").is_file():
        return trained, f"trained here, seed {seed}"
    named = profile.protocols.get("s3")
    if named is not None and named.checkpoint is not None:
        return named.checkpoint, f"trained, {named.checkpoint}"
    if named is not None and named.model is not None:
        return None, f"{named.model.path}, where the profile starts from"
    return None, f"untrained: run `s3mini train --profile {profile.name} --seed {seed}` for a trained one"
