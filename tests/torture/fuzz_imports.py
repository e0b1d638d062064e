"""Fuzzed files given to the import of own data, as documents and as questions, in every kind that is read.

Either all that is kept is a part of the file, or there is a `DataError` that names the file and a remedy.
"""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noise import STRANGE, At, Outcome, damaged, drawn, mixed, nowhere, timed, words
from owndata_toys import PAIRS, ROOMY, ROWS, lines

from s3mini.corpus import read_corpus, read_questions
from s3mini.errors import DataError
from s3mini.owndata import import_data
from s3mini.profile import Profile, load_profile

MADE = "torture/imports/made"  # the name of what is imported, below build/
DOCUMENTS = "jsonl jsonl.gz ndjson json csv tsv parquet feather txt md html".split()
QUESTIONS = DOCUMENTS[:8]
CELLS = [
    "['Sool', 'Tarn']", '["Sool"]', "array(['Sool'], dtype=object)", "{'text': ['Sool'], 'answer_start': [18]}", "('a',)",
    "[sic] Sool", "(a) Sool", "nan", "Sool|Tarn", "1931", "3.50", "[1, 2]", "=A1", "#REF!", "<NA>", "{", "[", "]", '"',
]  # fmt: skip
PARTS = [
    b"\xff", b"\xe9", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\n\n", b",", b";", b"\t", b'"', b"'", b"{", b"}",
    b"[", b"]", b":", b'"text": ', b'{"text": "Sool"}', b"<b>", b"</p>", b"<script>", b"&#x41;", b"# ", b"\\u00e9", b"\\",
    *(piece.encode("utf-8", "replace") for piece in STRANGE),
]  # fmt: skip
REMEDY = re.compile(r"\(\w[^()]*\w|[:;,] [a-z]+ ")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))", re.S)


def rows(rng: random.Random, asked: bool) -> list[dict[str, Any]]:
    """Documents, or questions, with odd contents here and there."""

    def said() -> Any:
        return rng.choice([words(rng), words(rng), rng.choice(CELLS), mixed(rng, CELLS, 5)])

    made: list[dict[str, Any]] = []
    for number in range(rng.randint(1, 6)):
        if asked:
            answer = rng.choice(
                [said(), said(), [said() for _ in range(rng.randint(0, 3))], {"text": [words(rng)]}, 7, None]
            )
            made.append({"question": f"{said()} {number}?", "answer": answer})
        else:
            made.append({"id": str(number), "title": said(), "text": said()})
    for row in made:
        if rng.random() < 0.05:
            row[rng.choice(["split", "text", "note", "Answer", ""])] = said()
    return made


def written(rng: random.Random, ending: str, made: list[dict[str, Any]]) -> bytes:
    """The rows as a file of that ending, before it is damaged."""
    ascii_ = rng.random() < 0.5
    if ending in ("txt", "md", "html"):
        text = "\n\n".join(str(row["text"]) for row in made)
        page = f"<html><head><title>{made[0]['title']}</title></head><body><p>{text}</p><b>So</b>ol</body></html>"
        return (page if ending == "html" else f"# {text}").encode("utf-8", "replace")
    if ending in ("csv", "tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(
            out,
            list(dict.fromkeys(key for row in made for key in row)),
            delimiter=rng.choice(",,;") if ending == "csv" else "\t",
        )
        writer.writeheader()
        writer.writerows(made)
        return out.getvalue().encode("utf-8", "replace")
    if ending in ("parquet", "feather"):
        return _arrow(ending, [{key: _sound(value) for key, value in row.items()} for row in made])
    if ending == "json":
        shape = rng.choice(
            [made, made, {"data": made}, {key: [row.get(key) for row in made] for key in made[0]}]
        )
        return json.dumps(shape, ensure_ascii=ascii_, indent=rng.choice([None, 1])).encode("utf-8", "replace")
    data = b"".join(json.dumps(row, ensure_ascii=ascii_).encode("utf-8", "replace") + b"\n" for row in made)
    return gzip.compress(data, mtime=0) if ending.endswith("gz") else data


