"""What a cell holds: plain text, or *wholly* a container that is understood; what lies between is refused.

Data frames and spreadsheets have no place for a list, so they print one. The printed forms that are read::

    cell      = container | plain text
    container = "[" values "]"              JSON, Python, numpy (blanks for commas), pyarrow
              | "(" values "," … ")" | "{" values "}"          Python's tuple and set
              | "{" key ":" value, … "}"    JSON, Python; each key once, a text
              | NAME "(" container, keywords ")"               array, list, set, deque, Index, … (`SEQUENCES`)
              | "c(" "text", … ")" | "list(" "text", … ")"     R's vectors and lists of texts
              | a JSON text that holds a container
    values    = value, value, …  or, in "[ ]", value value …   never both in one pair of brackets
    value     = container | "text" | 'text' | number | None nan NaN NaT NA <NA> null True False true false
              | NAME "(" value ")"          np.str_, np.int64, Decimal, Timestamp, datetime.date, … (`SCALARS`)

Decided: nested lists of answers are one list. Objects are those of `OBJECTS`, with no key beyond theirs. A tuple or a
set of numbers alone may be a point, an interval or two years: refused; so is a tuple, or a list within a list, of texts
and numbers, which may be an answer with its score. Where an answer stands (``strict``), brackets
around bare words (``[Sool, the Sool]``, as DuckDB and Postgres print lists), brackets that never close or were never
opened, texts in quotes without brackets, and objects printed by address are refused as well; ``[sic] Sool``, ``(a) Sool`` and ``(0, 1]`` are plain text.
A text printed as a missing value (``nan``) is refused in a list, where an author would have written none; so are a
separator within brackets (``P(A|B)``), a number that a spreadsheet shortened (``1.23E+12``), and a set's sign for no answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..unicode import blank
from .printed import SCALARS, SEQUENCES, NotUnderstood, literal, loads

MISSING = frozenset(
    "nan NaN -nan -NaN <NA> NaT NA N/A n/a None null NULL #N/A #NA \\N 1.#IND 1.#QNAN -1.#IND -1.#QNAN".split()
) | {"", "#N/A N/A"}
"""What a table without types writes where nothing is: what pandas reads so, and NaT, and MySQL's ``\\N``."""
PRINTED_MISSING = frozenset("nan NaN -nan -NaN <NA> NaT #N/A".split())  # nobody's word, even between quotes
NO_ANSWER = frozenset(("no answer present.", "cannotanswer"))  # MS MARCO's and QuAC's sign
DAY = 86_400_000  # milliseconds

_CALL = re.compile(r"([A-Za-z_][\w.]*)\(\s*(?=[\[({'\")]|(?<!\bc\()\d|(?:c|list)\(|[\w.]+\s*=)")
_QUOTED = re.compile(r"[\[{(\s]*[bru]?['\"“‘«]")
_INTERVAL = re.compile(r"\[[^][(){}'\"]*\)")
_SINGLE = re.compile(r"\(\s*(?:'[^']*'|\"[^\"]*\")\s*\)")  # ("Heroes"): a tuple has a comma
_OPENING = ("[", "{", "(")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?")
_REMAINS: dict[str, re.Pattern[str]] = {
    "an object printed by its address (write its content)": re.compile(
        r"<[\w.]+[^>]* at 0x[0-9a-fA-F]+.*>|<pyarrow\..*|.*\[object Object\].*|System\.\S*\[.*\]", re.S
    ),
    "a printed Series or frame (write its values as a list)": re.compile(
        r".*(?:\bdtype: \w+|\[\d+ rows x \d+ columns\])|shape: \(\d+,.*", re.S
    ),
    'texts in quotes without brackets around them: one answer, or several? (write ["…", "…"])': re.compile(
        r"'[^']*'(?:\s*,\s*'[^']*')+|\"[^\"]*\"(?:\s*,\s*\"[^\"]*\")+"
    ),
    "bytes printed by Python (decode them before you write the table)": re.compile(r"b(?:'.*'|\".*\")", re.S),
    "a spreadsheet's error or formula (write the value)": re.compile(
        r"#(?:REF|VALUE|NAME|NUM|NULL|DIV/0|SPILL|CALC)[!?]|=\".*\"|#{4,}"
    ),
    "the end of a list whose beginning is missing (write it whole, or in quotes)": re.compile(
        r"[^\[{]*['\"]\s*[\]}]+"
    ),
}


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
        value = literal(text)
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
    if isinstance(value, tuple):
        _refuse_pair(value)
        return list(value)
    return sorted(value, key=str)


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


def _refuse_pair(items: Sequence[Any]) -> None:
    """Raise `NotUnderstood` for texts and numbers side by side, which a tuple or an inner list hardly holds as answers."""
    if {str, float} <= {str if isinstance(i, str) else float if _number(i) else object for i in items}:
        raise NotUnderstood(
            "a text beside a number: an answer with its score or place? (write the answers alone)"
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and not missing(value)


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
    """A value of a typed column as a person writes it: 3 for 3.0, 0.00001 for 1e-05, yes for true, 1922-05-01 for its midnight.

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
        return str(int(value)) if value == int(value) else format(Decimal(str(value)), "f")
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
        printed: from a table without types, where ``True``, ``3.0`` and ``1e+05`` may be a word or a typed column's
            print: both readings are accepted (``yes`` and ``True``, ``3`` and ``3.0``, ``100000`` and ``1e+05``).

    Raises:
        NotUnderstood: it holds something else.
    """
    if isinstance(value, str):
        value = read(value)
    if isinstance(value, str):
        parts = value.split(separator)
        if _closed(value) and not all(map(_closed, parts)):
            raise NotUnderstood(
                f"{separator!r} within brackets: one answer, or several? (write a list of texts)"
            )
        value = [read(part) for part in parts]
        if printed:
            value = [reading for part in value for reading in _readings(part)]
    return list(_texts(value))


def _readings(part: Any) -> list[Any]:
    """A part of a cell; before it, what it says where it is a printed truth value or float."""
    text = part.strip() if isinstance(part, str) else ""
    if text in ("True", "true", "TRUE", "False", "false", "FALSE"):
        return ["yes" if text[0] in "Tt" else "no", part]
    if re.fullmatch(r"-?\d(?:\.\d+)?e[+-]\d\d", text):
        return [written(float(text)), part]
    if re.fullmatch(r"-?\d(?:\.\d+)?E[+-]\d\d", text):
        raise NotUnderstood(f"{text}: a number as spreadsheets shorten it (format the column as text)")
    return [text.partition(".")[0], part] if re.fullmatch(r"-?(0|[1-9]\d*)\.0+", text) else [part]


def _closed(text: str) -> bool:
    return all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]", "{}"))


def _texts(value: Any) -> Iterator[str]:
    if missing(value):
        return
    if isinstance(value, str):
        if value.strip() in PRINTED_MISSING:
            raise NotUnderstood(f"{value.strip()!r}: a missing value printed as text (leave it out)")
        if value.strip().lower() in NO_ANSWER:
            raise NotUnderstood(f"{value.strip()!r}: a set's sign for no answer (give --skip-bad)")
        _refuse_remains(value.strip())
        inner = read(value, strict=False)
        if not isinstance(inner, str):
            yield from _texts(inner)
        elif not blank(value):
            yield instant(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            if isinstance(part, (list, tuple)):
                _refuse_pair(part)
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
