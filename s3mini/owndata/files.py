"""Other people's files as rows: JSON lines, JSON, CSV, TSV, parquet, Arrow, text, Markdown, HTML, or a folder of them.

Every row knows its place (``file:line``), which leads each error message. What cannot be read is handed to
``bad``, which stops (the default) or counts; nothing is left out in silence.

A file is what it holds, where its ending promises something else of its kind: ``.csv`` and ``.tsv`` are divided by the one
sign of `DELIMITERS` that divides every record alike (``sep=;`` in the first line decides); JSON lines may be called
``.json``, and one list ``.jsonl``; JSON may have each ``orient`` of pandas that names its columns. Columns
without a name before the first that has one (a data frame's index) are left away; a cell in a later one is refused. Backslashes are text: a quote or a sign behind one is refused. Text is UTF-8; any other encoding is refused, not guessed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..corpus import Bad, json_lines, stop
from ..errors import DataError
from .html import page_text
from .printed import NotUnderstood, loads
from .shapes import rows_in

DELIMITERS = ",;\t|"
LONGEST_CELL = 1 << 30  # characters; the csv module refuses more than 131,072 unless told
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """One record: where it stands, a name to fall back on where it brings no id, and its fields.

    ``printed``: from a table without types, so that every value is a text, whatever it was before (`cells`).
    """

    place: str
    name: str
    values: Mapping[str, Any]
    printed: bool = False


def read_rows(path: str | Path, bad: Bad = stop, without: Path | None = None) -> Iterator[Row]:
    """Rows of a file, or of every file below a folder, in the order of their names; hidden ones are left alone.

    Args:
        bad: told of each row or file that cannot be read.
        without: a file or folder below the folder that is something else (the questions).

    Raises:
        DataError: no such file, nothing in it, a damaged file; and whatever ``bad`` raises.
    """
    path = Path(path)
    if path.is_dir():
        found = [p.relative_to(path) for p in sorted(path.rglob("*"))]
        found = [name for name in found if not any(part.startswith(".") for part in name.parts)]
        for name in found:
            if (path / name).is_symlink() and not (
                path / name
            ).is_file():  # not followed: it may lead in a circle
                bad(
                    DataError(
                        f"{path / name}: a link to a folder, or to nothing (put the files themselves there)"
                    )
                )
        names = [name for name in found if (path / name).is_file()]
        if without is not None:
            names = [name for name in names if not (path / name).resolve().is_relative_to(without.resolve())]
        if not names:
            raise DataError(f"{path}: the folder holds no file (put {', '.join(READERS)} there)")
        for name in names:
            yield from _read(path / name, name.as_posix(), bad)
    elif path.is_file():
        yield from _read(path, path.name, bad)
    else:
        raise DataError(f"{path}: no such file or folder (check the path you gave)")


def _read(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    reader = next((READERS[suffix] for suffix in READERS if path.name.lower().endswith(suffix)), None)
    if reader is not None:
        yield from reader(path, name, bad)
    else:
        kinds = ", ".join(READERS)
        bad(DataError(f"{path}: files of this kind cannot be read (convert it to one of {kinds})"))


# ------------------------------------------------------------------------------------ text files


def _decoded(raw: bytes, path: Path) -> str:
    """UTF-8 text, a byte-order mark taken off, line ends as ``\\n``.

    Raises:
        DataError: another encoding, or no text at all; names the line.
    """
    if raw.startswith(_UTF16):
        raise DataError(f"{path}: UTF-16 text (convert the file with iconv -f UTF-16 -t UTF-8)")
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a binary file, not text (leave it out, or give its text)")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        remedy = "convert the file, for example with iconv -f LATIN1 -t UTF-8"
        raise DataError(f"{path}:{line}: invalid UTF-8 ({remedy})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    """A text file as one row; the heading that begins a Markdown file is its title."""
    try:
        title, text = "", _decoded(path.read_bytes(), path)
    except DataError as error:
        bad(error)
        return
    first, _, rest = text.lstrip().partition("\n")
    if path.suffix.lower() in (".md", ".markdown") and first.startswith("# "):
        title, text = first[2:].strip(), rest
    yield _titled(path, name, title, text)


def _html(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    try:
        title, text = page_text(path.read_bytes(), path)
    except DataError as error:
        bad(error)
        return
    yield _titled(path, name, title, text)


def _titled(path: Path, name: str, title: str, text: str) -> Row:
    return Row(str(path), name, {"title": title or path.stem.replace("_", " "), "text": text})


# ---------------------------------------------------------------------------------------- tables


def _json_lines(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    if path.suffix.lower() != ".gz" and _first_byte(path) == b"[":  # one list, which is no line of JSON lines
        yield from _json(path, name, bad)
        return
    for _, place, values in json_lines(path, bad, loads):
        yield Row(place, f"{name}:{place.rpartition(':')[2]}", values)


def _first_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def _records(text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and cells of every record that is not blank; quotes as RFC 4180 has them.

    Raises:
        csv.Error: a quote is open or misplaced.
    """
    reader = csv.reader(
        io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    begin = 1
    for row in reader:
        if row:
            yield begin, reader.line_num, row
        begin = reader.line_num + 1


def _delimiter(text: str, path: Path, promised: str) -> tuple[str, int]:
    """What divides a table, and the lines before its header.

    Raises:
        DataError: two signs divide every record alike.
    """
    said = re.match(r'"?sep=([^"\n])"?(?:\n|$)', text)
    if said is not None:
        return said[1], 1

    def width(delimiter: str) -> int:
        try:
            return len(next(_records(text, delimiter), (0, 0, [""]))[2])
        except csv.Error:
            return 1

    def fits(delimiter: str) -> bool:
        try:
            return len({len(row) for _, _, row in _records(text, delimiter)}) == 1
        except csv.Error:
            return False

    dividing = [delimiter for delimiter in DELIMITERS if width(delimiter) > 1]
    if len(dividing) < 2:
        return (dividing or [promised])[0], 0
    alike = [delimiter for delimiter in dividing if fits(delimiter)]
    if len(alike) == 1 or (promised == "\t" and promised in alike):
        return (promised if promised in alike else alike[0]), 0
    if not alike and promised in dividing:
        return promised, 0  # its records that do not fit are told one by one
    signs = " and ".join(map(repr, alike or dividing))
    raise DataError(
        f"{path}:1: {signs} both divide the columns (write 'sep=;', with the right one, as first line)"
    )


def _csv(path: Path, name: str, bad: Bad, promised: str = ",") -> Iterator[Row]:
    text = _decoded(path.read_bytes(), path)
    before = csv.field_size_limit(LONGEST_CELL)
    begin = end = 0
    try:
        delimiter, skipped = _delimiter(text, path, promised)
        lines = text.split("\n")
        records = _records("\n" * skipped + text.partition("\n")[2] if skipped else text, delimiter)
        line, begin, columns = next(records, (0, 0, []))
        columns = [column.strip() for column in columns]
        if not columns:
            raise DataError(f"{path}: the file is empty (the first line names the columns)")
        twice = next((c for c in columns if c and columns.count(c) > 1), None)
        if twice is not None:
            raise DataError(f"{path}:{begin}: two columns are called {twice!r} (rename one)")
        end = begin
        first = next((i for i, column in enumerate(columns) if column), len(columns))
        for begin, end, row in records:
            place = f"{path}:{begin}"
            rest = zip(row[first:], columns[first:], strict=False)
            nameless = [cell for cell, column in rest if cell.strip() and not column]
            if len(row) != len(columns):
                counts = f"{len(row)} cells in a row, {len(columns)} columns ({', '.join(columns)})"
                bad(DataError(f"{place}: {counts}: put cells that hold {delimiter!r} in quotes"))
            elif [cell.strip("\ufeff \t") for cell in row] == columns:
                bad(
                    DataError(
                        f"{place}: the columns' names again, as in line {line}: files joined? (remove it)"
                    )
                )
            elif nameless:
                bad(
                    DataError(
                        f"{place}: {nameless[0]!r} stands in a column without a name (name it in line {line})"
                    )
                )
            elif any('\\"' in cell for cell in row) and '\\""' not in "\n".join(lines[begin - 1 : end]):
                bad(DataError(f'{place}: a quote after a backslash (write it twice, "", in a quoted cell)'))
            elif end > begin and _lines_are_rows(lines[begin - 1 : end], delimiter, len(columns)):
                remedy = "put every cell in quotes, those inside it twice"
                bad(DataError(f"{place}: a quote joins whole rows, up to line {end}: is it text? ({remedy})"))
            else:
                values = {column: cell for column, cell in zip(columns, row, strict=True) if column}
                yield Row(place, f"{name}:{begin}", values, printed=True)
    except csv.Error as error:
        remedy = "a quote is open or misplaced: write quotes inside a cell twice"
        raise DataError(f"{path}:{end + 1}: {error} ({remedy})") from error
    finally:
        csv.field_size_limit(before)


def _lines_are_rows(lines: list[str], delimiter: str, columns: int) -> bool:
    """Whether each line of a record is a row by itself, so that its quote may be text, as .tsv files have it.

    Only where prose does not hold the delimiter, as it holds commas.
    """
    return delimiter in "\t|" and columns > 1 and all(line.count(delimiter) == columns - 1 for line in lines)


def _arrow(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    """Parquet, or Arrow's own files and streams (``.feather``, ``.arrow``)."""
    import pyarrow
    from pyarrow import ipc, parquet

    kind = "parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    number = 0
    try:
        with pyarrow.OSFile(str(path)) as file:
            if kind == "parquet":
                opened = parquet.ParquetFile(file)
                schema, batches = opened.schema_arrow, opened.iter_batches(batch_size=1024)
            else:
                reader = ipc.open_file(file) if file.read(6) == b"ARROW1" else ipc.open_stream(_begin(file))
                of_file = isinstance(reader, ipc.RecordBatchFileReader)
                schema = reader.schema
                batches = map(reader.get_batch, range(reader.num_record_batches)) if of_file else iter(reader)
            twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
            if twice is not None:
                raise DataError(f"{path}: two columns are called {twice!r} (rename one)")
            for batch in batches:
                batch.validate(full=True)  # reading past a damaged offset ends the process
                for values in batch.to_pylist():
                    number += 1
                    shown = {field.name: _shortest(values[field.name], field.type) for field in schema}
                    yield Row(f"{path}:row {number}", f"{name}:{number}", shown)
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        place, cause = f"{path}:row {number + 1}", str(error).partition("\n")[0]
        raise DataError(f"{place}: no {kind} file, or a damaged one ({cause}); write it again") from error


def _begin(file: Any) -> Any:
    file.seek(0)
    return file


def _shortest(value: Any, kind: Any) -> Any:
    """A value of an Arrow type whose numbers of 32 or 16 bits are the shortest that mean them: 0.1, not 0.1000000015."""
    import numpy as np
    from pyarrow import types

    if value is None or not (types.is_nested(kind) or types.is_floating(kind)):
        return value
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str((np.float32 if types.is_float32(kind) else np.float16)(value)))
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_shortest(item, kind.value_type) for item in value]
    return value


