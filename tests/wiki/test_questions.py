"""The questions over Wikipedia leads: what can be checked without the leads, and, where they were fetched, with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3mini.corpus import read_corpus, read_questions
from s3mini.errors import DataError
from s3mini.profile import ROOT
from s3mini.records import Document, Question
from s3mini.wiki.fetch import QUESTIONS, bare, fanout_questions, holds, passages, placed, plain_spaces

FILES = sorted((ROOT / QUESTIONS).glob("*/*.jsonl"))
CORPUS = ROOT / "build" / "wiki" / "parts" / "corpus.jsonl"
LEAST = {"train": 400, "reader": 300, "dev": 80, "test": 320}


def shipped() -> Iterator[tuple[Path, Question]]:
    for path in FILES:
        for question in read_questions(path):
            yield path, question


def test_every_question_stands_once_and_where_it_says() -> None:
    questions = [q for _, q in shipped()]
    assert len({q.id for q in questions}) == len({q.question.casefold() for q in questions}) == len(questions)
    for path, q in shipped():
        assert (q.metadata["set"], q.metadata["split"]) == (path.parent.name, path.stem), q.id
        assert len(q.metadata["gold_titles"]) == (2 if path.parent.name in ("bridge", "comparison") else 1), (
            q.id
        )
        assert 1 <= len(q.golden_answers) <= 5 and q.question.endswith("?") and len(q.question) <= 160, q.id
        assert not {a.lower() for a in q.golden_answers} & {"yes", "no"}, q.id


def test_no_fact_and_no_pair_stands_in_two_splits() -> None:
    splits: dict[tuple[str, ...], set[str]] = {}
    for path, q in shipped():
        titles = q.metadata["gold_titles"]
        keys = [tuple(sorted(titles))] if path.parent.name in ("bridge", "comparison") else []
        if path.parent.name != "comparison":
            keys.append(("the answer", titles[-1], q.golden_answers[0].casefold()))
        for key in keys:
            splits.setdefault(key, set()).add(path.stem)
    assert {key: found for key, found in splits.items() if len(found) > 1} == {}


def test_splits_are_large_enough_and_no_relation_rules() -> None:
    counts = Counter(path.stem for path, _ in shipped())
    assert all(counts[split] >= least for split, least in LEAST.items()), counts
    assert {path.parent.name for path, _ in shipped() if path.stem == "train"} == {"single", "bridge"}
    for path in FILES:
        relations = Counter(q.metadata["relation"] for q in read_questions(path))
        most, share = relations.most_common(1)[0]
        assert share <= max(3, 0.05 * relations.total()), (path, most)


@pytest.mark.skipif(not CORPUS.is_file(), reason="the leads are not fetched: s3mini download --profile wiki")
def test_the_leads_hold_what_the_questions_ask() -> None:
    leads: dict[str, list[Document]] = {}
    for document in read_corpus(CORPUS):
        leads.setdefault(document.title, []).append(document)
    for path, q in shipped():
        record = {
            "id": q.id,
            "question": q.question,
            "golden_answers": list(q.golden_answers),
            "metadata": dict(q.metadata),
        }
        assert placed(record, leads, q.id).gold_ids
        if path.parent.name == "bridge":
            a, b = q.metadata["gold_titles"]
            whole = " ".join(d.text for d in leads[a])
            assert not holds(whole, q.golden_answers) and not holds(q.question, [bare(b)]), q.id


LEADS = {
    "Lake X": "Lake X lies in Land Y.\u00a0It is 3,812\u202fm deep.",
    "Land Y (country)": "Its capital is Z-Town's heart.",
}


def test_gold_titles_become_the_passages_that_prove() -> None:
    cut = passages(LEADS)
    assert [d.text for d in cut["Lake X"]] == ["Lake X lies in Land Y. It is 3,812 m deep."]
    record = {
        "id": "b", "question": "What is the capital of the land of Lake X?", "golden_answers": ["Z-Town"],
        "metadata": {"set": "bridge", "split": "test", "gold_titles": ["Lake X", "Land Y (country)"]},
    }  # fmt: skip
    assert placed(record, cut, "here:1").gold_ids == ("0", "1")
    for change, told in (({"gold_titles": ["Nowhere", "Lake X"]}, "no lead is titled 'Nowhere'"),
                         ({"gold_titles": ["Land Y (country)", "Lake X"]}, "does not hold")):  # fmt: skip
        with pytest.raises(DataError, match=told):
            placed({**record, "metadata": {**record["metadata"], **change}}, cut, "here:1")


def test_fanouts_leaves_with_their_answer_in_the_lead_are_taken_once() -> None:
    def part(question: str, title: str | None, answer: object, inner: object = ()) -> dict[str, object]:
        evidence = None if title is None else {"title": title}
        return {
            "id": question,
            "question": question,
            "evidence": evidence,
            "answer": answer,
            "decomposition": inner,
        }

    parts = [
        part("Where is Lake X?", "Lake X", "Land Y"), part("Where is Lake X?", "Lake X", "Land Y"),
        part("Which?", "Lake X", ["Land Y"]), part("Elsewhere?", "Lake X", "Land Q"),
        part("Both?", None, "x", [part("How deep?", "Lake X", "3,812 m")]),
    ]  # fmt: skip
    found = list(fanout_questions([{"decomposition": parts}], passages(LEADS)))
    assert [(q.question, q.golden_answers, q.gold_ids) for q in found] == [
        ("Where is Lake X?", ("Land Y",), ("0",)), ("How deep?", ("3,812 m",), ("0",)),
    ]  # fmt: skip


def test_titles_without_brackets_and_blanks_alike() -> None:
    assert [bare(t) for t in ("Queen (band)", "Queen", "(x)", "A (b) c")] == [
        "Queen",
        "Queen",
        "(x)",
        "A (b) c",
    ]
    assert plain_spaces("a\u00a0b\u2009 c\n") == "a b c"
    assert json.dumps(holds("Nanjing's wall", ["nanjing"])) == "true" and not holds("party", ["art"])
