"""The pipeline on your own data: its profile, its plan, kills on the way, and the whole of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from owndata_toys import PAIRS, REAL, ROOMY, ROWS, lines

import s3mini.owndata.importing as importing
from s3mini.cli import main
from s3mini.corpus import load_questions
from s3mini.errors import DataError
from s3mini.owndata import own
from s3mini.owndata.pipeline import default_name, plan_training
from s3mini.profile import find_searcher, load_profile
from s3mini.rag import RagAnswer, RagCache
from s3mini.records import Score
from s3mini.world import write_example

# ---------------------------------------------------------------------------------- profile, plan


def test_the_profile_file_serves_every_command(root: Path) -> None:
    documents, asked = lines(root / "d.jsonl", ROWS), lines(root / "q.jsonl", PAIRS)
    told: list[str] = []
    made = own(
        documents, asked, name="mine", base="smoke", settings={"grpo.steps": 3}, searcher="data/mini/model",
        only_import=True, tell=told.append, progress=False,
    )  # fmt: skip
    assert made.path == root / "build/mine/mine.yaml"
    profile = load_profile(str(made.path))
    assert profile == made.profile
    assert (profile.data.sets, profile.data.train_sets, profile.grpo.steps) == (("mine",), (), 3)
    assert profile.protocols["s3"].model.path == "data/mini/model"
    assert len(load_questions(profile, "mine", "test")) == 5
    assert str(root) not in made.path.read_text(), "paths hold from anywhere"
    assert find_searcher(profile, 0) == (None, "data/mini/model, where the profile starts from")
    assert told == [
        "import: 2 documents, 0 of them cut, make 2 passages; questions: 5 test, in build/mine/import",
        "profile: build/mine/mine.yaml",
    ]
    again = own(
        documents, name="more", base=str(made.path), only_import=True, tell=told.append, progress=False
    )
    assert again.profile.grpo.steps == 3, "a profile of one's own can be the base"
    assert load_profile(str(again.path)).data.sets == ()


def test_a_name_that_is_taken_or_none(root: Path) -> None:
    documents = lines(root / "d.jsonl", ROWS)
    for name in ("mini", "a/b", "../x", ""):
        if name:
            with pytest.raises(DataError, match="cannot be the data's name"):
                own(documents, name=name, only_import=True, progress=False)
    (root / "build/other").mkdir(parents=True)
    with pytest.raises(DataError, match="taken by something else"):
        own(documents, name="other", only_import=True, progress=False)
    assert default_name("x/My notes (2).tar.gz") == "My-notes-2"
    assert default_name("x/…") == "mydata"


def plan(root: Path, kept: int, answered: int, **settings: Any) -> dict[str, Any]:
    count = kept + answered
    rows = [
        {"question": f"q{i}?", "answer": "x", "split": "test" if i == count else "train"}
        for i in range(count + 1)
    ]
    made = own(
        lines(root / "d.jsonl", ROWS), lines(root / "q.jsonl", rows), name="mine", settings=ROOMY | settings,
        only_import=True, tell=lambda _: None, progress=False,
    )  # fmt: skip
    cache = RagCache(
        RagAnswer(q.id, q.question, (), Score("", 0.0, 0.0, i >= kept, None))
        for i, q in enumerate(load_questions(made.profile, "mine", "train"))
    )
    return plan_training(made.profile, cache)[0]


def test_training_is_cut_to_the_questions_there_are(root: Path) -> None:
    assert plan(root, 7, 30) == {}
    assert plan(root, 0, 30) == {}
    assert plan(root, 8, 3) == {"grpo.questions_per_step": 8, "grpo.steps": 8}
    assert plan(root, 30, 3) == {"grpo.questions_per_step": 20, "grpo.steps": 12}
    assert plan(root, 200, 0) == {"grpo.questions_per_step": 20, "grpo.steps": 20}


def test_a_base_that_trains_on_all_questions_does_so_here(root: Path) -> None:
    assert plan(root, 2, 28, **{"grpo.filtered": False}) == {"grpo.questions_per_step": 20, "grpo.steps": 12}


def test_training_on_own_data_begins_at_the_searcher_that_is_named(root: Path) -> None:
    """Not at the one that the base began its own training with."""
    (root / "build/first").mkdir(parents=True)
    made = own(
        lines(root / "d.jsonl", ROWS), lines(root / "q.jsonl", PAIRS), name="mine", only_import=True, progress=False,
        settings=ROOMY, base=base_with_start(root), searcher="data/mini/model", tell=lambda _: None,
    )  # fmt: skip
    spec = made.profile.protocols["s3"]
    assert (spec.model.path, spec.start, spec.checkpoint) == ("data/mini/model", None, None)


def base_with_start(root: Path) -> str:
    path = root / "base.yaml"
    path.write_text("extends: smoke\nname: base\nprotocols: {s3: {start: build/first}}\n")
    return str(path)


# ----------------------------------------------------------------------------------------- kills

KILL = """
import os, signal, sys
import s3mini.owndata.importing as importing
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
importing.write_questions = killed
from s3mini.owndata import own
own(sys.argv[1], sys.argv[2], name="mine", settings={ROOMY}, only_import=True, progress=False)
"""


def test_a_killed_import_is_done_again_and_a_done_one_is_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, asked = lines(root / "d.jsonl", ROWS), lines(root / "q.jsonl", PAIRS)
    environment = {**os.environ, "S3MINI_ROOT": str(root), "PYTHONPATH": str(REAL)}
    died = subprocess.run(
        [sys.executable, "-c", KILL.replace("{ROOMY}", str(ROOMY)), str(documents), str(asked)],
        env=environment,
    )
    assert died.returncode == -signal.SIGKILL
    assert (root / "build/mine/import/corpus.jsonl").is_file()

    def go() -> Any:
        quiet: dict[str, Any] = {"tell": lambda _: None, "progress": False}
        return own(documents, asked, name="mine", settings=ROOMY, only_import=True, **quiet)

    assert go().imported.splits == {"test": 5}
    monkeypatch.setattr(importing, "read_rows", None)
    assert go().imported.splits == {"test": 5}, "nothing is read twice"
    lines(documents, ROWS[:1])
    with pytest.raises(TypeError):
        go()


# --------------------------------------------------------------------------------- the pipeline


def test_without_questions_index_and_ask(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = root / "notes"
    documents.mkdir()
    (documents / "Karst.txt").write_text("Karst lies on the Sool.")
    (documents / "Tarn.txt").write_text("Tarn was founded in 1850. " * 20)
    main_ = ["own", "notes", "--profile", "smoke", "--untrained"]
    with pytest.raises(SystemExit, match="0"):
        main(main_)
    out = capsys.readouterr().out
    assert "dense index: build/notes/index/dense" in out
    assert "no questions, so nothing to train or evaluate" in out
    with pytest.raises(SystemExit, match="0"):
        main(["ask", "where does Karst lie?", "--profile", "build/notes/notes.yaml"])
    assert "Answer: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", "--profile", "build/notes/notes.yaml"])
    assert "no question set to evaluate on" in capsys.readouterr().err


def test_the_whole_pipeline_and_a_stop_on_the_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents and questions to results; stopped in training, it goes on where it was."""
    import s3mini.grpo

    documents, asked = write_example(3, root / "mine", questions=60)
    settings = {
        "data.train_limit": 30, "data.test_limit": 4, "grpo.steps": 1, "grpo.questions_per_step": 2,
        "grpo.num_generations": 2, "evaluation.methods": ["rag-dense", "s3-untrained", "s3"],
    }  # fmt: skip
    options: dict[str, Any] = {"name": "own", "base": "smoke", "settings": settings, "progress": False}

    def stopped(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    told: list[str] = []
    real = s3mini.grpo.train
    monkeypatch.setattr(s3mini.grpo, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        own(documents, asked, tell=told.append, **options)
    monkeypatch.setattr(s3mini.grpo, "train", real)
    build = root / "build/own"
    done = {p: p.stat().st_mtime_ns for p in build.rglob("manifest.json")}
    assert {p.parent.relative_to(build).parts[0] for p in done} == {"documents", "import", "index", "rag"}

    made = own(documents, asked, tell=told.append, **options)
    assert {p: p.stat().st_mtime_ns for p in done} == done, "what was done is found"
    assert made.results is not None
    assert set(made.results["methods"]) == {"rag-dense", "s3-untrained", "s3"}
    figures = made.results["differences"]["s3 - s3-untrained"]["average"]
    assert figures["n"] == 4 and figures["ci95"][0] <= figures["mean"] <= figures["ci95"][1]
    assert made.results["training"]["s3-seed0"]["steps"] == 1
    assert (build / "report.html").is_file()
    assert find_searcher(made.profile, 0)[1] == "trained here, seed 0"
    assert any(line.startswith("training: 1 steps of 2 questions; of 30") for line in told)


def test_the_example_is_the_same_everywhere(tmp_path: Path) -> None:
    documents, asked = write_example(0, tmp_path / "a")
    other, table = write_example(0, tmp_path / "b")
    assert {p.name: p.read_bytes() for p in documents.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }
    assert asked.read_bytes() == table.read_bytes()
    assert len(asked.read_text().splitlines()) == 201


def test_wrong_usage_and_failures_of_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, told in (
        (["own"], "2", "documents"),
        (["own", "d.jsonl", "--separator", ""], "2", "separator"),
        (["own", "gone.csv"], "1", "error: gone.csv: no such file"),
        (["own", "gone.csv", "--profile", "maxi"], "1", "unknown profile 'maxi'"),
    ):
        with pytest.raises(SystemExit, match=code):
            main(arguments)
        assert told in capsys.readouterr().err
