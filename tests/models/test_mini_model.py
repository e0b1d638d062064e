"""The shipped mini model: what its card claims, and a smaller examination of the weights themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from s3mini.bench import Bench
from s3mini.pretrain.exam import examine
from s3mini.profile import load_profile
from s3mini.protocols.wordings import judge_messages
from s3mini.report.human_check import LABELLED, read_labelled

MODEL = Path(__file__).parents[2] / "data" / "mini" / "model"


def check(report: dict[str, Any], gold: float) -> None:
    assert report["documents"] == 6
    assert report["gold"] >= gold
    assert report["none"] <= 0.05
    assert report["judge"]["false_positive_rate"] <= 0.02
    assert report["judge"]["false_negative_rate"] <= 0.02


def test_the_card_s_examination_reaches_its_mark() -> None:
    report = json.loads((MODEL / "exam.json").read_text(encoding="utf-8"))
    assert report["n"] >= 150
    check(report, 0.90)


def test_the_weights_pass_on_yet_another_world() -> None:
    """Fewer questions than the card's, hence the wider margin."""
    check(examine(MODEL, seed=4321, n=40), 0.87)


def test_the_verdicts_are_the_words_that_it_would_say() -> None:
    """Its first word, greedy, is always yes or no; comparing the two decides every labelled output alike."""
    profile = load_profile("mini")
    judge = Bench(profile).judge
    labelled = read_labelled(profile.resolve(LABELLED))
    said = [(one.output, one.question.golden_answers) for one in labelled]
    talks = [judge_messages(profile.judge.wordings, *pair) for pair in said]
    words = judge.model.reply(talks, max_new_tokens=profile.judge.max_new_tokens)
    assert set(words) == {"yes", "no"}
    assert judge(*zip(*said, strict=True)) == [word == "yes" for word in words]


def test_the_model_is_small() -> None:
    weights = load_file(MODEL / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) <= 5_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000
