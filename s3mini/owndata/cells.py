"""What a cell holds: plain text, or *wholly* a container that is understood; what lies between is refused.

Data frames and spreadsheets have no place for a list, so they print one. The printed forms that are read::

    cell      = container | plain text
    container = "[" values "]"              JSON, Python, numpy (blanks for commas), pyarrow
              | "(" values "," … ")" | "{" values "}"          Python's tuple and set
              | "{" key ":" value, … "}"    JSON, Python; each key once, a text
              | NAME "(" container, keywords ")"               array, list, set, deque, Index, … (`SEQUENCES`)
              | a JSON text that holds a container
    values    = value, value, …  or, in "[ ]", value value …   never both in one pair of brackets
    value     = container | "text" | 'text' | number | None nan NaN NaT NA <NA> null True False true false
              | NAME "(" value ")"          np.str_, np.int64, Decimal, Timestamp, datetime.date, … (`SCALARS`)

Decided: nested lists of answers are one list. Objects are those of `OBJECTS`, with no key beyond theirs. A tuple or a
set of numbers alone may be a point, an interval or two years: refused. Where an answer stands (``strict``), brackets
around bare words (``[Sool, the Sool]``, as DuckDB and Postgres print lists), brackets that never close or were never
opened, and objects printed by address are refused as well; ``[sic] Sool``, ``(a) Sool`` and ``(0, 1]`` are plain text.
A text printed as a missing value (``nan``) is refused in a list, where an author would have written none.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

MISSING = frozenset(
    "nan NaN -nan -NaN <NA> NaT NA N/A n/a None null NULL #N/A #NA \\N 1.#IND 1.#QNAN -1.#IND -1.#QNAN".split()
) | {"", "#N/A N/A"}
"""What a table without types writes where nothing is: what pandas reads so, and NaT, and MySQL's ``\\N``."""
PRINTED_MISSING = frozenset("nan NaN -nan -NaN <NA> NaT #N/A".split())  # nobody's word, even between quotes
DEEPEST = 20  # brackets within brackets
DAY = 86_400_000  # milliseconds
BARE = 'leave the brackets away, or write a list of texts: ["…", "…"]'

_WORDS = {
    **dict.fromkeys("None null nan NaN NaT NA <NA> -nan pd.NA pd.NaT np.nan".split()),
    **dict.fromkeys("True true np.True_".split(), True),
    **dict.fromkeys("False false np.False_".split(), False),
}
SEQUENCES = frozenset("array list tuple set frozenset deque dict_keys dict_values Index Categorical".split())
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
_CALL = re.compile(r"([A-Za-z_][\w.]*)\(\s*(?=[\[({'\")]|\d)")
_QUOTED = re.compile(r"[\[{(\s]*[bru]?['\"“‘«]")
_INTERVAL = re.compile(r"\[[^][(){}'\"]*\)")
_SINGLE = re.compile(r"\(\s*(?:'[^']*'|\"[^\"]*\")\s*\)")  # ("Heroes"): a tuple has a comma
_OPENING = ("[", "{", "(")
_CUT_SHORT = re.compile(r"[\[\s,](?:\.\.\.|…)[\s,\]]")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?")
_REMAINS: dict[str, re.Pattern[str]] = {
    "an object printed by its address (write its content)": re.compile(
        r"<[\w.]+[^>]* at 0x[0-9a-fA-F]+.*>|<pyarrow\..*", re.S
    ),
    "a printed Series or frame (write its values as a list)": re.compile(
        r".*(?:\bdtype: \w+|\[\d+ rows x \d+ columns\])|shape: \(\d+,.*", re.S
    ),
    "bytes printed by Python (decode them before you write the table)": re.compile(r"b(?:'.*'|\".*\")", re.S),
    "a spreadsheet's error or formula (write the value)": re.compile(
        r"#(?:REF|VALUE|NAME|NUM|NULL|DIV/0|SPILL|CALC)[!?]|=\".*\"|#{4,}"
    ),
    "the end of a list whose beginning is missing (write it whole, or in quotes)": re.compile(
        r"[^\[{]*['\"]\s*[\]}]+"
    ),
}


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


