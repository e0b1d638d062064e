"""GRPO over two processes: the episodes, rewards and weights of one; a dead process ends the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_toys
import pytest
import torch
from distributed_toys import shared_parts, shared_profile
from grpo_toys import episode, grpo_parts
from leftovers import ended
from rag_toys import make_world
from safetensors.torch import load_file

from s3mini import profile as profile_module
from s3mini import training
from s3mini.corpus import load_questions
from s3mini.errors import ProfileError
from s3mini.grpo import train
from s3mini.runs.processes import ALONE, Processes, join
from s3mini.training.recorder import Played, Report, whole_step
from s3mini.training.trl import data_order, trl_config

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left processes in /proc")
slow = pytest.mark.slow  # two launches, and every process imports torch and TRL


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the toy world and the run "one", made by one process."""
    root = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_module, "ROOT", root)
        make_world(root)
        profile = shared_profile()
        grpo_parts(profile).model.save_pretrained(root / "start")
        train(profile, 0, "one", progress=False, parts=shared_parts(profile))
    return root


def launch(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes, by the launcher that ``accelerate launch`` uses too."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launcher, str(Path(distributed_toys.__file__)), *arguments],
        env={**os.environ, "S3MINI_ROOT": str(root), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )


def folder(root: Path, run: str) -> Path:
    return root / "build" / "toy" / "train" / f"{run}-seed0"


def lines(path: Path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in records]


def weights(path: Path) -> torch.Tensor:
    return torch.cat([w.flatten() for _, w in sorted(load_file(path / "model.safetensors").items())])


def assert_same_run(root: Path, run: str) -> None:
    one, other = folder(root, "one"), folder(root, run)
    assert lines(other / "episodes.jsonl") == lines(one / "episodes.jsonl")
    assert len(lines(one / "curve.jsonl")) == 3
    for line, expected in zip(lines(other / "curve.jsonl"), lines(one / "curve.jsonl"), strict=True):
        # TRL takes the mean of the micro-batches' means, whose rows are others; the update is not made of it
        assert line.pop("kl") == pytest.approx(expected.pop("kl"), rel=1e-2, abs=1e-3)
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)
    start = torch.cat([w.flatten() for _, w in sorted(grpo_parts_weights(root).items())])
    for model in ("kept/step-1", "model"):
        moved = (weights(one / model) - start).norm()
        assert moved > 0.5
        # Gradients are summed in another order. That is 5e-6 of the way here; Adam, which divides by the gradient's
        # size, can blow up the rounding of almost zero ones, as in the comparison with TRL's own trainer.
        assert (weights(other / model) - weights(one / model)).norm() < 1e-3 * moved
    assert not (other / "checkpoints").exists()
    facts = [json.loads((path / "manifest.json").read_text())["facts"] for path in (one, other)]
    assert facts[0] == facts[1]
    assert facts[0] == {"steps": 3, "episodes": 72, "examples": 18, "omitted": {"episodes cut": 66}}


def grpo_parts_weights(root: Path) -> dict[str, torch.Tensor]:
    from toy_model import toy_local

    kept = load_file(folder(root, "one") / "kept/step-1" / "model.safetensors")
    return {name: w for name, w in toy_local(0).model.state_dict().items() if name in kept}


# ---------------------------------------------------------------------------------- whole runs


@slow
def test_two_processes_killed_and_resumed_are_one(root: Path) -> None:
    killed = launch(root, "two", "killed")
    assert killed.returncode == 1 and "exitcode  : -9" in killed.stderr, killed.stderr[-3000:]
    assert ended(root)
    assert [line["step"] for line in lines(folder(root, "two") / "curve.jsonl")] == [1, 2]
    assert not (folder(root, "two") / "model").exists()
    resumed = launch(root, "two")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert ended(root)
    assert_same_run(root, "two")


def test_a_sharded_run_is_the_same_and_failures_are_everybodys(root: Path) -> None:
    done = launch(root, "sharded", "sharded")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(root, "sharded")
    told = sorted(line for line in done.stdout.splitlines() if line[:2] in ("0:", "1:"))
    assert told == [
        "0: StageError: process 0 stops because process 1 failed: ModelError: the generator is gone",
        "1: ModelError: the generator is gone",
    ]


