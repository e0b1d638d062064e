"""Rows of plain values as a table that shows itself in a notebook, and how figures are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .html import Cell, Rich, Row, table


def percent(value: float) -> str:
    """An accuracy as the paper prints it."""
    return f"{100 * value:.1f}"


def interval(found: Mapping[str, Any]) -> str:
    """The 95 % interval, in percent."""
    low, high = found["ci95"]
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the heads and the dashes under them included, as a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rows_table(rows: Sequence[Mapping[str, Any]], note: str = "") -> Rich:
    """A table of mappings: the first key names each row, the others are its columns.

    Floats get three decimals, None a dash, True and False become yes and no. A value that is a pair is a
    main line and a small one under it.
    """
    names = list(rows[0]) if rows else []
    shown = []
    for row in rows:
        first, *others = (_cell(row[name]) for name in names)
        shown.append(Row(first.text, others, first.small))
    return table([Cell(name) for name in names], shown, note)


def _cell(value: Any) -> Cell:
    if isinstance(value, tuple):
        return Cell(_text(value[0]), _text(value[1]))
    return Cell(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
