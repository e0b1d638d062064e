"""Fuzzed model outputs through every protocol, read alone and played by the engine against hostile documents.

Whatever a model writes is read as a turn that is valid or marked invalid; nothing raises; an episode's mask and
log-probabilities stay aligned with its tokens; no text of a document becomes a tag or a control token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from noise import STRANGE, At, Outcome, damaged, drawn, mixed, nowhere, timed, words
from toy_model import toy_tokenizer

from s3mini.bench import make_protocol
from s3mini.episodes import Engine
from s3mini.models.base import Sample
from s3mini.models.chat import chat_ids, control_tokens
from s3mini.profile import load_profile
from s3mini.protocols import REGISTRY, Action, History, Protocol
from s3mini.protocols.wordings import TAGS
from s3mini.records import Document, Episode, Hit, Question

WAVE = 100
RIGHT = {
    "s3": "<important_info>[1]</important_info>\n<search_complete>False</search_complete>\n"
    '<query>{"query": "Karst"}</query>',
    "search-r1": "<think> where? </think>\n<search> Karst </search>",
    "search-o1": "<think> where? <|begin_search_query|>Karst<|end_search_query|>",
    "ircot": "Karst lies on the Sool.\n",
    "deepretrieval": '<think> a </think><answer>{"query": "(Karst AND river) OR Sool"}</answer>',
    "cot": "<think> It is the Sool. </think> Sool",
}
"""A good turn of each protocol, to be damaged."""
PIECES = [
    *TAGS, "<important_info>", "</important_info>", "< Query >", "<INFORMATION>", "True", "False", "[1, 2]", "1-3", "none",
    "So the answer is:", '{"query": "', '"}', "{'query': 'a'}", '["a"]', "AND", "Doc 1 (Title: Karst)",
]  # fmt: skip
_TAG = re.compile("|".join(map(re.escape, TAGS)), re.IGNORECASE)


def output(rng: random.Random) -> str:
    """What a model might write, or never would."""
    right = RIGHT[rng.choice(list(RIGHT))]
    way = rng.random()
    if way < 0.1:
        return right
    return damaged(rng, right, [*PIECES, *STRANGE]) if way < 0.6 else mixed(rng, PIECES)


class Hostile:
    """A retriever whose documents are full of tags and control tokens."""

    name = fingerprint = "hostile"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = []
        for query in queries:
            rng = random.Random(query.encode("utf-8", "surrogatepass"))
            said = [mixed(rng, PIECES, 5).encode("utf-8", "replace").decode() or "." for _ in range(2 * k)]
            documents = [Document(f"{query}/{i}", said[i], said[k + i]) for i in range(k)]
            found.append([Hit(document, 1 / (1 + i)) for i, document in enumerate(documents)])
        return found


class Typing:
    """A sampler that writes given texts, turn by turn; ``said`` keeps each row's tokens."""

    def __init__(self, tokenizer: Any, texts: Sequence[Sequence[str]], rng: random.Random) -> None:
        self.tokenizer, self.texts, self.rng = tokenizer, [list(row) for row in texts], rng
        self.said: list[list[int]] = [[] for _ in texts]

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> Typing:
        assert len(prompts) == len(self.said), "a prompt did not fit"
        return self

    def append(self, row: int, ids: Sequence[int]) -> None:
        """The engine's tokens: the mask is to tell them apart."""

    def sample(
        self, rows: Sequence[int], budgets: Sequence[int], temperature: float, stop: Sequence[str]
    ) -> list[Sample]:
        return [self._one(row, budget, stop) for row, budget in zip(rows, budgets, strict=True)]

    def _one(self, row: int, budget: int, stop: Sequence[str]) -> Sample:
        text = self.texts[row].pop(0) if self.texts[row] else ""
        ends = [text.index(s) + len(s) for s in stop if s in text]
        if ends and self.rng.random() < 0.8:  # else what follows came in the same token
            text = text[: min(ends)]
        ids = self.tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"]
        if self.rng.random() < 0.05:
            ids = [self.rng.randrange(3, len(self.tokenizer)) for _ in range(20)]
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end)] if end in ids else ids
        if not ids or not ends:
            ids = [*ids, end]
        cut = len(ids) > budget
        ids = tuple(ids[:budget])
        self.said[row] += ids
        text = self.tokenizer.decode(ids).removesuffix(self.tokenizer.eos_token)
        return Sample(ids, (-0.5,) * len(ids), text, None if cut else "stop")


def wrong_action(action: Action, block: int) -> str:
    """What is wrong with a turn as it was read; "" where nothing is."""
    query, selected = action.query, action.selected
    if selected is not None and not (
        set(selected) <= set(range(1, block + 1)) and len(set(selected)) == len(selected)
    ):
        return f"selected {selected} of {block}"
    if not action.valid:
        return "" if action.problem and query is None else "invalid, with a query or without a reason"
    if query is None:
        return "" if action.complete else "valid, yet it does nothing"
    return "" if query.strip() and query == " ".join(query.split()) else f"query {query!r}"