@slow
def test_two_processes_step_together_or_not_at_all(root: Path) -> None:
    done = launch(root, "alike", "alike")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, last = (
        weights(folder(root, "alike") / name) for name in ("kept/step-1", "kept/step-2", "model")
    )
    assert torch.equal(first, second) and not torch.equal(second, last)
    recorded = lines(folder(root, "alike") / "curve.jsonl")
    assert [line["zero_variance"] == 1 for line in recorded] == [False, True, False]
    assert [line["grad_norm"] == 0 for line in recorded] == [False, True, False]
    ends = [line for line in done.stdout.splitlines() if line.startswith("weights ")]
    assert len(ends) == 2 and len(set(ends)) == 1, "no signal of its own, and yet the same step"


def test_a_question_is_asked_again_in_another_share(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "ROOT", root)
    rows = data_order(load_questions(shared_profile(), "nq", "train"), 0, 18)
    ids = [row["prompt"][-1]["id"] for row in rows]
    steps = [ids[i : i + 6] for i in range(0, 18, 6)]
    assert any(set(step[:3]) & set(step[3:]) for step in steps)  # else the runs above would not show it


# -------------------------------------------------------------------------------------- kernels


def test_numbers_of_episodes_go_on_from_other_processes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "ROOT", root)
    parts = grpo_parts(shared_profile())
    first, second = parts.questions[:2]
    whole = parts.engine.run([first, second, first], 2, 1.0, 5, progress=False)
    rest = parts.engine.run([second, first], 2, 1.0, 5, progress=False, before={first.id: 2})
    assert [e.completion_ids for e in rest] == [e.completion_ids for e in whole[2:]]
    assert [e.completion_ids for e in whole[4:]] != [e.completion_ids for e in whole[:2]]


def test_reports_make_the_record_of_one_process() -> None:
    episodes = [episode(own=1 + i % 3, context=i, question=str(i // 2)) for i in range(8)]
    played = [
        Played(float(i > 5), float(i % 2), None if i < 4 else 0.5, e.valid_format, e.searches, i, 7, 1 + i % 3, 0.5, False)
        for i, e in enumerate(episodes)
    ]  # fmt: skip
    shown = [[{"reward": 0.0, "id": "a"}] * 2, [{"reward": 1.0, "id": "b"}, {"reward": 0.0, "id": "b"}]]
    parts = [
        Report(played[:4], shown[0], (0.1, 30), 1.0, 4.0),
        Report(played[4:], shown[1], (0.4, 10), 2.0, 3.0),
    ]
    record, chosen = whole_step(parts, group=2)
    whole, _ = whole_step([Report(played, shown[1], (0.175, 40), 2.0, 4.0)], group=2)
    assert record == whole and record["gbr"] == 0.5 and record["kl"] == 0.175 and record["reward"] == 0.25
    assert chosen[0]["id"] == "b"  # the first group that differs, whoever played it


def test_shares_are_even_or_an_error_with_the_remedy(tmp_path: Path) -> None:
    spec = shared_profile().grpo
    config = trl_config(spec, 0, tmp_path, processes=Processes(1, 3))
    assert (
        config.per_device_train_batch_size * config.gradient_accumulation_steps == 8
    )  # 2 questions, 4 episodes
    with pytest.raises(ProfileError, match="grpo.questions_per_step=8"):
        trl_config(spec, 0, tmp_path, processes=Processes(0, 4))


def test_launched_in_a_way_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert join() is ALONE
    monkeypatch.setenv("LOCAL_RANK", "0")
    for variables, remedy in (
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            "fsdp_cpu_ram_efficient_loading: false",
        ),
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(ProfileError, match=remedy):
                join()


def test_shipped_settings_are_what_accelerate_reads_and_we_accept() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    shipped = Path(training.__file__).parent / "accelerate"
    sharded = load_config_from_file(str(shipped / "fsdp.yaml"))
    assert sharded.distributed_type == "FSDP" and sharded.mixed_precision == "bf16"
    assert sharded.fsdp_config["fsdp_version"] == 2
    assert sharded.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    assert load_config_from_file(str(shipped / "ddp.yaml")).distributed_type == "MULTI_GPU"
