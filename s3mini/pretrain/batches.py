"""Rows of token ids for pretraining: samples packed side by side, each seeing only itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..world.build import World, build_world
from .drills import drill
from .roles import SINGLE, generator, judge, multiple_choice, reader
from .samples import Sample

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


def samples(
    level: Level, rng: random.Random, worlds: Iterator[tuple[World, World]], per_world: int = 400
) -> Iterator[Sample]:
    """Endless samples of a level, the world replaced by a fresh one every ``per_world``."""
    while True:
        world, herbs = next(worlds)
        for _ in range(per_world):
            role = rng.choices(list(MIX), list(MIX.values()))[0] if level.mixed else "generator"
            if not level.mixed and rng.random() < 0.06:
                role = "choice"
            if level.drill or (level.documents > 1 and rng.random() < DRILL_SHARE):
                yield drill(world, rng, rng.randint(2, 12), level.drill)
                continue
            count = level.documents if rng.random() < 0.6 else rng.randint(1, level.documents)
            if role == "generator":
                yield generator(world, rng, count, level.hops)
            elif role == "choice":
                yield multiple_choice(herbs, rng, min(count, 6))
            elif role == "judge":
                yield judge(world, rng)
            elif role == "reader":
                yield reader(world, rng)
            else:
                yield Sample("", [SINGLE[role](world, rng)], [role])


def fresh_worlds(seed: str) -> Iterator[tuple[World, World]]:
    """Worlds never used again; their seeds are strings, so none equals a world a user makes."""
    number = 0
    while True:
        yield (
            build_world(f"pretrain {seed} {number}"),
            build_world(f"pretrain herbs {seed} {number}", {"herb": 100}),
        )
        number += 1


def encode(sample: Sample, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> tuple[np.ndarray, ...]:
    """(ids, positions, branch, weight) of one sample; ``branch`` is -1 on the trunk.

    ``weight`` of a token is how much predicting *it* counts.
    """
    texts = [sample.trunk] if sample.trunk else []
    texts += [text for branch in sample.branches for text, _ in branch]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    ids: list[int] = list(next(encoded)) if sample.trunk else []
    start = len(ids)
    positions, branches, weights = list(range(start)), [-1] * start, [0.0] * start
    for number, branch in enumerate(sample.branches):
        offset = start
        for _, weight in branch:
            piece = next(encoded)
            ids += piece
            positions += range(offset, offset + len(piece))
            branches += [number] * len(piece)
            weights += [weight] * len(piece)
            offset += len(piece)
    array = np.asarray(weights, dtype=np.float32)
    prose = (array == 0) & (np.asarray([rng.random() for _ in ids]) < PROSE_SHARE)
    array[prose] = PROSE_WEIGHT
    return np.asarray(ids), np.asarray(positions), np.asarray(branches), array


def make_batch(
    source: Iterator[Sample],
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    length: int,
    rng: random.Random,
    pad: int,
) -> Batch:
    """Fill ``rows`` rows of ``length`` tokens; a sample that does not fit loses branches, or waits its turn."""
    ids = np.full((rows, length), pad, dtype=np.int64)
    positions = np.zeros((rows, length), dtype=np.int64)
    tree = np.full((rows, length), -1, dtype=np.int32)
    branch = np.full((rows, length), -2, dtype=np.int32)
    weight = np.zeros((rows, length), dtype=np.float32)
    owner = np.full((rows, length), -1, dtype=np.int32)
    kinds: list[str] = []
    for row in range(rows):
        used, number, misses = 0, 0, 0
        while used < length - 48 and misses < 3:
            sample = next(source)
            i, p, b, w = encode(sample, tokenizer, rng)
            keep = len(i)
            while keep > length - used and sample.branches and b[:keep].max() >= 0:
                keep = int(np.argmax(b == b[keep - 1]))  # drop the last branch
            if keep <= int((b == -1).sum()) or keep > length - used:
                misses += 1
                continue
            here = slice(used, used + keep)
            ids[row, here], positions[row, here], branch[row, here] = i[:keep], p[:keep], b[:keep]
            weight[row, here], tree[row, here] = w[:keep], number
            own = w[:keep] >= 1.0
            owner[row, here][own] = len(kinds) + b[:keep][own]
            kinds += sample.kinds
            used, number = used + keep, number + 1
    return _finish(ids, positions, tree, branch, weight, owner, kinds)


def _finish(
    ids: np.ndarray, positions: np.ndarray, tree: np.ndarray, branch: np.ndarray,
    weight: np.ndarray, owner: np.ndarray, kinds: Sequence[str],
) -> Batch:  # fmt: skip
    rows, length = ids.shape
    same = (tree[:, :, None] == tree[:, None, :]) & (
        (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
    )
    mask = (same & np.tri(length, dtype=bool)[None])[:, None]
    # The token at t is predicted from the token that precedes it in its own branch (or the trunk's last).
    before = np.roll(np.arange(length)[None].repeat(rows, 0), 1, 1)
    starts = (branch != np.roll(branch, 1, 1)) & (branch >= 0)
    for row, column in zip(*np.nonzero(starts), strict=True):
        trunk = np.nonzero((tree[row] == tree[row, column]) & (branch[row] == -1))[0]
        before[row, column] = trunk[-1] if len(trunk) else -1
    predicted = (weight > 0) & (before >= 0) & (positions > 0)
    r, c = np.nonzero(predicted)
    return Batch(
        ids, positions, mask, r * length + before[r, c], ids[r, c], weight[r, c], owner[r, c], list(kinds)
    )  # fmt: skip
