"""The cold start's scripted episodes, what the reader is to say, and the teaching of adapters, on a toy model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_model import toy_local

from s3mini.episodes import Engine
from s3mini.errors import DataError
from s3mini.models.stops import Stops
from s3mini.protocols import REGISTRY
from s3mini.records import Document, Hit, Question
from s3mini.wiki.coldstart import TURNS, Draw, Script, sequences
from s3mini.wiki.reader import evidence, shelves, target
from s3mini.wiki.teach import ADAPTERS, CURVE, Sequences, merge, teach

LEADS = [
    Document("0", "Lake X", "Lake X lies in Land Y. It is deep."),
    Document("1", "Land Y (country)", "Land Y is old. Its capital is Tarn."),
    Document("2", "Tarn", "Tarn is a city on the River Sool in Land Y."),
]
TITLES = frozenset({"Lake X", "Land Y", "Tarn", "River Sool"})
QUESTIONS = [
    Question(f"q{i}", f"What is the capital of the land of Lake X, number {i}?", ("Tarn",)) for i in range(24)
]


class Leads:
    name = fingerprint = "leads"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(d, 1.0) for d in LEADS[:k]] for _ in queries]


@pytest.mark.parametrize("name", TURNS)
def test_scripted_turns_are_right_in_format_and_drawn(name: str) -> None:
    local = toy_local()
    script = Script(name, local.tokenizer, Stops(local.tokenizer, local.end_ids), TITLES, select=2, seed=0)
    engine = Engine(script, local.tokenizer, Leads(), REGISTRY[name](), 2000, 20000)
    episodes = engine.run(QUESTIONS, progress=False)
    turns = [turn for e in episodes for turn in e.turns]
    assert turns and all(turn.valid for turn in turns)
    again = engine.run(QUESTIONS, progress=False)
    assert [e.completion_ids for e in again] == [e.completion_ids for e in episodes]
    if name not in ("cot", "deepretrieval"):
        queries = {turn.query for turn in turns if turn.query}
        assert len(queries) > 3 and any(title in q for q in queries for title in ("River Sool", "Land Y")), (
            "judgement is drawn, a linked title among it"
        )
    for e, s in zip(episodes, sequences(episodes), strict=True):
        assert s.ids == (*e.prompt_ids, *e.completion_ids) and len(s.own) == len(s.ids)
        assert sum(s.own[: len(e.prompt_ids)]) == 0 and s.own[-1] == 1
        assert s.own[len(e.prompt_ids) : -1] == e.env_mask[:-1]


def test_every_protocol_has_its_turns() -> None:
    assert TURNS.keys() == REGISTRY.keys()
    bare = Draw("no document", "Who is it?", TITLES, random.Random(0))
    assert bare.query() == "Who is it?" and bare.answer() == "unknown" and bare.words() == ["it"]


def test_the_reader_says_the_evidence_of_each_passage_then_the_answer() -> None:
    bridge = Question("b", "What is the capital of the land of Lake X?", ("Tarn",), {"set": "bridge"})
    assert target(bridge, LEADS[:2]) == (
        "Lake X: Lake X lies in Land Y. Land Y: Its capital is Tarn. So the answer is Tarn."
    )
    long = Document("9", "Long", " ".join(["word"] * 200 + ["Tarn"] + ["word"] * 200) + ".")
    said = target(Question("s", "?", ("Tarn",), {"set": "single"}), [long])
    assert "Tarn" in said.split("So the answer")[0] and len(said.split()) < 80
    assert evidence(LEADS[0], ["nowhere"]) == "Lake X lies in Land Y."


def test_shelves_hold_the_gold_passages_alone_and_among_others() -> None:
    alone, among = shelves(LEADS[:1], LEADS, random.Random(1), size=3)
    assert alone == (LEADS[0],) and sorted(d.id for d in among) == ["0", "1", "2"]


def test_taught_adapters_lower_the_loss_and_merge_into_a_whole_model(tmp_path: Path) -> None:
    local = toy_local()
    local.model.save_pretrained(tmp_path / "base")
    local.tokenizer.save_pretrained(tmp_path / "base")
    ids = local.tokenizer("Question: who? <query>the author</query>", add_special_tokens=False)["input_ids"]
    shown = [Sequences(tuple(ids), (0,) * 4 + (1,) * (len(ids) - 4))] * 8
    with pytest.raises(DataError, match="nothing to teach"):
        teach(local.model, [], tmp_path / "none")
    before = local.model(torch.tensor([ids])).logits
    teach(local.model, shown, tmp_path / "adapters", rank=4, learning_rate=1e-2, batch=4, epochs=8)
    losses = [
        float(line.split(",")[1]) for line in (tmp_path / "adapters" / CURVE).read_text().splitlines()[1:]
    ]
    assert len(losses) == 16 and losses[-1] < 0.7 * losses[0]
    assert all(v.dtype == torch.float16 for v in load_file(tmp_path / "adapters" / ADAPTERS).values())
    merge(tmp_path / "base", tmp_path / "adapters", tmp_path / "whole")
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    local.model.eval()
    taught = local.model(torch.tensor([ids])).logits
    torch.testing.assert_close(merged(torch.tensor([ids])).logits, taught, atol=2e-2, rtol=2e-2)
    assert not torch.allclose(before, taught, atol=0.1)
