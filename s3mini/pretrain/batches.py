"""Rows of token ids for pretraining: examples packed side by side, each seeing only itself."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..world.build import World, build_world
from .drills import drill
from .examples import Example
from .roles import SINGLE, generator, judge, multiple_choice, reader

DRILL_SHARE = 0.25
PROSE_SHARE, PROSE_WEIGHT = 0.1, 0.03
"""The loss also falls on a random share of the documents' tokens: names repeat there, which teaches copying."""


@dataclass(slots=True)
class Batch:
    """``ids``, ``positions``: (rows, length) int64; ``mask``: (rows, 1, length, length) bool, True where a
    token may look; ``where``: flat indices of the positions whose next token is predicted; ``targets`` and
    ``weights`` belong to them; ``owner`` is the index into ``kinds`` of the model's own words, or -1 for prose.
    """

    ids: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    where: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    owner: np.ndarray
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the curriculum."""

    documents: int
    hops: int
    length: int
    mixed: bool = False  # whether the searcher roles are in the mix
    drill: str = ""  # no documents: "lists", "labels", or "statements" and everything else (`drills.drill`)


LEVELS = (
    Level(1, 1, 256), Level(0, 1, 256, drill="lists"), Level(0, 1, 256, drill="statements"), Level(0, 1, 256, drill="labels"),
    Level(2, 1, 256), Level(3, 2, 256), Level(4, 3, 384), Level(6, 3, 384),
    Level(6, 3, 768, True), Level(9, 3, 1024, True), Level(12, 3, 1024, True),
)  # fmt: skip
"""One document first, to learn to copy at all; then the drills; then ever more documents."""
MIX = {
    "generator": 0.4, "choice": 0.05, "s3": 0.18, "search-r1": 0.06, "deepretrieval": 0.02, "ircot": 0.1,
    "search-o1": 0.06, "reader": 0.06, "judge": 0.06, "memory": 0.01,
}  # fmt: skip


def examples(
    level: Level, rng: random.Random, worlds: Iterator[tuple[World, World]], per_world: int = 400
) -> Iterator[Example]:
    """Endless examples of a level, the world replaced by a fresh one every ``per_world``."""
    while True:
        world, herbs = next(worlds)
        for _ in range(per_world):
            if level.mixed:
                role = rng.choices(list(MIX), list(MIX.values()))[0]
            else:
                role = "choice" if rng.random() < 0.06 else "generator"
            if level.drill or (level.documents > 1 and rng.random() < DRILL_SHARE):
                yield drill(world, rng, rng.randint(2, 12), level.drill)
                continue
            shown = level.documents if rng.random() < 0.6 else rng.randint(1, level.documents)
            match role:
                case "generator":
                    yield generator(world, rng, shown, level.hops)
                case "choice":
                    yield multiple_choice(herbs, rng, min(shown, 6))
                case "judge":
                    yield judge(world, rng)
                case "reader":
                    yield reader(world, rng)
                case _:
                    yield Example("", [SINGLE[role](world, rng)], [role])


def fresh_worlds(seed: str) -> Iterator[tuple[World, World]]:
    """Worlds never used again; their seeds are strings, so none equals a world a user makes."""
    for number in count():
        herbs = build_world(f"pretrain herbs {seed} {number}", {"herb": 100})
        yield build_world(f"pretrain {seed} {number}"), herbs


TOKEN = np.dtype(
    [("id", "i8"), ("position", "i8"), ("before", "i8"), ("branch", "i4"), ("weight", "f4"), ("start", "i4"), ("owner", "i4")]
)  # fmt: skip
"""A token of a row. ``before`` is the column of the token that precedes it in its own branch (or the trunk's last),
``branch`` is -1 on the trunk, ``start`` the column where its example begins; ``weight`` is how much predicting *it*
counts, ``owner`` as in `Batch`."""


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> np.ndarray:
    """The example's tokens (`TOKEN`), as if they began a row."""
    segments = [(-1, example.trunk, 0.0)] if example.trunk else []
    segments += [(i, *segment) for i, branch in enumerate(example.branches) for segment in branch]
    pieces = tokenizer([text for _, text, _ in segments], add_special_tokens=False)["input_ids"]
    tokens: list[tuple[float, ...]] = []
    lengths: Counter[int] = Counter()
    for (branch, _, weight), piece in zip(segments, pieces, strict=True):
        trunk = lengths[-1] if branch >= 0 else 0
        for token in piece:
            before = len(tokens) - 1 if lengths[branch] else trunk - 1
            tokens.append((token, trunk + lengths[branch], before, branch, weight, 0, -1))
            lengths[branch] += 1
    row = np.array(tokens, TOKEN)
    prose = (row["weight"] == 0) & (np.array([rng.random() for _ in row]) < PROSE_SHARE)
    row["weight"][prose] = PROSE_WEIGHT
    return row


def make_batch(
    source: Iterator[Example], tokenizer: PreTrainedTokenizerBase, rows: int, length: int, rng: random.Random
) -> Batch:
    """Fill ``rows`` rows of ``length`` tokens; an example that does not fit loses branches, or waits its turn."""
    grid = np.full((rows, length), np.array((tokenizer.pad_token_id, 0, -1, -2, 0.0, -1, -1), TOKEN))
    kinds: list[str] = []
    for row in grid:
        used = misses = 0
        while used < length - 48 and misses < 3:
            example = next(source)
            tokens = encode(example, tokenizer, rng)
            while len(tokens) > length - used and tokens["branch"][-1] >= 0:  # drop the last branch
                tokens = tokens[: np.argmax(tokens["branch"] == tokens["branch"][-1])]
            if len(tokens) > length - used or not (tokens["branch"] >= 0).any():
                misses += 1
                continue
            own = tokens["weight"] >= 1
            tokens["owner"][own] = len(kinds) + tokens["branch"][own]
            tokens["before"] += used
            tokens["start"] = used
            row[used : used + len(tokens)] = tokens
            kinds += example.kinds
            used += len(tokens)
    start, branch = grid["start"], grid["branch"]
    same_branch = (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
    mask = (start[:, :, None] == start[:, None, :]) & same_branch & np.tri(length, dtype=bool)
    r, c = np.nonzero((grid["weight"] > 0) & (grid["position"] > 0))
    known = grid[r, c]
    return Batch(
        grid["id"].copy(), grid["position"].copy(), mask[:, None], r * length + known["before"],
        known["id"].copy(), known["weight"].copy(), known["owner"].copy(), kinds,
    )  # fmt: skip
