"""A script in a model's place: it stops where a model would, and says when it is too short."""

from __future__ import annotations

import pytest

from s3mini.classroom.exercises import SHELF, AskOrTell, played
from s3mini.classroom.scripted import ScriptedModel
from s3mini.errors import ModelError
from s3mini.profile import load_profile

SPEC = load_profile("mini").searcher


def write(text: str, budget: int = 50, stop: tuple[str, ...] = ("</query>",)) -> tuple[str, str | None, int]:
    session = ScriptedModel(SPEC, [text]).start([[1, 2, 3]])
    (sample,) = session.sample([0], budget, 0.0, stop)
    assert session.ids[0] == [1, 2, 3, *sample.ids] and len(sample.logprobs) == len(sample.ids)
    return sample.text, sample.stopped, len(sample.ids)


def test_a_turn_ends_as_a_models_would() -> None:
    end = ScriptedModel(SPEC, []).tokenizer.eos_token
    assert write("<query>a</query> and more")[:2] == ("<query>a</query>", "</query>")
    assert write("no stop in it")[:2] == ("no stop in it", end)
    text, stopped, length = write("word " * 90, budget=7)
    assert (stopped, length) == (None, 7) and text != "word " * 90


def test_a_script_that_is_too_short_is_an_error() -> None:
    with pytest.raises(ModelError, match="the script has 1 turns, and the episode goes on"):
        played(AskOrTell, "ASK who\n")


def test_the_exercises_protocol_plays() -> None:
    made = played(AskOrTell, "ASK ab\n", "TELL Mara Venn\n")
    assert made["queries"] == ["ab", None] and made["shown"] == [[SHELF[2].id, SHELF[3].id], []]
    assert (made["end"], made["answer"], made["context"]) == ("complete", "Mara Venn", ["2", "3"])
