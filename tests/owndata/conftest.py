"""A root that has what ships, and a profile in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from owndata_toys import REAL, ROOMY

import s3mini.profile
from s3mini.profile import Profile, load_profile


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3mini.profile, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(REAL / "data")
    return tmp_path


@pytest.fixture
def profile(root: Path) -> Profile:
    """One for data of any kind."""
    return load_profile("smoke", name="mine", **ROOMY)
