"""Ray's actors: the local engine's records, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_toys
from evaluation_toys import ToyEvaluation, evaluation_profile, make_evaluation
from leftovers import ended
from rag_toys import ToyGenerator

from s3mini import profile as profile_module
from s3mini.errors import DataError, StageError
from s3mini.evaluation import evaluate
from s3mini.rag import precompute
from s3mini.runs.machine import cores
from s3mini.runs.ray import gpus_each, open_executor

pytest.importorskip("ray", reason="Ray is not installed: pip install 's3mini[ray]'")
pytestmark = [
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left processes in /proc"),
    pytest.mark.slow,  # every test starts Ray and its actors
]


@pytest.fixture()
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A toy world; whatever still runs for it in the end is killed."""
    monkeypatch.setattr(profile_module, "ROOT", tmp_path)
    make_evaluation(tmp_path)
    yield tmp_path
    from leftovers import running

    for pid in running(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("workers", "gpus", "each"), [(3, 0, 0), (3, 2, 0.5), (2, 2, 1), (3, 4, 1), (1, 4, 4), (4, 1, 0.25)]
)
def test_every_worker_finds_a_gpu_or_a_part_of_one(workers: int, gpus: int, each: float) -> None:
    """Ray gives whole GPUs or a part of one; what does not fit waits for ever."""
    assert gpus_each(workers, gpus) == each
    per_gpu = 1 / each if 0 < each < 1 else 0
    assert not per_gpu or workers <= gpus * int(per_gpu)


def test_a_ray_that_was_there_before_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes would turn ours away, with a warning a second."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert "ray" in sys.modules
    with (
        pytest.raises(StageError, match="imported ray already.*RAY_ADDRESS"),
        open_executor("ray", lambda: home(root), 1),
    ):
        pass


NOWHERE = """
import s3mini.runs.ray as executor
from s3mini.errors import StageError

executor.PLACED, start = 3, executor.RayExecutor._start
executor.RayExecutor._start = lambda self, found: start(self, {**found, "CPU": 64.0})  # as many small machines have
try:
    with executor.open_executor("ray", None, 2):
        pass
except StageError as error:
    print(error)
"""


def test_workers_that_fit_nowhere_are_an_error(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", NOWHERE],
        env={**os.environ, "S3MINI_ROOT": str(root), "RAY_ADDRESS": ""},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "2 of 2 workers found no place within 3 s: each wants 32 processors and 0 GPUs" in ran.stdout, (
        ran.stderr
    )
    assert ended(root)


def launch(root: Path, *arguments: str) -> subprocess.Popen[str]:
    # Each of Ray's five helpers imports jsonschema, which with Jupyter's extras compiles a grammar for seconds, and
    # Ray gives itself 15 to start: without that module jsonschema checks one format less.
    without = root / "without"
    without.mkdir(exist_ok=True)
    (without / "rfc3987_syntax.py").write_text("raise ImportError")
    paths = os.pathsep.join([str(without), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(Path(ray_toys.__file__)), str(root), *arguments],
        env={**os.environ, "S3MINI_ROOT": str(root), "RAY_ADDRESS": "", "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )


def home(root: Path) -> ToyEvaluation:
    """A bench for the local engine."""
    bench = ToyEvaluation(evaluation_profile(), ToyGenerator(root / "local.log"))
    bench._searcher = {"s3": root / "model"}
    return bench


def logs(root: Path) -> dict[str, list[dict]]:
    """Every stage's records in order, without their seconds."""
    build = root / "build" / "toy"
    return {
        str(path.relative_to(build)): [
            {k: v for k, v in json.loads(line).items() if not k.startswith("seconds")}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(build.rglob("answers.jsonl"))
    }


def records(root: Path) -> int:
    return sum(len(made) for made in logs(root).values())


def wait_for(process: subprocess.Popen[str], happened: object) -> None:
    """Until ``happened()``; fails when the process ends first."""
    while not happened():  # type: ignore[operator]
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.stderr.read()[-3000:]}")  # type: ignore[union-attr]
        time.sleep(0.05)


def test_an_actor_killed_half_way_loses_nothing(root: Path) -> None:
    process = launch(root, "evaluate", "0.05")
    workers = root / "workers"
    wait_for(process, lambda: records(root) > 20)
    opened = sorted(workers.iterdir())
    os.kill(int(opened[0].name), signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode == 0, told[-3000:]
    assert ended(root)
    assert len(opened) == 2 and len(list(workers.iterdir())) == 3  # another took its place
    threads = max(1, cores() // 2)
    assert {file.read_text() for file in workers.iterdir()} == {f"{threads} {threads}"}
    assert not (root / "home.log").exists()  # the caller's own generator was never asked
    found = logs(root)
    results = json.loads((root / "build" / "toy" / "results.json").read_text())

    (root / "build").rename(root / "by-ray")
    bench = home(root)
    expected = evaluate(bench.profile, bench=bench, progress=False)
    assert (
        found == logs(root) and len(found) == 14
    )  # 5 methods and s3 without selection, 2 sets; naive RAG's 2
    for method, row in expected["methods"].items():
        for name, scores in row["sets"].items():
            assert results["methods"][method]["sets"][name] == scores


def test_killed_with_all_its_actors_a_run_goes_on_with_either_engine(root: Path) -> None:
    process = launch(root, "precompute", "0.1")
    wait_for(process, lambda: records(root) > 8)
    process.kill()
    process.communicate()
    assert ended(root)  # Ray's processes too
    before = logs(root)
    bench = home(root)
    precompute(bench.profile, bench=bench, progress=False)
    after = logs(root)
    assert 8 < sum(map(len, before.values())) < sum(map(len, after.values())) == 50
    assert all(after[name][: len(made)] == made for name, made in before.items())
    asked = (root / "local.log").read_text().splitlines()
    assert len(asked) == 50 - sum(map(len, before.values()))


def test_an_actors_failure_is_the_runs(root: Path) -> None:
    process = launch(root, "precompute", "0", "fail")
    _, told = process.communicate()
    assert process.returncode == 1 and told.rstrip().endswith(
        "s3mini.errors.ModelError: the toy generator died"
    )
    assert ended(root)
    made = records(root)
    assert (
        0 < made < 50
        and not json.loads(next((root / "build").rglob("manifest.json")).read_text())["complete"]
    )


def test_more_workers_than_processors_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(DataError, match=f"give --workers {cores()} or fewer"),
        open_executor("ray", dict, cores() + 1),  # type: ignore[arg-type]
    ):
        pass


def test_the_local_engine_needs_no_ray() -> None:
    with open_executor("local", dict) as executor:  # type: ignore[arg-type]
        blocks = list(executor(lambda _, block: [{"id": i} for i in block], None, [[1, 2], [3]]))  # type: ignore
    assert blocks == [[{"id": 1}, {"id": 2}], [{"id": 3}]]


@pytest.mark.parametrize("command", ["precompute", "evaluate"])
def test_an_unknown_engine_is_wrong_usage(command: str) -> None:
    from typer.testing import CliRunner

    from s3mini.cli import app

    done = CliRunner().invoke(app, [command, "--profile", "smoke", "--engine", "dask"])
    assert done.exit_code == 2 and "local, ray" in done.output
