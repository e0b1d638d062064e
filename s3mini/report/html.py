"""Results as objects that print plainly and show richly: tables, whole episodes, pages.

Everything goes through auto-escaping templates: questions, documents and model output are untrusted
text, so a passage that holds ``<script>`` is shown as those letters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..records import Episode, Hit, Score

TEMPLATES = Path(__file__).parent / "templates"
ENDS = {
    "complete": "searcher said complete",
    "turns": "no searches left",
    "length": "length limit",
    "invalid": "unreadable turn",
}
_THINK = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The package's templates: auto-escaping, and an unknown name is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


@lru_cache(maxsize=1)
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


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a main line, a small one under it, and a style class."""

    text: str
    small: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its name, what the name means, its cells, and a style class."""

    name: str
    cells: Sequence[Cell]
    about: str = ""
    kind: str = ""


def table(heads: Sequence[Cell], rows: Sequence[Row], note: str = "") -> Rich:
    """A table; ``heads`` has one cell more than each row has (the first names the rows)."""
    html = templates().get_template("table.html.j2").render(heads=heads, rows=rows, note=note)
    lines = [[head.text for head in heads]]
    lines += [[row.name, *(f"{c.text} {c.small}".strip() for c in row.cells)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
    return Rich(text, Markup(html))


LOOP = """\
              reward: Gain Beyond RAG = right with this search - right with naive RAG
              .------------------------------------------------------------.
              v                                                            |
question -> Searcher (trained) -- selected documents --> Generator (frozen) -> answer
              |      ^
        query |      | documents, a few rounds
              v      |
            Retriever (frozen)"""


def loop_diagram() -> Rich:
    """s3 in one picture: who is trained, who is frozen, and what comes back as the reward."""
    return Rich(LOOP, Markup((TEMPLATES / "loop.svg").read_text(encoding="utf-8")))


def thoughts(output: str) -> list[str]:
    """What stands between think tags, for display."""
    return [thought.strip() for thought in _THINK.findall(output) if thought.strip()]


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
    html = templates().get_template("episode.html.j2").render(
        episode=episode, answer=answer, score=score, gold=gold, set=set_name, ends=ENDS, thoughts=thoughts,
        verdict=verdict,
    )  # fmt: skip
    return Rich(_episode_text(episode, answer, score), Markup(html))


def _titles(hits: Sequence[Hit], selected: Sequence[str] | None) -> str:
    marks = ((selected is None or hit.document.id in selected, hit.document.title) for hit in hits)
    return "; ".join(f"{'+' if kept else '-'} {title}" for kept, title in marks)


def _episode_text(episode: Episode, answer: str | None, score: Score | None) -> str:
    turns = episode.turns
    following = [turn.selected for turn in turns[1:]] + [None]
    lines = [f"Question: {episode.question.question}"]
    if episode.start:
        lines.append(f"  first look   {_titles(episode.start, turns[0].selected if turns else None)}")
    for number, (turn, selected) in enumerate(zip(turns, following, strict=False), 1):
        what = (
            "complete" if turn.complete else f"query: {turn.query}" if turn.query is not None else "no action"
        )
        lines.append(f"  turn {number}       {what}" + ("" if turn.valid else f"  [invalid: {turn.problem}]"))
        if turn.shown:
            lines.append(f"    retrieved  {_titles(turn.shown, selected)}")
    lines.append(f"  context      {'; '.join(d.title for d in episode.context) or 'none'}")
    if answer is not None:
        mark = "" if score is None else "  (right)" if score.gen_acc else "  (wrong)"
        lines.append(f"  answer       {answer}{mark}")
    if episode.question.golden_answers:  # a question asked on the command line has none
        lines.append(f"  accepted     {'; '.join(episode.question.golden_answers)}")
    return "\n".join(lines)


def side_by_side(parts: Mapping[str, Rich]) -> Rich:
    """Several rich things next to one another, each under its name."""
    html = Markup("").join(
        Markup("<div><h4>{}</h4>{}</div>").format(name, part.html) for name, part in parts.items()
    )
    text = "\n\n".join(f"{name}\n{part.text}" for name, part in parts.items())
    return Rich(text, Markup('<div class="beside">{}</div>').format(html))
