"""Which field of a row is what: guessed from common names, or named by the caller."""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..corpus import encodable, split_contents
from ..errors import DataError
from .files import Row

# The first that a row has is taken, in lower case.
COMMON = {
    "id": "id _id doc_id docid document_id passage_id question_id qid uid uuid".split(),
    "text": "text contents content body passage document article page_content chunk".split(),
    "title": "title headline heading name subject".split(),
    "question": "question query q prompt input".split(),
    "answer": "golden_answers answers answer gold_answers expected_answer expected ground_truth target a".split(),
    "split": ["split"],
}
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
        """The field of a row that plays ``role``: the one named, else the first common name that it has."""
        named: str | None = getattr(self, role)
        if named is not None:
            return named
        known = {str(key).strip().lower(): key for key in reversed(list(row.values))}
        return next((known[name] for name in COMMON[role] if name in known), None)

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
        if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
            if needed:
                raise DataError(f"{row.place}: field {key!r} is empty (fill it in, or give --skip-bad)")
            return None
        self.used[f"{role}: {key}"] += 1
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
        """The accepted answers, each once: a list, a text that holds a list, or one divided by ``separator``.

        Raises:
            DataError: none, or something that is not text.
        """
        value = self.value(row, "answer", needed=True)
        if isinstance(value, str):
            value = _listed(value) or value.split(self.separator)
        parts = value if isinstance(value, list) else [value]
        filled = [part for part in parts if part is not None and (not isinstance(part, str) or part.strip())]
        if not filled:
            raise DataError(f"{row.place}: no answer (fill it in, or give --skip-bad)")
        return tuple(dict.fromkeys(one_line(self._text(row, "answer", part)) for part in filled))

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
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, float) and value.is_integer():
            value = str(int(value))  # a column of numbers with a gap is read as floats
        elif isinstance(value, (int, float)):
            value = str(value)
        if isinstance(value, Mapping):
            below = ", ".join(f"{key}.{name}" for name in value) or "nothing"
            raise DataError(f"{row.place}: field {key!r} is nested; name a part with --{role}-field: {below}")
        if not isinstance(value, str):
            raise DataError(f"{row.place}: field {key!r} is a {type(value).__name__}, not text (write text)")
        if not value.strip():
            raise DataError(f"{row.place}: field {key!r} is empty (fill it in, or give --skip-bad)")
        return encodable(value, f"field {str(key)!r}", row.place)


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    """The value of a key, else what its dots lead to, else `_MISSING`."""
    if key in values:
        return values[key]
    value: Any = values
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _listed(text: str) -> list[Any] | None:
    """``["a", "b"]``, as JSON or Python write it, in a cell of a table."""
    if not re.fullmatch(r"\s*\[.*\]\s*", text, flags=re.S):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None


def one_line(text: str) -> str:
    """Every run of white space as one space: documents are shown one a line, so none may hold a line break."""
    return " ".join(text.split())
