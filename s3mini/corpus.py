"""Corpora and question sets: read, validate, write, fingerprint.

Formats are the ones the field uses, so wiki-18 and FlashRAG files work as they are, plain or gzipped:

* corpus, one line per passage: ``{"id": "7", "contents": "\\"Title\\"\\nText"}``
* questions, one line each: ``{"id": "test_0", "question": …, "golden_answers": […], "metadata": {…}}``
  in ``<questions>/<set>/<split>.jsonl``

Texts stay as they are written; which forms are the same text, `unicode` decides.
Every malformed line is a `DataError` reading ``file:line: what is wrong (remedy)``; none is skipped.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from .choices import options_of
from .errors import DataError, StageError
from .profile import Profile
from .records import Document, Question
from .runs.stages import atomic_file
from .unicode import blank

Item = TypeVar("Item", Document, Question)
SUFFIXES = (".jsonl", ".jsonl.gz")
Bad = Callable[[DataError], None]  # told of each line or file that cannot be read
_FALLBACK = {"test": ("test", "dev", "train")}  # FlashRAG sets do not all have a test split


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb"))


def stop(error: DataError) -> None:
    """The default of every ``bad``: what cannot be read ends the reading."""
    raise error


def json_lines(
    path: Path, bad: Bad = stop, loads: Callable[[str], Any] = json.loads
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield ``(byte, "file:line", object)`` for every non-blank line: where it begins in the unpacked file, its place
    (which leads each error message), its content by ``loads``. ``bad`` is told of a malformed one.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a .jsonl file (give the file itself)")
    if not path.is_file():
        raise DataError(f"{path}: no such file (check the profile's data section, or the path you gave)")
    number = offset = 0
    empty = True
    try:
        with _open(path) as lines:
            for number, raw in enumerate(lines, 1):
                place = f"{path}:{number}"
                try:
                    line = _decode(raw, place, first=number == 1)
                    if line.strip():
                        empty = False
                        yield offset, place, _parse(line, place, loads)
                except DataError as error:
                    empty = False
                    bad(error)
                offset += len(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        place = f"{path}:{number + 1}"
        raise DataError(f"{place}: the gzip file is damaged or cut short (fetch it again)") from error
    if empty:
        raise DataError(f"{path}: the file is empty (expected one JSON object per line)")


def _decode(raw: bytes, place: str, first: bool) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {error.start} of the line"
        raise DataError(f"{place}: invalid UTF-8 at {where} (convert it with iconv -t UTF-8)") from error


def _parse(line: str, place: str, loads: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    try:
        record = loads(line)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at column {error.colno}"
        raise DataError(f"{place}: malformed JSON: {what} (write one JSON object a line)") from error
    except RecursionError as error:
        raise DataError(f"{place}: JSON nested too deeply (write a flat object on each line)") from error
    except ValueError as error:  # a number of thousands of digits, or what ``loads`` refuses
        raise DataError(f"{place}: malformed JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: a {type(record).__name__}, not a JSON object (write {{…}} on each line)")
    return record


def _text(record: dict[str, Any], key: str, place: str, wanted: str) -> str:
    """A non-blank string field; ids may be whole numbers."""
    if key not in record:
        there = ", ".join(record) or "none"
        raise DataError(f"{place}: missing field {key!r} (expected {wanted}; found {there})")
    value = record[key]
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{place}: field {key!r} is a {type(value).__name__}, not text (expected {wanted})")
    if blank(value):
        raise DataError(f"{place}: field {key!r} is empty (fill it in, or remove the line)")
    return encodable(value, f"field {key!r}", place)


def encodable(value: str, what: str, place: str) -> str:
    """``value``, which UTF-8 can hold.

    Raises:
        DataError: it cannot.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {what} holds a lone surrogate, invalid in UTF-8 (remove it)") from error
    return value


def _unique(seen: dict[str, str], identifier: str, place: str) -> None:
    if identifier in seen:
        raise _duplicate(identifier, place, seen[identifier])
    seen[identifier] = place.rpartition(":")[2]


def _duplicate(identifier: str, place: str, line: str) -> DataError:
    told = f"{place}: duplicate id {identifier!r}, first used at line {line} (make ids unique)"
    return DataError(told)


