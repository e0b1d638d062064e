"""The cold start's scripted episodes, what the reader is to say, and the teaching of adapters, on a toy model."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_model import toy_local

from s3mini.episodes import Engine
from s3mini.errors import DataError
from s3mini.models.stops import Stops
from s3mini.profile import ROOT, load_profile
from s3mini.protocols import REGISTRY
from s3mini.records import Document, Episode, Hit, Question, Turn
from s3mini.training.adapters import ADAPTERS, CONFIG
from s3mini.wiki import teach as teaching
from s3mini.wiki.coldstart import TURNS, Draw, Script, first_sentence, mentions, rarity, s3_turn, sequences
from s3mini.wiki.exam import examine_searcher, kinds
from s3mini.wiki.make import SHIPPED, parts
from s3mini.wiki.reader import evidence, shelf, target
from s3mini.wiki.teach import CURVE, Sequences, merge, teach

LEADS = [
    Document("0", "Lake X", "Lake X lies in Land Y. It is deep."),
    Document("1", "Land Y (country)", "Land Y is old. Its capital is Tarn."),
    Document("2", "Tarn", "Tarn is a city on the River Sool, near Mount Vel and Cape Orn, in Land Y."),
]
TITLES = {**rarity(LEADS), "River Sool": 1.0, "Mount Vel": 1.0, "Cape Orn": 1.0}
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
    script = Script(name, Stops(local.tokenizer, local.end_ids), TITLES, select=2, seed=0)
    engine = Engine(script, local.tokenizer, Leads(), REGISTRY[name](), 2000, 20000)
    episodes = engine.run(QUESTIONS, progress=False)
    turns = [turn for e in episodes for turn in e.turns]
    assert turns and all(turn.valid for turn in turns)
    again = engine.run(QUESTIONS, progress=False)
    assert [e.completion_ids for e in again] == [e.completion_ids for e in episodes]
    if name not in ("cot", "deepretrieval"):
        queries = {turn.query for turn in turns if turn.query}
        for title in ("River Sool", "Mount Vel", "Cape Orn"):
            assert any(title in query for query in queries), "judgement is drawn, linked titles among it"
    for e, s in zip(episodes, sequences(episodes), strict=True):
        assert s.ids == (*e.prompt_ids, *e.completion_ids) and len(s.own) == len(s.ids)
        assert sum(s.own[: len(e.prompt_ids)]) == 0 and s.own[-1] == 1
        assert s.own[len(e.prompt_ids) : -1] == e.env_mask[:-1]


def test_the_exam_counts_successes_by_question() -> None:
    local = toy_local()

    class Scripts:
        """Opens engines like a bench; every searcher is a script, and every search shows the leads."""

        def engine(self, protocol: str, searcher: object, tokenizer: object, reader: object) -> Engine:
            stops = Stops(local.tokenizer, local.end_ids)
            script = Script(protocol, stops, TITLES, select=2, seed=0)
            return Engine(script, local.tokenizer, Leads(), REGISTRY[protocol](), 2000, 20000)

    shown = [Question(f"q{i}", "What is it?", ("Tarn",), {"gold_ids": ["0", "1"]}) for i in range(3)]
    nowhere = [Question("n", "What is it?", ("Tarn",), {"gold_ids": ["0", "99"]})]
    report = examine_searcher(Scripts(), local, shown + nowhere, samples=4)  # type: ignore[arg-type]
    assert report["n"] == 4 and report["valid"].keys() == {*TURNS, "s3, sampled"}
    assert set(report["valid"].values()) == {1.0}
    for name in ("greedy", "sampled", "pass"):
        assert report[name]["mean"] == 0.75 and report[name]["n"] == 4, name
    assert report["differ"]["mean"] == 0.0
    left = {name: figure["mean"] for name, figure in report["left"].items()}
    assert report["left"]["pass"]["n"] == 1 and set(left.values()) == {0.0}, "what the first documents leave"


def test_the_exam_tells_what_queries_are() -> None:
    question = Question("q", "Who is it?", ("x",), {"gold_titles": ["Lake X", "Land Y (country)"]})

    def asked(*queries: str | None) -> Episode:
        turns = tuple(Turn("", query, False, None, (Hit(LEADS[2], 1.0),), True) for query in queries)
        return Episode(question, (1,), (2,), (1,), (0.0,), turns, (Hit(LEADS[0], 1.0),), (), "turns", None)

    assert kinds([asked(None)]) == {}
    shares = kinds(
        [asked("who is it?", "Land Y"), asked("River Sool", "River Sool", None), asked("it is deep")]
    )
    # what the second search asks for stands in what the first one showed
    assert shares == {"the question": 0.2, "a gold title": 0.2, "words from nowhere": 0.2, "words shown": 0.4}


def test_links_are_drawn_by_their_rarity() -> None:
    roots = {"Lake X": 1.0, "Land Y": 3**-0.5, "Tarn": 2**-0.5}
    assert rarity(LEADS) == pytest.approx(roots), "one by the root of the texts that name it"
    shown = "Doc 1 (Title: A) In Land Y is a River Sool."
    draws = [
        Draw(shown, "Who?", {"Land Y": 0.1, "River Sool": 1.0}, random.Random(i)).query() for i in range(300)
    ]
    assert draws.count("River Sool") > 5 * draws.count("Land Y") > 0


def test_a_turn_quotes_up_to_a_name_of_what_was_shown_and_asks_for_it() -> None:
    titles = dict.fromkeys(["Lake X", "Land Y", "Mali", "River Sool", "Tarn"], 1.0)
    first = "<information>\nDoc 1 (Title: A) Many live in Tarn, near Lake X.\n</information>"
    last = "<information>\nDoc 1 (Title: B) It is wet. So here River Sool leaves Land Y.\nDoc 2 (Title: C) In Mali.\n</information>"

    def drawn(question: str, shown: str = first + last) -> list[tuple[str, str]]:
        draws = (Draw(shown, question, titles, random.Random(i)) for i in range(300))
        return [(draw.thought(), draw.query()) for draw in draws]

    quotes = {
        ("A: Many live in Tarn", "Tarn"),
        ("A: Many live in Tarn, near Lake X", "Lake X"),
        ("B: So here River Sool", "River Sool"),
        ("B: So here River Sool leaves Land Y", "Land Y"),
        ("C: In Mali", "Mali"),
    }
    assert set(drawn("Who?")) == quotes, "of earlier blocks too, with no word of the sentence before"
    asked = drawn("Who came to Mali?")
    assert set(asked) == {*quotes, ("Question: Who came to Mali", "Mali")}
    last_block = [quote for quote in asked if quote[0][0] in "BC"]
    assert len(last_block) > 0.6 * len(asked)
    assert set(drawn("Who?", "none")) == {("Nothing is named.", "Who?")}


def test_what_a_turn_quotes_it_selects() -> None:
    shown = "<information>\nDoc 1 (Title: A) It has one.\nDoc 2 (Title: B) It is in Land Y.\n</information>"
    turns = [s3_turn(Draw(shown, "Who?", TITLES, random.Random(i)), 1, 2) for i in range(60)]
    assert {line for turn in turns for line in turn.splitlines() if "info" in line} == {
        "<important_info>[2]</important_info>",
        "<important_info>[1, 2]</important_info>",
    }
    assert all(turn.startswith("<think>B: It is in Land Y</think>\n") for turn in turns)
    nothing = [s3_turn(Draw("none", "Who?", TITLES, random.Random(i)), 0, 2) for i in range(20)]
    assert not any("<important_info>" in turn for turn in nothing)


def test_names_are_titles_in_their_order_without_what_opens_a_sentence() -> None:
    titles = ["Mali", "Niger", "Statue of Liberty", "River", "Land Y"]
    text = "River. In Mali and Niger it is. The Statue of Liberty. It is near Land Y <b>. By Liberty River"
    assert [(m.name, m.quote) for m in mentions("A", text, titles)] == [
        ("Mali", "In Mali"),
        ("Niger", "In Mali and Niger"),
        ("Statue of Liberty", "The Statue of Liberty"),
        ("Land Y", "It is near Land Y"),
    ], "a word that is a whole sentence is none, nor is the end of a longer name"


def test_what_the_reader_says_of_the_last_block_is_the_thought() -> None:
    local = toy_local()
    asked: list[str] = []

    class Reader:
        """Says one thing of every block."""

        def reply(self, talks: Sequence[Sequence[dict[str, str]]], max_new_tokens: int) -> list[str]:
            asked.append("\n".join(message["content"] for talk in talks for message in talk))
            return ["Tarn: It is near Mount Vel and Cape Orn. It is old. So the answer is Land Y."] * len(
                talks
            )

    reader: Any = (Reader(), "brief")
    script = Script("s3", Stops(local.tokenizer, local.end_ids), TITLES, select=2, seed=0, reader=reader)
    engine = Engine(script, local.tokenizer, Leads(), REGISTRY["s3"](), 2000, 20000)
    turns = [turn for e in engine.run(QUESTIONS, progress=False) for turn in e.turns]
    said = [turn for turn in turns if "<think>Tarn: It is near Mount Vel and Cape Orn</think>" in turn.output]
    assert len(said) > 0.6 * len(turns), "else a mention is drawn"
    assert {turn.query for turn in said} == {"Mount Vel", "Cape Orn", None}
    assert all(q.question in asked[0] for q in QUESTIONS), "all rows at once"
    assert first_sentence("nothing of the kind") == ""


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
    assert "Tarn" in said.split("So the answer")[0] and len(said.split()) < 40
    which = Question("c", "Which is older?", ("Land Y",), {"set": "comparison"})
    dated = Document("1", "Land Y", "Land Y is a land. It was founded in 1291.")
    assert target(which, [dated]) == "Land Y: It was founded in 1291. So the answer is Land Y."
    assert evidence(LEADS[0], ["nowhere"]) == "Lake X lies in Land Y."


def test_a_shelf_holds_every_gold_passage_among_a_drawn_number_of_others() -> None:
    rng = random.Random(1)
    drawn = [[d.id for d in shelf(LEADS[:1], LEADS, rng, most=3)] for _ in range(60)]
    assert all("0" in ids and len(set(ids)) == len(ids) for ids in drawn)
    assert {len(ids) for ids in drawn} == {1, 2, 3} and {ids.index("0") for ids in drawn} == {0, 1, 2}
    assert len(shelf(LEADS, LEADS, rng, most=2)) == 3, "no gold passage is left out for want of room"


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


def test_teaching_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = toy_local().tokenizer("Question: who?", add_special_tokens=False)["input_ids"]
    shown = [Sequences((*ids, i), (0,) * len(ids) + (1,)) for i in range(6, 30)]

    def taught(name: str) -> None:
        teach(toy_local().model, shown, tmp_path / name, rank=2, learning_rate=1e-2, batch=1)

    taught("whole")
    step, calls = teaching._step, iter(range(15))
    with monkeypatch.context() as patched:
        patched.setattr(teaching, "_step", lambda *given: next(calls) * 0 + step(*given))
        with pytest.raises(StopIteration):
            taught("killed")
    assert not (tmp_path / "killed").exists() and (tmp_path / "killed.checkpoint").exists()
    taught("killed")
    for file in (ADAPTERS, CONFIG, CURVE):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "killed.checkpoint").exists()


def test_shipped_adapters_become_whole_models_and_are_merged_anew_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = toy_local()
    fetched, shipped = tmp_path / "parts", tmp_path / "shipped"
    local.model.save_pretrained(fetched / "model")
    local.tokenizer.save_pretrained(fetched / "model")
    monkeypatch.setattr("s3mini.wiki.make.fetch", lambda profile: fetched)
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    profile = load_profile("smoke")
    assert parts(profile, shipped) == [fetched], "nothing ships yet"
    made = tmp_path / "build" / "wiki" / "models" / "reader"

    def weights(learning_rate: float) -> bytes:
        shown = [Sequences((5, 6, 7, 8), (0, 1, 1, 1))] * 2
        teach(toy_local().model, shown, shipped / "reader", rank=2, learning_rate=learning_rate, batch=1)
        _, whole = parts(profile, shipped)
        assert whole == made, "where the paths of `wiki` lead, whatever a profile that extends it is called"
        return (whole / "model" / "model.safetensors").read_bytes()

    assert weights(1e-2) != weights(3e-2)
    before = (made / "model" / "model.safetensors").stat().st_mtime_ns
    parts(profile, shipped)
    assert (made / "model" / "model.safetensors").stat().st_mtime_ns == before, "found again"


def test_the_card_says_what_the_record_of_the_reader_says() -> None:
    folder = ROOT / SHIPPED / "reader"
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))["reading"]
    card = (ROOT / "data/wiki/README.md").read_text(encoding="utf-8")
    for name in ("as it came", "taught"):
        cells = [
            "{:.3f} [{:.3f}, {:.3f}]".format(record[name][s]["mean"], *record[name][s]["ci95"])
            for s in ("bridge", "single")
        ]
        assert f"| {name} | {' | '.join(cells)} |" in card
    assert sum(f.stat().st_size for f in folder.iterdir()) < 10e6
    assert len((folder / CURVE).read_text().splitlines()) == 84


def test_the_card_says_what_the_record_of_all_methods_says() -> None:
    card = (ROOT / "data/wiki/README.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "data/wiki/results/seed0.json").read_text(encoding="utf-8"))
    for name, method in record["methods"].items():
        cells = [
            "{:.3f} [{:.3f}, {:.3f}]".format(found["gen_acc"], *found["ci95"])
            for found in (method["average"], method["sets"]["bridge"])
        ]
        assert f"| {name} | {' | '.join(cells)} |" in card


def test_the_card_says_what_the_record_of_the_trained_searcher_says() -> None:
    record = json.loads((ROOT / SHIPPED / "s3" / "record.json").read_text(encoding="utf-8"))["evaluation"]
    card = (ROOT / "data/wiki/README.md").read_text(encoding="utf-8")
    methods = ("naive RAG", "cold start", "searching", "trained", "gold documents")
    gains = [record["difference"][f"trained - {other}"] for other in ("cold start", "naive RAG")]
    all_methods = json.loads((ROOT / "data/wiki/results/seed0.json").read_text(encoding="utf-8"))[
        "differences"
    ]
    for gain, name in zip(gains, ("s3 - s3-untrained", "s3 - rag-dense"), strict=True):
        one = all_methods[name]["sets"] | {"average": all_methods[name]["average"]}
        for place, found in gain.items():
            assert found == {
                "n": one[place]["n"],
                "mean": round(one[place]["mean"], 3),
                "ci95": [round(bound, 3) for bound in one[place]["ci95"]],
            }
    for name in (*load_profile("wiki").data.sets, "average"):
        cells = [
            str(gains[0][name]["n"]),
            *(f"{record['gen_acc'][method][name]:.3f}" for method in methods),
            *("{:+.3f} [{:+.3f}, {:+.3f}]".format(gain[name]["mean"], *gain[name]["ci95"]) for gain in gains),
        ]
        assert f"| {name if name == 'average' else f'`{name}`'} | {' | '.join(cells)} |" in card
