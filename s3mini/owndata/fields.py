"""Which field of a row is what: guessed from common names, or named by the caller."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ..choices import LETTERS, by_letter
from ..corpus import encodable, split_contents
from ..errors import DataError
from ..unicode import blank
from . import cells
from .files import Row
from .printed import NotUnderstood
from .shapes import COMMON

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
UNREAD = "not read"
ROLES = {"documents": ("id", "text", "title"), "questions": ("id", "question", "answer", "split", "options")}
DECIDING = ("text", "answer")  # of two common names for one of these the first is not the likelier
MORE_ANSWERS = ("answer_aliases", "aliases")  # beside the answer, as MuSiQue keeps them
UNANSWERABLE = {
    "is_impossible": ("true", "1"),
    "answerable": ("false", "0"),
}  # SQuAD 2, MuSiQue: a question without
OPTION = ("OPTION", "CHOICE", "OPT", "OP")  # option_a, Choice 1, opa (MedMCQA)
NUMBERS = "123456789"
WIKI18 = "contents"  # its first line, in quotes, is the title
_BETWEEN = re.compile(r"[\W_]")
_MISSING = object()


@dataclass(frozen=True)
class Fields:
    """Names of fields where they are not to be guessed; dots lead into nested objects (``answer.aliases``).

    ``separator`` divides several answers in one text. ``used`` counts what was taken for what, and what was not read.
    """

    id: str | None = None
    text: str | None = None
    title: str | None = None
    question: str | None = None
    answer: str | None = None
    split: str | None = None
    options: str | None = None
    separator: str = "|"
    used: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    def settings(self) -> dict[str, str | None]:
        """The names, for a manifest."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "used"}

    def key(self, row: Row, role: str) -> str | None:
        """The field of a row that plays ``role``: the one named, else the first common name that it has.

        Raises:
            DataError: that name stands twice, in capitals and not, or a name of `DECIDING` beside another.
        """
        named: str | None = getattr(self, role)
        if named is not None:
            return named
        keys = _common(role, tuple(row.values))
        if len(keys) > 1:
            both = " and ".join(map(repr, keys))
            raise DataError(f"{row.place}: {both} both look like the {role} (name one with --{role}-field)")
        return keys[0]

    def value(self, row: Row, role: str, needed: bool = False) -> Any:
        """What plays ``role`` in a row; None where it has nothing, or NaN.

        Raises:
            DataError: ``needed``, and there is no such field, or nothing in it; a field named by the caller is missing.
        """
        key = self.key(row, role)
        value = None if key is None else _lookup(row.values, key)
        if value is _MISSING or (needed and key is None):
            there = ", ".join(map(str, row.values)) or "none"
            what = f"no field {key!r}" if key is not None else f"no field that looks like the {role}"
            raise DataError(f"{row.place}: {what}; there is: {there} (name the one with --{role}-field)")
        text = value.strip() if isinstance(value, str) and row.printed else None
        if cells.missing(value) or value == "" or text in cells.MISSING:
            if needed and text:
                remedy = "fill it in, or give --skip-bad" + f'; an answer of that name: ["{text}"]' * (
                    role == "answer"
                )
                raise DataError(
                    f"{row.place}: field {key!r} is {text!r}: tables write that for nothing ({remedy})"
                )
            if needed:
                raise DataError(f"{row.place}: field {key!r} is empty (fill it in, or give --skip-bad)")
            if text:
                self.used[f"{role}: {key}, {text!r} read as nothing"] += 1
            return None
        self.used[f"{role}: {key}"] += 1
        if text is not None and role != "answer":
            try:
                return cells.read(str(value), strict=False)
            except NotUnderstood as error:
                raise DataError(f"{row.place}: field {key!r}: {error}") from error
        return value

    def title_and_text(self, row: Row) -> tuple[str, str]:
        """Title (one line, perhaps empty) and text of a document, the text as it stands.

        Raises:
            DataError: no text, or something that is not text.
        """
        value = self.value(row, "text", needed=True)
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            value = "\n\n".join(value)  # a list of paragraphs
        text = self._text(row, "text", value)
        title = self.one(row, "title")
        if title is not None:
            return title, text
        return split_contents(text) if str(self.key(row, "text")).lower() == WIKI18 else ("", text)

    def one(self, row: Row, role: str) -> str | None:
        """A short text on one line, None where the row has none; whole numbers are written out.

        Raises:
            DataError: something that is not text.
        """
        value = self.value(row, role, needed=role == "question")
        return None if value is None else one_line(self._text(row, role, value))

    def answers(self, row: Row) -> tuple[str, ...]:
        """The accepted answers, each once, as `cells.answers` reads them; those of `MORE_ANSWERS` come last.

        Raises:
            DataError: none, or something that is not understood.
        """
        for name, said in UNANSWERABLE.items():
            if (told := str(row.values.get(name)).strip()).lower() in said:
                raise DataError(f"{row.place}: a question without answer: {name} is {told} (give --skip-bad)")
        value = self.value(row, "answer", needed=True)
        key = self.key(row, "answer")
        try:
            texts = cells.answers(value, self.separator, row.printed)
            for name in self._more(row):
                key, value = name, row.values[name]
                texts += cells.answers(value, self.separator, row.printed)
                self.used[f"answer: {name}"] += 1
        except NotUnderstood as error:
            parts = value
            if isinstance(value, str):
                with suppress(NotUnderstood):
                    parts = cells.read(value)
            if isinstance(parts, Mapping):
                self._text(row, "answer", parts)  # raises, and names the parts
            raise DataError(f"{row.place}: field {key!r}: {error}") from error
        if not texts:
            raise DataError(f"{row.place}: no answer (fill it in, or give --skip-bad)")
        return tuple(dict.fromkeys(one_line(self._text(row, "answer", text)) for text in texts))

    def _more(self, row: Row) -> list[str]:
        """The fields of a row that hold further answers; none where the caller named the one with the answers."""
        there = [name for name in MORE_ANSWERS if row.values.get(name) and self.answer is None]
        return [name for name in there if str(row.values[name]).strip() not in cells.MISSING]

    def options_of(self, row: Row) -> list[str]:
        """The options of multiple choice in the order of their letters, from one field or from columns A, B, C … (`_columns`)

        Empty where the row has none; gaps at the end, as a table has them after the shorter lists, are left away.

        Raises:
            DataError: neither a list of texts, nor an object whose keys are the letters.
        """
        values = self.value(row, "options")
        if values is None:
            columns = _columns(tuple(row.values)) if self.options is None else []
            if not columns:
                return []
            values = [row.values[column] for column in columns]
            self.used[f"options: {', '.join(columns)}"] += 1
        values = by_letter(values)
        if not isinstance(values, (list, tuple)):
            self._text(row, "options", values)
            raise DataError(f'{row.place}: the options are no list (write ["…", "…"])')
        while values and (cells.missing(values[-1]) or values[-1] == ""):
            values = values[:-1]
        try:
            return [one_line(cells.written("" if cells.missing(value) else value)) for value in values]
        except NotUnderstood as error:
            raise DataError(f"{row.place}: an option {error}") from error

    def split_of(self, row: Row) -> str | None:
        """train, dev or test, None where the row does not say.

        Raises:
            DataError: another word.
        """
        word = self.one(row, "split")
        if word is not None and word.lower() not in SPLITS:
            raise DataError(f"{row.place}: split {word!r} is not one of train, dev, test (correct it)")
        return word and SPLITS[word.lower()]

    def unread(self, row: Row, what: str) -> None:
        """Count, in ``used``, the fields of a row that play no role of ``what``, documents or questions."""
        more = tuple(self._more(row)) if what == "questions" else ()
        for name in _others(self, what, tuple(row.values), more):
            names, inner = [name], row.values.get(name)
            if name == "metadata" and isinstance(inner, Mapping):
                read = ("options", "stem") if what == "questions" else ()
                names = [f"{name}.{part}" for part in inner if part not in read]
            self.used.update(f"{what}, {UNREAD}: {name}" for name in names)

    def _text(self, row: Row, role: str, value: Any) -> str:
        key = self.key(row, role)
        if isinstance(value, Mapping):
            below = ", ".join(f"{key}.{name}" for name in value) or "nothing"
            raise DataError(f"{row.place}: field {key!r} is nested; name a part with --{role}-field: {below}")
        try:
            value = cells.written(value)
        except NotUnderstood as error:
            raise DataError(f"{row.place}: field {key!r} {error}") from error
        if blank(value):
            raise DataError(f"{row.place}: field {key!r} is empty (fill it in, or give --skip-bad)")
        return encodable(value, f"field {str(key)!r}", row.place)


