"""The generator that answers in sentences: what it is taught, how it is made and carded, and the one that ships."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s3mini.errors import S3Error
from s3mini.generator import answer_questions
from s3mini.models.local import load_model
from s3mini.pretrain import sentences
from s3mini.pretrain.exam import shelves
from s3mini.pretrain.examples import UNKNOWN, solved
from s3mini.pretrain.sentences import (
    MEASURES,
    in_sentence,
    judge_sentences,
    make_sentence_generator,
    sentence_sequences,
    whole,
)
from s3mini.pretrain.tokenizer import make_tokenizer
from s3mini.profile import ROOT, load_profile
from s3mini.protocols.parsing import strip_reasoning
from s3mini.reward import Judge, exact_match, span_match
from s3mini.world.build import World, build_world
from s3mini.world.questions import ask
from s3mini.world.write import SETS, question_sets


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("test sentences")


@pytest.mark.parametrize("kind", [*SETS, "comparison"])
def test_a_reply_is_the_evidence_then_a_whole_sentence_that_holds_the_answer(kind: str, world: World) -> None:
    rng = random.Random(kind)
    for _ in range(50):
        asked = ask(kind, world, rng.choice(world.entities), rng)
        if asked is None:
            continue
        reply = in_sentence(asked, asked.golds)
        said = strip_reasoning(reply)
        assert whole(said) and not whole(asked.answer)
        assert span_match(said, [asked.answer]) and not exact_match(said, [asked.answer])
        assert reply.split("</think>")[0] == solved(asked, asked.golds).split("</think>")[0], (
            "it reads as before"
        )
        lacking = strip_reasoning(in_sentence(asked, []))
        assert whole(lacking) and lacking.endswith(f" {UNKNOWN}.")
        assert not span_match(lacking, [asked.answer])


def test_the_sequences_are_a_generators_prompts_and_only_the_reply_is_learnt() -> None:
    tokenizer = make_tokenizer()
    shown = sentence_sequences(tokenizer, 40)
    assert len(shown) == 40
    for sequence in shown:
        begin = sequence.own.index(1)
        assert set(sequence.own[:begin]) == {0} and set(sequence.own[begin:]) == {1}
        prompt, reply = tokenizer.decode(sequence.ids[:begin]), tokenizer.decode(sequence.ids[begin:])
        assert "Doc 1 (Title:" in prompt and prompt.endswith("<|im_start|>assistant\n")
        assert (
            whole(strip_reasoning(reply.removesuffix(tokenizer.eos_token)))
            and sequence.ids[-1] == tokenizer.eos_token_id
        )
    assert sentence_sequences(tokenizer, 40) == shown != sentence_sequences(tokenizer, 40, seed=1)


def test_it_is_taught_once_examined_and_carded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ROOT / "data/mini/model"
    examined = partial(sentences.examine_sentences, n=1)
    monkeypatch.setattr(sentences, "examine_sentences", examined)
    model = make_sentence_generator(base, tmp_path / "out", count=24)
    weights = load_file(model / "model.safetensors")
    assert all(weight.dtype == torch.float16 for weight in weights.values())
    before = load_file(base / "model.safetensors")
    assert any(
        not torch.allclose(before[name], weight.float(), atol=1e-3) for name, weight in weights.items()
    )
    report = json.loads((model / "exam.json").read_text(encoding="utf-8"))
    assert report["sets"].keys() == set(SETS) and report["average"].keys() == set(MEASURES)
    losses = (model / "curve.csv").read_text(encoding="utf-8").splitlines()
    assert len(losses) == 1 + 3
    assert losses[-1].split(",")[1] in (model / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(sentences, "examine_sentences", lambda *given: report)
    monkeypatch.setattr(sentences, "teach", lambda *given, **named: pytest.fail("taught already"))
    assert make_sentence_generator(base, tmp_path / "out", count=24) == model
    with pytest.raises(S3Error, match="nowhere"):
        make_sentence_generator(tmp_path / "nowhere", tmp_path / "other", count=24)


def test_the_one_that_ships_is_what_its_card_says(world: World) -> None:
    spec = load_profile("mini").evaluation.sentence_generator
    assert spec is not None
    folder = ROOT / spec.path
    report = json.loads((folder / "exam.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name, row in report["sets"].items():
        assert f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in MEASURES)} |" in card
    assert report["average"]["sentences"] > 0.95 and report["average"]["em"] < 0.05
    questions = question_sets(world, {"train": 1, "test": 8})["hotpotqa"]["test"]
    replies = answer_questions(load_model(spec), questions, shelves(world, questions, 4, random.Random(0)))
    right = [span_match(said, q.golden_answers) for said, q in zip(replies, questions, strict=True)]
    assert all(map(whole, replies)) and sum(right) >= 7


def test_the_minis_judge_can_judge_sentences(world: World) -> None:
    judge = load_profile("mini").judge
    rates = judge_sentences(Judge(load_model(judge), judge.wordings), world, random.Random(0), n=40)
    assert rates["n"] >= 40 and rates["false_positive_rate"] <= 0.1 and rates["false_negative_rate"] <= 0.1


def test_a_judge_that_says_yes_to_everything_is_found_out(world: World) -> None:
    class Yes:
        def preference(
            self, conversations: list[object], words: tuple[str, str]
        ) -> list[tuple[float, float]]:
            return [(0.0, -5.0) for _ in conversations]

    rates = judge_sentences(Judge(Yes(), "brief"), world, random.Random(0), n=40)  # type: ignore[arg-type]
    assert rates["false_positive_rate"] == 1 and rates["false_negative_rate"] == 0
