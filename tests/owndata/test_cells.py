"""Cells: every printed form that is understood, every one that is refused, and what lies near them but is text."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mini.errors import DataError
from s3mini.owndata import Fields, cells
from s3mini.owndata.files import Row
from s3mini.unicode import blank


def accepted(value: Any, printed: bool = True) -> tuple[str, ...]:
    row = Row("q.csv:7", "q.csv:7", {"question": "which?", "answer": value}, printed)
    return Fields().answers(row)


TRIVIA = {
    "value": "Sool",
    "aliases": ["the Sool", "Sool River"],
    "normalized_aliases": ["sool", "sool river"],
    "normalized_value": "sool",
    "matched_wiki_entity_name": "",
    "normalized_matched_wiki_entity_name": "",
    "type": "WikipediaEntity",
}

UNDERSTOOD: dict[str, tuple[str, ...]] = {
    # SQuAD, MRQA, KILT, TriviaQA, as Python, JSON and numpy print them
    "{'text': ['Sool'], 'answer_start': [18]}": ("Sool",),
    "{'text': array(['Sool'], dtype=object), 'answer_start': array([18])}": ("Sool",),
    "{'text': array(['Sool', 'x'], dtype='<U4'), 'answer_start': array([18, 2], dtype=int32)}": ("Sool", "x"),
    '{"text": "Sool", "answer_start": 18}': ("Sool",),
    "[{'text': 'Sool', 'answer_start': 18}, {'text': 'the Sool', 'answer_start': 4}]": ("Sool", "the Sool"),
    "[{'text': 'Sool', 'char_spans': [[3, 6]], 'token_spans': [[1, 1]]}]": ("Sool",),
    "[{'answer': 'Sool', 'meta': {'score': 1}, 'provenance': []}]": ("Sool",),
    json.dumps(TRIVIA): ("Sool", "the Sool", "Sool River"),
    str(TRIVIA): ("Sool", "the Sool", "Sool River"),
    "{'Value': 'Sool', 'Aliases': ['a'], 'NormalizedAliases': ['a'], 'HumanAnswers': ['h']}": (
        "Sool",
        "a",
        "h",
    ),
    # lists of every library, nested, with gaps
    '["Sool", "the Sool"]': ("Sool", "the Sool"),
    "['Sool' 'the Sool']": ("Sool", "the Sool"),
    "['Sool'\n 'the Sool']": ("Sool", "the Sool"),
    "[['Sool' 'a']\n ['b' 'c']]": ("Sool", "a", "b", "c"),
    "[list(['Sool']) list(['a', 'b'])]": ("Sool", "a", "b"),
    "[array(['Sool'], dtype=object), array(['a'], dtype=object)]": ("Sool", "a"),
    '[\n  "Sool",\n  null\n]': ("Sool",),
    '[\n  [\n    "Sool"\n  ],\n  null\n]': ("Sool",),
    "('Sool', 'the Sool')": ("Sool", "the Sool"),
    "('Sool',)": ("Sool",),
    "{'b', 'a'}": ("a", "b"),
    "frozenset({'Sool'})": ("Sool",),
    "deque(['Sool'], maxlen=3)": ("Sool",),
    "Index(['Sool', 'a'], dtype='object')": ("Sool", "a"),
    "['Sool', None, nan, '']": ("Sool",),
    "['Sool' None nan NaT <NA>]": ("Sool",),
    '[null, NaN, "Sool"]': ("Sool",),
    "[[], ['Sool', ['a']]]": ("Sool", "a"),
    "['\u200b', 'Sool']": ("Sool",),
    '"[\\"Sool\\"]"': ("Sool",),
    "[\"['Sool', 'a']\"]": ("Sool", "a"),
    '["it\'s" \'say "x"\']': ("it's", 'say "x"'),
    "['a]', '[b']": ("a]", "[b"),
    "['caf\\xe9', 'a\\\\b']": ("café", "a\\b"),
    # R, where a data frame's list column is printed
    'c("Sool", "the Sool")': ("Sool", "the Sool"),
    'list("Sool", c("a", "b"))': ("Sool", "a", "b"),
    'list(c("Sool"))': ("Sool",),
    # values of typed columns
    "[1922]": ("1922",),
    "[1922 1923]": ("1922", "1923"),
    "[1. 2.5]": ("1", "2.5"),
    "[np.str_('Sool'), np.int64(3), np.float64(2.0), np.True_]": ("Sool", "3", "2", "yes"),
    "[datetime.date(1922, 5, 1), Timestamp('1922-05-01 00:00:00')]": ("1922-05-01",),
    "[Decimal('3.50')]": ("3.50",),
    "1922-05-01 00:00:00": ("1922-05-01",),
    "1922-05-01T00:00:00.000Z": ("1922-05-01",),
    "1922-05-01 12:30:00.500000": ("1922-05-01 12:30:00.5",),
    "True": ("yes", "True"),
    "false": ("no", "false"),
    "3.0": ("3", "3.0"),
    "1e+05": ("100000", "1e+05"),
    "1.5e-05": ("0.000015", "1.5e-05"),
    "P(A) | P(B)": ("P(A)", "P(B)"),
    "a) Sool | b) Tarn": ("a) Sool", "b) Tarn"),
    "3.0|4.0": ("3", "3.0", "4", "4.0"),
    "True|Sool": ("yes", "True", "Sool"),
    # the way out for words that look like nothing
    '["NA"]': ("NA",),
    '["[Sool, a]"]': ("[Sool, a]",),
}

PLAIN = [
    "Sool", "[sic] Sool", "[1] Sool", "(500) Days of Summer", "(unknown)", "(a) Sool", "(0, 1]", "[0, 1)",
    "\\boxed{A}", "\\frac{1}{2}", "f(x) = [a]", "Sool [river]", "Berlin (city)", '"Heroes"', '("Heroes")',
    '("Heroes") by Bowie', "print('x')", "x = {1: 'a'}", "He said 'x'", "[Fe(CN)6]4-", "d['key']", "3.50", "007",
    "1922-05", "Nan", "NAN", "none", "5'", "C:\\new", "a, b; c", "¡[…]!", "{x} y", "c(4)", "'a', or 'b'",
]  # fmt: skip

REFUSED: dict[str, str] = {
    # half a container
    "{'text': ['Sool']": "never close",
    "['Sool', 'the So": "never close",
    "[['Sool', 'a']": "never close",
    "array(['Sool'": "never close",
    "('Sool', 'a'": "never close",
    "Sool', 'a']": "beginning is missing",
    "'Sool']": "beginning is missing",
    "['Sool'] river": "after the closing bracket",
    "['Sool' ... 'a']": "cut short",
    # other libraries' prints without quotes: two answers, or one?
    "[Sool, the Sool]": "without quotes",
    "[Sool]": "without quotes",
    "{Sool,\"the Sool\"}": "without quotes",
    "[[Sool]]": "without quotes",
    # quoting that went wrong
    "['it's']": "in brackets",
    '[""Sool""]': "in brackets|without commas",
    "[“Sool”, “a”]": "in brackets",
    "['a', 'b' 'c']": "comma is missing|comma missing",
    "['a'b']": "in brackets",
    "['a',, 'b']": "without quotes",
    "('a' 'b')": "without commas",
    # keys that no public set has, or not all of them
    "{'text': ['Sool']}": r"name a part with --answer-field: answer\.text",
    "{'Sool': 1}": r"answer\.Sool",
    "[{'text': 'Sool', 'start': 3}]": "object with the keys 'text', 'start'",
    "{'text': 'a', 'text': 'b', 'answer_start': 1}": "twice",
    '{"text": "a", "text": "b", "answer_start": 1}': "twice",
    "{'text': [18], 'answer_start': [1]}": r"answer\.text",
    # numbers where texts belong, or not plain what they are
    "('Sool', 0.93)": "a text beside a number",
    "[('Sool', 3), ('a', 4)]": "a text beside a number",
    "[['Sool', 0.9]]": "a text beside a number",
    'c(a = "Sool", b = "a")': "where|without quotes|not known",
    "character(0)": "not known",
    "'Sool', 'the Sool'": "without brackets around them",
    '"Sool", "the Sool"': "without brackets around them",
    "Sool,[object Object]": "printed by its address",
    "System.Object[]": "printed by its address",
    "(1, 2)": "point or interval",
    "{1, 2}": "point or interval",
    "[007]": "in brackets",
    "[Infinity]": "not text",
    # what is left of an object
    "<pyarrow.lib.StringArray object at 0x7f1>\n[\n  \"a\"\n]": "printed by its address",
    "<zip object at 0x7f00>": "printed by its address",
    "['<zip object at 0x7f00>']": "printed by its address",
    "0    a\n1    b\ndtype: object": "Series",
    "b'Sool'": "bytes",
    "tensor([1, 2])": "not known",
    "OrderedDict([('text', ['Sool'])])": "not known",
    "#REF!": "spreadsheet",
    '="007"': "spreadsheet",
    # nothing, printed
    "nan": "tables write that for nothing",
    "NA": 'an answer of that name: \\["NA"\\]',
    "None": "tables write that for nothing",
    "<NA>": "tables write that for nothing",
    "#N/A": "tables write that for nothing",
    "No Answer Present.": "a set's sign for no answer",
    "['No Answer Present.']": "a set's sign for no answer",
    "CANNOTANSWER": "a set's sign for no answer",
    "P(A|B)": "within brackets: one answer, or several",
    "1.23457E+12": "spreadsheets shorten",
    "['nan']": "missing value printed",
    "nan | Sool": "missing value printed",
    "[]": "no answer",
    "{'text': [], 'answer_start': []}": "no answer",
    "[None]": "no answer",
    "  ": "is '': tables|is empty",
    # bombs
    "[" * 100_000: "never close|too deep",
    "[" * 1000 + "]" * 1000: "too deep",
    "[" + "9" * 5000 + "]": "digits|in brackets",
}  # fmt: skip


@pytest.mark.parametrize("cell", UNDERSTOOD)
def test_containers_that_are_understood(cell: str) -> None:
    assert accepted(cell) == UNDERSTOOD[cell]


@pytest.mark.parametrize("cell", PLAIN)
def test_plain_text_stays_as_it_is(cell: str) -> None:
    assert accepted(cell) == (cell,)
    assert accepted([cell], printed=False) == (cell,)


@pytest.mark.parametrize("cell", REFUSED, ids=lambda cell: cell[:30])
def test_what_lies_between_is_refused_by_place(cell: str) -> None:
    with pytest.raises(DataError, match=REFUSED[cell]) as told:
        accepted(cell)
    assert str(told.value).startswith("q.csv:7: ")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (date(1922, 5, 1), ("1922-05-01",)),
        (datetime(1922, 5, 1), ("1922-05-01",)),
        (datetime(1922, 5, 1, 12, 30), ("1922-05-01 12:30:00",)),
        (Decimal("3.00"), ("3",)),
        (Decimal("3.50"), ("3.50",)),
        (1e20, ("100000000000000000000",)),
        (0.1, ("0.1",)),
        (1e-05, ("0.00001",)),
        (Decimal("1E-7"), ("0.0000001",)),
        ("1.23E+12", ("1.23E+12",)),
        (b"Sool", ("Sool",)),
        ([["Sool"], None, float("nan"), 3.0, False], ("Sool", "3", "no")),
        ({"text": ["Sool"], "answer_start": [18]}, ("Sool",)),
        (TRIVIA, ("Sool", "the Sool", "Sool River")),
        ("None", ("None",)),
        ("NA", ("NA",)),
        ("True", ("True",)),
        ("3.0", ("3.0",)),
    ],
)
def test_typed_values_are_what_a_person_would_write(value: Any, read: tuple[str, ...]) -> None:
    assert accepted(value, printed=False) == read


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("inf"), "is a float, not text"),
        (b"\xff\x00", "is a bytes, not text"),
        (datetime(1922, 5, 2) - datetime(1922, 5, 1), "is a timedelta, not text"),
        (-1504396800000, "day in milliseconds"),
        ({"spans": ["a"]}, r"answer\.spans"),
        ("nan", "missing value printed"),
        (["<NA>"], "missing value printed"),
        ([float("nan")], "no answer"),
        (["['Sool', 'a"], "never close"),
        ([["Sool", 0.93]], "a text beside a number"),
    ],
)
def test_typed_values_that_no_text_is(value: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        accepted(value, printed=False)


def test_parts_of_a_printed_object_can_be_named() -> None:
    row = Row("q.csv:2", "q", {"question": "which?", "answer": "{'text': ['Sool'], 'start': 3}"}, True)
    assert Fields(answer="answer.text").answers(row) == ("Sool",)
    with pytest.raises(DataError, match="no field 'answer.texts'"):
        Fields(answer="answer.texts").answers(row)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("['one', 'two']", "one\n\ntwo"),
        ("['one'\n 'two']", "one\n\ntwo"),
        ("[REC] is a film", "[REC] is a film"),
        ("[REC]", "[REC]"),
        ("{{stub}}", "{{stub}}"),
        ('{"a": 1} is JSON.', '{"a": 1} is JSON.'),
        ("(Sool)", "(Sool)"),
    ],
)
def test_printed_documents(cell: str, text: str) -> None:
    assert Fields().title_and_text(Row("d.csv:2", "d", {"text": cell}, True)) == ("", text)
    typed = Row("d.jsonl:2", "d", {"text": cell})
    assert Fields().title_and_text(typed) == ("", cell), "a text in a typed file is that text"


@pytest.mark.parametrize("cell", ["['one', 'tw", "{'body': 'x'}", "['one' two]", "[1, 2]", "nan"])
def test_printed_documents_that_are_refused(cell: str) -> None:
    with pytest.raises(DataError, match=r"^d\.csv:2: field 'text'"):
        Fields().title_and_text(Row("d.csv:2", "d", {"text": cell}, True))


def test_nothing_in_an_optional_cell_is_nothing_and_told() -> None:
    fields = Fields()
    row = Row("d.csv:2", "d", {"id": "NA", "title": "nan", "text": "Old."}, True)
    assert fields.title_and_text(row) == ("", "Old.")
    assert fields.one(row, "id") is None
    assert fields.used["id: id, 'NA' read as nothing"] == 1


# ------------------------------------------------------------------------------- for all contents

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
WORD = TEXT.filter(lambda t: not blank(t) and t.strip() not in cells.PRINTED_MISSING)
SAFE = WORD.filter(lambda t: not any(c in t for c in "[]{}()<>#=") and not t.strip().startswith("b"))


def once(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(cells.instant(text).split()) for text in texts))


@given(st.lists(SAFE, min_size=1, max_size=4))
def test_every_print_of_a_list_comes_back(texts: list[str]) -> None:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    forms = [
        str(texts),
        json.dumps(texts),
        json.dumps(json.dumps(texts)),
        str(tuple(texts)),
        str(array),
        repr(array),
    ]
    forms += [str([texts]), str({"text": texts, "answer_start": [0] * len(texts)})]
    forms += [
        str({"text": array, "answer_start": np.zeros(len(texts), int)}),
        str([np.str_(t) for t in texts]),
    ]
    for form in forms:
        assert accepted(form) == once(texts), form


@given(st.lists(SAFE, min_size=1, max_size=3), st.data())
def test_a_list_cut_anywhere_is_never_taken_for_something_else(texts: list[str], data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from([str(texts), json.dumps(texts), str({"text": texts, "answer_start": [1]})])
    )
    with pytest.raises(DataError):
        accepted(whole[: data.draw(st.integers(2, len(whole) - 1))])


@given(st.text(st.sampled_from("[](){}'\", ab1:\\N\nn"), max_size=20), st.booleans())
def test_no_cell_crashes_and_none_is_changed_unless_it_is_a_container(cell: str, strict: bool) -> None:
    try:
        value = cells.read(cell, strict)
    except cells.NotUnderstood:
        return
    assert value == cell or not isinstance(value, str) or cell.strip().startswith('"')