def _sound(value: Any) -> str:
    """As a text that Arrow takes."""
    return str(value).encode("utf-8", "replace").decode()


def _arrow(ending: str, made: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import feather, parquet

    out, table = io.BytesIO(), pyarrow.Table.from_pylist(made)
    if ending == "parquet":
        parquet.write_table(table, out, compression="NONE", use_dictionary=False)
    else:
        feather.write_feather(table, out, compression="uncompressed")
    return out.getvalue()


def squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code:
            return chr(min(int(code, 16), 0x10FFFF))
        return " " if match[4] in "nrtbfav" else match[4]

    return _ESCAPE.sub(one, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def contents(data: bytes, ending: str) -> list[str]:
    """What may stand in the file: as it is, and its escapes undone; letters and digits only."""
    if ending.endswith("gz"):
        data = gzip.decompress(data)
    texts = [data.decode("utf-8-sig", "replace")]
    if ending == "html":
        texts += [data.decode("cp1252", "replace"), data.decode("utf-16", "replace")]
        texts += [re.sub(r"<[^>]*>", "", text) for text in texts]
        return [squeezed(html.unescape(text)) + squeezed(text) for text in texts]
    texts.append(_unescaped(texts[0]))
    texts.append(_unescaped(texts[1]))
    return [squeezed(text) for text in texts]


def invented(kept: Iterator[str], data: bytes, ending: str) -> Iterator[str]:
    """The texts that are no part of the file; of a page, the words."""
    there = contents(data, ending)
    for text in kept:
        for part in re.split(r"[\W_]+", text) if ending == "html" else [text]:
            number = re.fullmatch(r"[-+.\deE]+", part)  # may be spelt in another way
            if not number and not any(squeezed(part) in content for content in there):
                yield part


def kept_of(profile: Profile, asked: bool) -> Iterator[str]:
    """All texts of what was imported, the names of files as titles left out."""
    made = profile.build / "import"
    if asked:
        for path in sorted((made / "questions").rglob("*.jsonl")):
            for question in read_questions(path):
                yield from (question.question, *question.golden_answers)
        return
    for document in read_corpus(made / "corpus.jsonl"):
        yield from (document.text, "" if document.title == "given" else document.title)


def one(rng: random.Random, folder: Path, profile: Profile, outcome: Outcome, where: str) -> None:
    """Make a file, import it, look at what came of it."""
    shutil.rmtree(profile.build, ignore_errors=True)
    asked = rng.random() < 0.5
    ending = rng.choice(QUESTIONS if asked else DOCUMENTS)
    data = written(rng, ending, rows(rng, asked))
    data = damaged(rng, data, PARTS) if rng.random() < 0.5 else data
    given = folder / f"given.{ending}"
    given.write_bytes(data)
    documents, questions = (
        (folder / "documents.jsonl", given) if asked else (given, folder / "questions.jsonl")
    )
    skip = rng.random() < 0.3
    try:
        made = import_data(profile, documents, questions, skip_bad=skip, progress=False)
    except DataError as error:
        outcome.counts["refused"] += 1
        told = str(error)
        if str(given) not in told:
            outcome.found("crashed", where, f"the file is not named: {told}")
        elif not REMEDY.search(told.replace(str(given), "")):
            outcome.found("crashed", where, f"no remedy: {told}")
        return
    outcome.counts["read, some left out" if made.skipped else "read"] += 1
    for text in invented(kept_of(profile, asked), data, ending):
        outcome.found("misread", where, f"not in the {ending} file: {text!r}")


def run(numbers: range, seed: int, folder: Path, at: At = nowhere) -> Outcome:
    """These files, by number, each in an import of its own."""
    profile, outcome = load_profile("smoke", name=f"{MADE}-{numbers.start}", **ROOMY), Outcome()
    folder.mkdir(parents=True, exist_ok=True)
    lines(folder / "documents.jsonl", ROWS)
    lines(folder / "questions.jsonl", PAIRS)
    for number in numbers:
        at(number)
        try:
            with timed():
                one(drawn(seed, "imports", number), folder, profile, outcome, f"import {number}")
        except Exception as error:
            outcome.crashed(f"import {number}", error)
    return outcome
