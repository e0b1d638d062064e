"""GRPO: the lean trainer against TRL's own, exact resuming, recorded curves, failures that stay failures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpo_toys
import pytest
import torch
from grpo_toys import FixedRetriever, episode, grpo_parts, grpo_profile, outcome, score_low_ids
from rag_toys import make_world
from toy_model import toy_local
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOTrainer

from s3mini import profile as profile_module
from s3mini.errors import DataError, RetrievalError
from s3mini.grpo import train
from s3mini.records import Episode, Question
from s3mini.training.adapters import lora_config, merged_state
from s3mini.training.parts import Outcome, Parts
from s3mini.training.trainer import LeanGRPOTrainer, SharedPrompt, completion_logprobs
from s3mini.training.trl import as_completions, data_order, given_reward, shortened, trl_config

TIMES = ("seconds_rollout", "seconds_score", "seconds_update")


@pytest.fixture()
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profile_module, "ROOT", tmp_path)
    make_world(tmp_path)
    return tmp_path


def weights(parts: Parts) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in parts.model.parameters()])


def curve(folder: Path, timed: bool = False) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return lines if timed else [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


# ------------------------------------------------------------------ the same update as TRL's


class Scripted:
    """A rollout of random tokens: prompts and completions of many lengths, one group without variance."""

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict:
        rng = random.Random(trainer.state.global_step)
        out: dict = {"prompt_ids": [], "completion_ids": [], "logprobs": None, "env_mask": [], "scored": []}
        for i in range(len(prompts)):
            length = rng.randrange(3, 20)
            out["prompt_ids"].append([rng.randrange(3, 300) for _ in range(5 + i // 4)])
            out["completion_ids"].append([rng.randrange(3, 300) for _ in range(length)] + [2])
            out["env_mask"].append([int(rng.random() < 0.6) for _ in range(length)] + [0])
            out["scored"].append(1.0 if i < 4 else rng.random())
        return out


def scripted_trainer(
    kind: type[GRPOTrainer], folder: Path, rollout: Callable, settings: dict, *callbacks: TrainerCallback
) -> GRPOTrainer:
    profile = grpo_profile(**{"grpo.steps": 2, "grpo.questions_per_step": 4, **settings})
    spec, local = profile.grpo, toy_local(1)
    local.model.save_pretrained(folder / "start")
    config = trl_config(spec, 1, folder / "out")
    config.save_strategy = "no"
    config.weight_decay = 0.1
    questions = [Question(str(i), f"q{i}?", ("a",)) for i in range(9)]
    return kind(
        model=AutoModelForCausalLM.from_pretrained(folder / "start"), processing_class=local.tokenizer, args=config,
        train_dataset=data_order(questions, 1, spec.steps * spec.questions_per_step), rollout_func=rollout,
        reward_funcs=given_reward, peft_config=lora_config(spec), callbacks=list(callbacks),
    )  # fmt: skip


def run_scripted(
    kind: type[GRPOTrainer], folder: Path, **settings: object
) -> tuple[torch.Tensor, list[dict]]:
    trainer = scripted_trainer(kind, folder, Scripted(), settings)
    trainer.train()
    trained = merged_state(trainer.accelerator.unwrap_model(trainer.model))
    return torch.cat([w.flatten() for _, w in sorted(trained.items())]), trainer.state.log_history[:-1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"grpo.beta": 0.1, "grpo.temperature": 0.7},
        {"grpo.num_iterations": 2, "grpo.loss_type": "dr_grpo", "grpo.scale_rewards": "none"},
        {"grpo.loss_type": "grpo", "grpo.beta": 0.1, "grpo.num_iterations": 2},
        {"grpo.lora_rank": 4, "grpo.beta": 0.1},
    ],
    ids=["dapo", "kl", "dr_grpo", "grpo", "lora"],
)
def test_lean_trainer_makes_the_update_trl_makes(tmp_path: Path, settings: dict) -> None:
    ours, logs = run_scripted(LeanGRPOTrainer, tmp_path / "lean", **settings)
    theirs, expected = run_scripted(GRPOTrainer, tmp_path / "trl", **settings)
    moved = (theirs - run_scripted_start(tmp_path / "trl")).norm()
    assert moved > 0.1
    # in norm: Adam blows up the rounding errors of the few weights whose gradient is almost nothing
    assert (ours - theirs).norm() < 1e-2 * moved
    for mine, trl in zip(logs, expected, strict=True):
        assert mine["loss"] == pytest.approx(trl["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(trl["grad_norm"], rel=1e-3)
        assert mine["frac_reward_zero_std"] == trl["frac_reward_zero_std"] == 0.25


class SharedPrompts(Scripted):
    """`Scripted`, but a group's prompts are one, and its completions begin alike for some tokens."""

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict:
        out = super().__call__(prompts, trainer)
        for i in range(len(prompts)):
            first = i - i % 4
            out["prompt_ids"][i] = out["prompt_ids"][first]
            begin = min(2 + first, len(out["completion_ids"][i]), len(out["completion_ids"][first])) - 1
            out["completion_ids"][i][:begin] = out["completion_ids"][first][:begin]
        return out


