"""The text of a page as a browser shows it: words are apart where it shows them apart, and only there.

Inline elements do not divide (``<b>Ber</b>lin`` is Berlin), nor do break opportunities (``<wbr>``, soft hyphens, zero-width
spaces); blocks, ``<br>``, table cells, list items and whatever is drawn as a box (pictures, fields) do. White space is one space,
except in ``<pre>``. Left out is what the HTML standard's own style sheet hides, and what ``hidden`` or an element's own
``style`` hides; style sheets and scripts are not run. Kept: the content of a closed ``<details>``. Left out
though shown: ``<nav>``, which is no document.
"""

from __future__ import annotations

import codecs
import html
import re
from pathlib import Path
from typing import Any

from ..errors import DataError

_ENTITY = re.compile(r"&#?\w+;?")
HIDDEN = frozenset(
    "area base datalist head link meta noembed noframes noscript param rp script style template title nav "
    "desc defs metadata annotation annotation-xml".split()
)
FALLBACKS = frozenset("audio canvas iframe object video".split())  # their content shows where they cannot
PARAGRAPHS = frozenset(
    "article aside blockquote body dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html main nav "
    "menu ol p pre section table ul".split()
)
LINES = frozenset(
    "address br caption center dd details dialog dir div dt figcaption frame frameset legend li listing mtr optgroup "
    "option plaintext search summary tbody tfoot thead tr xmp".split()
)
CELLS = frozenset("mtd td th".split())
BOXES = frozenset(
    "audio button canvas embed iframe img input meter object progress rt select svg text textarea video".split()
)
LATIN1 = frozenset(
    "iso-8859-1 iso8859-1 latin-1 latin1 l1 ascii us-ascii".split()
)  # to a browser: windows-1252
_DISPLAY = re.compile(r"(?:^|;)\s*display\s*:\s*([\w-]+)", re.I)
_GONE = re.compile(r"(?:^|;)\s*display\s*:\s*none\b", re.I)
_UNSEEN = re.compile(r"(?:^|;)\s*visibility\s*:\s*(?:hidden|collapse)\b", re.I)
_WIDTHLESS = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_BLANKS = re.compile(r"[ \t\n\r\f]+")
_STRAY = re.compile(r"</(?:p|br)\s*>", re.I)  # a browser makes an element of one that closes nothing


def page_text(raw: bytes, path: Path) -> tuple[str, str]:
    """Title and visible text of a page.

    Raises:
        DataError: bytes that its encoding does not have.
    """
    from bs4 import BeautifulSoup

    # Beautiful Soup takes the semicolon off entities it does not know, and leaves those without one as they are.
    markup = _ENTITY.sub(lambda one: html.escape(html.unescape(one[0])), _decoded(raw, path))
    page = BeautifulSoup(_STRAY.sub(r"\g<0><br>", markup), "html.parser")
    titles = [title for title in page("title") if not title.find_parent("svg")]
    title = " ".join(_WIDTHLESS.sub("", titles[0].get_text()).split()) if titles else ""
    pieces: list[str] = []
    _show(page, pieces)
    text = re.sub(r" *([\t\n]) *", r"\1", re.sub(r" {2,}", " ", "".join(pieces)))
    return title, re.sub(r"\n{3,}", "\n\n", text).strip()


def _decoded(raw: bytes, path: Path) -> str:
    """The page's text by its mark, else by the encoding it declares, else UTF-8: Beautiful Soup itself would guess one."""
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(raw, is_html=True) or "utf-8"
    declared = (
        "windows-1252" if declared in LATIN1 else "utf-8" if declared.startswith("utf-16") else declared
    )
    marked = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marked.items() if raw.startswith(mark)), declared)
    try:
        return raw.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        line = raw[: getattr(error, "start", 0)].count(b"\n") + 1
        remedy = 'convert the page to UTF-8, or declare its encoding: <meta charset="…">'
        raise DataError(f"{path}:{line}: no text in the encoding {encoding} ({remedy})") from error


def _show(root: Any, pieces: list[str]) -> None:
    """Append what is shown below ``root``: a walk without recursion, pages nest as deep as they like."""
    from bs4 import NavigableString, Tag
    from bs4.element import PreformattedString

    stack: list[Any] = [(child, False, False) for child in reversed(list(root.children))]
    while stack:
        node, pre, block = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):
            pieces.append(node)  # what comes after an element
        elif not isinstance(node, Tag):
            if not isinstance(node, PreformattedString):  # comments, declarations
                text = _WIDTHLESS.sub("", str(node))
                pieces.append(text if pre else _BLANKS.sub(" ", text))
        else:
            style = str(node.get("style") or "")
            gone = node.name in HIDDEN or node.has_attr("hidden") or _GONE.search(style) is not None
            gone = gone or (node.name == "dialog" and not node.has_attr("open"))
            gone = gone or (node.name == "input" and str(node.get("type")).lower() == "hidden")
            before, after = ("", "") if gone and node.name != "nav" else _around(node, block)
            inside = list(node.children)
            if gone or node.name in FALLBACKS or _UNSEEN.search(style):
                # Where its end tag was left away, what begins the next element stands in it, and is no part of it.
                inside = [
                    child for child in inside if isinstance(child, Tag) and _ends(node.name, child.name)
                ]
            shown = _DISPLAY.search(style)
            divided = node.name == "mfrac" or (
                shown is not None and shown[1].lower().endswith(("flex", "grid"))
            )
            pre = pre or node.name in ("pre", "listing", "xmp", "plaintext", "textarea")
            pieces.append(before)
            stack.append((after, False, False))
            stack.extend((child, pre, divided) for child in reversed(inside))


def _around(node: Any, block: bool) -> tuple[str, str]:
    """What stands before and after an element: nothing, a blank, a tab or line ends."""
    name = node.name
    shown = _DISPLAY.search(str(node.get("style") or ""))
    display = shown[1].lower() if shown else ""
    if name == "q":
        return "“", "”"
    if display in ("inline", "contents") and name != "br":
        return "", ""
    if name in PARAGRAPHS:
        return "\n\n", "\n\n"
    if (
        name in LINES
        or block
        or display in ("block", "flex", "grid", "table", "list-item", "flow-root", "table-row")
    ):
        return "\n", "" if name == "br" else "\n"
    if name in CELLS or display == "table-cell":
        return "\t", "\t"
    if name in BOXES or display.startswith("inline-"):
        return " ", " "
    return "", ""


def _ends(open_name: str, name: str) -> bool:
    """Whether an element's start ends one of ``open_name`` whose end tag was left away."""
    if open_name == "p":
        return name in PARAGRAPHS or name in (
            "address",
            "center",
            "details",
            "dir",
            "div",
            "figcaption",
            "summary",
        )
    same = {"dt": "dd", "dd": "dt", "td": "th", "th": "td"}
    return open_name in ("li", "option", "tr", *same) and name in (open_name, same.get(open_name))
