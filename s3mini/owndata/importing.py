"""Rows to the package's own formats: ``build/<name>/import/`` with corpus, question set, sources.

    corpus.jsonl                    passages, in the layout of wiki-18
    questions/<name>/<split>.jsonl  questions, in FlashRAG's
    sources.jsonl                   where each passage comes from: file and line, first and last character
    skipped.txt                     what was left out, when that was asked for

A question's split is the one its row names, else, of a folder of questions, the one its file is called by (``train.jsonl``), else
it hangs on its own words and the seed: rows that are added move none of the others. Options (a field ``options`` or ``choices``,
columns A, B, C … or option_a …, or ``metadata.options``) make a question multiple choice (`choices`); their numbers are refused as answers,
for some count from 0, some from 1.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..choices import LETTERS, options_of, with_options
from ..corpus import FirstUses, fingerprint, write_corpus, write_questions
from ..errors import DataError
from ..profile import Profile
from ..records import Document, Question
from ..runs.progress import tqdm
from ..runs.stages import Stage, atomic_file, atomic_write
from ..unicode import folded
from .fields import SPLITS, UNREAD, Fields, one_line
from .files import Row, read_rows
from .passages import WORDS, Cutter, Measured, word_pattern

STAGE = "import"
CORPUS, QUESTIONS, SOURCES, SKIPPED = "corpus.jsonl", "questions", "sources.jsonl", "skipped.txt"
SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
AT_ONCE = 256  # documents whose tokens are counted in one go
MOST_AT_ONCE = 1 << 20  # characters of them, from which on no further one is added
FEWEST_TO_SPLIT = 40  # with fewer, every question goes to the test


@dataclass(frozen=True, slots=True)
class Imported:
    """What came in. ``splits`` counts questions, ``leaked`` those of dev and test that are in train too, in the same words;
    ``fields`` says what was taken for what, and how often."""

    path: Path
    documents: int
    passages: int
    cut: int
    words: int
    splits: dict[str, int]
    fields: dict[str, int]
    skipped: int
    leaked: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per thing counted, for a table."""
        counts = {
            "documents": self.documents,
            "… of them cut": self.cut,
            "passages": self.passages,
            "words a passage, on average": round(self.words / self.passages, 1),
            **{f"questions, {split}": count for split, count in self.splits.items()},
            **({"… to test on, and in train too": self.leaked} if self.leaked else {}),
            "left out": self.skipped,
        }
        return [{"what": what, "count": count} for what, count in counts.items()]

    def __str__(self) -> str:
        questions = ", ".join(f"{count} {split}" for split, count in self.splits.items()) or "none"
        left = f"; {self.skipped} left out, see {SKIPPED}" if self.skipped else ""
        leaked = f" ({self.leaked} to test on are in train too)" if self.leaked else ""
        unread = "".join(f"; {name}" for name in self.fields if UNREAD in name)
        return (
            f"{self.documents} documents, {self.cut} of them cut, make {self.passages} passages; "
            f"questions: {questions}{leaked}{left}{unread}"
        )


@dataclass
class Skips:
    """The ``bad`` of an import: stops at the first that cannot be used, or counts them."""

    allowed: bool
    reasons: list[str] = field(default_factory=list)

    def __call__(self, error: DataError) -> None:
        """Raise the error, or note it."""
        if not self.allowed:
            raise error
        self.reasons.append(str(error))

    def __str__(self) -> str:
        left = len(self.reasons)
        return f"{left} left out, the first: {self.reasons[0]}" if left else "the file holds no row"


