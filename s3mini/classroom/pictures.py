"""Pictures of the method: s3's loop, data flowing through the rooms, an episode as a strip of tokens with its mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from transformers import PreTrainedTokenizerBase

from ..records import Document, Episode, Hit, Question, Score
from ..report.plots import INK, MUTED, OURS, Plot, styled

FROZEN, TRAINED, DATA = ("#f5f7fa", "#9aa5b1"), ("#e2efff", OURS), ("#ffffff", "#cbd2d9")  # fill, edge
TOKENS = {
    "own": ("#bcdcff", "the model's own: mask 1"),
    "environment": ("#fdecc8", "the environment's: mask 0"),
    "prompt": ("#eceff2", "prompt, before the completion"),
}
SURPRISING = 8
COLUMNS = 118  # characters a row of a strip holds

Place = tuple[float, float]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes over the whole figure, in tenths of an inch."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10 * width), ylim=(0, 10 * height))
    axes.set_axis_off()
    return figure, axes


def _box(axes: Axes, place: Place, size: Place, lines: Sequence[str], colours: tuple[str, str]) -> None:
    """A box whose lower left corner is at ``place``: a bold line, and smaller ones under it."""
    (x, y), (width, height), (fill, edge) = place, size, colours
    shape = "round,pad=0,rounding_size=0.8"
    axes.add_patch(FancyBboxPatch(place, width, height, boxstyle=shape, fc=fill, ec=edge, lw=1.6))
    top = y + height / 2 + 0.95 * (len(lines) - 1)
    for number, line in enumerate(lines):
        style: dict[str, Any] = (
            {"color": "#52606d", "fontsize": 8.5} if number else {"fontweight": "bold", "fontsize": 11.5}
        )
        axes.text(
            x + width / 2, top - 1.9 * number, line, ha="center", va="center", **({"color": INK} | style)
        )


def _arrow(axes: Axes, begin: Place, end: Place, text: str = "", at: Place = (0, 0.9), **style: Any) -> None:
    """An arrow and what it carries, written ``at`` its middle plus an offset."""
    look = {"color": MUTED, "lw": 1.6, "shrinkA": 0, "shrinkB": 0} | style
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", "mutation_scale": 13} | look)
    middle = (begin[0] + end[0]) / 2 + at[0], (begin[1] + end[1]) / 2 + at[1]
    axes.text(
        *middle,
        text,
        ha="center",
        va="center",
        fontsize=9,
        color=look["color"] if look["color"] == OURS else "#52606d",
        linespacing=1.25,
        bbox={"fc": "white", "ec": "none", "pad": 0.8},
    )


@styled
def loop_picture() -> Plot:
    """s3 in one picture: who is trained, who is frozen, and what comes back as the reward."""
    figure, axes = _canvas(9.6, 3.5)
    _box(axes, (1, 15), (14, 7), ["question"], DATA)
    _box(axes, (24, 14), (18, 9), ["Searcher", "trained"], TRAINED)
    _box(axes, (24, 1), (18, 7), ["Retriever", "frozen"], FROZEN)
    _box(axes, (55, 14), (17, 9), ["Generator", "frozen: any model"], FROZEN)
    _box(axes, (80, 15), (15, 7), ["answer", "right or wrong?"], DATA)
    _arrow(axes, (15, 18.5), (24, 18.5))
    _arrow(axes, (30, 14), (30, 8), "query", (-3.2, 0))
    _arrow(axes, (36, 8), (36, 14), "documents,\na few rounds", (5.4, 0))
    _arrow(axes, (42, 18.5), (55, 18.5), "selected\ndocuments", (0, 3.1))
    _arrow(axes, (72, 18.5), (80, 18.5))
    told = "reward: Gain Beyond RAG = right with this search − right with naive RAG"
    axes.plot([87.5, 87.5], [22, 29], "--", color=OURS, lw=1.6)
    _arrow(axes, (87.5, 29), (33, 29), told, (0, 2.2), color=OURS, linestyle="--", arrowstyle="-")
    _arrow(axes, (33, 29), (33, 23), color=OURS, linestyle="--")
    caption = (
        "s3: the question goes to the searcher (trained), which queries the retriever (frozen) a few rounds; the documents "
        "it selects go to the generator (frozen), whose answer, right or wrong, comes back to the searcher as the reward"
    )
    return Plot(caption, figure)


def _room(kind: str, *named: Callable[..., Any] | type) -> list[str]:
    """A room of the package, named after the module that its functions are really in, and those functions."""
    rooms = {thing.__module__.split(".")[1] for thing in named}
    assert len(rooms) == 1, rooms
    return [*rooms, *(thing.__qualname__ for thing in named), *filter(None, [kind])]


@styled
def rooms_picture() -> Plot:
    """Data flowing through the rooms of the package, under the names that the package gives to both."""
    from ..corpus import load_questions, read_corpus
    from ..episodes import Engine
    from ..evaluation import evaluate
    from ..generator import answer_questions
    from ..grpo import train
    from ..protocols import Protocol
    from ..rag import precompute, training_filter
    from ..retrieval import build_index, open_retriever
    from ..reward import Reward, score_answers

    figure, axes = _canvas(11, 5.4)
    size = (20, 10.5)
    column, row = (1, 30.5, 60, 89.5), (2, 21.5, 41)
    _box(axes, (column[0], row[1]), size, _room("", read_corpus, load_questions), DATA)
    _box(axes, (column[1], row[2]), size, _room("frozen · notebook 01", build_index, open_retriever), FROZEN)
    _box(
        axes,
        (column[1], row[0]),
        size,
        _room("before training · notebook 02", precompute, training_filter),
        FROZEN,
    )
    engine = _room(f"plays a {Protocol.__qualname__} · notebook 04", Engine)
    engine.insert(2, "the searcher, trained")
    _box(axes, (column[1], row[1]), size, engine, TRAINED)
    _box(axes, (column[2], row[1]), size, _room("frozen · notebook 02", answer_questions), FROZEN)
    _box(axes, (column[3], row[1]), size, _room("notebook 03", score_answers, Reward), DATA)
    _box(axes, (column[2], row[0]), size, [*_room("notebook 05", train), "updates the searcher"], TRAINED)
    _box(axes, (column[3], row[2]), size, _room("every method · notebook 06", evaluate), DATA)
    middle, high, low = (y + size[1] / 2 for y in (row[1], row[2], row[0]))
    right = [x + size[0] for x in column]
    document, question, hit = (f"{kind.__name__}s" for kind in (Document, Question, Hit))
    _arrow(axes, (10, row[1] + size[1]), (column[1], high), document, (-5, 1.6))
    _arrow(axes, (right[0], middle), (column[1], middle), question, (0, 1.6))
    _arrow(axes, (10, row[1]), (column[1], low), question, (-5, -1.6))
    _arrow(axes, (37.5, row[1] + size[1]), (37.5, row[2]), "queries", (-4, 0))
    _arrow(axes, (43, row[2]), (43, row[1] + size[1]), hit, (3, 0))
    _arrow(axes, (right[1], middle), (column[2], middle), f"{Episode.__name__}s'\ncontext", (0, 0))
    _arrow(axes, (right[2], middle), (column[3], middle), "answers", (0, 0))
    _arrow(axes, (100, row[1] + size[1]), (100, row[2]), f"{Score.__name__}s", (4.4, 0))
    _arrow(axes, (97, row[1]), (right[2], low), "rewards", (4, -1.2), color=OURS)
    _arrow(axes, (column[2], low + 3), (47, row[1]), "new weights", (6.5, 1), color=OURS)
    _arrow(axes, (right[1], low), (column[2], low), f"{question}\nto train on", (0, 0))
    caption = "Data flowing through the rooms: corpus, retrieval and rag, episodes, generator, reward, grpo, evaluation"
    return Plot(caption, figure)


# ------------------------------------------------------------------------------ tokens


def kinds_of_tokens(episode: Episode) -> list[str]:
    """Whose each token of prompt and completion is: "prompt", "own" or "environment"."""
    named = ["own" if own else "environment" for own in episode.env_mask]
    return ["prompt"] * len(episode.prompt_ids) + named


@styled
def token_strip(episode: Episode, tokenizer: PreTrainedTokenizerBase) -> Plot:
    """Every token of an episode in its own box, coloured by who wrote it; the model's own are bold, with a bar below."""
    ids, kinds = (*episode.prompt_ids, *episode.completion_ids), kinds_of_tokens(episode)
    figure, axes, top = _strip(
        ids, [TOKENS[kind][0] for kind in kinds], [k == "own" for k in kinds], tokenizer
    )
    for number, (kind, (colour, about)) in enumerate(TOKENS.items()):
        told = f"{about} ({kinds.count(kind)} tokens)"
        _legend(axes, (1 + 36 * number, top), colour, told, "bold" if kind == "own" else "normal")
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in TOKENS)
    return Plot(f"An episode's {len(ids)} tokens, by who wrote them: {counts}", figure)