def run_sharing(
    rollout: Callable, folder: Path, settings: dict, shared: bool = True
) -> tuple[torch.Tensor, int]:
    """The weights afterwards, and how many tokens were read."""
    trainer = scripted_trainer(LeanGRPOTrainer, folder, rollout, settings)
    trainer.prompt = SharedPrompt() if shared else None
    seen: list[int] = []
    embedding = trainer.accelerator.unwrap_model(trainer.model).get_input_embeddings()
    embedding.register_forward_hook(lambda m, given, out: seen.append(given[0].numel()))
    trainer.train()
    state = merged_state(trainer.accelerator.unwrap_model(trainer.model))
    return torch.cat([w.flatten() for _, w in sorted(state.items())]), sum(seen)


@pytest.mark.parametrize(
    ("settings", "bound"),
    [
        ({}, 1e-2),
        ({"grpo.lora_rank": 4, "grpo.beta": 0.1}, 1e-2),
        ({"grpo.micro_batch": 4}, 1e-2),
        ({"grpo.num_iterations": 2}, 1e-2),
        ({"grpo.precision": "bfloat16", "grpo.lora_rank": 4}, 0.05),  # its digits are eight bits
    ],
)
def test_shared_prompts_are_read_once_and_change_nothing(
    tmp_path: Path, settings: dict, bound: float
) -> None:
    apart, read_apart = run_sharing(SharedPrompts(), tmp_path / "apart", settings, shared=False)
    together, read_together = run_sharing(SharedPrompts(), tmp_path / "together", settings)
    moved = (apart - run_scripted_start(tmp_path / "apart")).norm()
    assert moved > 0.1 and (together - apart).norm() < bound * moved
    assert read_together < read_apart


def test_without_gradients_a_prompt_is_read_once_too_however_long_its_episodes_are() -> None:
    model, generator = toy_local(0).model, torch.Generator().manual_seed(0)
    prompts = torch.randint(20, 60, (2, 1, 30), generator=generator).expand(-1, 2, -1).flatten(0, 1)
    ids = torch.cat([prompts, torch.randint(20, 60, (4, 9), generator=generator)], 1)
    lengths = torch.tensor([4, 9, 5, 8])  # sorted by length, the two prompts would take turns
    scored = (torch.arange(9) < lengths[:, None]).long()
    seen = torch.cat([torch.ones_like(prompts), scored], 1)
    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda m, given, out: read.append(given[0].numel())
    )
    with torch.no_grad():
        apart = completion_logprobs(model, ids, seen, scored, 1.0, batch_size=1)
        count = sum(read)
        together = completion_logprobs(model, ids, seen, scored, 1.0, batch_size=1, prompt=SharedPrompt())
    hook.remove()
    assert torch.allclose(apart[0], together[0], atol=1e-4)
    # A prompt's last token says the first word, and is read by each.
    assert count - (sum(read) - count) == 2 * 29


class OneLength(Scripted):
    """`Scripted`, but a group's prompts are one, and its completions, all of one length, differ from their first token on."""

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict:
        out = super().__call__(prompts, trainer)
        for i in range(len(prompts)):
            out["prompt_ids"][i] = out["prompt_ids"][i - i % 4]
            out["completion_ids"][i] = [3 + i, *range(20, 28), 2]
            out["env_mask"][i] = [1] * 9 + [0]
        return out