class FirstUses:
    """Where each id was first used, for any number of ids: beyond `CACHE` they lie in a temporary file of SQLite's.

    Raises:
        StageError: the disk is full.
    """

    CACHE = 1 << 16  # KiB: some 500,000 ids

    def __init__(self) -> None:
        self._ids = sqlite3.connect("", isolation_level=None)
        self._ids.execute(f"PRAGMA cache_size = -{self.CACHE}")
        self._ids.execute("CREATE TABLE used (id BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._ids.execute("BEGIN")  # and no end: nothing is kept

    def of(self, identifier: str, place: str) -> str | None:
        """The place at which ``identifier`` was used before; None where this ``place`` is the first."""
        key = identifier.encode("utf-8", "surrogatepass")
        try:
            added = self._ids.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (key, place)).rowcount
        except sqlite3.OperationalError as error:
            raise StageError(
                f"{error}, in the folder for temporary files (free some room, or set TMPDIR)"
            ) from error
        if added:
            return None
        first: str = self._ids.execute("SELECT place FROM used WHERE id = ?", (key,)).fetchone()[0]
        return first

    def __enter__(self) -> FirstUses:
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()


def split_contents(contents: str) -> tuple[str, str]:
    """Title and text of a wiki-18 passage.

    Exactly one pair of quotes is taken off the first line, so quotes and parentheses *in* a title stay. A
    first line without quotes is a title as it stands; a passage of one unquoted line has no title.
    """
    head, newline, text = contents.partition("\n")
    if len(head) >= 2 and head[0] == head[-1] == '"':
        return head[1:-1], text
    return (head, text) if newline else ("", contents)


def iter_corpus(path: str | Path) -> Iterator[Document]:
    """Documents of a corpus file one by one, validated; for corpora that do not fit in memory.

    Raises:
        DataError: with ``file:line``: no such file, empty file, malformed JSON, missing or blank field,
            duplicate id, invalid UTF-8, damaged gzip.
    """
    seen: dict[str, str] = {}
    for _, place, record in json_lines(Path(path)):
        document = _document(record, place)
        _unique(seen, document.id, place)
        yield document


def iter_placed(path: str | Path) -> Iterator[tuple[int, Document]]:
    """As `iter_corpus`, each document with the byte at which its line begins, and ids that may repeat.

    For an index of the file (`retrieval.store`): nothing is kept, however long the file is.
    """
    for offset, place, record in json_lines(Path(path)):
        yield offset, _document(record, place)


def parse_document(line: bytes, place: str, first: bool = False) -> Document:
    """The document of one line of a corpus; ``first``: the file's first line, which may begin with a mark.

    Raises:
        DataError: as `iter_corpus`; ``place`` leads the message.
    """
    return _document(_parse(_decode(line, place, first), place), place)


def _document(record: dict[str, Any], place: str) -> Document:
    identifier = _text(record, "id", place, "id and contents")
    title, text = split_contents(_text(record, "contents", place, 'contents: "\\"Title\\"\\nText"'))
    if blank(title) and blank(text):
        raise DataError(f"{place}: field 'contents' has neither title nor text (fill it in)")
    return Document(identifier, title, text)


def read_corpus(path: str | Path) -> list[Document]:
    """All documents of a corpus file, in order; raises as `iter_corpus` does."""
    return list(iter_corpus(path))


def write_corpus(path: str | Path, documents: Iterable[Document]) -> Path:
    """Write documents in the wiki-18 layout, whole or not at all; ``.gz`` compresses.

    Raises:
        DataError: a title with a line break, or a duplicate id: it could not be read back.
        StageError: the disk is full.
    """

    def record(document: Document, place: str) -> dict[str, Any]:
        if "\n" in document.title:
            raise DataError(f"{place}: the title of document {document.id!r} holds a line break (remove it)")
        return {"id": document.id, "contents": document.contents}

    return _write(Path(path), documents, record)


def read_questions(path: str | Path) -> list[Question]:
    """All questions of a FlashRAG-style file, in order.

    Raises:
        DataError: with ``file:line``, as `iter_corpus`; also a question without accepted answers, or with malformed options.
    """
    seen: dict[str, str] = {}
    questions = []
    for _, place, record in json_lines(Path(path)):
        wanted = "id, question and golden_answers"
        identifier = _text(record, "id", place, wanted)
        _unique(seen, identifier, place)
        question = _text(record, "question", place, wanted)
        answers, metadata = _answers(record, place), _metadata(record, place)
        questions.append(Question(identifier, question, answers, metadata, place))
        options_of(questions[-1], place)
    return questions