def import_data(
    profile: Profile,
    documents: str | Path,
    questions: str | Path | None = None,
    *,
    fields: Fields | None = None,
    words: int = WORDS,
    split_seed: int = 0,
    skip_bad: bool = False,
    progress: bool = True,
) -> Imported:
    """Import documents, and questions if there are any, into the folder of ``profile``; found again if done.

    Args:
        profile: its name is the question set's, its models decide how long a passage may be.
        words: of a passage, at most.
        split_seed: of the split into train, dev and test, for questions that bring none.
        skip_bad: leave out what cannot be used, and count it, instead of stopping.

    Raises:
        DataError: a file, row or field that cannot be used, by ``file:line``; no document at all.
        ModelError: the tokenizer that measures passages cannot be loaded.
        StageError: the disk is full.
    """
    documents, fields = Path(documents), replace(fields or Fields(), used=Counter())
    questions = None if questions is None else Path(questions)
    cutter = Cutter.of(profile, words)
    inputs = {"documents": fingerprint(documents)}
    if questions is not None:
        inputs["questions"] = fingerprint(questions)
    settings = {
        "name": profile.name,
        "fields": fields.settings(),
        "words": words,
        "tokens": f"{cutter.tokens} of {profile.generator.path}" if cutter.begins else None,
        "split_seed": split_seed,
        "skip_bad": skip_bad,
    }
    with Stage(profile, STAGE, inputs, settings) as stage:
        if not stage.done:
            skips = Skips(skip_bad)
            count = dict.fromkeys(("documents", "passages", "cut", "words"), 0)
            rows = read_rows(documents, skips, questions)
            shown_rows = tqdm(rows, "import", unit="document", disable=not progress)
            with FirstUses() as seen, atomic_file(stage.dir / SOURCES) as sources:
                usable = _documents(shown_rows, fields, skips, seen)
                write_corpus(stage.dir / CORPUS, _passages(usable, cutter, count, sources))
                if not count["documents"]:
                    raise DataError(f"{documents}: no document to import; {skips}")
            splits, leaked = {}, 0
            if questions is not None:
                by_split = _split(_read_questions(questions, fields, skips), questions, split_seed)
                for split, part in by_split.items():
                    write_questions(stage.dir / QUESTIONS / profile.name / f"{split}.jsonl", part)
                splits = {split: len(part) for split, part in by_split.items()}
                leaked = _leaked(by_split)
            if skips.reasons:
                atomic_write(stage.dir / SKIPPED, "\n".join(skips.reasons) + "\n")
            stage.finish(
                **count, splits=splits, leaked=leaked, fields=dict(fields.used), skipped=len(skips.reasons)
            )
    facts = stage.manifest["facts"]
    splits = {split: facts["splits"][split] for split in SHARES if split in facts["splits"]}
    return Imported(stage.path, **{**facts, "splits": splits})


# ------------------------------------------------------------------------------------- documents


@dataclass(frozen=True, slots=True)
class Whole:
    """A document before it is cut."""

    id: str
    title: str
    text: str
    place: str


def _documents(rows: Iterable[Row], fields: Fields, skips: Skips, seen: FirstUses) -> Iterator[Whole]:
    """The documents that can be used, in order."""
    for row in rows:
        try:
            identifier = fields.one(row, "id") or row.name
            title, text = fields.title_and_text(row)
            fields.unread(row, "documents")
            if word_pattern(text).search(text) is None:
                raise DataError(f"{row.place}: the document has no text (fill it in, or give --skip-bad)")
            if first := seen.of(identifier, row.place):
                raise DataError(
                    f"{row.place}: duplicate id {identifier!r}, first used at {first} "
                    "(make ids unique, or name another field with --id-field)"
                )
        except DataError as error:
            skips(error)
            continue
        yield Whole(identifier, title, text, row.place)


def _batches(documents: Iterable[Whole]) -> Iterator[list[Whole]]:
    """`AT_ONCE` documents at a time, fewer long ones; those before an error come before it."""
    batch: list[Whole] = []
    characters = 0
    try:
        for document in documents:
            batch.append(document)
            characters += len(document.text)
            if len(batch) == AT_ONCE or characters > MOST_AT_ONCE:
                yield batch
                batch, characters = [], 0
    except DataError:
        yield batch
        raise
    yield batch


def _measured(
    documents: Iterable[Whole], cutter: Cutter
) -> Iterator[tuple[list[Whole], Future[list[Measured]]]]:
    """Documents in batches, with what the tokenizer finds in them: it reads the next ones while these are cut."""
    waiting: deque[tuple[list[Whole], Future[list[Measured]]]] = deque()
    with ThreadPoolExecutor(1) as reading:
        try:
            for batch in _batches(documents):
                texts = [(document.title, document.text) for document in batch]
                waiting.append((batch, reading.submit(cutter.measure, texts)))
                if len(waiting) > 1:
                    yield waiting.popleft()
        except DataError:
            yield from waiting
            raise
        yield from waiting


def _passages(
    documents: Iterable[Whole], cutter: Cutter, count: dict[str, int], sources: BinaryIO
) -> Iterator[Document]:
    """The documents cut into passages; ``count`` and ``sources`` are filled on the way."""
    source = json.JSONEncoder(ensure_ascii=False).encode
    for batch, measured in _measured(documents, cutter):
        cuts = cutter.cut_measured([document.text for document in batch], measured.result())
        for document, spans in zip(batch, cuts, strict=True):
            count["documents"] += 1
            count["cut"] += len(spans) > 1
            count["passages"] += len(spans)
            for number, (begin, end) in enumerate(spans):
                name = f"{document.id}#{number}" if len(spans) > 1 else document.id
                words = document.text[begin:end].split()
                count["words"] += len(words)
                where = {"id": name, "source": document.place, "begin": begin, "end": end}
                sources.write(source(where).encode("utf-8") + b"\n")
                yield Document(name, document.title, " ".join(words))


