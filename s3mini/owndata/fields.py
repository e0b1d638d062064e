"""Which field of a row is what: guessed from common names, or named by the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from ..corpus import encodable, split_contents
from ..errors import DataError
from ..unicode import blank
from . import cells
from .files import COMMON, Row
from .printed import NotUnderstood

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
WIKI18 = "contents"  # its first line, in quotes, is the title
_MISSING = object()


@dataclass(frozen=True)
class Fields:
    """Names of fields where they are not to be guessed; dots lead into nested objects (``answer.aliases``).

    ``separator`` divides several answers in one text. ``used`` counts what was taken for what.
    """

    id: str | None = None
    text: str | None = None
    title: str | None = None
    question: str | None = None
    answer: str | None = None
    split: str | None = None
    separator: str = "|"
    used: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    def settings(self) -> dict[str, str | None]:
        """The names, for a manifest."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "used"}

    def key(self, row: Row, role: str) -> str | None:
        """The field of a row that plays ``role``: the one named, else the first common name that it has.

        Raises:
            DataError: that name stands twice, in capitals and not.
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
        """The accepted answers, each once, as `cells.answers` reads them.

        Raises:
            DataError: none, or something that is not understood.
        """
        value = self.value(row, "answer", needed=True)
        key = self.key(row, "answer")
        try:
            texts = cells.answers(value, self.separator, row.printed)
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

    def split_of(self, row: Row) -> str | None:
        """train, dev or test, None where the row does not say.

        Raises:
            DataError: another word.
        """
        word = self.one(row, "split")
        if word is not None and word.lower() not in SPLITS:
            raise DataError(f"{row.place}: split {word!r} is not one of train, dev, test (correct it)")
        return word and SPLITS[word.lower()]

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
    return next((known[name] for name in COMMON[role] if name in known), [None])


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
