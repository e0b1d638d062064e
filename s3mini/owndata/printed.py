"""The printed forms of containers, read by recursive descent; their grammar stands in `cells`."""

from __future__ import annotations

import ast
import json
import re
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

DEEPEST = 20  # brackets within brackets
BARE = 'leave the brackets away, or write a list of texts: ["…", "…"]'

_WORDS = {
    **dict.fromkeys("None null nan NaN NaT NA <NA> -nan pd.NA pd.NaT np.nan".split()),
    **dict.fromkeys("True true np.True_".split(), True),
    **dict.fromkeys("False false np.False_".split(), False),
}
SEQUENCES = frozenset(
    "array list tuple set frozenset deque dict_keys dict_values Index Categorical c character".split()
)
R_VECTORS = frozenset(("c", "list"))  # their values stand in the parentheses themselves, perhaps named
SCALARS: dict[str, Any] = {
    **dict.fromkeys("str_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_".split(), lambda v: v),
    **dict.fromkeys("float16 float32 float64".split(), lambda v: v),
    **dict.fromkeys(("Timestamp", "datetime64"), lambda text, *_: str(text)),
    **{"Decimal": Decimal, "UUID": UUID, "datetime.date": date, "datetime.datetime": datetime},
}
_ESCAPE = r"\\(?:[\\'\"abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
_TOKEN = re.compile(
    rf"""(?P<blank>\s*)(?:
      (?P<text>'(?:[^'\\\n]|{_ESCAPE})*'|"(?:[^"\\\n]|{_ESCAPE})*")
    | (?P<number>[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
    | (?P<call>[A-Za-z_][\w.]*)\(
    | (?P<word><NA>|-?[A-Za-z_][\w.]*)
    | (?P<sign>[][(){{}},:=]))""",
    re.X,
)
_CUT_SHORT = re.compile(r"[\[\s,](?:\.\.\.|…)[\s,\]]")


class NotUnderstood(ValueError):
    """Neither text nor a container that is understood; says what, and the remedy."""


def loads(text: str | bytes) -> Any:
    """JSON, no key of an object twice (of two values the json module keeps the last one in silence).

    Raises:
        json.JSONDecodeError: malformed. NotUnderstood: a key twice, or a number too long to be one.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise NotUnderstood(f"an object has the key {twice!r} twice (keep one)")
        return values

    try:
        return json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, NotUnderstood):
        raise
    except ValueError as error:
        raise NotUnderstood("a number of thousands of digits (write it as text)") from error


def literal(text: str) -> Any:
    """The container that ``text`` is wholly; raises `NotUnderstood`."""
    try:
        return loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    reader = _Reader(text)
    value = reader.value()
    if reader.at < len(reader.tokens):
        raise NotUnderstood(f"text after the closing bracket ({BARE})")
    return value


class _Reader:
    """Recursive descent over the tokens of one cell."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, blank before it
        self.at = 0
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                if _CUT_SHORT.search(text):
                    raise NotUnderstood("a list cut short by '...' when it was printed (write it whole)")
                raise NotUnderstood(f"in brackets, but no list of texts in quotes ({BARE})")
            self.tokens.append((match.lastgroup, match[match.lastgroup], bool(match["blank"])))
            at = match.end()

    def peek(self) -> str:
        kind, text, _ = self.tokens[self.at] if self.at < len(self.tokens) else ("sign", "", False)
        return text if kind == "sign" else kind

    def take(self, sign: str = "") -> tuple[str, str]:
        if self.at == len(self.tokens):
            raise NotUnderstood("brackets that never close: half a list (write it whole, or in quotes)")
        kind, text, _ = self.tokens[self.at]
        if sign and (kind, text) != ("sign", sign):
            raise NotUnderstood(f"{text!r} where {sign!r} was to come ({BARE})")
        self.at += 1
        return kind, text

    def value(self, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise NotUnderstood("brackets within brackets, too deep (write a flat list)")
        kind, text = self.take()
        if kind == "text":
            return ast.literal_eval(text)
        if kind == "number":
            return float(text) if re.search("[.eE]", text) else int(text[:4000])
        if kind == "word" and text in _WORDS:
            return _WORDS[text]
        if kind == "call":
            return self.call(text, depth)
        if text == "[":
            return self.items("]", depth)
        if text == "(":
            values = self.items(")", depth)
            if len(values) == 1 and self.tokens[self.at - 2][1] != ",":
                raise NotUnderstood(f"parentheses, but no tuple ({BARE})")
            return tuple(values)
        if text == "{":
            return self.braces(depth)
        raise NotUnderstood(f"{text!r} without quotes in brackets ({BARE})")

    def items(self, close: str, depth: int) -> list[Any]:
        values: list[Any] = []
        commas = blanks = 0
        while self.peek() != close:
            if values and self.peek() != ",":
                blanks += 1
                if close != "]" or not self.tokens[min(self.at, len(self.tokens) - 1)][2]:
                    raise NotUnderstood(f"a list without commas between its parts ({BARE})")
            elif values:
                commas += 1
                self.take(",")
                if self.peek() == close:
                    break
            values.append(self.value(depth + 1))
        self.take(close)
        if commas and blanks:
            raise NotUnderstood("a list with a comma missing (write one between any two parts)")
        return values

    def braces(self, depth: int) -> Any:
        if self.peek() == "}":
            self.take()
            return {}
        pairs: dict[str, Any] = {}
        start = self.at
        while self.peek() != "}":
            key = self.value(depth + 1)
            if self.peek() != ":" and not pairs:
                self.at = start
                values = self.items("}", depth)
                if any(isinstance(item, (list, dict, set)) for item in values):
                    raise NotUnderstood("a set of lists or objects (write a list)")
                return set(values)
            self.take(":")
            if not isinstance(key, str) or key in pairs:
                raise NotUnderstood(
                    f"an object whose key {key!r} is no text, or stands twice (write each once)"
                )
            pairs[key] = self.value(depth + 1)
            if self.peek() == ",":
                self.take()
            elif self.peek() != "}":
                break
        self.take("}")
        return pairs

    def call(self, name: str, depth: int) -> Any:
        last = name.rpartition(".")[2]
        values = []
        while self.peek() != ")":
            if (
                name not in R_VECTORS
                and self.peek() == "word"
                and self.tokens[self.at + 1 : self.at + 2] == [("sign", "=", False)]
            ):
                self.at += 2  # a keyword, as dtype=object: nothing that belongs to the content
                self.take() if self.peek() in ("word", "text") else self.value(depth + 1)
            else:
                values.append(self.value(depth + 1))
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        if last in SEQUENCES and len(values) <= 1:
            content = values[0] if values else []
            if isinstance(content, (list, tuple, set)):
                return list(content)
        if name in R_VECTORS and values and all(isinstance(item, (str, list)) for item in values):
            return values
        make = SCALARS.get(name) or SCALARS.get(last)
        if make is not None and values:
            try:
                return make(*values)
            except (TypeError, ValueError, ArithmeticError) as error:
                raise NotUnderstood(f"{name}(…) that is none (write its value as text)") from error
        raise NotUnderstood(f"{name}(…), a printed form that is not known (write its content as text)")