def read(cell: str, strict: bool = True) -> Any:
    """The list, object or other value that a cell holds wholly, else the cell itself: plain text.

    Args:
        strict: also refuse what only resembles a container; right where nobody writes in brackets (answers).

    Raises:
        NotUnderstood: between the two.
    """
    text = cell.strip()
    if text[:2] in ('"[', '"{') and text[-2:] in (']"', '}"'):
        try:
            return read(loads(text), strict)  # JSON in JSON
        except json.JSONDecodeError:
            return cell
    call = _CALL.match(text)
    known = call is not None and _scalar_or_sequence(call[1])
    named = call is not None and (known or text.startswith(_OPENING, call.end()))
    if not text.startswith(_OPENING) and not named:
        if strict:
            _refuse_remains(text)
        return cell
    try:
        value = _literal(text)
    except NotUnderstood as error:
        return _plain(cell, text, strict, known, error)
    if not isinstance(value, (tuple, set, frozenset)):
        return value
    if not any(isinstance(item, (str, list, tuple, Mapping)) for item in value) and value:
        if not strict:
            return cell
        raise NotUnderstood(
            "numbers in brackets: a tuple or set, or a point or interval? (write [1, 2] for two answers, "
            "without brackets for one)"
        )
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)


def _plain(cell: str, text: str, strict: bool, known: bool, error: NotUnderstood) -> str:
    """A cell that begins like a container and is none: itself where it is text, else ``error`` is raised."""
    end, quoted = _end(text), _QUOTED.match(text) is not None
    goes_on = end is not None and end < len(text)
    if text[0] == "(":
        plain = goes_on or not (quoted and strict) or _SINGLE.fullmatch(text) is not None
    elif text[0] in "[{":
        plain = (
            _INTERVAL.fullmatch(text) is not None
            or (goes_on and not (quoted and strict))
            or not (quoted or strict)
        )
    else:
        plain = not strict and (goes_on or not known)
    if plain:
        return cell
    if end is None:
        raise NotUnderstood("brackets that never close: half a list (write it whole, or in quotes)")
    raise error


def _refuse_remains(text: str) -> None:
    """Raise `NotUnderstood` for what is left of an object that was printed without its content."""
    for what, form in _REMAINS.items():
        if form.fullmatch(text):
            raise NotUnderstood(what)


def _end(text: str) -> int | None:
    """One past the bracket that closes the first one; None where nothing does. Quotes are not looked at."""
    depth = 0
    for match in re.finditer(r"[][(){}]", text):
        depth += 1 if match[0] in "[({" else -1
        if depth == 0:
            return match.end()
    return None