def test_a_prompt_is_read_once_however_small_the_micro_batches(tmp_path: Path) -> None:
    runs = [
        run_sharing(OneLength(), tmp_path / str(rows), {"grpo.micro_batch": rows, "grpo.steps": 1})
        for rows in (1, 2, 4)
    ]
    prompts = (
        5 + 6 + 7
    )  # less a token each, which every row reads; of the first group, all alike, nothing is read
    assert [read for _, read in runs] == [prompts + 12 * 11] * 3
    moved = (runs[-1][0] - run_scripted_start(tmp_path / "4")).norm()
    assert moved > 0.1 and max((end - runs[-1][0]).norm() for end, _ in runs) < 1e-2 * moved


@pytest.mark.parametrize("window", [None, 4])
def test_rows_after_a_shared_prompt_say_what_they_say_alone(window: int | None) -> None:
    """Of a model that looks back over a few tokens, too: the prompt is longer than that, and places are counted on."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=window is not None, sliding_window=window, max_window_layers=1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    ids = torch.cat([torch.arange(9).expand(4, 9), torch.randint(50, (4, 6))], dim=1)
    said = []
    for prompt in (None, SharedPrompt()):
        model.zero_grad()
        for rows in ids.split(2):
            logps, _ = completion_logprobs(
                model, rows, torch.ones_like(rows), torch.ones(2, 6), 1.0, prompt=prompt
            )
            logps.sum().backward()
        if prompt:
            prompt.settle()
        said.append((logps.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(*said)


def run_scripted_start(folder: Path) -> torch.Tensor:
    start = merged_state(AutoModelForCausalLM.from_pretrained(folder / "start"))
    return torch.cat([w.flatten() for _, w in sorted(start.items())])


class Alike(Scripted):
    """`Scripted`, but in the given steps (from 0) every group's rewards are one."""

    def __init__(self, steps: Sequence[int], reward: float) -> None:
        self.steps, self.reward = steps, reward

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict:
        made = super().__call__(prompts, trainer)
        if trainer.state.global_step // trainer.num_iterations in self.steps:
            made["scored"] = [self.reward] * len(prompts)
        return made