@styled
def surprise_strip(
    ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float], tokenizer: PreTrainedTokenizerBase
) -> Plot:
    """The tokens of a completion, those of the policy (``mask`` 1) the darker the less probable it finds them.

    ``logprobs``: in nats, of every token; at `SURPRISING` nats a box is as dark as it gets.
    """
    shade = LinearSegmentedColormap.from_list("surprise", ["#ffffff", "#e8883a"])
    colours = [
        to_hex(shade(min(1.0, -logp / SURPRISING))) if own else TOKENS["prompt"][0]
        for own, logp in zip(mask, logprobs, strict=True)
    ]
    figure, axes, top = _strip(ids, colours, [bool(own) for own in mask], tokenizer)
    for number, nats in enumerate((0, SURPRISING // 2, SURPRISING)):
        _legend(axes, (1 + 18 * number, top), to_hex(shade(nats / SURPRISING)), f"{nats} nats", "bold")
    _legend(axes, (1 + 18 * 3, top), TOKENS["prompt"][0], "the environment's: no part of the loss", "normal")
    own = [(-logp, str(tokenizer.decode([i]))) for i, logp, m in zip(ids, logprobs, mask, strict=True) if m]
    most = ", ".join(f"{text.strip()!r} {nats:.1f}" for nats, text in sorted(own, reverse=True)[:3])
    return Plot(f"The policy's {len(own)} tokens by surprise, in nats; most: {most}", figure)


def _strip(
    ids: Sequence[int], colours: Sequence[str], own: Sequence[bool], tokenizer: PreTrainedTokenizerBase
) -> tuple[Figure, Axes, float]:
    """The tokens in boxes, row below row, under room for a legend, whose height is the last of what is returned."""
    rows: list[list[tuple[int, str, str, bool]]] = [[]]  # of (column, piece, colour, own)
    column = 0
    for i, colour, its in zip(ids, colours, own, strict=True):
        piece = str(tokenizer.decode([i])).replace("\n", "↵")
        if column + len(piece) > COLUMNS:
            rows.append([])
            column = 0
        rows[-1].append((column, piece, colour, its))
        column += len(piece)
        if piece.endswith("↵"):
            rows.append([])
            column = 0
    rows = [row for row in rows if row]
    width, step = 11.0, 2.4
    figure, axes = _canvas(width, (step * len(rows) + 5) / 10)
    letter = 10 * (width - 0.2) / COLUMNS
    top = step * len(rows) + 1
    for number, row in enumerate(rows):
        for place, piece, colour, its in row:
            _token(axes, (1 + letter * place, top - step * (number + 1)), letter, piece, colour, its)
    return figure, axes, top


def _legend(axes: Axes, place: Place, colour: str, text: str, weight: str) -> None:
    x, top = place
    axes.add_patch(Rectangle((x, top + 1.4), 2.4, 1.5, fc=colour, ec=MUTED, lw=0.6))
    axes.text(x + 3, top + 2.1, text, va="center", fontsize=9, color=INK, fontweight=weight)


def _token(axes: Axes, place: Place, letter: float, piece: str, colour: str, own: bool) -> None:
    (x, y), width = place, letter * len(piece)
    axes.add_patch(Rectangle((x, y), width, 1.9, fc=colour, ec="white", lw=0.8))
    if own:
        axes.add_patch(Rectangle((x, y), width, 0.22, fc=OURS, ec="none"))
    weight = "bold" if own else "normal"
    for number, character in enumerate(piece):  # one by one, so that every letter has the same width
        if character != " ":
            axes.text(
                x + letter * (number + 0.5), y + 1.0, character, ha="center", va="center",
                fontsize=9.2, color=INK, parse_math=False, fontweight=weight, fontfamily="DejaVu Sans Mono",
            )  # fmt: skip


@styled
def strips(episodes: Mapping[str, Episode]) -> Plot:
    """Several episodes, one under another, to scale: whose their tokens are, and how many searches they made."""
    figure = Figure(figsize=(9.6, 0.42 * len(episodes) + 1.0), layout="constrained")
    axes = figure.subplots()
    for number, episode in enumerate(episodes.values()):
        begin, kinds = 0, kinds_of_tokens(episode)
        while begin < len(kinds):
            end = next((i for i in range(begin, len(kinds)) if kinds[i] != kinds[begin]), len(kinds))
            own = kinds[begin] == "own"
            axes.barh(
                number, end - begin, 0.7, begin, color=TOKENS[kinds[begin]][0], ec=OURS if own else "white"
            )
            begin = end
        searches = f"{episode.searches} search{'' if episode.searches == 1 else 'es'}"
        told = f" {searches}, {sum(episode.env_mask)} own tokens"
        axes.text(len(kinds), number, told, va="center", fontsize=8.5, color="#52606d")
    axes.set_yticks(range(len(episodes)), list(episodes))
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens")
    handles = [Rectangle((0, 0), 1, 1, fc=colour, ec=MUTED, lw=0.6) for colour, _ in TOKENS.values()]
    figure.legend(handles, [about for _, about in TOKENS.values()], loc="outside upper left", ncols=3)
    return Plot(f"Tokens of an episode of each: {', '.join(episodes)}", figure)