def _answers(record: dict[str, Any], place: str) -> tuple[str, ...]:
    if "golden_answers" not in record:
        raise DataError(f"{place}: missing field 'golden_answers' (expected a list of accepted answers)")
    answers = record["golden_answers"]
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{place}: field 'golden_answers' must be a non-empty list of texts")
    for answer in answers:
        if not isinstance(answer, str) or blank(answer):
            raise DataError(f"{place}: field 'golden_answers' holds {answer!r} (each must be non-empty text)")
        encodable(answer, "field 'golden_answers'", place)
    return tuple(answers)


def _metadata(record: dict[str, Any], place: str) -> dict[str, Any]:
    metadata = record.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DataError(f"{place}: field 'metadata' is a {type(metadata).__name__}, not an object")
    return metadata or {}


def write_questions(path: str | Path, questions: Iterable[Question]) -> Path:
    """Write questions in FlashRAG's layout, whole or not at all; ``.gz`` compresses.

    Raises:
        DataError: a duplicate id, or a question without answers: it could not be read back.
        StageError: the disk is full.
    """

    def record(question: Question, place: str) -> dict[str, Any]:
        if not question.golden_answers:
            raise DataError(f"{place}: question {question.id!r} has no golden answers (give at least one)")
        return {
            "id": question.id,
            "question": question.question,
            "golden_answers": list(question.golden_answers),
            "metadata": dict(question.metadata),
        }

    return _write(Path(path), questions, record)


def _write(path: Path, items: Iterable[Item], record: Callable[[Item, str], dict[str, Any]]) -> Path:
    """One line per item, written as it comes, ids unique; ``record`` makes its JSON object, and is told its place."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    packed = zlib.compressobj(9, wbits=31) if path.suffix == ".gz" else None  # gzip, without a time
    with FirstUses() as seen, atomic_file(path) as out:
        for number, item in enumerate(items, 1):
            place = f"{path}:{number}"
            if first := seen.of(item.id, str(number)):
                raise _duplicate(item.id, place, first)
            line = encodable(encode(record(item, place)), repr(item.id), place).encode("utf-8") + b"\n"
            out.write(packed.compress(line) if packed else line)
        if packed:
            out.write(packed.flush())
    return path


def load_questions(profile: Profile, set_name: str, split: str) -> list[Question]:
    """Questions of one set and split of a profile, cut to its limits (the file's first ones).

    ``test`` means the test split, else dev, else train, because not every public set has a labelled test
    split. ``metadata`` gets ``set`` and ``split`` where it lacks them. FlashRAG numbers questions anew in
    each set (``test_0``), so an id that does not begin with its set's name becomes ``set/id``: ids are
    unique across the sets of a profile.

    Raises:
        DataError: unknown set or split; a set trained on whose only split is train; a malformed file.
    """
    folder = profile.resolve(profile.data.questions) / set_name
    if not folder.is_dir():
        names = ", ".join(sorted(p.name for p in folder.parent.glob("*/"))) or "none"
        raise DataError(f"{folder}: no such question set (found: {names}; check the profile's data section)")
    path, actual = _split_file(folder, split)
    if split != "train" and actual == "train" and set_name in profile.data.train_sets:
        raise DataError(f"{folder}: trained on, but has no test or dev split to test on (add {split}.jsonl)")
    limit = profile.data.train_limit if split == "train" else profile.data.test_limit
    return [
        replace(
            question,
            id=question.id if question.id.startswith(set_name) else f"{set_name}/{question.id}",
            metadata={"set": set_name, "split": actual, **question.metadata},
        )
        for question in read_questions(path)[:limit]
    ]


def _split_file(folder: Path, split: str) -> tuple[Path, str]:
    for candidate in _FALLBACK.get(split, (split,)):
        for suffix in SUFFIXES:
            if (path := folder / f"{candidate}{suffix}").is_file():
                return path, candidate
    there = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
    raise DataError(f"{folder / split}.jsonl: no such file (the set holds: {there})")


_fingerprints: dict[tuple[str, int, int], str] = {}


def fingerprint(paths: str | Path | Iterable[str | Path]) -> str:
    """Content hash (sha256, 16 hex digits) of a file, a folder (names and contents), or several, in order.

    Raises:
        DataError: something does not exist.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    parts = [_hash_path(Path(p)) for p in given]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _hash_path(path: Path) -> str:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        names = "".join(f"{p.relative_to(path).as_posix()}={_hash_path(p)};" for p in files)
        return hashlib.sha256(names.encode()).hexdigest()[:16]
    if not path.is_file():
        raise DataError(f"{path}: no such file (run the stage that makes it, or check the profile)")
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _fingerprints:
        with open(path, "rb") as source:
            _fingerprints[key] = hashlib.file_digest(source, "sha256").hexdigest()[:16]
    return _fingerprints[key]
