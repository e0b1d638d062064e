"""What answers say of themselves: another model's name, a prompt that was cut; told once, and of nobody else."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from served_toys import chat_answer, serving
from test_served import model

from s3mini.models.http.telltales import alike


def told(
    answers: Sequence[dict[str, Any]], lengths: Sequence[int], caplog: pytest.LogCaptureFixture
) -> list[str]:
    """What is logged when prompts of so many characters get these answers."""
    caplog.set_level(logging.WARNING, "s3mini")
    first = [(200, {}, json.dumps({**chat_answer("so"), **answer}).encode()) for answer in answers]
    with serving(lambda *_: chat_answer("so"), first) as server:
        served = model(server.url, batch_size=1, path="org/Toy-7B")
        for i, length in enumerate(lengths):
            content = f"{i:03}" + "x" * (length - 3)
            assert served.reply([[{"role": "user", "content": content}]]) == ["so"]
    return [record.getMessage() for record in caplog.records]


def used(*counts: Any) -> list[dict[str, Any]]:
    return [{"usage": {"prompt_tokens": count}} for count in counts]


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (["org/Toy-7B", "org/Toy-7B"], []),
        (["toy-7b-2026-01-01", None, 3], []),
        (["/models/Toy_7B.Q4_K_M.gguf"], []),
        (["other-3b", "other-3b"], ["asked for the model 'org/Toy-7B', answers as 'other-3b';"]),
        (["toy-7b", "toy-7b-mini", "toy-7b"], ["answers as 'toy-7b-mini', too;"]),
    ],
)
def test_another_model_than_was_asked_for(
    names: list[Any], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = told([{"model": name} for name in names], [9] * len(names), caplog)
    assert len(found) == len(lines) and all(line in said for line, said in zip(lines, found, strict=True))


@pytest.mark.parametrize(
    ("counts", "lengths", "count"),
    [
        ([900, 2000, 3900], [4000, 9000, 17000], 0),
        ([2048, 2048, 2048], [9000, 9500, 10000], 0),  # by chance
        ([60, 60], [200, 400], 0),  # short ones, by chance
        ([None, "many", -1, 0], [90000] * 4, 0),
        ([3900, 2051], [17000, 18500], 1),  # Ollama's, of late: half its context
        ([2048, 1000, 2048], [8000, 4000, 11000], 1),  # Ollama's at first: all its context
        ([2048, 2048, 2048], [9000, 12000, 15000], 1),
    ],
)
def test_a_prompt_of_which_not_all_was_read(
    counts: list[Any], lengths: list[int], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = told(used(*counts), lengths, caplog)
    assert len(found) == count and all("seems to cut prompts to its context" in line for line in found)


@pytest.mark.parametrize(
    ("name", "asked", "same"),
    [
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("Qwen3-8B", "Qwen/Qwen3-8B:nebius", True),
        ("gemma-3-1b", "qwen3", False),
    ],
)
def test_names(name: str, asked: str, same: bool) -> None:
    assert alike(name, asked) is alike(asked, name) is same
