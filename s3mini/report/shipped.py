"""What was measured at a profile: by this build, or in the records that ship.

A profile's records lie in `Profile.shipped`: ``seed<N>.json`` and other runs (`results.Results`), ``experiments.json``,
``herbal.json`` (multiple choice), ``people.json`` (`human_check.agreement`, as ``s3mini judge --record`` writes it).
Those that are missing are not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..experiments import FILE, read_experiments, recorded
from ..profile import Profile, load_profile
from ..results import Results, read_record, read_results

MAIN, PEOPLE, CHOICE = "seed0", "people.json", "herbal.json"
PROFILES = ("mini", "wiki")
"""The profiles whose records ship, or will."""


@dataclass(frozen=True)
class Records:
    """All that a claims board is read from."""

    profile: str = ""
    results: Results | None = None
    experiments: Mapping[str, Any] = field(default_factory=dict)
    herbal: Results | None = None  # of the multiple-choice profile
    people: Mapping[str, Any] | None = None


def shipped_runs(folder: Path) -> dict[str, Results]:
    """The main run, those of other seeds, then that of another world, by name.

    Raises:
        DataError: a record cannot be read, or there is no main one.
    """
    seeds = sorted(path.stem for path in folder.glob("seed*.json") if path.stem != MAIN)
    other = [path.stem for path in folder.glob("fresh-world.json")]
    return {name: read_results(folder / f"{name}.json") for name in (MAIN, *seeds, *other)}


def shipped_records(profile: Profile) -> Records | None:
    """What ships for the profile; None where its main run does not.

    Raises:
        DataError: a record cannot be read.
    """
    folder = profile.shipped
    if folder is None or not (folder / f"{MAIN}.json").is_file():
        return None
    return Records(
        profile.name,
        read_results(folder / f"{MAIN}.json"),
        read_experiments(folder / FILE if (folder / FILE).is_file() else None),
        _read(folder / CHOICE, profile.option),
        _read(folder / PEOPLE),
    )


def all_shipped(but: str = "") -> list[Records]:
    """The shipped records of every profile of `PROFILES` that has any, but of the one so named."""
    found = (shipped_records(load_profile(name)) for name in PROFILES if name != but)
    return [records for records in found if records is not None]


def own_records(profile: Profile, results: Results) -> Records:
    """This build's results, its multiple choice and experiments; what it has not measured itself, as it ships."""
    choice, folder = profile.evaluation.choice_profile, profile.shipped
    herbal = None if choice is None else _read(load_profile(choice).build / "results.json", profile.option)
    return Records(
        profile.name,
        results,
        read_experiments(recorded(profile)),
        herbal or (_read(folder / CHOICE, profile.option) if folder else None),
        _read(folder / PEOPLE) if folder else None,
    )


def _read(path: Path, option: str = "") -> Any:
    """A record, None where there is none."""
    command = f"s3mini evaluate {option}" if option else "s3mini judge --record"
    return read_record(path, command) if path.is_file() else None
