"""LoRA: adapters are trained, whole models are saved; float32 weights where all are trained. And asking a published searcher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from grpo_toys import grpo_parts, grpo_profile
from rag_toys import make_world
from toy_model import toy_model, toy_tokenizer
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

import s3mini.profile
import s3mini.training.parts
from s3mini.grpo import train
from s3mini.profile import find_searcher, load_profile
from s3mini.records import Document, Hit, Question
from s3mini.runs.stages import JsonlLog
from s3mini.training.adapters import lora_config, merged, merged_state, save_whole
from s3mini.training.recorder import CHECKPOINTS, MODEL


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3mini.profile, "ROOT", tmp_path)
    make_world(tmp_path)
    return tmp_path


def adapted(model: Qwen3ForCausalLM, seed: int = 1) -> Any:
    """The model with adapters that say something."""
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 's3mini[train]')")
    wrapped = peft.get_peft_model(model, lora_config(grpo_profile(**{"grpo.lora_rank": 4}).grpo))
    torch.manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(10, 40)[None]).logits


def test_a_merged_model_says_what_the_adapted_one_says(tmp_path: Path) -> None:
    plain, model = toy_model(300), toy_model(300)
    wrapped = adapted(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_whole(model, tmp_path / "m")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.allclose(logits(read), logits(wrapped), atol=1e-5)
    assert not torch.allclose(logits(read), logits(plain), atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), (
        "left as it was"
    )
    assert set(merged_state(model)) == set(plain.state_dict())


def test_without_adapters_the_model_is_saved_as_ever(tmp_path: Path) -> None:
    model = toy_model(300)
    assert lora_config(grpo_profile().grpo) is None
    save_whole(model, tmp_path / "m")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "m")), logits(model))


def lora_profile(**more: Any) -> Any:
    return grpo_profile(**{"grpo.lora_rank": 8, "grpo.learning_rate": 0.1, **more})


def test_training_adapters_raises_the_reward_and_leaves_a_whole_model(world: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed (pip install 's3mini[train]')")
    many = {"grpo.num_generations": 16, "grpo.micro_batch": 32, "grpo.lr_scheduler_type": "constant"}
    profile = lora_profile(**many, **{"grpo.keep_steps": [3]})
    parts = grpo_parts(profile)
    start = {name: value.clone() for name, value in parts.model.state_dict().items()}
    folder = train(profile, 0, "toy", progress=False, parts=parts)
    with JsonlLog(folder / "curve.jsonl") as log:
        curve = list(log)
    rewards = [step["reward"] for step in curve]
    assert rewards[-1] > rewards[0] + 0.2, "it learned"
    assert curve[-1]["kl"] > curve[0]["kl"]
    state = parts.model.state_dict()
    for name, value in start.items():
        head, _, leaf = name.rpartition(".")
        assert torch.equal(state.get(name, state.get(f"{head}.base_layer.{leaf}")), value), (
            "the base does not move"
        )
    read = AutoModelForCausalLM.from_pretrained(folder / MODEL)
    assert set(read.state_dict()) == set(start)
    parts.model.eval()
    assert torch.allclose(logits(read), logits(parts.model), atol=1e-4)
    kept = AutoModelForCausalLM.from_pretrained(folder / "kept" / "step-3")
    assert not torch.allclose(logits(kept), logits(read), atol=1e-4)


def test_training_adapters_resumes(world: Path) -> None:
    """Stopped behind a checkpoint, it goes on to the same weights as a run in one piece; the KL term's reference is the
    model with its adapters switched off."""
    pytest.importorskip("peft", reason="peft is not installed (pip install 's3mini[train]')")
    profile = lora_profile(**{"grpo.beta": 0.001, "grpo.steps": 4})
    whole = AutoModelForCausalLM.from_pretrained(
        train(profile, 0, "whole", progress=False, parts=grpo_parts(profile)) / MODEL
    )
    parts, calls = grpo_parts(profile), 0
    engine = parts.engine.run

    def stops(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("pulled")
        return engine(*given, **named)

    parts.engine.run = stops  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="pulled"):
        train(profile, 0, "again", progress=False, parts=parts)
    folder = profile.build / "train" / "again-seed0"
    assert list((folder / CHECKPOINTS).glob("checkpoint-2"))
    again = train(profile, 0, "again", progress=False, parts=grpo_parts(profile))
    assert torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(again / MODEL)), logits(whole), atol=1e-5
    )


@pytest.fixture
def opened(world: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The parts of a training whose searcher is a bfloat16 toy, with nothing to search in or to be scored by."""
    tokenizer = toy_tokenizer()
    toy_model(len(tokenizer)).to(torch.bfloat16).save_pretrained(world / "searcher")
    tokenizer.save_pretrained(world / "searcher")
    monkeypatch.setattr("s3mini.models.tokenizer.ROOT", world)
    monkeypatch.setattr(s3mini.training.parts, "precompute", lambda *_, **__: {})
    monkeypatch.setattr(s3mini.training.parts, "DocumentScorer", lambda *_, **__: None)
    monkeypatch.setattr("s3mini.methods.Bench.retriever", lambda *_: None)
    searcher = {"searcher.path": "searcher", "searcher.dtype": "bfloat16", "grpo.filtered": False}

    def opened(**settings: Any) -> Any:
        return s3mini.training.parts.open_parts(grpo_profile(**{**searcher, **settings}), "s3", "recall")

    return opened


