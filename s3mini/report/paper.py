"""The paper's own figures, from ``paper.yaml``, the one place where they stand; accuracies in [0, 1]."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

GENERATOR = "claude-3-haiku"  # the only column that has every method
TRAINED_ON = ("nq", "hotpotqa")  # the other four sets measure transfer


@cache
def paper() -> dict[str, Any]:
    """The file's content, accuracies in percent as printed."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
    return found


def general(method: str, generator: str = GENERATOR) -> dict[str, float]:
    """GenAcc of a method by set (table 1); empty where the paper has none."""
    found = paper()["general"][generator].get(method)
    return {name: value / 100 for name, value in zip(paper()["sets"], found, strict=True)} if found else {}


def average(method: str, generator: str = GENERATOR) -> float | None:
    """Mean over the six sets."""
    found = general(method, generator)
    return sum(found.values()) / len(found) if found else None


def ablation(study: str, arm: int) -> float | None:
    """Average GenAcc of the ``arm``-th row of an ablation, None where the paper has no such table."""
    rows = list(paper().get(study, {}).values())
    if arm >= len(rows):
        return None
    row = rows[arm]
    return (sum(row) / len(row) if isinstance(row, list) else row) / 100
