"""Other people's files as rows: JSON lines, JSON, CSV, TSV, parquet, text, Markdown, HTML, or a folder of them.

Every row knows its place (``file:line``), which leads each error message. What cannot be read is handed to
``bad``, which stops (the default) or counts; nothing is left out in silence.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..corpus import Bad, json_lines, stop
from ..errors import DataError

LONGEST_CELL = 1 << 30  # characters; the csv module refuses more than 131,072 unless told
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """One record: where it stands, a name to fall back on where it brings no id, and its fields."""

    place: str
    name: str
    values: Mapping[str, Any]


def read_rows(path: str | Path, bad: Bad = stop, without: Path | None = None) -> Iterator[Row]:
    """Rows of a file, or of every file below a folder, in the order of their names; hidden ones are left alone.

    Args:
        bad: told of each row or file that cannot be read.
        without: a file below the folder that is something else (the questions).

    Raises:
        DataError: no such file, nothing in it, a damaged file; and whatever ``bad`` raises.
    """
    path = Path(path)
    if path.is_dir():
        names = [p.relative_to(path) for p in sorted(path.rglob("*")) if p.is_file()]
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        names = [name for name in names if without is None or (path / name).resolve() != without.resolve()]
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
    """A page's title and visible text; the encoding is the page's own."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(path.read_bytes(), "html.parser")
    title = page.title.get_text() if page.title else ""
    for element in page(["script", "style", "template", "title", "nav"]):
        element.decompose()
    yield _titled(path, name, title, page.get_text("\n"))


def _titled(path: Path, name: str, title: str, text: str) -> Row:
    return Row(str(path), name, {"title": title or path.stem.replace("_", " "), "text": text})


# ---------------------------------------------------------------------------------------- tables


def _json_lines(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    for _, place, values in json_lines(path, bad):
        yield Row(place, f"{name}:{place.rpartition(':')[2]}", values)


def _csv(path: Path, name: str, bad: Bad, delimiters: str = ",;\t") -> Iterator[Row]:
    text = _decoded(path.read_bytes(), path)
    head = text.lstrip().partition("\n")[0]
    delimiter = max(delimiters, key=head.count)  # the first, where no line is divided
    before = csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next((row for row in reader if row), [])]
        if not columns:
            raise DataError(f"{path}: the file is empty (the first line names the columns)")
        twice = next((c for c in columns if columns.count(c) > 1), None)
        if twice is not None:
            raise DataError(f"{path}:{reader.line_num}: two columns are called {twice!r} (rename one)")
        begin = reader.line_num + 1
        for cells in reader:
            line, begin = begin, reader.line_num + 1
            if len(cells) == len(columns):
                yield Row(f"{path}:{line}", f"{name}:{line}", dict(zip(columns, cells, strict=True)))
            elif cells:
                counts = f"{len(cells)} cells in a row, {len(columns)} columns ({', '.join(columns)})"
                bad(DataError(f"{path}:{line}: {counts}: put cells that hold {delimiter!r} in quotes"))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: {error} (a quote is open or misplaced: write quotes inside a cell twice)"
        ) from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:row {number}", f"{name}:{number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        place, cause = f"{path}:row {number + 1}", str(error).partition("\n")[0]
        raise DataError(f"{place}: no parquet file, or a damaged one ({cause}); write it again") from error


def _json(path: Path, name: str, bad: Bad) -> Iterator[Row]:
    """A list of objects, or one object whose only list of objects is it (``{"data": […]}``)."""
    try:
        content = json.loads(_decoded(path.read_bytes(), path))
    except json.JSONDecodeError as error:
        place, remedy = f"{path}:{error.lineno}", "one object a line goes into a .jsonl file"
        raise DataError(f"{place}: malformed JSON: {error.msg} ({remedy})") from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply (give a list of flat objects)") from error
    if isinstance(content, dict):
        lists = [v for v in content.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        content = lists[0] if len(lists) == 1 else None
    if not isinstance(content, list):
        raise DataError(f"{path}: no list of objects (write [{{…}}, {{…}}], or one object a line as .jsonl)")
    for number, values in enumerate(content, 1):
        place = f"{path}:item {number}"
        if isinstance(values, dict):
            yield Row(place, f"{name}:{number}", values)
        else:
            bad(DataError(f"{place}: a {type(values).__name__}, not an object (write {{…}} for each item)"))


READERS: dict[str, Callable[[Path, str, Bad], Iterator[Row]]] = {
    **dict.fromkeys((".jsonl", ".jsonl.gz", ".ndjson"), _json_lines),
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiters="\t"),
    ".parquet": _parquet,
    **dict.fromkeys((".txt", ".md", ".markdown"), _plain),
    **dict.fromkeys((".html", ".htm"), _html),
}
"""How a file is read, by the end of its name."""