@pytest.mark.parametrize(("rank", "dtype"), [(0, torch.float32), (4, torch.bfloat16)])
def test_all_weights_are_trained_in_float32(
    opened: Callable[..., Any], rank: int, dtype: torch.dtype
) -> None:
    """An update of 1e-6 is below the last bit of a bfloat16 weight."""
    weight = torch.tensor(0.02, dtype=torch.bfloat16)
    assert weight + 1e-6 == weight
    parts = opened(**{"grpo.lora_rank": rank})
    assert parts.model.dtype == dtype
    assert parts.start is not None and parts.start.dtype == torch.bfloat16


def test_a_reward_for_documents_is_filtered_by_what_naive_retrieval_finds(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where groups may be replaced no generator is asked: over real text naive RAG is minutes of reading."""
    asked: list[object] = []
    monkeypatch.setattr(s3mini.training.parts, "precompute", lambda *_, **__: asked.append(1) or {})
    opened()
    assert asked.pop() and not asked, "which is measured beside it"
    hard, half, easy = (
        Question(i, "Where is it? A. here", ("x",), {"gold_ids": [i, "b"], "stem": i})
        for i in ("h", "a", "e")
    )
    monkeypatch.setattr(s3mini.training.parts, "training_questions", lambda _: [hard, half, easy])

    class Finds:
        def search(self, queries: list[str], k: int) -> list[list[Hit]]:
            assert queries == ["h", "a", "e"], "as naive RAG asks: without options"
            found = ((), ("b",), ("e", "b"))
            return [[Hit(Document(i, "T", "t"), 1.0) for i in ids] for ids in found]

    monkeypatch.setattr("s3mini.methods.Bench.retriever", lambda *_: Finds())
    assert opened(**{"grpo.filtered": True, "grpo.resample": 1}).questions == [hard, half]
    assert not asked


def test_the_start_is_kept_only_for_who_reads_it(opened: Callable[..., Any]) -> None:
    """A copy of the paper's searcher is 15 GB; with a KL term TRL has its own."""
    measured, apart = opened(), opened(**{"grpo.beta": 0.1, "grpo.lora_rank": 4})
    assert measured.start is not None and apart.start is None
    assert len({id(m) for m in (measured.model, measured.start, apart.model)}) == 3
    shared = opened(**{"grpo.beta": 0.1, "judge.path": "searcher", "judge.dtype": "bfloat16"})
    assert shared.start is measured.start, "the judge's weights are not those that are trained"
    assert shared.model is not shared.start


# ----------------------------------------------------------------------- a published searcher


ASK = """
import sys
from s3mini.cli import main
try:
    main(["ask", "which river at Town1?", "--profile", sys.argv[1]])
finally:
    print("loaded:", [m for m in ("trl", "datasets", "peft", "s3mini.grpo") if m in sys.modules])
"""


def test_asking_with_a_published_checkpoint_needs_no_training_stack(world: Path) -> None:
    """The folder stands in for a name on the hub; the command is the README's."""
    tokenizer = toy_tokenizer()
    for name, seed in (("base", 0), ("published", 5)):
        toy_model(len(tokenizer), seed).save_pretrained(world / name)
        tokenizer.save_pretrained(world / name)
    model = {
        "path": str(world / "base"),
        "wordings": "brief",
        "engine": "local",
        "max_length": 1024,
        "max_new_tokens": 8,
    }
    own = {
        "extends": "paper",
        "name": "mine",
        "data": {"corpus": str(world / "data/corpus.jsonl"), "questions": str(world / "data/questions")},
        "retrieval": {"kind": "lexical"},
        "s3": {"max_turn_tokens": 12, "k": 2, "begin_k": 1},
        **{role: {**model, "dtype": "float32"} for role in ("generator", "judge", "searcher")},
        "protocols": {"s3": {"checkpoint": str(world / "published")}},
    }
    (world / "mine.yaml").write_text(yaml.safe_dump(own))
    environment = {**os.environ, "S3MINI_ROOT": str(world)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(world / "mine.yaml")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"searcher: trained, {world / 'published'}" in done.stderr
    assert "Answer:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_what_was_trained_here_comes_before_what_was_published(world: Path) -> None:
    paper = load_profile("paper")
    assert find_searcher(paper, 0)[0] == "pat-jj/s3-8-3-3-20steps"
    folder = paper.build / "train" / "s3-seed0" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert find_searcher(paper, 0)[0] == folder
    assert find_searcher(load_profile("gpu"), 0)[0] is None


def test_merged_for_sampling_it_says_the_same_and_is_afterwards_what_it_was() -> None:
    model = toy_model(300)
    wrapped = adapted(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unmerged = logits(model)
    with merged(model):
        inside = {name: value.clone() for name, value in model.state_dict().items()}
        assert torch.allclose(logits(model), unmerged, atol=1e-5)
        assert sum(not torch.equal(value, before[name]) for name, value in inside.items()) >= 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(wrapped), unmerged)
    assert all(p.requires_grad for name, p in wrapped.named_parameters() if ".lora_" in name)


def test_coarse_weights_are_not_merged_and_a_model_without_adapters_is_left_alone() -> None:
    coarse = toy_model(300).bfloat16()
    adapted(coarse)
    for model in (coarse, toy_model(300)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with merged(model):
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_while_sampling_leaves_the_weights_as_they_were() -> None:
    model = toy_model(300)
    adapted(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError), merged(model):
        raise RuntimeError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
