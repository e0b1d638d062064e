"""Which records a board is read from: this build's, then those that ship for the profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s3mini.profile import Profile, load_profile
from s3mini.report.shipped import all_shipped, own_records, shipped_records, shipped_runs

ROOT = Path(__file__).parents[2]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    return load_profile("mini")


def test_a_profile_names_its_own_records_and_what_extends_it_inherits_them() -> None:
    folders = {name: load_profile(name).records for name in ("mini", "smoke", "wiki", "gpu", "paper")}
    assert folders == {
        "mini": "data/mini/results",
        "smoke": "data/mini/results",
        "wiki": "data/wiki/results",
        "gpu": None,
        "paper": None,
    }
    assert load_profile("mini").shipped == ROOT / "data/mini/results"
    assert load_profile("gpu").shipped is None


def test_where_nothing_ships_nothing_is_read(profile: Profile) -> None:
    assert profile.shipped is None and shipped_records(profile) is None and all_shipped() == []
    own = own_records(profile, {"methods": {}})
    assert (own.profile, own.experiments, own.herbal, own.people) == ("mini", {}, None, None)


def test_what_a_build_measured_comes_before_what_ships(profile: Profile, tmp_path: Path) -> None:
    for name in ("seed0", "experiments", "herbal", "people"):
        write(tmp_path / "data/mini/results" / f"{name}.json", {"from": "shipped"})
    shipped, own = shipped_records(profile), own_records(profile, {"from": "build"})
    assert shipped is not None and shipped.results == {"from": "shipped"}
    assert own.results == {"from": "build"}
    assert own.experiments == own.herbal == own.people == {"from": "shipped"}
    write(profile.build / "experiments.json", {"from": "build"})
    write(tmp_path / "build/herbal/results.json", {"from": "build"})
    own = own_records(profile, {"from": "build"})
    assert own.experiments == own.herbal == {"from": "build"}
    assert shipped_records(profile) == shipped


def test_each_profile_with_a_main_run_has_its_board(profile: Profile, tmp_path: Path) -> None:
    for name in ("mini", "wiki"):
        write(tmp_path / f"data/{name}/results/seed0.json", {"profile": name})
    assert [records.profile for records in all_shipped()] == ["mini", "wiki"]
    assert [records.profile for records in all_shipped(but="mini")] == ["wiki"]


def test_runs_are_the_main_one_other_seeds_another_world(tmp_path: Path) -> None:
    for name in ("fresh-world", "seed1", "seed0", "herbal", "seed2"):
        write(tmp_path / f"{name}.json", {})
    assert list(shipped_runs(tmp_path)) == ["seed0", "seed1", "seed2", "fresh-world"]
