"""Reading what a model wrote: tags, queries, lists of ids.

Models misspell formats in many ways; these functions accept every reading that is beyond doubt, say
what they repaired, and never raise. They see the model's own text only: tags inside documents are
broken when documents are shown (``wordings.neutralise``), and text a model writes after forging an
``<information>`` block is cut off before anything is read from it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..unicode import blank

THOUGHT = (
    ("<think>", "</think>"),  # DeepSeek's, Qwen's, most
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE's, Gemini's
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),  # Mistral's
    ("◁think▷", "◁/think▷"),  # Kimi's
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere's
    ("<|channel>thought", "<channel|>"),  # Gemma's
    ("<|channel|>", "<|channel|>final<|message|>"),  # gpt-oss'
)
"""How models mark what they think, where it is not kept apart from what they say."""
_OPEN, _CLOSE = ("|".join(map(re.escape, marks)) for marks in zip(*THOUGHT, strict=True))
_THINK = re.compile(f"(?:{_OPEN}).*?(?:{_CLOSE})", re.DOTALL | re.IGNORECASE)
_THOUGHTS = re.compile(f"(?:{_OPEN})(.*?)(?:{_CLOSE}|$)", re.DOTALL | re.IGNORECASE)
_OPENS = re.compile(_OPEN, re.IGNORECASE)
# gpt-oss' again, as servers show it that drop all special tokens
_ANSWERS = re.compile(rf"(?s:.*)(?:{_CLOSE})|(?s:\Aanalysis.*)assistantfinal", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z_]+>", re.IGNORECASE)
_FORGED = re.compile(r"</?\s*information\b", re.IGNORECASE)
_QUERY_KEY = re.compile(r"""^\{?\s*["']?query["']?\s*:\s*(.*?)\s*\}?$""", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
_NUMBER = re.compile(r"(?<![\d.])-?[0-9]+(?:\.[0-9]+)?")
_RANGE = re.compile(r"(?<![\d.-])([0-9]{1,3})\s*(?:-|–|to)\s*([0-9]{1,3})(?![\d.])")
_TITLE = re.compile(r"\(\s*title:.*?\)", re.IGNORECASE | re.DOTALL)
_NOTHING = re.compile(
    r"\W*(?:none|nothing|no|null|empty|n/a)?(?: (?:of them|documents?|docs?))?\W*", re.IGNORECASE
)
_EVERYTHING = re.compile(r"\W*all(?: (?:of them|documents?|docs?))?\W*", re.IGNORECASE)


def split_forged(text: str) -> tuple[str, bool]:
    """Text up to the first ``<information>`` tag the model wrote itself, and whether there was one."""
    tag = _FORGED.search(text)
    return (text[: tag.start()], True) if tag else (text, False)


def without_thoughts(text: str) -> str:
    """Text without its closed ``<think>`` parts; an unclosed one stays, since nothing says where it ends."""
    return _THINK.sub("", text)


def thoughts(text: str) -> list[str]:
    """What stands between marks of `THOUGHT`, to be shown; an unclosed one reaches to the end.

    >>> thoughts("<think> Who? </think> Paris [THINK]Or")
    ['Who?', 'Or']
    """
    return [thought.strip() for thought in _THOUGHTS.findall(text) if thought.strip()]


def tagged(text: str, tag: str) -> list[str]:
    """Contents of each ``<tag>…</tag>``, stripped. A last tag left unclosed runs to the next tag or the end.

    >>> tagged("<query> a </query> <query> b", "query")
    ['a', 'b']
    """
    contents = []
    for piece in re.split(rf"<{tag}>", text, flags=re.IGNORECASE)[1:]:
        end = re.search(rf"</{tag}>", piece, re.IGNORECASE) or _TAG.search(piece)
        contents.append((piece[: end.start()] if end else piece).strip())
    return contents


def parse_flag(text: str) -> bool | None:
    """True or False in any case, quotes and full stops allowed; else None."""
    word = text.strip().strip("\"'.!").strip().lower()
    return {"true": True, "yes": True, "false": False, "no": False}.get(word)


def parse_query(text: str) -> str:
    """The query inside a ``<query>`` tag: JSON, JSON with the usual faults, or plain words.

    Whitespace is folded and control characters dropped; the empty string means there is no query.
    Reading a result again gives the same result.

    >>> [parse_query(t) for t in ('{"query": " a b "}', "{'query': 'a b',}", "a b", '{"query": ""}')]
    ['a b', 'a b', 'a b', '']
    """
    while (inner := fold(_unwrap(text))) != text:
        text = inner
    return text


def fold(text: str) -> str:
    """Text on one line: control characters dropped, whitespace folded; empty where nothing of it can be seen."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return "" if blank(line) else line


def _unwrap(text: str) -> str:
    """The text one layer of JSON, quotes or ``query:`` further in; never longer than the text."""
    text = text.strip()
    if text[:1] not in tuple("{[\"'") and not _QUERY_KEY.match(text):
        return text
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return _unwrap_faulty(text)
    if end < len(text) and not isinstance(value, dict):
        return _unwrap_faulty(text)
    if isinstance(value, dict):
        lower = {str(key).lower(): inner for key, inner in value.items()}
        value = lower.get("query", next(iter(value.values())) if len(value) == 1 else "")
    if isinstance(value, list):
        words = [v for v in value if isinstance(v, str)]
        return " ".join(words) if words or not value else text
    if isinstance(value, bool | dict) or value is None:
        return ""
    return str(value)


def _unwrap_faulty(text: str) -> str:
    keyed = _QUERY_KEY.match(text)
    value = (keyed[1] if keyed else text).rstrip(" ,")
    quote, inner = value[:1], value[1:-1]
    if quote not in ('"', "'"):
        return value if keyed else text
    if len(value) > 1 and value[-1] == quote and (keyed or quote not in inner):
        return inner.replace(f"\\{quote}", quote)
    return value[1:] if keyed else text  # keyed: only the closing quote is missing


@dataclass(frozen=True, slots=True)
class Selection:
    """Document numbers read from ``<important_info>``: in range, each once, in the order written.

    ``readable`` is False when the text neither names a number in range nor says that none is wanted.
    ``dropped`` holds the numbers out of range, as written.
    """

    ids: tuple[int, ...]
    dropped: tuple[str, ...]
    readable: bool


def parse_ids(text: str, count: int) -> Selection:
    """Document numbers 1..``count`` in any reasonable spelling.

    >>> parse_ids("[1, 3, 9, 3]", 4)
    Selection(ids=(1, 3), dropped=('9',), readable=True)
    >>> parse_ids("Doc 2 and Doc 1", 4).ids, parse_ids("none", 4).ids, parse_ids("1-3", 4).ids
    ((2, 1), (), (1, 2, 3))
    """
    if _NOTHING.fullmatch(text):
        return Selection((), (), True)
    if _EVERYTHING.fullmatch(text):
        return Selection(tuple(range(1, count + 1)), (), True)
    text = _TITLE.sub(" ", text)
    text = _RANGE.sub(lambda m: ", ".join(map(str, range(int(m[1]), int(m[2]) + 1))) or m[0], text)
    ids: dict[int, None] = {}
    dropped: dict[str, None] = {}
    for number in _NUMBER.findall(text):
        whole = re.fullmatch(r"0*([0-9]{1,6})(?:\.0+)?", number)  # no minus, no fraction, no astronomy
        if whole and 1 <= int(whole[1]) <= count:
            ids[int(whole[1])] = None
        else:
            dropped[number] = None
    return Selection(tuple(ids), tuple(dropped), bool(ids))


def strip_reasoning(text: str) -> str:
    """The answer proper: what follows the last ``</think>`` (or its like: `THOUGHT`), stripped.

    An opened but never closed ``<think>`` leaves no answer: the empty string.

    >>> strip_reasoning("<think> Paris is in France. </think> Paris"), strip_reasoning("[THINK] Well[/THINK]Paris")
    ('Paris', 'Paris')
    """
    thought = _ANSWERS.match(text)
    if thought is None and _OPENS.match(text.lstrip()):
        return ""
    return text[thought.end() if thought else 0 :].strip()
