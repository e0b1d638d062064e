"""Rollouts on the vLLM engine that TRL keeps: the local session's tokens, TRL's settings, a whole run."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grpo_toys import grpo_parts, grpo_profile
from rag_toys import make_world
from test_grpo import Scripted, run_scripted, run_scripted_start
from toy_model import toy_local
from trl import GRPOTrainer

from s3mini import profile as profile_module
from s3mini.errors import ModelError
from s3mini.grpo import train
from s3mini.models.http.colocated import ColocatedSampler, rollout_sampler
from s3mini.models.http.served import ServedModel
from s3mini.models.local import LocalModel
from s3mini.runs.processes import Processes
from s3mini.training.trainer import LeanGRPOTrainer
from s3mini.training.trl import RATIO_CAP, trl_config


@dataclass
class SamplingParams:
    """vLLM's, as far as it is used; an unknown name is a TypeError, as there."""

    n: int
    max_tokens: int
    temperature: float
    seed: int
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    stop: list[str]
    stop_token_ids: list[int]
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    logprobs: int


class ToyLLM:
    """vLLM's ``LLM.generate`` over a local model; ``shift`` is added to the log-probabilities it reports."""

    def __init__(self, local: LocalModel, shift: float = 0.0) -> None:
        self.local, self.shift = local, shift
        self.calls: list[list[SamplingParams]] = []

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: list[SamplingParams], use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm and len(prompts) == len(sampling_params)
        self.calls.append(sampling_params)
        out = []
        for prompt, ask in zip(prompts, sampling_params, strict=True):
            session = self.local.start([prompt["prompt_token_ids"]], [ask.seed])
            (sample,) = session.sample([0], ask.max_tokens, ask.temperature, tuple(ask.stop))
            logprobs = [
                {i: SimpleNamespace(logprob=p + self.shift), 399: SimpleNamespace(logprob=-9.0)}
                if i != 399
                else {i: SimpleNamespace(logprob=p + self.shift)}
                for i, p in zip(sample.ids, sample.logprobs, strict=True)
            ]
            reason = "length" if sample.stopped is None else "stop"
            one = SimpleNamespace(token_ids=sample.ids, logprobs=logprobs, finish_reason=reason)
            out.append(SimpleNamespace(outputs=[one]))
        return out


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_it_samples_what_the_local_session_does() -> None:
    local = toy_local(3)
    llm = ToyLLM(local)
    sampler = ColocatedSampler(llm, local.tokenizer, local.end_ids, local.positions)
    prompts = [[30, 31, 32], [40, 41], [30, 31, 32]]
    sessions = sampler.start(prompts), local.start(prompts)
    for turn in range(3):
        got, expected = (s.sample([0, 1, 2], [9, 5, 9], 0.0, ("%", ",")) for s in sessions)
        for mine, theirs in zip(got, expected, strict=True):
            assert (mine.ids, mine.text, mine.stopped) == (theirs.ids, theirs.text, theirs.stopped)
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        for session in sessions:
            session.append(1, [50 + turn])
    assert len(llm.calls) == 3 and len(llm.calls[0]) == 2  # one call a turn, equal greedy rows once
    assert llm.calls[0][0] == SamplingParams(
        1, 9, 0.0, 0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, ["%", ","], [2], True, False, 0
    )


def test_a_turn_without_finite_logprobs_is_an_error() -> None:
    local = toy_local(3)
    sampler = ColocatedSampler(ToyLLM(local, float("nan")), local.tokenizer, local.end_ids, 100)
    with pytest.raises(ModelError, match="log-probability"):
        sampler.start([[30, 31]]).sample([0], 3)


def test_server_mode_asks_the_server_that_trl_updates() -> None:
    local = toy_local(3)
    client = SimpleNamespace(base_url="http://127.0.0.1:8000", model="toy")
    trainer = SimpleNamespace(
        vllm_mode="server", vllm_generation=SimpleNamespace(vllm_client=client), processing_class=local.tokenizer,
        model=local.model,
    )  # fmt: skip
    sampler = rollout_sampler(trainer, 300)
    assert isinstance(sampler, ServedModel) and sampler.positions == 300
    assert (sampler.endpoint.url, sampler.spec.path) == ("http://127.0.0.1:8000/v1", "toy")
    assert sampler.end_ids == local.end_ids


def test_in_server_mode_other_processes_learn_the_servers_name_from_the_main_one() -> None:
    """TRL makes its client in the main process only."""
    local = toy_local(3)

    class Second(Processes):
        def from_main(self, work: Any) -> Any:
            return "toy", "http://127.0.0.1:8000"

    trainer = SimpleNamespace(
        vllm_mode="server",
        vllm_generation=SimpleNamespace(),
        processing_class=local.tokenizer,
        model=local.model,
    )
    sampler = rollout_sampler(trainer, 300, Second(1, 2))
    assert isinstance(sampler, ServedModel) and sampler.spec.path == "toy"


