"""What the shipped records of the mini profile claim, and that the README says no other thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s3mini.cli import app
from s3mini.errors import DataError
from s3mini.experiments import read_experiments
from s3mini.profile import load_profile
from s3mini.report.page import markdown_table
from s3mini.results import read_results

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "data" / "mini" / "results"
RUNS = ("seed0", "seed1", "seed2", "fresh-world")


@pytest.fixture(params=RUNS)
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_results(RECORDS / f"{request.param}.json")


@pytest.mark.parametrize("rival", ["s3-untrained", "rag-dense"])
def test_s3_beats_its_rivals_by_what_the_readme_claims(results: dict[str, Any], rival: str) -> None:
    found = results["differences"][f"s3 - {rival}"]
    assert all(of_set["n"] >= 150 for of_set in found["sets"].values())
    assert found["average"]["mean"] >= 0.15
    assert found["average"]["ci95"][0] > 0
    assert found["transfer"]["mean"] > 0  # sets it never trained on
    assert found["transfer"]["ci95"][0] > 0


def test_training_was_as_long_as_claimed(results: dict[str, Any]) -> None:
    (run,) = (run for name, run in results["training"].items() if name == f"s3-seed{results['seed']}")
    assert run["steps"] == len(run["curve"]) >= 20
    assert run["seconds"] <= 480


def test_naive_rag_leaves_something_to_gain_and_something_to_keep(results: dict[str, Any]) -> None:
    assert 0.25 <= results["methods"]["rag-dense"]["average"]["gen_acc"] <= 0.65


def test_the_untrained_searcher_knows_the_format_not_the_judgement(results: dict[str, Any]) -> None:
    untrained, oracle = results["methods"]["s3-untrained"], results["methods"]["oracle"]
    assert untrained["valid_format"] >= 0.95
    assert untrained["average"]["gen_acc"] <= oracle["average"]["gen_acc"] - 0.15


def test_selection_shortens_the_context(results: dict[str, Any]) -> None:
    assert results["selection"]["shrink"] >= 1.3


def test_selection_costs_nothing(results: dict[str, Any]) -> None:
    assert results["selection"]["difference"]["ci95"][1] >= 0
    assert results["selection"]["difference"]["mean"] >= -0.005


def test_the_records_are_of_different_runs() -> None:
    runs = [read_results(RECORDS / f"{name}.json") for name in RUNS]
    assert [run["seed"] for run in runs[:3]] == [0, 1, 2]
    assert len({json.dumps(run["training"], sort_keys=True) for run in runs}) == len(RUNS)


def test_a_results_file_prints_as_markdown() -> None:
    path = RECORDS / "seed0.json"
    printed = CliRunner().invoke(app, ["table", str(path)])
    assert printed.exit_code == 0
    assert printed.output.strip() == markdown_table(read_results(path))
    with pytest.raises(DataError, match="no such file"):
        read_results(RECORDS / "seed99.json")


def test_the_readme_shows_the_recorded_tables() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert markdown_table(read_results(RECORDS / "seed0.json")) in readme
    paths = [str(RECORDS / f"{name}.json") for name in RUNS]
    printed = CliRunner().invoke(app, ["table", *paths])
    assert printed.exit_code == 0
    assert printed.output.strip() in readme
    assert printed.output.count("\n") == 2 + len(RUNS)


def test_every_method_was_run_and_follows_its_format() -> None:
    methods = read_results(RECORDS / "seed0.json")["methods"]
    assert set(methods) == set(load_profile("mini").evaluation.methods)
    formats = {name: method["valid_format"] for name, method in methods.items() if "valid_format" in method}
    assert {"cot", "ircot", "search-o1", "search-r1", "deepretrieval", "s3-untrained", "s3"} <= set(formats)
    assert min(formats.values()) >= 0.9


def test_the_opponents_started_with_a_fair_chance_and_learned() -> None:
    """Untrained, they follow their format in nine turns of ten; what ships is the end of their training."""
    curves = read_experiments(RECORDS / "experiments.json")["efficiency"]["curves"]
    for name in ("search-r1", "deepretrieval"):
        assert curves[name][0]["step"] == 0 and curves[name][0]["valid_format"] >= 0.9
        record = ROOT / "data" / "mini" / "opponents" / name / "curve.jsonl"
        rewards = [json.loads(line)["reward"] for line in record.read_text().splitlines()]
        assert len(rewards) == curves[name][-1]["step"]
        assert sum(rewards[-5:]) > sum(rewards[:5])
