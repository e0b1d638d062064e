"""Results as objects that print plainly and show richly: tables, whole episodes, pages.

HTML comes from auto-escaping templates: questions, documents and model output are untrusted text, so a
passage that holds ``<script>`` is shown as those letters. A notebook that is opened is itself untrusted: JupyterLab and
GitHub drop style sheets, scripts and SVG. So the templates say all they say by order, lists, tables, bold and
punctuation; the style sheet decorates. What has to be drawn is a PNG (`plots.Plot`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..protocols.parsing import thoughts
from ..records import Episode, Score

TEMPLATES = Path(__file__).parent / "templates"


_TOGETHER = re.compile(r"\[[^\]]{,20}\]|n = \S+|\S+ %")  # an interval, a count, a percentage stay on one line


_templates = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=lambda name: name is None or not name.endswith((".txt.j2", ".md.j2")),
    undefined=StrictUndefined,
    trim_blocks=True,
)


_templates.filters["unbroken"] = lambda text: _TOGETHER.sub(
    lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text
)


def render(template: str, **values: Any) -> str:
    """A template, filled in: one of HTML escapes what it is given, and an unknown name is an error."""
    return _templates.get_template(template).render(**values)


@cache
def style() -> str:
    """The style sheet shared by notebooks and the report."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Rich:
    """Something to look at: ``text`` for a terminal (and for tests), ``html`` for a notebook."""

    text: str
    html: Markup = field(repr=False)

    def __repr__(self) -> str:
        return self.text

    def __html__(self) -> Markup:
        return self.html  # lets a template embed it without escaping it again

    def _repr_html_(self) -> str:
        return f'<style>{style()}</style><div class="s3">{self.html}</div>'


class Cell(NamedTuple):
    """One cell of a table: a main line, a small one under it, and a style class."""

    text: str
    small: str = ""
    kind: str = ""


Cells = Sequence[Sequence[str]]
"""Cells, or what they are made of: a text alone, or a pair of a text and a small one."""


def _cells(cells: Cells) -> list[Cell]:
    return [Cell(cell) if isinstance(cell, str) else Cell(*cell) for cell in cells]


@dataclass(frozen=True)
class Row:
    """One row: its name, its cells, what the name means, and a style class."""

    name: str
    cells: Cells
    about: str = ""
    kind: str = ""


def table(heads: Cells, rows: Sequence[Row], note: str = "") -> Rich:
    """A table; ``heads`` has one cell more than each row has (the first names the rows)."""
    heads = _cells(heads)
    shown = [(row, _cells(row.cells)) for row in rows]
    lines = [[head.text for head in heads]]
    lines += [[row.name, *(f"{c.text} {c.small}".strip() for c in cells)] for row, cells in shown]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = "\n".join(
        "  ".join([line[0].ljust(first), *(c.rjust(w) for c, w in zip(line[1:], others, strict=True))])
        for line in lines
    )
    return Rich(text, Markup(render("table.html.j2", heads=heads, rows=shown, note=note)))


def verdict(score: Score) -> str:
    """In words, how GenAcc came about."""
    if score.span:
        return "span match: an accepted answer occurs in it"
    if score.judge is None:
        return "span match only: no accepted answer occurs in it"
    return "the judge said yes" if score.judge else "no span match, and the judge said no"


def episode_html(
    episode: Episode,
    answer: str | None = None,
    score: Score | None = None,
    gold_ids: Collection[str] | None = None,
    set_name: str = "",
) -> Rich:
    """A whole episode: what was shown, thought, asked and selected, and what the generator made of it.

    Args:
        answer: the generator's answer; None when it was not asked.
        gold_ids: documents to mark as gold; None takes those of the question.
    """
    gold = set(episode.question.gold_ids if gold_ids is None else gold_ids)
    given = {"episode": episode, "answer": answer, "score": score}
    text = render("episode.txt.j2", **given)
    html = render("episode.html.j2", **given, gold=gold, set=set_name, thoughts=thoughts, verdict=verdict)
    return Rich(text.rstrip("\n"), Markup(html))


def side_by_side(parts: Mapping[str, Rich]) -> Rich:
    """Several rich things next to one another, each under its name."""
    columns = (Markup("<div><h4>{}</h4>{}</div>").format(name, part.html) for name, part in parts.items())
    text = "\n\n".join(f"{name}\n{part.text}" for name, part in parts.items())
    return Rich(text, Markup('<div class="beside">{}</div>').format(Markup("").join(columns)))
