"""What ``make reproduce`` must leave behind; run by ``.ci/run`` after it, on the profile it ran."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from s3mini.classroom.notebooks import find
from s3mini.profile import load_profile

PROFILE = load_profile(os.environ.get("S3MINI_PROFILE", "mini"))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROFILE.build / "results.json").read_text())
    return found


@pytest.mark.parametrize("source", find(), ids=lambda path: path.stem)
def test_notebook_ran_to_its_end(source: Path) -> None:
    executed = nbformat.read(PROFILE.build / "notebooks" / source.name, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_every_method_and_set_has_a_figure_with_its_interval(results: dict[str, Any]) -> None:
    assert set(results["methods"]) == set(PROFILE.evaluation.methods)
    for method in results["methods"].values():
        assert set(method["sets"]) == set(PROFILE.data.sets)
        for figures in method["sets"].values():
            low, high = figures["ci95"]
            assert 0 <= low <= figures["gen_acc"] <= high <= 1
            assert figures["n"] > 0


def test_training_left_its_curve(results: dict[str, Any]) -> None:
    run = results["training"][f"s3-seed{results['seed']}"]
    assert run["steps"] == len(run["curve"]) == PROFILE.grpo.steps


def test_the_searcher_learned(results: dict[str, Any]) -> None:
    """At the mini profile, what training must bring; smaller profiles train too little to tell."""
    if PROFILE.name != "mini":
        pytest.skip("only the mini profile trains long enough")
    average = {name: method["average"]["gen_acc"] for name, method in results["methods"].items()}
    assert average["s3"] - average["s3-untrained"] >= 0.15
    assert average["s3"] - average["rag-dense"] >= 0.15
    assert average["oracle"] >= average["s3"] > average["direct"]


def test_multiple_choice_was_answered_by_every_method() -> None:
    other = PROFILE.evaluation.choice_profile
    if other is None:
        pytest.skip("this profile has no multiple-choice set")
    herbal = json.loads((load_profile(other).build / "results.json").read_text())
    assert set(herbal["methods"]) == set(load_profile(other).evaluation.methods)


def test_what_plays_follows_its_format(results: dict[str, Any]) -> None:
    formats = {name: m["valid_format"] for name, m in results["methods"].items() if "valid_format" in m}
    silent = ("direct", "rag-", "oracle")
    assert set(formats) == {name for name in PROFILE.evaluation.methods if not name.startswith(silent)}
    assert min(formats.values()) >= 0.9, formats


def test_the_report_shows_every_method() -> None:
    page = (PROFILE.build / "report.html").read_text()
    assert all(name in page for name in PROFILE.evaluation.methods)