def _scalar_or_sequence(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in SEQUENCES or last in SCALARS or name in SCALARS


# ------------------------------------------------------------------------------ the printed forms


def _literal(text: str) -> Any:
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
            if self.peek() == "word" and self.tokens[self.at + 1 : self.at + 2] == [("sign", "=", False)]:
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
        make = SCALARS.get(name) or SCALARS.get(last)
        if make is not None and values:
            try:
                return make(*values)
            except (TypeError, ValueError, ArithmeticError) as error:
                raise NotUnderstood(f"{name}(…) that is none (write its value as text)") from error
        raise NotUnderstood(f"{name}(…), a printed form that is not known (write its content as text)")


# ------------------------------------------------------------------------------ values and answers

OBJECTS = {
    "SQuAD": ("text", "answer_start", "answer_end answer_id"),
    "MRQA": ("text", "char_spans", "token_spans"),
    "Natural Questions": ("text", "start_token end_token", "start_byte end_byte"),
    "KILT": ("answer", "", "provenance meta"),
    "TriviaQA": (
        "value aliases",
        "",
        "humananswers type normalized_value normalized_aliases matched_wiki_entity_name "
        "normalized_matched_wiki_entity_name normalizedvalue normalizedaliases matchedwikientityname "
        "normalizedmatchedwikientityname",
    ),
}
"""Objects in which public sets keep an answer: keys that hold it, keys that must stand beside it, keys that may."""


def written(value: Any) -> str:
    """A value of a typed column as a person writes it: 3 for 3.0, yes for true, 1922-05-01 for that day's midnight.

    Raises:
        NotUnderstood: no text is that value (a list, a duration, infinity, bytes that are not UTF-8).
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, datetime):
        return instant(value.isoformat())
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if all(c.isprintable() or c.isspace() for c in text):
            return text
    raise NotUnderstood(f"is a {type(value).__name__}, not text (write text)")


def instant(text: str) -> str:
    """A point in time as data frames print it (``1922-05-01T00:00:00.000``): its day, with the time where it has one."""
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        return text
    day, minutes, seconds, fraction, zone = (part or "" for part in match.groups())
    seconds, fraction = seconds or ":00", fraction.rstrip("0")
    if (minutes, seconds, fraction) == ("00:00", ":00", ""):
        return day
    return f"{day} {minutes}{seconds}{'.' + fraction if fraction else ''}{zone}"


def missing(value: Any) -> bool:
    """None, or a value that is not even itself: NaN, NaT."""
    return value is None or bool(value != value)


def answers(value: Any, separator: str, printed: bool) -> list[str]:
    """The accepted answers that a value holds, in order; empty ones and missing ones left away.

    Args:
        separator: divides several answers in plain text.
        printed: from a table without types, where ``True`` and ``3.0`` may be a word or a typed column's print: both
            readings are accepted (``yes`` and ``True``, ``3`` and ``3.0``).

    Raises:
        NotUnderstood: it holds something else.
    """
    if isinstance(value, str):
        value = read(value)
    if isinstance(value, str) and printed and (typed := _printed(value.strip())):
        return [typed, value]
    if isinstance(value, str):
        value = [read(part) for part in value.split(separator)]
    return list(_texts(value))


def _printed(text: str) -> str | None:
    """What a printed truth value or float says, None for any other text."""
    if text in ("True", "true", "TRUE", "False", "false", "FALSE"):
        return "yes" if text[0] in "Tt" else "no"
    return text.partition(".")[0] if re.fullmatch(r"-?(0|[1-9]\d*)\.0+", text) else None


def _texts(value: Any) -> Iterator[str]:
    if missing(value):
        return
    if isinstance(value, str):
        if value.strip() in PRINTED_MISSING:
            raise NotUnderstood(f"{value.strip()!r}: a missing value printed as text (leave it out)")
        _refuse_remains(value.strip())
        inner = read(value, strict=False)
        if not isinstance(inner, str):
            yield from _texts(inner)
        elif value.strip():
            yield instant(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, Mapping):
        yield from _texts(_answer_of(value))
    elif isinstance(value, int) and value and value % DAY == 0:
        raise NotUnderstood(
            f"{value} reads as a day in milliseconds, as pandas' to_json writes dates (give it "
            'date_format="iso", or write the number in quotes)'
        )
    else:
        yield written(value)


def _answer_of(value: Mapping[str, Any]) -> list[Any]:
    """The texts in an object of a public set."""
    lower = {str(key).lower(): item for key, item in value.items()}
    for holds, beside, may in (map(str.split, keys) for keys in OBJECTS.values()):
        if {*holds, *beside} <= lower.keys() <= {*holds, *beside, *may} and len(lower) == len(value):
            texts = [lower[key] for key in (*holds, "humananswers") if key in lower]
            flat = [t for text in texts for t in (text if isinstance(text, (list, tuple)) else [text])]
            if all(isinstance(text, str) or missing(text) for text in flat):
                return flat
    raise NotUnderstood(f"holds an object with the keys {', '.join(map(repr, value)) or 'none'}")
