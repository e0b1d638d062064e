"""Tables whose quoting is not what their ending promises, and what pandas and pyarrow write, in all their formats."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3mini.errors import DataError
from s3mini.owndata import Fields
from s3mini.owndata.files import read_rows

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
feather, parquet = pytest.importorskip("pyarrow.feather"), pytest.importorskip("pyarrow.parquet")

Pairs = list[tuple[str, tuple[str, ...]]]
GOOD: Pairs = [("which river?", ("Sool",)), ("who, then?", ("me; you",))]


def pairs(path: Path) -> Pairs:
    fields = Fields()
    rows = [(fields.one(row, "question"), fields.answers(row)) for row in read_rows(path)]
    return [(question or "", answers) for question, answers in rows]


JSON = [{"question": question, "answer": answers[0]} for question, answers in GOOD]
LINES = "".join(json.dumps(row) + "\n" for row in JSON)
READ: dict[str, tuple[str, bytes | str]] = {
    "comma": ("q.csv", 'question,answer\nwhich river?,Sool\n"who, then?",me; you\n'),
    "tabs in .csv": ("q.csv", "question\tanswer\nwhich river?\tSool\nwho, then?\tme; you\n"),
    "semicolons in .csv": ("q.csv", 'question;answer\nwhich river?;Sool\nwho, then?;"me; you"\n'),
    "bars in .csv": ("q.csv", "question|answer\nwhich river?|Sool\nwho, then?|me; you\n"),
    "commas in .tsv": ("q.tsv", 'question,answer\nwhich river?,Sool\n"who, then?",me; you\n'),
    "quotes in .tsv": ("q.tsv", '"question"\t"answer"\n"which river?"\t"Sool"\n"who, then?"\t"me; you"\n'),
    "comma in a header": ("q.csv", '"question";answer;"a,b"\nwhich river?;Sool;\nwho, then?;"me; you";x\n'),
    "both in the header": ("q.csv", "question;answer;a,b\nwhich river?;Sool;\nwho, then?;\"me; you\";x\n"),
    "sep=": ("q.csv", 'sep=;\nquestion;answer\nwhich river?;Sool\nwho, then?;"me; you"\n'),
    "mark, CRLF, sep=": ("q.csv", b'\xef\xbb\xbf"sep=;"\r\nquestion;answer\r\nwhich river?;Sool\r\nwho, then?;"me; you"\r\n'),
    "CR": ("q.csv", 'question,answer\rwhich river?,Sool\r"who, then?",me; you\r'),
    "blank lines": ("q.csv", '\nquestion,answer\n\nwhich river?,Sool\n\n"who, then?",me; you\n\n'),
    "blanks after commas": ("q.csv", 'question, answer\n"which river?", "Sool"\n"who, then?", "me; you"\n'),
    "an index without a name": ("q.csv", ',,question,answer\n0,1,which river?,Sool\n1,0,"who, then?",me; you\n'),
    "lines in .json": ("q.json", LINES),
    "a list in .jsonl": ("q.jsonl", json.dumps(JSON)),
    "a marked list in .jsonl": ("q.jsonl", "\ufeff\n" + json.dumps(JSON, indent=1)),
    "columns as lists": ("q.json", json.dumps({key: [row[key] for row in JSON] for key in JSON[0]})),
    "gzip, in capitals": ("Q.JSONL.GZ", gzip.compress(LINES.encode())),
    "CRLF lines": ("q.jsonl", LINES.replace("\n", "\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_a_table_is_what_it_holds(tmp_path: Path, case: str) -> None:
    name, content = READ[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert pairs(tmp_path / name) == GOOD


def test_one_object_is_one_row(tmp_path: Path) -> None:
    dpr = {**JSON[0], "ctxs": [{"title": "Sool", "text": "A river."}]}
    for text in (json.dumps(JSON[0]), json.dumps(JSON[0]) + "\n", json.dumps(dpr)):
        (tmp_path / "q.json").write_text(text)
        assert pairs(tmp_path / "q.json") == GOOD[:1]


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('sep=,\nquestion,answer\n\n"a\nb?",x\nc?,y\n')
    assert [row.place.rpartition(":")[2] for row in read_rows(tmp_path / "q.csv")] == ["4", "6"]


REFUSED: dict[str, tuple[str, bytes | str, str]] = {
    "UTF-16": ("q.csv", "question,answer\na?,b\n".encode("utf-16"), r"q\.csv: UTF-16 text"),
    "UTF-16 without a mark": ("q.csv", "question,answer\na?,b\n".encode("utf-16-le"), r"q\.csv:1: a binary file"),
    "UTF-16 lines": ("q.jsonl", LINES.encode("utf-16"), r"q\.jsonl:1: invalid UTF-8"),
    "latin-1": ("q.csv", "question,answer\ncaf\xe9?,b\n".encode("latin-1"), r"q\.csv:2: invalid UTF-8"),
    "NUL": ("q.csv", "question,answer\na?,b\nc\0?,d\n", r"q\.csv:3: a binary file"),
    "open quote": ("q.csv", 'question,answer\na?,b\n"c?,d\ne?,f\n', r"q\.csv:3: .*a quote is open or misplaced"),
    "quote after text": ("q.csv", 'question,answer\n"a" b?,c\n', r"q\.csv:2: .*a quote is open or misplaced"),
    "quotes that are text": ("q.tsv", 'question\tanswer\n"Heroes?\tx\nwhy?\ty\nWho "z"\tw"\n', r"q\.tsv:2: "),
    "a quote that joins rows": ("q.tsv", 'question\tanswer\n"Heroes?\tx\nwhy "?\ty"\tz\nc\td\n', r"q\.tsv:2: "),
    "rows joined alike": ("q.tsv", 'question\tanswer\nHeroes?\t"x\nwhy?\ty"\n', r"q\.tsv:2: a quote joins whole rows, up to line 3"),
    "backslashes for quotes": ("q.csv", 'question,answer\nwhat is \\"a\\"?,b\n', r"q\.csv:2: a quote after a backslash"),
    "backslashes in quotes": ("q.csv", 'question,answer\n"what is \\"a\\"?",b\n', r"q\.csv:2: .*a quote is open or misplaced"),
    "backslash for a comma": ("q.csv", "question,answer\nwho\\, then?,b\n", r"q\.csv:2: 3 cells in a row, 2 columns"),
    "two signs": ("q.csv", "question;answer,x\na?;b,c\nd?;e,f\n", r"q\.csv:1: ',' and ';' both divide the columns"),
    "more cells than columns": ("q.csv", "question,answer\n0,a?,b\n", r"q\.csv:2: 3 cells in a row, 2 columns"),
    "fewer": ("q.csv", "question,answer\na?\n", r"q\.csv:2: 1 cells in a row, 2 columns"),
    "a column without a name": ("q.csv", ",question,answer,\n0,a?,b,\n1,c?,d,e\n", r"q\.csv:3: 'e' stands in a column without a name"),
    "options": ("q.csv", "Question,A,B,C\na?,b,c,d\n", r"q\.csv:2: no field that looks like the answer"),
    "twins": ("q.csv", "question,answer,answer\na?,b,c\n", r"q\.csv:1: two columns are called 'answer'"),
    "JSON in .csv": ("q.csv", LINES, r"q\.csv:1: .*quote"),
    "CSV in .jsonl": ("q.jsonl", "question,answer\na?,b\n", r"q\.jsonl:1: malformed JSON"),
    "a list a line": ("q.jsonl", '["a?", "b"]\n["c?", "d"]\n', r"q\.jsonl:2: malformed JSON: Extra data"),
    "values": ("q.json", '[["a?", "b"]]', r"q\.json:item 1: a list, not an object"),
    "a key twice": ("q.jsonl", '{"question": "a?", "answer": "b", "answer": "c"}\n', r"q\.jsonl:1: .*'answer' twice"),
    "a key twice in .json": ("q.json", '[{"question": "a?", "question": "b"}]', r"q\.json: .*'question' twice"),
    "a number without end": ("q.jsonl", '{"question": "a?", "answer": 1' + "0" * 5000 + "}\n", r"q\.jsonl:1: .*digits"),
    "two tables joined": ("q.csv", "question,answer\na?,b\n\ufeffquestion,answer\nc?,d\n", r"q\.csv:3: the columns' names again, as in line 1"),
    "a text above the rows": ("q.json", json.dumps({"question": "an example?", "answer": "x", "data": JSON}), r"q\.json: no list of objects"),
    "lists of two lengths": ("q.json", '{"question": ["a?"], "answer": ["b", "c"]}', r"q\.json: no list of objects"),
    "neither rows nor columns": ("q.json", '{"a": {"x": 1}, "b": {"x": 2}}', r"q\.json: no list of objects"),
    "no Arrow": ("q.feather", b"ARROW1\0\0 no", r"q\.feather:row 1: no Arrow file"),
    "no stream": ("q.arrow", b"no", r"q\.arrow:row 1: no Arrow file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_right_is_refused_by_place(tmp_path: Path, case: str) -> None:
    name, content, told = REFUSED[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=told):
        pairs(tmp_path / name)


def test_damaged_offsets_of_arrow_are_refused(tmp_path: Path) -> None:
    """Arrow itself reads beyond the file then, and the interpreter dies."""
    import pyarrow

    asked = [{"question": f"Where is town {i}?", "answer": "by the river"} for i in range(3)]
    feather.write_feather(
        pyarrow.Table.from_pylist(asked), tmp_path / "whole.feather", compression="uncompressed"
    )
    whole = (tmp_path / "whole.feather").read_bytes()
    offsets = b"".join(end.to_bytes(4, "little") for end in (0, 12, 24, 36))
    assert whole.count(offsets) == 1
    (tmp_path / "q.feather").write_bytes(whole.replace(offsets, offsets[:4] + b"made" + offsets[8:]))
    assert len(pairs(tmp_path / "whole.feather")) == 3
    with pytest.raises(
        DataError, match=r"q\.feather:row 1: no Arrow file, or a damaged one .* write it again"
    ):
        pairs(tmp_path / "q.feather")


def test_twin_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    table = pa.table([["a?"], ["b"], ["c"]], names=["question", "answer", "answer"])
    parquet.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q\.parquet: two columns are called 'answer'"):
        pairs(tmp_path / "q.parquet")


# ------------------------------------------------------------------------- pandas and pyarrow


def quoted(style: int) -> Callable[[Any, Path], object]:
    return lambda frame, path: frame.to_csv(path, quoting=style)


def orient(how: str) -> Callable[[Any, Path], object]:
    return lambda frame, path: frame.to_json(path, orient=how, date_format="iso")


def stream(frame: Any, path: Path) -> None:
    table = pa.Table.from_pandas(frame)
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table)


def arrow_csv(style: str) -> Callable[[Any, Path], object]:
    from pyarrow.csv import WriteOptions, write_csv

    return lambda f, p: write_csv(
        pa.Table.from_pandas(f, preserve_index=False), p, WriteOptions(quoting_style=style)
    )


PRINTED: dict[str, Callable[[Any, Path], object]] = {
    **{f"{style}.csv": quoted(style) for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)},
    "noindex.csv": lambda frame, path: frame.to_csv(path, index=False),
    "semicolon.csv": lambda frame, path: frame.to_csv(path, sep=";", index=False),
    "crlf.csv": lambda frame, path: frame.to_csv(path, lineterminator="\r\n"),
    "mark.csv": lambda frame, path: frame.to_csv(path, encoding="utf-8-sig"),
    "none.csv": lambda frame, path: frame.to_csv(path, quoting=csv.QUOTE_NONE, escapechar="\\"),
    "backslash.csv": lambda frame, path: frame.to_csv(path, doublequote=False, escapechar="\\"),
    "d.tsv": lambda frame, path: frame.to_csv(path, sep="\t"),
}
TYPED: dict[str, Callable[[Any, Path], object]] = {
    **{f"{how}.json": orient(how) for how in "records split index columns table".split()},
    "lines.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, date_format="iso"),
    "lines.json": lambda frame, path: frame.to_json(path, orient="records", lines=True, date_format="iso"),
    "records.jsonl": orient("records"),
    "d.parquet": lambda frame, path: frame.to_parquet(path),
    "d.feather": lambda frame, path: frame.to_feather(path),
    "stream.arrow": stream,
}
WRITERS = {**PRINTED, **TYPED}
FLAT = {"arrow.csv": arrow_csv("needed"), "arrow-all.csv": arrow_csv("all_valid")}  # it writes no lists

WORDS = st.text(st.sampled_from("ab é'\"\\,;\t|\n%&:.-_漢"), min_size=1, max_size=10)
TEXT = WORDS.map(
    lambda text: f"q{text}?"
)  # no number, no missing value, nothing in brackets: test_cells has those
folders = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def one_line(text: str) -> str:
    return " ".join(text.split())


def expect(frame: Any, path: Path, wanted: Pairs) -> None:
    """The same; or refused by its line, where quotes and backslashes, or tabs, leave two readings of a text file."""
    backslashes = path.stem in ("none", "backslash")
    if backslashes and any("\\" in text for q, answers in wanted for text in (q, *answers)):
        return  # they are written twice there, which nothing in the file tells
    try:
        found = pairs(path)
    except DataError as error:
        assert path.suffix in (".csv", ".tsv") and re.match(rf"{re.escape(str(path))}:\d+: ", str(error))
        told = "a quote (after a backslash|joins whole rows)|both divide the columns"
        told += "|cells in a row|a quote is open|in brackets|never close" * backslashes
        assert re.search(told, str(error)), error
        return
    assert found == [(one_line(q), tuple(dict.fromkeys(map(one_line, a)))) for q, a in wanted]


@pytest.mark.parametrize("name", [*WRITERS, *FLAT])
@folders
@given(st.lists(st.tuples(TEXT, TEXT.map(lambda t: t.replace("|", "/"))), min_size=1, max_size=4))
def test_texts_come_back(tmp_path: Path, name: str, rows: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["question", "answer"])
    {**WRITERS, **FLAT}[name](frame, tmp_path / name)
    expect(frame, tmp_path / name, [(question, (answer,)) for question, answer in rows])


@pytest.mark.parametrize("name", WRITERS)
@folders
@given(
    st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4), st.booleans()
)
def test_lists_come_back(tmp_path: Path, name: str, rows: list[tuple[str, list[str]]], squad: bool) -> None:
    import numpy as np

    shown: list[Any] = [np.array(a, dtype=object) if i % 2 else a for i, (_, a) in enumerate(rows)]
    if squad:
        shown = [{"text": list(a), "answer_start": [0] * len(a)} for a in shown]
    frame = pd.DataFrame({"question": [q for q, _ in rows], "answer": shown})
    WRITERS[name](frame, tmp_path / name)
    expect(frame, tmp_path / name, [(question, tuple(answers)) for question, answers in rows])


DAY = datetime(1922, 5, 1)
COLUMNS: dict[str, tuple[Any, str]] = {
    "days": (pd.Series([DAY, DAY]), "1922-05-01"),
    "dates": (pd.Series([DAY.date()] * 2, dtype=object), "1922-05-01"),
    "floats": (pd.Series([3.0, None]), "3"),
    "integers": (pd.Series([3, None], dtype="Int64"), "3"),
    "single precision": (pd.Series([0.1, None], dtype="float32"), "0.1"),
    "booleans": (pd.Series([True, False]), "yes"),
    "nullable booleans": (pd.Series([True, None], dtype="boolean"), "yes"),
    "categories": (pd.Series(["Sool", "a"], dtype="category"), "Sool"),
    "strings": (pd.Series(["Sool", None], dtype="string"), "Sool"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("column", COLUMNS)
def test_typed_columns_come_back_as_a_person_writes_them(tmp_path: Path, name: str, column: str) -> None:
    values, text = COLUMNS[column]
    WRITERS[name](pd.DataFrame({"question": ["a?", "b?"], "answer": values}), tmp_path / name)
    fields = Fields()
    first, second = read_rows(tmp_path / name)
    if column == "single precision" and "json" in name:
        text = "0.1000000015"  # what pandas writes there, where no type tells that fewer digits are meant
    assert fields.answers(first)[0] == text
    if values.isna().iloc[1]:
        with pytest.raises(DataError, match="field 'answer' is empty"):
            fields.answers(second)


@pytest.mark.parametrize("name", ["d.parquet", "d.feather", "stream.arrow"])
def test_types_that_only_arrow_has(tmp_path: Path, name: str) -> None:
    from decimal import Decimal

    values = {
        "decimal": (pa.array([Decimal("3.50")]), "3.50"),
        "whole decimal": (pa.array([Decimal("3.00")]), "3"),
        "bytes": (pa.array([b"Sool"]), "Sool"),
        "half lists": (pa.array([[0.1]], pa.list_(pa.float32())), "0.1"),
        "dictionary": (pa.array(["Sool"]).dictionary_encode(), "Sool"),
        "struct": (pa.array([{"text": ["Sool"], "answer_start": [3]}]), "Sool"),
    }
    for array, text in values.values():
        frame = pa.table({"question": ["a?"], "answer": array})
        if name.endswith("parquet"):
            parquet.write_table(frame, tmp_path / name)
        elif name.endswith("feather"):
            feather.write_feather(frame, tmp_path / name)
        else:
            with pa.ipc.new_stream(tmp_path / name, frame.schema) as out:
                out.write_table(frame)
        assert pairs(tmp_path / name) == [("a?", (text,))]


@folders
@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from("question,answer;\t|\n\"[]{}': \\sep=aé"), max_size=60).map(str.encode)
)
def test_no_bytes_crash_a_reader(tmp_path: Path, raw: bytes) -> None:
    for name in ("q.csv", "q.tsv", "q.json", "q.jsonl", "q.parquet", "q.arrow", "q.html", "q.txt"):
        (tmp_path / name).write_bytes(b"question,answer\n" + raw if name == "q.csv" else raw)
        try:
            pairs(tmp_path / name)
        except DataError as error:
            assert name in str(error)