def test_one_process_takes_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several in sight transformers would wrap the model in nn.DataParallel, and TRL stop."""
    import trl

    monkeypatch.setattr(trl, "GRPOConfig", lambda **given: SimpleNamespace(_n_gpu=2, **given))
    spec = grpo_profile(**{"grpo.beta": 0.1}).grpo
    assert trl_config(spec, 0, tmp_path, "cuda")._n_gpu == 1
    assert trl_config(spec, 0, tmp_path, "cuda").model_init_kwargs == {"device_map": None}
    assert trl_config(spec, 0, tmp_path, "cuda:0", Processes(0, 2))._n_gpu == 2, "the launcher's business"


def test_trl_is_told_of_vllm_only_when_it_is_used(tmp_path: Path) -> None:
    off = trl_config(grpo_profile().grpo, 0, tmp_path)
    assert not off.use_vllm
    on = trl_config(
        grpo_profile(**{"grpo.vllm": "colocate", "grpo.vllm_memory": 0.4}).grpo, 0, tmp_path, max_length=99
    )
    assert on.use_vllm and on.vllm_mode == "colocate" and on.vllm_gpu_memory_utilization == 0.4
    assert on.vllm_importance_sampling_correction and on.vllm_importance_sampling_mode == "token_truncate"
    assert on.vllm_importance_sampling_clip_max == RATIO_CAP and on.vllm_max_model_length == 99
    url = "http://10.0.0.7:8000"
    server = trl_config(grpo_profile(**{"grpo.vllm": "server", "grpo.vllm_url": url}).grpo, 0, tmp_path)
    assert server.vllm_mode == "server" and server.vllm_server_base_url == url


# ------------------------------------------------------------------------------ in training


class ToyGeneration:
    """TRL's ``VLLMGeneration`` with the toy engine: it samples from the model in training itself."""

    shift = 0.0
    made: list[ToyGeneration]

    def __init__(self, model: Any, processing_class: Any, mode: str, **_: Any) -> None:
        self.llm = ToyLLM(LocalModel(toy_local().spec, model, processing_class), self.shift)
        self.synced = 0
        ToyGeneration.made.append(self)

    def sync_weights(self) -> None:
        self.synced += 1


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> type[ToyGeneration]:
    ToyGeneration.made, ToyGeneration.shift = [], 0.0
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", ToyGeneration)
    return ToyGeneration


def test_a_run_on_vllm_samples_there_and_learns(
    generation: type[ToyGeneration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "ROOT", tmp_path)
    make_world(tmp_path)
    profile = grpo_profile(**{"grpo.steps": 3, "grpo.vllm": "colocate", "grpo.learning_rate": 2e-2})
    parts = grpo_parts(profile)
    before = torch.cat([p.detach().flatten() for p in parts.model.parameters()])
    folder = train(profile, 0, "toy", progress=False, parts=parts)
    (made,) = generation.made
    assert made.synced == 3 and len(made.llm.calls) >= 3
    assert {ask.temperature for call in made.llm.calls for ask in call} == {1.0}
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line["grad_norm"] > 0 for line in lines)
    after = torch.cat([p.detach().flatten() for p in parts.model.parameters()])
    assert not torch.allclose(before, after)


class Shifted(Scripted):
    """Scripted rollouts with log-probabilities that are not the model's: some ratios above the cap, some below 1."""

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict:
        out = super().__call__(prompts, trainer)
        out["logprobs"] = [[-1.0 - 6.0 * (i % 3) for i in range(len(ids))] for ids in out["completion_ids"]]
        return out


def test_the_lean_trainer_corrects_for_vllm_as_trl_does(
    generation: type[ToyGeneration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_grpo.Scripted", Shifted)
    settings = {"grpo.vllm": "colocate"}
    ours, logs = run_scripted(LeanGRPOTrainer, tmp_path / "lean", **settings)
    theirs, expected = run_scripted(GRPOTrainer, tmp_path / "trl", **settings)
    moved = (theirs - run_scripted_start(tmp_path / "trl")).norm()
    assert moved > 0.1 and (ours - theirs).norm() < 1e-2 * moved
    for mine, trl in zip(logs, expected, strict=True):
        assert mine["loss"] == pytest.approx(trl["loss"], abs=1e-5)
        assert mine["sampling/importance_sampling_ratio/max"] == pytest.approx(RATIO_CAP)
    plain, _ = run_scripted(LeanGRPOTrainer, tmp_path / "plain")
    assert (ours - plain).norm() > 0.1 * moved  # the correction is no dead setting
