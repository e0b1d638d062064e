"""The shipped mini model: what its card claims, and a smaller examination of the weights themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from s3mini.pretrain.exam import examine

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


def test_the_model_is_small() -> None:
    weights = load_file(MODEL / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) <= 5_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000
