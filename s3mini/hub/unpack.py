"""From files as they are published to files as the package reads them.

Each function reads ``sources`` (verified files, in order), writes ``target`` whole or not at all in bounded memory, looks at
the result with the package's own readers, and returns a few facts for the manifest.
"""

import gzip
import itertools
import json
import os
import shutil
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..choices import with_options
from ..corpus import iter_corpus, json_lines, read_questions, write_questions
from ..errors import DataError
from ..records import Document, Question
from ..runs.progress import tqdm
from ..runs.stages import atomic_file
from .catalogue import MIRAGE
from .sizes import index_bytes

Facts = dict[str, Any]
_BLOCK = 1 << 22
_FLAT = b"IxFI"  # how FAISS marks a flat inner-product index
_HEADER = 45  # bytes before its vectors


def gunzip(sources: Sequence[Path], target: Path) -> Facts:
    """One gzipped corpus, unpacked."""
    (source,) = sources
    lines = 0
    remedy = "delete it and fetch it again"
    with _whole(target) as out, open(source, "rb") as raw, _bar(source.name, raw) as packed:
        try:
            with gzip.GzipFile(fileobj=packed) as unpacked:
                while block := unpacked.read(_BLOCK):
                    lines += block.count(b"\n")
                    out.write(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{source}: not a whole gzip file ({error}); {remedy}") from error
    return {"lines": lines, "first_title": _first_title(target)}


def _first_title(corpus: Path) -> str:
    """That of the first document; the first thousand are read, so that what is malformed is told."""
    return list(itertools.islice(iter_corpus(corpus), 1000))[0].title


def join(sources: Sequence[Path], target: Path) -> Facts:
    """The parts of a FAISS flat inner-product index, end to end; its size must be what its header says."""
    with _whole(target) as out:
        for source in sources:
            with open(source, "rb") as raw, _bar(source.name, raw) as part:
                shutil.copyfileobj(part, out, _BLOCK)
        out.flush()
        size = out.tell()
        with open(out.name, "rb") as data:
            head = data.read(16)
        if head[:4] != _FLAT or len(head) < 16:
            raise DataError(f"{target}: not a FAISS flat inner-product index; fetch it again")
        dimension, vectors = struct.unpack("<iq", head[4:])
        if size != (whole := _HEADER + int(index_bytes("float32", dimension, vectors))):
            raise DataError(
                f"{target}: {vectors} vectors of {dimension} numbers take {whole} bytes, it has {size}; fetch it again"
            )
    return {"vectors": vectors, "dimension": dimension}


def medcorp(sources: Sequence[Path], target: Path) -> Facts:
    """MedRAG's snippets (``id``, ``title``, ``content``) as one corpus in the wiki-18 layout."""
    lines, wanted = 0, "id, title and content expected"
    with _whole(target) as out:
        for source in tqdm(sources, desc=target.name, unit="file"):
            for _, place, record in json_lines(source):
                try:
                    title, text = " ".join(record["title"].split()), record["content"]
                    kept = {"id": record["id"], "contents": Document("", title, text).contents}
                    out.write(json.dumps(kept, ensure_ascii=False).encode("utf-8") + b"\n")
                except (KeyError, AttributeError, UnicodeEncodeError) as error:
                    raise DataError(f"{place}: not a MedRAG snippet: {wanted}") from error
                lines += 1
    return {"lines": lines, "first_title": _first_title(target)}


def questions(sources: Sequence[Path], target: Path) -> Facts:
    """FlashRAG's splits are in the package's layout already; each is read to its end, then put in place."""
    counts = {source.stem: len(read_questions(source)) for source in sources}
    for source in sources:
        with _whole(target / source.name) as out, open(source, "rb") as raw:
            shutil.copyfileobj(raw, out, _BLOCK)
    return {"questions": counts}


def mirage(sources: Sequence[Path], target: Path) -> Facts:
    """MIRAGE's ``benchmark.json`` as five multiple-choice sets, ``<target>/<set>/test.jsonl``.

    Retriever and searcher get the question without its options (``stem``), as the benchmark demands.
    """
    (source,), remedy = sources, "delete it and fetch it again"
    try:
        benchmark: Mapping[str, Mapping[str, Any]] = json.loads(source.read_text(encoding="utf-8"))
        counts = {name: len(benchmark[name]) for name in MIRAGE}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: not MIRAGE's benchmark.json ({error}); {remedy}") from error
    if counts != MIRAGE:
        raise DataError(f"{source}: {counts} questions where the benchmark has {MIRAGE}; {remedy}")
    for name in MIRAGE:
        rows = [_choice(name, key, row, source) for key, row in benchmark[name].items()]
        write_questions(target / name / "test.jsonl", rows)
    return {"questions": counts}


def _choice(name: str, key: str, row: Mapping[str, Any], source: Path) -> Question:
    try:
        options: dict[str, str] = dict(sorted(row["options"].items()))
        stem, answer = " ".join(row["question"].split()), row["answer"]
        if answer not in options or list(options) != list("ABCDEFGH"[: len(options)]):
            raise ValueError(f"answer {answer!r} of options {', '.join(options)}")
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{source}: {name}/{key}: not a multiple-choice question ({error})") from error
    about = {"set": name, "split": "test", "type": "choice", "options": [*options.values()], "stem": stem}
    return Question(f"{name}-{key}", with_options(stem, [*options.values()]), (answer,), about)


def processed(sources: Sequence[Path], target: Path) -> Facts:
    """The authors' parquet rows as question sets, ``<target>/<set>/<split>.jsonl``; their prompts are left out."""
    import pyarrow.parquet as parquet

    made: dict[tuple[str, str], dict[str, Question]] = defaultdict(dict)
    for source in sources:
        file, columns = parquet.ParquetFile(source), ["data_source", "reward_model", "extra_info"]
        if not set(columns) <= set(names := file.schema_arrow.names):
            wanted = "data_source, reward_model and extra_info expected"
            raise DataError(f"{source}: {wanted}; it has {', '.join(names)}")
        rows = (row for batch in file.iter_batches(1024, columns=columns) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            question = _processed(row, f"{source}: row {number}")
            about = question.metadata
            made[about["set"], about["split"]].setdefault(question.id, question)
    for (name, split), by_id in made.items():
        write_questions(target / name / f"{split}.jsonl", by_id.values())
    return {"questions": {f"{name}-{split}": len(by_id) for (name, split), by_id in sorted(made.items())}}


def _processed(row: Mapping[str, Any], place: str) -> Question:
    try:
        truth, extra = row["reward_model"]["ground_truth"], row["extra_info"]
        name, split, answers = row["data_source"], extra["split"], truth["target"]
        text = truth["question"]
        answers = (answers,) if isinstance(answers, str) else tuple(answers)
        safe = all(part.replace("-", "").replace("_", "").isalnum() for part in (name, split))
        if not (safe and isinstance(text, str) and text.strip() and answers):
            raise ValueError("an empty question, no answer, or a name that is no file name")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place}: not a row of the processed s3 data ({error!r})") from error
    about = {"set": name, "split": split}
    return Question(f"{name}-{split}-{extra['index']}", text.strip(), answers, about)


UNPACKERS: dict[str, Callable[[Sequence[Path], Path], Facts]] = {
    "corpus": gunzip,
    "index": join,
    "questions": questions,
    "mirage": mirage,
    "medcorp": medcorp,
    "s3-data": processed,
}
"""By the item's name in `catalogue.TABLE`."""


def _whole(target: Path) -> AbstractContextManager[BinaryIO]:
    """`atomic_file` whose temporary file has one name: what a killed call left of a large one is overwritten."""
    return atomic_file(target, target.with_name(f".{target.name}.tmp"))


@contextmanager
def _bar(name: str, raw: BinaryIO) -> Iterator[Any]:
    size = os.fstat(raw.fileno()).st_size
    with tqdm.wrapattr(raw, "read", total=size, desc=name, unit="B", unit_scale=True) as shown:
        yield shown