def _json(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    """A list of objects, in one of the forms of `rows_in`; JSON lines, where that is what it holds."""
    try:
        text = _decoded(path.read_bytes(), path)
        content = loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _json_lines(path, name, bad)
            return
        place, remedy = f"{path}:{error.lineno}", "one object a line goes into a .jsonl file"
        raise DataError(f"{place}: malformed JSON: {error.msg} ({remedy})") from error
    except NotUnderstood as error:
        raise DataError(f"{path}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply (give a list of flat objects)") from error
    items = content if isinstance(content, list) else rows_in(content)
    if items is None:
        raise DataError(f"{path}: no list of objects (write [{{…}}, {{…}}], or one object a line as .jsonl)")
    for number, values in enumerate(items, 1):
        place = f"{path}:item {number}"
        if isinstance(values, dict):
            yield Row(place, f"{name}:{number}", values)
        else:
            bad(DataError(f"{place}: a {type(values).__name__}, not an object (write {{…}} for each item)"))


READERS: dict[str, Callable[[Path, str, Bad], Iterator[Row]]] = {
    **dict.fromkeys((".jsonl", ".jsonl.gz", ".ndjson"), _json_lines),
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, promised="\t"),
    **dict.fromkeys((".parquet", ".feather", ".arrow"), _arrow),
    **dict.fromkeys((".txt", ".md", ".markdown"), _plain),
    **dict.fromkeys((".html", ".htm"), _html),
}
"""How a file is read, by the end of its name."""