@lru_cache(maxsize=256)  # the rows of a file have few sets of keys
def _common(role: str, keys: tuple[str, ...]) -> list[str | None]:
    """The keys that are, in lower case, the first common name of ``role`` that is among them; [None] for none."""
    known: dict[str, list[str | None]] = {}
    for key in keys:
        known.setdefault(str(key).strip().lower(), []).append(key)
    if "b" in known:  # columns A, B, C … are options, none of which is the answer
        known.pop("a", None)
    found = [known[name] for name in COMMON[role] if name in known] or [[None]]
    return sum(found, []) if role in DECIDING else found[0]


@lru_cache(maxsize=256)
def _columns(keys: tuple[str, ...]) -> list[str]:
    """Columns A, B, C …, or with a word of `OPTION` before the letter or number, in any case, as far as they go.

    None where there is but one.
    """
    known = {_BETWEEN.sub("", str(key)).upper(): key for key in keys}
    series = [LETTERS, *([word + mark for mark in marks] for word in OPTION for marks in (LETTERS, NUMBERS))]
    found = ([known[name] for name in takewhile(known.__contains__, names)] for names in series)
    return next((columns for columns in found if len(columns) > 1), [])


@lru_cache(maxsize=256)
def _others(fields: Fields, what: str, keys: tuple[str, ...], more: tuple[str, ...]) -> list[str]:
    """The keys that play no role of ``what``, nor does a part of them; ``more`` are read besides."""
    named = [getattr(fields, role) for role in ROLES[what]]
    guessed = [_common(role, keys)[0] for role in ROLES[what]]
    read = [*(guess if name is None else name for name, guess in zip(named, guessed, strict=True)), *more]
    used = {name for key in read if key is not None for name in (key, key.split(".")[0])}
    options = [] if "options" in used or "choices" in used else _columns(keys)
    return [str(key) for key in keys if key not in used and key not in options]


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    """The value of a key, else what its dots lead to, else `_MISSING`."""
    if key in values:
        return values[key]
    value: Any = values
    for part in key.split("."):
        if isinstance(value, str):  # an object that a table could only print
            with suppress(NotUnderstood):
                value = cells.read(value)
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def one_line(text: str) -> str:
    """Every run of white space as one space: documents are shown one a line, so none may hold a line break."""
    return " ".join(text.split())