# ------------------------------------------------------------------------------------- questions


def _read_questions(path: Path, fields: Fields, skips: Skips) -> list[tuple[Question, str | None]]:
    """Questions, each with the split that its row names."""
    questions: list[tuple[Question, str | None]] = []
    seen: dict[str, str] = {}
    for row in read_rows(path, skips):
        try:
            text = fields.one(row, "question")
            assert text is not None  # it is needed, so its absence is a DataError
            answers = fields.answers(row)
            split = fields.split_of(row) or (_split_named(row.name) if path.is_dir() else None)
            text, about = _with_options(text, answers, fields.options_of(row), row)
            fields.unread(row, "questions")
            identifier = fields.one(row, "id") or hashlib.sha256(_same(text).encode()).hexdigest()[:12]
            if identifier in seen:
                raise DataError(
                    f"{row.place}: the same question or id as at {seen[identifier]} (make one of both, "
                    "with all accepted answers)"
                )
        except DataError as error:
            skips(error)
            continue
        seen[identifier] = row.place
        questions.append((Question(identifier, text, answers, {"source": row.place, **about}), split))
    if not questions:
        raise DataError(f"{path}: no question to import; {skips}")
    return questions


def _with_options(
    text: str, answers: Sequence[str], options: list[str], row: Row
) -> tuple[str, dict[str, Any]]:
    """The question as it is asked, and what its metadata says of its options.

    Raises:
        DataError: no answer is an option's letter or text, or one is an option's text and another's letter or number.
    """
    about: dict[str, Any] = {"options": options, "stem": text} if options else {}
    metadata = row.values.get("metadata")
    if not options and isinstance(metadata, Mapping) and metadata.get("options"):
        about = {key: metadata[key] for key in ("options", "stem") if key in metadata}
    elif options:
        text = with_options(text, options)
    texts = [folded(option) for option in options_of(Question("", text, tuple(answers), about), row.place)]
    for answer in answers:
        said = {i for i, option in enumerate(texts) if option == folded(answer)}
        places = {i for i, letter in enumerate(LETTERS) if answer.upper() == letter}
        if re.fullmatch("[0-9]{1,2}", answer):
            places = {int(answer) - 1, int(answer)}
        meant = places & {*range(len(texts))}
        if said and meant and meant != said:
            remedy = "give its letter; options that are letters themselves want more words"
            raise DataError(
                f"{row.place}: the answer {answer!r} is an option, and may be another's place ({remedy})"
            )
    return text, about


def _split_named(name: str) -> str | None:
    """The split that a file is named for: ``nq/train.jsonl:7``, ``validation-00000-of-00001.parquet:7``."""
    word = re.match("[a-z]*", name.rpartition("/")[2].lower())
    return SPLITS.get(word[0]) if word else None


def _same(text: str) -> str:
    return one_line(folded(text))


def _split(questions: list[tuple[Question, str | None]], path: Path, seed: int) -> dict[str, list[Question]]:
    """Questions by split, those without any left away.

    Raises:
        DataError: every question is for training.
    """
    parts: dict[str, list[Question]] = {split: [] for split in SHARES}
    few = len(questions) < FEWEST_TO_SPLIT
    for question, given in questions:
        parts[given or ("test" if few else drawn_split(question.question, seed))].append(question)
    if not parts["test"] and not parts["dev"]:
        raise DataError(
            f"{path}: all {len(questions)} questions are for training, none is left to test on (give some the "
            "split test, or leave the split away: it is drawn then)"
        )
    return {split: part for split, part in parts.items() if part}


def _leaked(by_split: Mapping[str, Sequence[Question]]) -> int:
    """How many questions outside train stand in it as well, in the same words."""
    trained = {_same(question.question) for question in by_split.get("train", ())}
    others = (part for split, part in by_split.items() if split != "train")
    return sum(_same(question.question) in trained for part in others for question in part)


def drawn_split(question: str, seed: int) -> str:
    """train, dev or test in the proportions of `SHARES`, from the question's words and the seed alone."""
    digest = hashlib.sha256(f"{seed}\0{_same(question)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "test"
