"""Small HTML tables for objects that show themselves in a notebook; no library needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def html_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """An HTML table, one row per mapping, columns named by the first; cells are escaped text.

    Numbers are set to the right; floats have three decimals.
    """
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(_cell(row[column]) for column in columns) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.3f}"
    side = "right" if str(value)[:1].isdigit() else "left"
    return f'<td style="text-align:{side}">{escape(str(value))}</td>'