class Snapshots(TrainerCallback):
    """Weights, the optimizer's state and the next learning rate after every optimizer step."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[torch.Tensor], list[torch.Tensor], float]] = []

    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **_) -> None:  # type: ignore[no-untyped-def]
        held = [
            value for of_weight in optimizer.state_dict()["state"].values() for value in of_weight.values()
        ]
        copies = [[t.detach().clone() for t in tensors] for tensors in (model.parameters(), held)]
        self.taken.append((*copies, lr_scheduler.get_last_lr()[0]))


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(map(torch.equal, one, other))


def snapshots(kind: type[GRPOTrainer], folder: Path, reward: float = 1.0, **settings: object) -> Snapshots:
    taken = Snapshots()
    scripted = {"grpo.steps": 3, **settings}
    scripted_trainer(kind, folder, Alike([1], reward), scripted, taken).train()
    return taken


@pytest.mark.parametrize(
    ("reward", "settings"),
    [
        (1.0, {}),
        (1 / 3, {"grpo.num_generations": 8, "grpo.micro_batch": 8}),  # their mean in float32 is not 1/3
        (0.1, {"grpo.scale_rewards": "none", "grpo.loss_type": "grpo"}),
        (0.9, {"grpo.scale_rewards": "batch", "grpo.num_generations": 3, "grpo.micro_batch": 3}),
        (0.0, {"grpo.num_iterations": 2}),
        (-1.0, {"grpo.lora_rank": 4}),
        (1.0, {"grpo.precision": "bfloat16"}),
    ],
)
def test_a_step_without_signal_moves_neither_weights_nor_optimizer(
    tmp_path: Path, reward: float, settings: dict
) -> None:
    """After a step that gave momentum; the schedule goes on, and the step after moves again."""
    updates = settings.get("grpo.num_iterations", 1)
    taken = snapshots(LeanGRPOTrainer, tmp_path, reward, **settings).taken
    first, second, third = taken[updates - 1 :: updates]
    assert same(first[0], second[0]) and same(first[1], second[1]) and second[2] < first[2]
    assert not same(second[0], third[0]) and not same(second[1], third[1])


def test_a_kl_term_is_a_signal_and_trls_own_trainer_moves_without_one(tmp_path: Path) -> None:
    kl = snapshots(LeanGRPOTrainer, tmp_path / "kl", **{"grpo.beta": 0.1}).taken
    theirs = snapshots(GRPOTrainer, tmp_path / "trl").taken
    for taken in (kl, theirs):
        assert not same(taken[0][0], taken[1][0]) and not same(taken[0][1], taken[1][1])


def test_bfloat16_makes_nearly_the_update_of_float32_in_float32_weights(tmp_path: Path) -> None:
    full, _ = run_scripted(LeanGRPOTrainer, tmp_path / "full")
    start = run_scripted_start(tmp_path / "full")
    ends, multiplied = {}, {}
    for kind in (LeanGRPOTrainer, GRPOTrainer):
        trainer = scripted_trainer(kind, tmp_path / kind.__name__, Scripted(), {"grpo.precision": "bfloat16"})
        seen: list[torch.dtype] = []
        layer = trainer.model.base_model.layers[0].mlp.up_proj
        layer.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out.dtype))
        trainer.train()
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        state = [v for of in trainer.optimizer.state_dict()["state"].values() for v in of.values()]
        assert {v.dtype for v in state} == {torch.float32}
        multiplied[kind] = set(seen)
        ends[kind] = torch.cat([w.flatten() for _, w in sorted(merged_state(trainer.model).items())])
    assert multiplied[LeanGRPOTrainer] == multiplied[GRPOTrainer] == {torch.bfloat16}
    moved = [end - start for end in (full, ends[LeanGRPOTrainer], ends[GRPOTrainer])]
    likeness = [float(torch.cosine_similarity(moved[0], other, 0)) for other in moved[1:]]
    assert 0.8 < likeness[0] < 1 and likeness[0] > likeness[1] - 0.02, likeness


def test_lean_trainer_reads_fewer_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[type, int] = {}
    for kind in (LeanGRPOTrainer, GRPOTrainer):
        seen = []
        original = torch.nn.Embedding.forward
        monkeypatch.setattr(
            torch.nn.Embedding, "forward", lambda s, x, o=original, n=seen: (n.append(x.numel()), o(s, x))[1]
        )
        run_scripted(kind, tmp_path / kind.__name__)
        monkeypatch.undo()
        read[kind] = sum(seen)
    assert 0 < read[LeanGRPOTrainer] < 0.8 * read[GRPOTrainer]


def test_sampling_recorded_the_logprobs_trl_recomputes(world: Path) -> None:
    profile = grpo_profile(**{"grpo.temperature": 0.7})
    parts = grpo_parts(profile)
    episodes = parts.engine.run(parts.questions[:3], n=2, temperature=0.7, seed=5, progress=False)
    trainer = GRPOTrainer(
        model=parts.model, processing_class=parts.tokenizer, args=trl_config(profile.grpo, 0, world / "out"),
        train_dataset=data_order(parts.questions, 0, 4), rollout_func=lambda p, t: {}, reward_funcs=given_reward,
    )  # fmt: skip
    for e in episodes:
        ids = torch.tensor([e.prompt_ids + e.completion_ids])
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            parts.model, ids, torch.ones_like(ids), len(e.completion_ids)
        )
        mine = torch.tensor(e.env_mask).bool()
        assert mine.any()
        assert torch.allclose(logps[0][mine], torch.tensor(e.logprobs)[mine], atol=1e-4)


def test_naive_rags_term_cancels_in_the_update(world: Path) -> None:
    ends = []
    for shift in (0.0, 1.0):
        profile = grpo_profile(**{"grpo.steps": 2})
        parts = grpo_parts(profile)
        parts.score = lambda es, by=shift: [replace(o, reward=o.reward - by) for o in score_low_ids(es)]
        train(profile, 0, f"shift{shift}", progress=False, parts=parts)
        ends.append(weights(parts))
    assert torch.allclose(*ends, atol=1e-4)


# --------------------------------------------------------------------------- whole runs


def test_a_run_learns_records_and_is_found_again(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 12, "grpo.questions_per_step": 4, "grpo.learning_rate": 2e-2})
    parts = grpo_parts(profile)
    folder = train(profile, 0, "toy", progress=False, parts=parts)
    lines = curve(folder, timed=True)
    assert [line["step"] for line in lines] == list(range(1, 13))
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
    for line in lines:
        assert 0 <= line["zero_variance"] <= 1 and line["kl"] >= 0 and line["entropy"] > 0
        assert {
            "gen_acc",
            "gbr",
            "valid_format",
            "searches",
            "context_tokens",
            "completion_tokens",
            "grad_norm",
        } <= set(line)
        assert line["learning_rate"] == pytest.approx(
            profile.grpo.learning_rate * (13 - line["step"]) / 12, abs=1e-7
        ) and all(line[t] >= 0 for t in TIMES)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4) and lines[-1]["kl"] > lines[0]["kl"]
    shown = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [e["step"] for e in shown] == [s for s in range(1, 13) for _ in range(2)]
    assert all(e["reward"] >= w["reward"] for e, w in zip(shown[::2], shown[1::2], strict=True))
    assert not (folder / "checkpoints").exists()

    stored = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert torch.equal(torch.cat([p.detach().flatten() for p in stored.parameters()]), weights(parts))
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template == parts.tokenizer.chat_template
    assert list((folder / "model").glob("*.safetensors"))

    parts.engine = None  # type: ignore[assignment]
    assert train(profile, 0, "toy", parts=parts) == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert train(profile, 0, "toy", parts=parts) == folder  # killed after saving: nothing is trained again
    assert json.loads((folder / "manifest.json").read_text())["complete"]
    assert curve(folder, timed=True) == lines


def test_same_seed_same_curve(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 3})
    curves = []
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        curves.append(curve(train(profile, seed, run, progress=False, parts=grpo_parts(profile))))
    for line, again, other in zip(*curves, strict=True):
        assert line == pytest.approx(again, rel=1e-3, abs=1e-4)
        assert line["entropy"] != pytest.approx(other["entropy"], rel=1e-3)


def test_killed_run_goes_on_and_ends_as_if_it_had_not_been(world: Path) -> None:
    environment = {**os.environ, "S3MINI_ROOT": str(world)}
    killed = subprocess.run(
        [sys.executable, str(Path(grpo_toys.__file__)), str(world), "4"],
        env=environment,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    profile = grpo_profile()
    folder = profile.build / "train" / "toy-seed0"
    assert [line["step"] for line in curve(folder)] == [1, 2, 3]

    parts = grpo_parts(profile)
    calls = []
    run = parts.engine.run
    parts.engine.run = lambda *a, **k: (calls.append(1), run(*a, **k))[1]  # type: ignore[method-assign]
    assert train(profile, 0, "toy", progress=False, parts=parts) == folder
    assert len(calls) == 4  # steps 3 to 6: the checkpoint was step 2's
    whole = grpo_parts(profile)
    straight = train(profile, 0, "straight", progress=False, parts=whole)
    for line, expected in zip(curve(folder), curve(straight), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert torch.allclose(weights(parts), weights(whole), atol=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["resumed"]
    assert manifest["facts"] == {
        "steps": 6, "episodes": 48, "examples": 12, "omitted": {"episodes cut": 42}  # the toy policy hardly ever ends
    }  # fmt: skip


def test_a_dead_retriever_stops_the_run_and_is_no_reward(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 4})
    parts = grpo_parts(profile)
    retriever: FixedRetriever = parts.engine.retriever  # type: ignore[attr-defined]
    score = parts.score
    seen = []

    def score_then_break(episodes: list[Episode]) -> list[Outcome]:
        seen.append(1)
        if len(seen) == 3:
            retriever.fail = RetrievalError("the index is gone")
        return score(episodes)

    parts.score = score_then_break  # type: ignore[assignment]
    with pytest.raises(RetrievalError, match="the index is gone"):
        train(profile, 0, "toy", progress=False, parts=parts)
    folder = profile.build / "train" / "toy-seed0"
    assert [line["step"] for line in curve(folder)] == [1, 2, 3]
    assert not (folder / "model").exists()
    train(profile, 0, "toy", progress=False, parts=grpo_parts(profile))
    assert [line["step"] for line in curve(folder)] == [1, 2, 3, 4]


def test_changed_settings_or_no_resume_start_over(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 1})
    folder = train(profile, 0, "toy", progress=False, parts=grpo_parts(profile))
    first = (folder / "manifest.json").stat().st_mtime_ns
    train(profile, 0, "toy", progress=False, parts=grpo_parts(profile), resume=False)
    second = (folder / "manifest.json").stat().st_mtime_ns
    assert second > first
    other = grpo_profile(**{"grpo.steps": 1, "grpo.learning_rate": 1e-3})
    train(other, 0, "toy", progress=False, parts=grpo_parts(other))
    assert json.loads((folder / "manifest.json").read_text())["settings"]["learning_rate"] == 1e-3


# ------------------------------------------------------------------------------ edge cases


def test_groups_all_alike_change_nothing(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 2})
    parts = grpo_parts(profile)
    before = weights(parts)
    parts.score = lambda es: [outcome(1.0, True, 1.0) for _ in es]
    lines = curve(train(profile, 0, "alike", progress=False, parts=parts))
    assert torch.equal(weights(parts), before)
    assert [line["zero_variance"] for line in lines] == [1.0, 1.0]
    assert all(line["grad_norm"] == 0 and line["loss"] == 0 for line in lines)


@pytest.mark.parametrize("limit", [16, 200])
def test_too_long_episodes_are_cut_counted_and_trained_on(world: Path, limit: int) -> None:
    profile = grpo_profile(**{"grpo.steps": 2, "grpo.max_completion_length": limit})
    parts = grpo_parts(profile)
    parts.engine.max_turn_tokens = 40  # type: ignore[attr-defined]
    lines = curve(train(profile, 0, "long", progress=False, parts=parts))
    assert all(line["completion_tokens"] <= limit for line in lines)
    assert all(line["cut"] > 0.5 for line in lines) and torch.isfinite(weights(parts)).all()


def test_prompts_without_room_give_one_masked_token_and_no_gradient(world: Path) -> None:
    profile = grpo_profile(**{"grpo.steps": 1})
    parts = grpo_parts(profile)
    parts.engine.max_length = 10  # type: ignore[attr-defined]
    before = weights(parts)
    rewards = iter([float(i % 2) for i in range(8)])
    parts.score = lambda es: [outcome(next(rewards)) for _ in es]
    line = curve(train(profile, 0, "full", progress=False, parts=parts))[0]
    assert line["cut"] == 1.0 and line["completion_tokens"] == 0 and line["zero_variance"] == 0
    assert torch.equal(weights(parts), before)


def test_no_questions_is_an_error(world: Path) -> None:
    profile = grpo_profile()
    parts = grpo_parts(profile)
    parts.questions = []
    with pytest.raises(DataError, match="no question to train on"):
        train(profile, 0, "none", progress=False, parts=parts)


def test_completions_are_shortened_and_never_empty() -> None:
    long = episode(own=3, env=4)
    cut = shortened(long, 5)
    assert cut.completion_ids == long.completion_ids[:5] and cut.env_mask == (1, 1, 1, 0, 0)
    assert len(cut.logprobs) == 5 and cut.end == "length"
    assert shortened(long, 7) is long
    empty = episode(own=0, env=0)
    given = as_completions([long, empty], [outcome(1.0), outcome(0.0)], end_id=2)
    assert given["completion_ids"] == [list(long.completion_ids), [2]]
    assert given["env_mask"][1] == [0] and given["logprobs"][1] == [0.0]
    assert given["scored"] == [1.0, 0.0]


def test_checkpoints_are_written_without_bars_of_their_own(
    world: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = grpo_profile(**{"grpo.steps": 1, "grpo.save_steps": 1})
    train(profile, 1, parts=grpo_parts(profile), progress=False)
    assert "shards" not in "".join(capfd.readouterr())
