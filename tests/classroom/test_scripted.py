"""A script in a model's place: it stops where a model would, and says when it is too short."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from s3mini.classroom.exercises import SHELF, AskOrTell, played
from s3mini.classroom.scripted import ScriptedModel, chained
from s3mini.errors import DataError, ModelError
from s3mini.profile import load_profile
from s3mini.records import Document, Hit, Question

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


def test_the_question_that_is_shown_needs_its_second_search() -> None:
    """Each question but the last fails in one thing: naive RAG has both, A names no B, the title finds another, the answer."""
    names = ["Ab", "Bo", "Ce", "Du", "Ed", "Fy", "Gu", "Hy"]
    shelf = {name: Document(name, name, f"It lies by {names[(i + 1) % 8]}.") for i, name in enumerate(names)}
    pairs = {
        "both found": "Ab Bo",
        "not named": "Ab Ce",
        "another": "Bo Ce",
        "wrong": "Du Ed",
        "good": "Fy Gu",
    }
    asked = [Question(q, q, ("yes",), {"gold_ids": gold.split()}) for q, gold in pairs.items()]
    asked.insert(0, Question("alone", "alone", ("yes",), {"gold_ids": ["Ab"]}))
    found = {q: [gold.split()[0], "Hy"] for q, gold in pairs.items()} | {
        "both found": ["Ab", "Bo"],
        "Ce": ["Du"],
    }

    def search(queries: list[str], k: int) -> list[list[Hit]]:
        assert k == 3
        return [[Hit(shelf[name], 1.0) for name in found.get(query, [query])] for query in queries]

    bench = SimpleNamespace(
        profile=SimpleNamespace(rag=SimpleNamespace(k=3), s3=SimpleNamespace(begin_k=2)),
        documents=shelf,
        retriever=lambda: SimpleNamespace(search=search),
        answer=lambda questions, contexts: [q.id for q in questions],
        score=lambda answers, questions: [SimpleNamespace(gen_acc=float(a != "wrong")) for a in answers],
    )
    assert chained(bench, asked).id == "good"
    with pytest.raises(DataError, match="a second search"):
        chained(bench, asked[:-1])
