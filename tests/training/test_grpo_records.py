"""GRPO: what a run records and keeps, how episodes become rewards, the order of the data."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from grpo_toys import episode, grpo_parts, grpo_profile, low_ids, outcome
from rag_toys import ToyBench, ToyGenerator, make_world, toy_profile
from toy_model import toy_local

from s3mini import profile as profile_module
from s3mini.grpo import Loop
from s3mini.profile import Profile
from s3mini.rag import precompute
from s3mini.records import Document, Question
from s3mini.reward import Reward, group_advantages
from s3mini.training.parts import AnswerScorer
from s3mini.training.recorder import (
    Played,
    keep_until,
    kl_to_start,
    latest_checkpoint,
    shown_episodes,
    step_record,
)
from s3mini.training.trl import data_order, trl_config


@pytest.fixture()
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profile_module, "ROOT", tmp_path)
    make_world(tmp_path)
    return tmp_path


# --------------------------------------------------------------------------- small kernels


def test_data_order_is_seeded_permutations_end_to_end() -> None:
    questions = [Question(f"id{i}", f"q{i}?", ("a",)) for i in range(5)]
    rows = data_order(questions, 7, 12)
    ids = [row["prompt"][-1]["id"] for row in rows]
    assert len(ids) == 12 and set(ids[:5]) == set(ids[5:10]) == {q.id for q in questions}
    assert rows[0]["prompt"][-1] == {"role": "user", "content": f"q{ids[0][2:]}?", "id": ids[0]}
    assert ids == [row["prompt"][-1]["id"] for row in data_order(questions, 7, 12)]
    assert ids != [row["prompt"][-1]["id"] for row in data_order(questions, 8, 12)]


@pytest.mark.parametrize(("questions", "group", "micro"), [(12, 8, 16), (5, 3, 8), (3, 5, 64), (7, 2, 4)])
def test_one_step_is_one_batch_of_episodes_and_one_update(
    tmp_path: Path, questions: int, group: int, micro: int
) -> None:
    spec = grpo_profile(
        **{
            "grpo.questions_per_step": questions,
            "grpo.num_generations": group,
            "grpo.micro_batch": micro,
            "grpo.num_iterations": 2,
        }
    ).grpo
    config = trl_config(spec, 0, tmp_path)
    assert config.generation_batch_size == questions * group
    assert config.per_device_train_batch_size <= micro
    assert config.steps_per_generation == config.gradient_accumulation_steps
    assert config.max_steps == spec.steps * 2 and config.save_steps == spec.save_steps * 2


def test_step_record_by_hand() -> None:
    episodes = [episode(own=2), episode(own=4, context=3), episode(own=1, end="length"), episode(own=1)]
    outcomes = [outcome(1.0, True, 1.0), outcome(0.0), outcome(0.5), outcome(0.5)]
    record = step_record([Played.of(*pair) for pair in zip(episodes, outcomes, strict=True)], group=2)
    assert record["episodes"] == 4 and record["reward"] == 0.5 and record["gen_acc"] == 0.25
    assert record["gbr"] == 1.0  # the mean of the one that is known
    assert record["zero_variance"] == 0.5 and record["cut"] == 0.25 and record["valid_format"] == 0.5
    assert record["searches"] == 1.0 and record["documents"] == 1.5 and record["context_tokens"] == 10
    assert record["completion_tokens"] == 2.0 and record["entropy"] == pytest.approx(0.5)


def test_shown_are_best_and_worst_of_the_first_group_that_differs() -> None:
    episodes = [episode(question=name) for name in ("a", "a", "b", "b")]
    shown = shown_episodes(episodes, [outcome(r) for r in (1.0, 1.0, 0.0, 1.0)], group=2)
    assert [(e["id"], e["reward"]) for e in shown] == [("b", 1.0), ("b", 0.0)]
    alike = shown_episodes(episodes, [outcome(0.0)] * 4, group=2)
    assert [e["id"] for e in alike] == ["a", "a"]
    assert json.loads(json.dumps(shown)) == shown


def test_kl_to_start_is_the_mean_over_model_tokens() -> None:
    local = toy_local(0)
    made = [episode(own=3, env=2), episode(own=5, env=1, prompt_ids=(4, 4, 4, 4, 4))]
    distances = []
    for e in made:
        ids = torch.tensor([e.prompt_ids + e.completion_ids])
        with torch.no_grad():
            logps = torch.log_softmax(local.model(ids).logits[0] / 0.8, -1)
        for j, mine in enumerate(e.env_mask):
            if mine:
                d = logps[len(e.prompt_ids) + j - 1, e.completion_ids[j]] - e.logprobs[j]
                distances.append(float(torch.exp(d) - d - 1))
    assert kl_to_start(local.model, made, 0.8, batch_size=1) == pytest.approx(sum(distances) / 8, rel=1e-4)


def test_only_complete_checkpoints_are_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-10").exists()
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_curve_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(f'{{"step": {s}}}\n' for s in (1, 2, 3)) + '{"step": 4, "rew')
    keep_until(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_generator_scorer_rewards_gain_beyond_rag(world: Path) -> None:
    profile = toy_profile()
    bench = ToyBench(profile, ToyGenerator(world / "asked.log"))
    bench.count_tokens = len  # type: ignore[method-assign]
    cache = precompute(profile, ["nq"], ("train",), bench=bench, progress=False)
    questions = {q.id: q for q in profile_questions(profile)}
    documents = list(bench.documents.values())
    even, odd = questions["nq-train-4"], questions["nq-train-5"]
    found = Document("extra", "Town5", "Town5 lies on River5.")
    episodes = [episode(question="x", context=0) for _ in range(4)]
    contexts = [(even, (documents[4],)), (even, ()), (odd, (found,)), (odd, (found,))]
    episodes = [replace(e, question=q, context=c) for e, (q, c) in zip(episodes, contexts, strict=True)]
    before = len((world / "asked.log").read_text().splitlines())
    outcomes = AnswerScorer(bench, Reward("gbr", cache.lookup), cache)(episodes)
    assert [o.score.gen_acc for o in outcomes] == [1.0, 0.0, 1.0, 1.0]
    assert [o.reward for o in outcomes] == [o.gbr for o in outcomes] == [0.0, -1.0, 1.0, 1.0]
    assert [o.context_tokens for o in outcomes] == [1, 0, 1, 1]
    assert len((world / "asked.log").read_text().splitlines()) == before + 3  # the equal contexts asked once
    plain = AnswerScorer(bench, Reward("gen_acc"), cache)(episodes)
    assert [o.reward for o in plain] == [1.0, 0.0, 1.0, 1.0]
    both = [group_advantages([o.reward for o in side], 2) for side in (outcomes, plain)]
    assert both[0] == pytest.approx(both[1])


def profile_questions(profile: Profile) -> list[Question]:
    from s3mini.corpus import load_questions

    return load_questions(profile, "nq", "train")


def test_rollouts_do_not_leave_the_model_in_evaluation_mode(world: Path) -> None:
    profile = grpo_profile()
    parts = grpo_parts(profile)
    parts.model.train()
    loop = Loop(parts, profile.grpo, 0)
    episodes = loop.roll_out(parts.questions[:2], step=1)
    assert parts.model.training and len(episodes) == 8
    assert [e.question.id for e in episodes] == [q.id for q in parts.questions[:2] for _ in range(4)]
    assert len({e.completion_ids for e in episodes[:4]}) > 1
    assert [low_ids(e) for e in loop.roll_out(parts.questions[:2], 1)] == [low_ids(e) for e in episodes]
    assert [e.completion_ids for e in loop.roll_out(parts.questions[:2], 2)] != [
        e.completion_ids for e in episodes
    ]


def test_a_finished_run_is_found_without_loading_torch() -> None:
    code = "import sys, s3mini.grpo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
