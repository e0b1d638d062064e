"""Which field is what: names that leave it open are told, aliases and options are read, and with them multiple choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from owndata_toys import ROWS, bring, lines

from s3mini.choices import right_options, with_options
from s3mini.corpus import read_questions
from s3mini.errors import DataError
from s3mini.owndata import Fields
from s3mini.owndata.files import Row
from s3mini.owndata.shapes import COMMON
from s3mini.profile import Profile


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ({"question": "q", "answer": "what a model said", "ground_truth": "Sool"}, "answer"),  # RAGAS
        ({"answers": ["Sool"], "target": "Sool, the"}, "answer"),
        ({"document": "report.pdf", "chunk": "It spans the Sool."}, "text"),
        ({"text": "An abstract.", "body": "The whole."}, "text"),
    ],
)
def test_of_two_common_names_for_what_decides_none_is_taken(values: dict[str, Any], role: str) -> None:
    row, names = Row("q.jsonl:2", "q", values), [name for name in values if name in COMMON[role]]
    with pytest.raises(
        DataError, match=rf"q.jsonl:2: '{names[0]}' and '{names[1]}' both look .*--{role}-field"
    ):
        Fields().key(row, role)
    assert Fields(**{role: names[1]}).key(row, role) == names[1]


def test_aliases_are_accepted_and_questions_without_answer_are_told() -> None:
    fields = Fields()
    musique = {"question": "who?", "answer": "Bob", "answer_aliases": ["Robert", "Bob"], "answerable": True}
    assert fields.answers(Row("q:1", "q", musique)) == ("Bob", "Robert")
    assert fields.used["answer: answer_aliases"] == 1
    assert Fields(answer="answer").answers(Row("q:1", "q", musique)) == ("Bob",)
    printed = {**musique, "answer_aliases": "['Robert']", "answerable": "True"}
    assert fields.answers(Row("q:1", "q", printed, True)) == ("Bob", "Robert")
    assert fields.answers(Row("q:1", "q", {**printed, "answer_aliases": "nan"}, True)) == ("Bob",)
    assert fields.answers(Row("q:1", "q", {**musique, "is_impossible": {"x": [1]}})) == ("Bob", "Robert")
    for key, said in (("answerable", False), ("answerable", "False"), ("is_impossible", True)):
        with pytest.raises(
            DataError, match=rf"^q:1: a question without answer: {key} is {said} .*--skip-bad"
        ):
            fields.answers(Row("q:1", "q", {**musique, key: said}))


def test_two_fields_of_one_name_are_not_chosen_from() -> None:
    row = Row("q.csv:2", "q", {"Answer": "a", "answer": "b"}, True)
    with pytest.raises(DataError, match="'Answer' and 'answer' both look like the answer .*--answer-field"):
        Fields().answers(row)


# -------------------------------------------------------------------------------- multiple choice

WXYZ = ["w", "x", "y", "z"]
CHOICES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "a letter": ({"choices": WXYZ, "answer": "C"}, WXYZ, ["y"]),
    "a text": ({"options": WXYZ, "answer": "y"}, WXYZ, ["y"]),
    "several": ({"options": WXYZ, "answer": ["C", "d"]}, WXYZ, ["y", "z"]),
    "by letter, with a gap": ({"options": {"A": "w", "B": "x", "C": None}, "answer": "B"}, ["w", "x"], ["x"]),
    "columns": ({"A": "w", "B": "x", "C": "y", "answer": "b"}, ["w", "x", "y"], ["x"]),
    "columns, fewer": ({"a": "w", "b": "None", "c": "", "answer": "b"}, ["w", "None"], ["None"]),
    "columns, MedMCQA's": ({"opa": "w", "opb": "x", "opc": "y", "opd": "z", "answer": "C"}, WXYZ, ["y"]),
    "columns, with a word": ({"Option_A": "w", "Option_B": "x", "answer": "B"}, ["w", "x"], ["x"]),
    "columns, by number": ({"choice 1": "w", "choice 2": "x", "answer": "x"}, ["w", "x"], ["x"]),
    "a list beside columns": ({"options": WXYZ, "A": "v", "B": "u", "answer": "C"}, WXYZ, ["y"]),
    "one column": ({"options": WXYZ, "option_a": "v", "answer": "C"}, WXYZ, ["y"]),
    "numbers": ({"options": [2, 4, 8], "answer": 8}, ["2", "4", "8"], ["8"]),
    "this package's": ({"answer": "C", "metadata": {"options": WXYZ, "stem": "Which?"}}, WXYZ, ["y"]),
}


@pytest.mark.parametrize("case", CHOICES)
def test_multiple_choice_stays_multiple_choice(profile: Profile, tmp_path: Path, case: str) -> None:
    values, options, right = CHOICES[case]
    asked = "Which? Options: (A) w (B) x (C) y (D) z" if "metadata" in values else "Which?"
    documents = lines(tmp_path / "d.jsonl", ROWS)
    bring(profile, documents, lines(tmp_path / "q.jsonl", [{"question": asked, **values}]))
    (question,) = read_questions(profile.build / "import/questions/mine/test.jsonl")
    assert question.stem == "Which?" and question.question == with_options("Which?", options)
    assert (question.metadata["options"], [*right_options(question).values()]) == (options, right)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"choices": WXYZ, "answer": 2}, r"the accepted answer '2' is none of them \(give its letter"),
        ({"choices": ["1", "2", "3"], "answer": 2}, "'2' is an option, and may be another's place"),
        ({"options": ["B", "A", "AB"], "answer": "A"}, "'A' is an option, and may be another's place"),
        ({"choices": {"text": WXYZ, "label": [*"ABCD"]}, "answer": "A"}, r"--options-field: choices\.text"),
        ({"options": {"A": "w", "C": "x", "D": "y"}, "answer": "C"}, r"--options-field: options\.A"),
        ({"options": "A) w B) x", "answer": "A"}, "the options are no list"),
        ({"options": ["w", None, "y"], "answer": "A"}, "holds ''"),
        ({"options": ["w", ["x"]], "answer": "A"}, "an option is a list, not text"),
        ({"A": "w", "B": "x", "answer": "v"}, "'v' is none of them"),
        ({"opa": "w", "opb": "x", "opc": "y", "answer": 1}, r"'1' is none of them \(give its letter"),
    ],
)
def test_options_that_cannot_be_scored_are_told(
    profile: Profile, tmp_path: Path, values: dict[str, Any], told: str
) -> None:
    asked = lines(tmp_path / "q.jsonl", [{"question": "Which?", **values}])
    with pytest.raises(DataError, match=rf"q\.jsonl:1: .*{told}"):
        bring(profile, lines(tmp_path / "d.jsonl", ROWS), asked)