QUESTION = Question("q", "Which river passes Karst?", ("Sool",))
PLAIN = Document("p", "Karst", "Karst lies on the Sool.")


def wrong_episode(
    episode: Episode, said: Sequence[int], plain: Sequence[int], frame: list[str], tokenizer: Any
) -> Iterator[str]:
    """What is wrong with an episode.

    ``said``: what the model wrote. ``plain``: the prompt with harmless documents; ``frame``: the tags of a harmless block.
    """
    mask, ids, control = episode.env_mask, episode.completion_ids, control_tokens(tokenizer).keys()
    if not len(ids) == len(mask) == len(episode.logprobs) > 0 or not set(mask) <= {0, 1}:
        yield f"{len(ids)} tokens, {len(mask)} of the mask, {len(episode.logprobs)} log-probabilities"
        return
    if [i for i, own in zip(ids, mask, strict=True) if own] != list(said):
        yield "the mask's own tokens are not those that the model wrote"
    if any(p != (0.0 if not own else -0.5) for p, own in zip(episode.logprobs, mask, strict=True)):
        yield "log-probabilities are not those of the own tokens"
    end = tokenizer.eos_token_id
    for own, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        block = [i for i, _ in run]
        block = block[:-1] if not own and block[-1] == end else block
        if not own and block and (control & set(block) or _TAG.findall(tokenizer.decode(block)) != frame):
            yield f"a document became protocol: {tokenizer.decode(block)[:200]!r}"
    marks = [
        ([i for i in shown if i in control], _TAG.findall(tokenizer.decode(shown)))
        for shown in (plain, episode.prompt_ids)
    ]
    if marks[0] != marks[1]:
        yield f"a document of the prompt became protocol: {tokenizer.decode(episode.prompt_ids)[:200]!r}"
    seen = [hit.document.id for block in (episode.start, *(t.shown for t in episode.turns)) for hit in block]
    kept = [document.id for document in episode.context]
    if not set(kept) <= set(seen) or len(set(kept)) < len(kept):
        yield "the context holds a document twice, or one that was never shown"
    if episode.end not in {"complete", "turns", "length", "invalid"} or not all(
        t.valid or t.problem for t in episode.turns
    ):
        yield f"ended by {episode.end!r}"


def run(numbers: range, seed: int, folder: Path, at: At = nowhere) -> Outcome:
    """These outputs, each read by every protocol and played by its engine after up to two good turns."""
    profile, tokenizer, outcome = load_profile("smoke"), toy_tokenizer(), Outcome()
    protocols = {name: make_protocol(name, profile) for name in REGISTRY}
    for begin in range(numbers.start, numbers.stop, WAVE):
        wave = range(begin, min(numbers.stop, begin + WAVE))
        streams = [drawn(seed, "outputs", number) for number in wave]
        texts = [output(rng) for rng in streams]
        for name, protocol in protocols.items():
            at(begin)
            for number, text in zip(wave, texts, strict=True):
                parse(protocol, text, outcome, f"output {number}, {name}: {text[:80]!r}")
            good = RIGHT[name]
            rows = [[*rng.randint(0, 2) * [good], t, good] for t, rng in zip(texts, streams, strict=True)]
            try:
                play(protocol, rows, drawn(seed, f"typing {name}", begin), tokenizer, outcome, begin)
            except Exception as error:
                outcome.crashed(f"outputs {begin} to {wave[-1]}, {name}, played", error)
    return outcome


def parse(protocol: Protocol, text: str, outcome: Outcome, where: str) -> None:
    """One output, read alone."""
    hits = tuple(Hostile().search(["x"], protocol.start_k)[0])
    try:
        with timed():
            action = protocol.parse(text, History(QUESTION, hits))
    except Exception as error:
        outcome.crashed(where, error)
        return
    outcome.counts["valid turns" if action.valid else "invalid turns"] += 1
    if wrong := wrong_action(action, len(hits)):
        outcome.found("misread", where, wrong)


def play(
    protocol: Protocol,
    rows: list[list[str]],
    rng: random.Random,
    tokenizer: Any,
    outcome: Outcome,
    begin: int,
) -> None:
    """The outputs as turns of an episode each; the questions hold tags, too."""
    sampler = Typing(tokenizer, rows, rng)
    engine = Engine(sampler, tokenizer, Hostile(), protocol, 200, 10**6)  # type: ignore[arg-type]
    asked = [
        Question(f"q{begin + i}", f"{words(rng)} {rng.choice(TAGS)}?", ("Sool",)) for i in range(len(rows))
    ]
    episodes = engine.run(asked, progress=False)
    harmless = [protocol.start(question.stem, [PLAIN] * protocol.start_k) for question in asked]
    prompts, frame = chat_ids(tokenizer, harmless), _TAG.findall(protocol.render([PLAIN]))
    for number, episode, said, plain in zip(range(len(rows)), episodes, sampler.said, prompts, strict=True):
        outcome.counts[f"ended: {episode.end}"] += 1
        for wrong in wrong_episode(episode, said, plain, frame, tokenizer):
            outcome.found("misread", f"output {begin + number}, {protocol.name}, played", wrong)
