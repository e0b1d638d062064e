"""Corpora and question sets: round trips, real layouts, and every malformed input with its place."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mini.corpus import (
    FirstUses,
    fingerprint,
    iter_corpus,
    load_questions,
    read_corpus,
    read_questions,
    split_contents,
    write_corpus,
    write_questions,
)
from s3mini.errors import DataError, StageError
from s3mini.profile import Profile, load_profile
from s3mini.records import Document, Question
from s3mini.unicode import blank

DOC = '{"id": "0", "contents": "\\"A\\"\\nText a."}'
ASK = '{"id": "q0", "question": "Who?", "golden_answers": ["Ada"]}'

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
word = text.filter(lambda t: not blank(t))
title = text.filter(lambda t: "\n" not in t)


@given(st.lists(st.builds(Document, id=word, title=title, text=word), min_size=1, unique_by=lambda d: d.id))
def test_corpus_round_trip(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("c.jsonl", "c.jsonl.gz"):
        write_corpus(folder / name, documents)
        assert read_corpus(folder / name) == documents


questions = st.builds(
    Question,
    id=word,
    question=word,
    golden_answers=st.lists(word, min_size=1, max_size=3).map(tuple),
    metadata=st.dictionaries(word, st.lists(word, max_size=2), max_size=2),
)


@given(st.lists(questions, min_size=1, unique_by=lambda q: q.id))
def test_question_round_trip(tmp_path_factory: pytest.TempPathFactory, asked: list[Question]) -> None:
    folder = tmp_path_factory.mktemp("questions")
    for name in ("q.jsonl", "q.jsonl.gz"):
        write_questions(folder / name, asked)
        assert read_questions(folder / name) == asked


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ('"Evan Morris"\nA lobbyist.', ("Evan Morris", "A lobbyist.")),
        ('""Weird Al" Yankovic"\nA singer.', ('"Weird Al" Yankovic', "A singer.")),
        ('"Mercury (planet)"\nThe first.', ("Mercury (planet)", "The first.")),
        ('"Who\'s "Bad"? (song)"\nA song.', ('Who\'s "Bad"? (song)', "A song.")),
        ('"A"\nLine one.\n"Line" two.', ("A", 'Line one.\n"Line" two.')),
        ("Plain title\nText", ("Plain title", "Text")),
        ("Text alone", ("", "Text alone")),
        ('"Only a title"\n', ("Only a title", "")),
        ('"\nText', ('"', "Text")),
    ],
)
def test_titles(contents: str, expected: tuple[str, str]) -> None:
    assert split_contents(contents) == expected


def test_reads_what_others_write(tmp_path: Path) -> None:
    path = tmp_path / "wiki.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": 7, "contents": "\\"A\\"\\nB", "extra": 1}\r\n\n{"id": "8", "contents": "C"}'
    )
    assert read_corpus(path) == [Document("7", "A", "B"), Document("8", "", "C")]


@pytest.mark.parametrize(
    ("lines", "place", "told"),
    [
        ([DOC, '{"id": "1", "contents": '], ":2:", "malformed JSON"),
        ([DOC, "null"], ":2:", "not a JSON object"),
        ([DOC, "[" * 100_000], ":2:", "nested too deeply"),
        ([DOC, '{"id": "1"}'], ":2:", "missing field 'contents'"),
        ([DOC, '{"contents": "x"}'], ":2:", "missing field 'id'"),
        ([DOC, '{"id": "1", "contents": 3}'], ":2:", "is a int, not text"),
        ([DOC, '{"id": true, "contents": "x"}'], ":2:", "is a bool, not text"),
        ([DOC, '{"id": "1", "contents": "  "}'], ":2:", "is empty"),
        ([DOC, '{"id": "1", "contents": "\\"\\"\\n"}'], ":2:", "neither title nor text"),
        ([DOC, "", DOC], ":3:", "duplicate id '0', first used at line 1"),
        ([DOC, '{"id": "1", "contents": "\\ud800"}'], ":2:", "lone surrogate"),
        (["", "  "], ":", "the file is empty"),
    ],
)
def test_malformed_corpus(tmp_path: Path, lines: list[str], place: str, told: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        read_corpus(path)
    message = str(caught.value)
    assert message.startswith(f"{path}{place}")
    assert told in message
    assert message.endswith(")"), "every message ends with its remedy"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "q1", "golden_answers": ["x"]}', "missing field 'question'"),
        ('{"id": "q1", "question": "Who?"}', "missing field 'golden_answers'"),
        ('{"id": "q1", "question": "Who?", "golden_answers": []}', "non-empty list"),
        ('{"id": "q1", "question": "Who?", "golden_answers": "Ada"}', "non-empty list"),
        ('{"id": "q1", "question": "Who?", "golden_answers": [" "]}', "non-empty text"),
        ('{"id": "q1", "question": "Who?", "golden_answers": [4]}', "holds 4"),
        ('{"id": "q1", "question": "Who?", "golden_answers": ["\\udfff"]}', "lone surrogate"),
        ('{"id": "q1", "question": "Who?", "golden_answers": ["x"], "metadata": 1}', "not an object"),
        (ASK, "duplicate id 'q0'"),
    ],
)
def test_malformed_questions(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{ASK}\n{line}\n")
    with pytest.raises(DataError, match="lone surrogate" if "surrogate" in told else None) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}:2:")
    assert told in str(caught.value)


def test_invalid_utf8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(DOC.encode() + b'\n{"id": "1", "contents": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:2: invalid UTF-8 at byte 28"):
        read_corpus(path)


def test_damaged_gzip_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    whole = gzip.compress("\n".join(DOC.replace('"0"', f'"{i}"') for i in range(2000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"c\.jsonl\.gz:\d+: the gzip file is damaged or cut short"):
        read_corpus(path)
    path.write_text(DOC)
    with pytest.raises(DataError, match="damaged"):
        read_corpus(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        read_corpus(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_questions(tmp_path)


def test_iteration_stops_at_the_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(f"{DOC}\n{{\n")
    documents = iter_corpus(path)
    assert next(documents).id == "0"
    with pytest.raises(DataError, match=":2:"):
        next(documents)


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([Document("1", "a\nb", "t")], "line break"),
        ([Document("1", "a", "t"), Document("1", "b", "t")], "duplicate id"),
        ([Document("1", "a", "\ud800")], "lone surrogate"),
    ],
)
def test_writing_what_cannot_be_read_back_leaves_the_old_file(
    tmp_path: Path, documents: list[Document], told: str
) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(DOC + "\n")
    with pytest.raises(DataError, match=told):
        write_corpus(path, documents)
    assert path.read_text() == DOC + "\n"
    assert list(tmp_path.iterdir()) == [path]


def test_first_uses_of_more_ids_than_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FirstUses, "CACHE", 16)  # KiB
    with FirstUses() as seen:
        assert [seen.of(f"id {i}", str(i)) for i in range(5000)] == [None] * 5000
        assert seen.of("id 7", "again") == "7"
        assert seen.of("\ud800", "x") is None and seen.of("a\0b", "y") is None  # ids of any kind
        assert (seen.of("\ud800", "-"), seen.of("a", "-"), seen.of("a\0b", "-")) == ("x", None, "y")


def test_a_corpus_is_written_as_it_comes(tmp_path: Path) -> None:
    """Memory does not grow with it; a gzipped one is what gzip makes of the whole."""
    made = [Document(str(i), f"Title {i}", "Sool " * (i % 90 + 1)) for i in range(3000)]
    tracemalloc.start()
    write_corpus(tmp_path / "c.jsonl", iter(made))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    data = (tmp_path / "c.jsonl").read_bytes()
    assert peak < len(data) / 3
    write_corpus(tmp_path / "c.jsonl.gz", made)
    assert (tmp_path / "c.jsonl.gz").read_bytes() == gzip.compress(data, mtime=0)


def test_writing_questions_checks_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no golden answers"):
        write_questions(tmp_path / "q.jsonl", [Question("1", "Who?", ())])


def test_writing_into_a_forbidden_place_is_a_stage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StageError, NotADirectoryError, FileExistsError)):
        write_corpus(tmp_path / "file" / "c.jsonl", [Document("1", "a", "t")])


def _profile(root: Path, **overrides: object) -> Profile:
    return load_profile("smoke", **{"data.questions": str(root), **overrides})


def _split(root: Path, name: str, split: str, ids: list[str]) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": i, "question": f"Q {i}?", "golden_answers": ["a"]}) for i in ids]
    (folder / f"{split}.jsonl").write_text("\n".join(lines))


def test_load_questions_limits_ids_and_metadata(tmp_path: Path) -> None:
    _split(tmp_path, "nq", "train", [f"train_{i}" for i in range(9)])
    _split(tmp_path, "nq", "test", [f"nq-test-{i}" for i in range(9)])
    profile = _profile(tmp_path, **{"data.train_limit": 4, "data.test_limit": 2})
    train = load_questions(profile, "nq", "train")
    assert [q.id for q in train] == ["nq/train_0", "nq/train_1", "nq/train_2", "nq/train_3"]
    assert train[0].metadata == {"set": "nq", "split": "train"}
    assert [q.id for q in load_questions(profile, "nq", "test")] == ["nq-test-0", "nq-test-1"]
    unlimited = _profile(tmp_path, **{"data.train_limit": None})
    assert len(load_questions(unlimited, "nq", "train")) == 9


def test_test_split_falls_back_to_dev_then_train(tmp_path: Path) -> None:
    _split(tmp_path, "popqa", "train", ["t0"])
    profile = _profile(tmp_path)
    assert load_questions(profile, "popqa", "test")[0].metadata["split"] == "train"
    _split(tmp_path, "popqa", "dev", ["d0"])
    assert load_questions(profile, "popqa", "test")[0].metadata["split"] == "dev"


def test_a_set_trained_on_is_never_tested_on_its_training_questions(tmp_path: Path) -> None:
    _split(tmp_path, "nq", "train", ["t0"])
    with pytest.raises(DataError, match="no test or dev split"):
        load_questions(_profile(tmp_path), "nq", "test")


def test_unknown_set_and_split_name_what_exists(tmp_path: Path) -> None:
    _split(tmp_path, "nq", "train", ["t0"])
    with pytest.raises(DataError, match=r"no such question set \(found: nq"):
        load_questions(_profile(tmp_path), "hotpot", "train")
    with pytest.raises(DataError, match=r"no such file \(the set holds: train\.jsonl\)"):
        load_questions(_profile(tmp_path), "nq", "dev")


def test_fingerprint_follows_content_names_and_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("one")
    b.write_text("two")
    first = fingerprint(a)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert fingerprint([a, b]) != fingerprint([b, a])
    folder = fingerprint(tmp_path)
    b.rename(tmp_path / "c")
    assert fingerprint(tmp_path) != folder
    a.write_text("ONE, of another length")
    assert fingerprint(a) != first
    a.write_text("one")
    assert fingerprint(a) == first
    with pytest.raises(DataError, match="no such file"):
        fingerprint(tmp_path / "nothing")
