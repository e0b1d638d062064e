"""How figures are printed, and rows of plain values as a table that shows itself in a notebook.

An *estimate* is what `Estimate.as_json` leaves in a record: ``{"n", "mean" (or "gen_acc"), "ci95"}``.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .html import Cell, Rich, Row, table

NONE = "–"


def percent(value: float | None) -> str:
    """An accuracy as the paper prints it."""
    if value is None:
        return NONE
    # Of a mean of few figures the half is exact, but not in binary; the paper rounds it up.
    return str(Decimal(f"{100 * value:.8f}").quantize(Decimal("0.1"), ROUND_HALF_UP))


def interval(estimate: Mapping[str, Any]) -> str:
    """The 95 % interval, in percent."""
    low, high = estimate["ci95"]
    return f"[{percent(low)}, {percent(high)}]"


def points(estimate: Mapping[str, Any]) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    mean, low, high = (round(100 * x, 1) + 0.0 for x in (estimate["mean"], *estimate["ci95"]))  # no -0.0
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def fraction(estimate: Mapping[str, Any], key: str = "gen_acc", spec: str = ".3f") -> str:
    """A value in [0, 1] with its interval."""
    low, high = estimate["ci95"]
    return f"{estimate[key]:{spec}} [{low:{spec}}, {high:{spec}}]"


def accuracy(figures: Mapping[str, Any], kind: str = "average") -> Cell:
    """GenAcc in percent, its interval below."""
    return Cell(percent(figures["gen_acc"]), interval(figures), kind)


def difference(estimate: Mapping[str, Any] | None, kind: str = "") -> Cell:
    """A difference in percentage points, its interval below."""
    return Cell(f"{100 * estimate['mean']:+.1f}", interval(estimate), kind) if estimate else Cell(NONE)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def rows_table(rows: Sequence[Mapping[str, Any]], note: str = "") -> Rich:
    """A table of mappings: the first key names each row, the others are its columns.

    Floats get three decimals, None a dash, True and False become yes and no. A value that is a pair is a
    main line and a small one under it.
    """
    heads = list(rows[0]) if rows else []
    shown = []
    for row in rows:
        first, *cells = (Cell(*map(_text, v if isinstance(v, tuple) else (v,))) for v in map(row.get, heads))
        shown.append(Row(first.text, cells, first.small))
    return table(heads, shown, note)


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
