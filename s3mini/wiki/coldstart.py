"""The cold start: episodes that are right in format and random in judgement, for every protocol.

An instruct model of 135 million parameters does not keep to a protocol because a prompt says so (2 of 24 turns valid, as it
comes): it answers the question instead. So it is shown what turns look like, before reinforcement learning, by episodes
that a script plays through the real engine and retriever: which query, which documents, when to stop and what to answer
are drawn at random from what was shown. What is learnt is the form; what to search for is left to GRPO.

What decides whether GRPO can begin is how often a group of episodes holds one success. So the queries that a good
searcher would ask (a linked title) occur among the drawn ones, no more often than by chance of the draw. And what is drawn
from stands before it: a turn first says a sentence of the last block, then asks for a name in it. Which sentence, the
reader says (`wiki.reader`, asked for the question as always): the searcher begins as the reader, so that is what it says by
itself, and only the form is new to it. Sentences drawn at random teach it to overlook the question, and to invent.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..bench import Bench
from ..models.base import ChatModel
from ..models.scripted import Scripted
from ..models.stops import Stops
from ..protocols.search_o1 import BEGIN, END, RESULT
from ..protocols.wordings import Wordings, context_messages
from ..records import Document, Episode, Question
from .fetch import bare
from .teach import Sequences

_DOCUMENT = re.compile(r"\bDoc \d+ \(Title: (.*?)\) ([^\n]*)")
_NAME = re.compile(r"[A-Z][\w'’-]*(?:(?: of| the| and| de| van| von)* [A-Z][\w'’-]*)*")
_OPENING = re.compile(
    r"^(?:After|Although|And|As|At|Before|By|During|For|From|In|On|Since|The|Under|When|While|With) (?:the )?"
)
"""What begins a sentence before a name."""
READ = 48
"""Tokens that the reader may say of a block, of which the first sentence is kept."""
QUOTED = 8
"""So many words before a name are quoted with it, at most."""
_STOP = frozenset("who what which where when was is the of in a an did does for by to and that whose".split())


def rarity(documents: Iterable[Document]) -> dict[str, float]:
    """Every title, and one by the root of the number of texts that name it.

    Drawn evenly, links would mostly be a few countries, to be known by heart; rare ones can only be copied from what is shown.
    """
    titles, counts = set(), Counter[str]()
    for document in documents:
        titles.add(bare(document.title))
        counts.update(set(_NAME.findall(document.text)))
    return {title: 1 / math.sqrt(max(1, counts[title])) for title in titles}


def named(text: str, titles: Container[str]) -> list[str]:
    """The names in a text, each once, in their order. A name that is no title is taken apart where that makes some:
    "In Mali and Niger" is two."""
    found: dict[str, None] = {}
    for name in _NAME.findall(text):
        pieces = [_OPENING.sub("", part) for part in name.split(" and ")]
        within = [] if name in titles else [piece for piece in pieces if piece in titles]
        found.update(dict.fromkeys(within or [name]))
    return list(found)


class Mention(NamedTuple):
    """A name in a text: where the text is from (a title, or "Question"), and its words up to the name and with it."""

    name: str
    source: str
    quote: str


def mentions(source: str, text: str, titles: Container[str]) -> list[Mention]:
    """The titles that a text names, each once, in their order, each with the words of its sentence before it.

    A single word that begins a sentence, or has one or two letters, is left out: it is mostly no name.
    """
    found = []
    for name in named(text, titles):
        if name not in titles or len(name) < 3:
            continue
        place = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        sentence = re.split(r"(?<=[.?!])\s", text[: place.start()])[-1] if place else ""
        before = re.search(rf"(?:\S+\s+){{0,{QUOTED}}}[^\s.]*$", sentence)
        quote = (before.group() if before else "") + name
        if " " in quote and not set("<>\n") & set(quote):
            found.append(Mention(name, source, quote))
    return found


def last_block(text: str) -> list[tuple[str, str]]:
    """Title and text of every document that the last search showed."""
    return _DOCUMENT.findall(text.rpartition("<information>")[2])


class Draw:
    """What a script can say about one episode so far, drawn at random: names and their places, queries, sentences."""

    def __init__(
        self, text: str, question: str, titles: Mapping[str, float], rng: random.Random, said: str = ""
    ) -> None:
        self.rng, self.question, self.titles, self.said = rng, question, titles, said
        self.documents: list[tuple[str, str]] = _DOCUMENT.findall(text)
        self.last = last_block(text)
        self.chosen = self._chosen(text)

    def _chosen(self, text: str) -> Mention | None:
        """A mention by the `rarity` of its name: mostly of the last block, else of any, or of the question."""
        # Search-o1 shows plain text
        plain = (
            [] if self.documents else [("Result", text.rpartition(self.question)[2].rpartition(RESULT)[2])]
        )
        own = {bare(title) for title, _ in self.documents}
        asked = [m for m in mentions("Question", self.question, self.titles) if m.name not in own]
        source, _, told = self.said.partition(": ")
        read = [
            m._replace(quote=told)
            for m in mentions(source, told, self.titles)
            if m.name not in own and m.name not in self.question
        ]
        every, last = (
            [m for title, body in shown for m in mentions(title, body, self.titles) if m.name not in own]
            for shown in (self.documents or plain, self.last)
        )
        chance = self.rng.random()
        if not every:
            pool = asked if chance < 0.5 else []
        elif asked and chance < 0.15:
            pool = asked
        elif read and chance < 0.9:
            pool = read
        else:
            pool = last if last and chance < 0.85 else every
        weights = [self.titles[m.name] for m in pool]
        return self.rng.choices(pool, weights)[0] if pool else None

    def query(self) -> str:
        """The name that the thought came to; the question where there is none."""
        return self.chosen.name if self.chosen else self.question

    def answer(self) -> str:
        """A name that was shown."""
        return self.chosen.name if self.chosen else "unknown"

    def thought(self) -> str:
        """A line of reasoning: what the reader said, or a quotation up to a name."""
        return f"{self.chosen.source}: {self.chosen.quote}" if self.chosen else "Nothing is named."

    def words(self) -> list[str]:
        """Words of the question that a search engine would keep."""
        return [w for w in re.findall(r"[\w'-]+", self.question) if w.lower() not in _STOP] or ["question"]


def s3_turn(draw: Draw, searches: int, select: int) -> str:
    """Select from the last block, if there is one; stop, or ask."""
    shown = len(draw.last)
    text = f"<think>{draw.thought()}</think>\n"
    source = draw.chosen.source if draw.chosen else None
    quoted = [i for i, (title, _) in enumerate(draw.last, 1) if title == source][:1]
    others = [i for i in range(1, shown + 1) if i not in quoted and draw.rng.random() < 0.4]
    if chosen := [*quoted, *others][:select]:
        text += f"<important_info>{sorted(chosen)}</important_info>\n"
    if draw.rng.random() < (0.05 if searches == 0 else 0.4):
        return text + "<search_complete>True</search_complete>"
    return text + f'<search_complete>False</search_complete>\n<query>{{"query": "{draw.query()}"}}</query>'


def search_r1_turn(draw: Draw, searches: int, _: int) -> str:
    """Think; search, or answer."""
    thought = f"<think>{draw.thought()}</think>\n"
    if draw.rng.random() < (0.1 if searches == 0 else 0.6):
        return thought + f"<answer>{draw.answer()}</answer>"
    return thought + f"<search>{draw.query()}</search>"


def ircot_turn(draw: Draw, searches: int, _: int) -> str:
    """A sentence of reasoning, which is the next query; or the answer."""
    if searches and draw.rng.random() < 0.5:
        return f"So the answer is: {draw.answer()}\n"
    return f"{draw.thought()}.\n" if draw.chosen else f"{draw.question}\n"


def search_o1_turn(draw: Draw, searches: int, _: int) -> str:
    """Reasoning with a search inside; or its end and the answer."""
    begin = "" if searches else "<think> "
    if draw.rng.random() < (0.1 if searches == 0 else 0.6):
        return f"{begin}{draw.thought()} </think> {draw.answer()}"
    return f"{begin}{draw.thought()} {BEGIN}{draw.query()}{END}"


def deepretrieval_turn(draw: Draw, _: int, __: int) -> str:
    """One boolean query of the question's words."""
    words = draw.words()
    some = draw.rng.sample(words, min(len(words), draw.rng.randint(2, 4)))
    joined = " AND ".join(some[:2]) if len(some) > 1 else some[0]
    query = f"({joined})" + "".join(f" OR {w}" for w in some[2:])
    return f'<think>{draw.thought()}</think>\n<answer>{{"query": "{query}"}}</answer>'


def cot_turn(draw: Draw, _: int, __: int) -> str:
    """A thought and an answer from the question's own words."""
    return f"<think>{draw.thought()}</think> {draw.rng.choice(draw.words())}"


TURNS: Mapping[str, Callable[[Draw, int, int], str]] = {
    "s3": s3_turn,
    "search-r1": search_r1_turn,
    "ircot": ircot_turn,
    "search-o1": search_o1_turn,
    "deepretrieval": deepretrieval_turn,
    "cot": cot_turn,
}
"""Protocol -> (what was shown, searches so far, how many documents may be selected) -> a turn in its format."""


class Script(Scripted):
    """Draws its turns, of one protocol; what it quotes, the reader read, where there is one and documents were shown.

    Args:
        reader: a generator as `wiki.reader` taught it, and its wordings.
    """

    def __init__(
        self,
        protocol: str,
        stops: Stops,
        titles: Mapping[str, float],
        select: int,
        seed: int,
        reader: tuple[ChatModel, Wordings] | None = None,
    ) -> None:
        super().__init__(stops, positions=10**6)
        self.protocol, self.titles, self.select = protocol, titles, select
        self.seed, self.reader = seed, reader

    def turn(self, ids: Sequence[int], number: int, seed: int) -> str:
        """See `Scripted`."""
        return self._turn(*self._shown(ids), number, seed, "")

    def texts(self, rows: Sequence[tuple[Sequence[int], int, int]]) -> list[str]:
        """See `Scripted`; what the reader says of all rows is asked for at once."""
        said = [""] * len(rows)
        shown = [self._shown(ids) for ids, *_ in rows]
        some = [i for i, (text, _) in enumerate(shown) if last_block(text)]
        if self.reader and some:
            reader, wordings = self.reader
            talks = []
            for text, question in (shown[i] for i in some):
                block = [Document(str(n), *document) for n, document in enumerate(last_block(text))]
                talks.append(context_messages("generator", wordings, question, block))
            for i, reply in zip(some, reader.reply(talks, READ), strict=True):
                said[i] = first_sentence(reply)
        return [
            self._turn(*seen, number, seed, line)
            for seen, (_, number, seed), line in zip(shown, rows, said, strict=True)
        ]

    def _turn(self, shown: str, question: str, number: int, seed: int, said: str) -> str:
        """Every turn before this one searched."""
        draw = Draw(shown, question, self.titles, random.Random(f"{self.seed} {seed} {number}"), said)
        return TURNS[self.protocol](draw, number, self.select)

    def _shown(self, ids: Sequence[int]) -> tuple[str, str]:
        """The text of a row, and its question."""
        text = self.stops.decode(ids)
        last = re.findall(r"^(?:.*)Question: (.*)$", text, re.MULTILINE)[-1]
        return text, last.partition("<|")[0]  # a special token may end the line


def first_sentence(reply: str) -> str:
    """The first sentence of evidence in what the reader says: "title: sentence"."""
    title, _, said = reply.partition(": ")
    return f"{title}: {re.split(r'(?<=[.?!]) ', said)[0].rstrip('.')}" if said else ""


def scripted_episodes(
    bench: Bench,
    protocol: str,
    questions: Sequence[Question],
    titles: Mapping[str, float],
    stops: Stops,
    seed: int = 0,
    reader: tuple[ChatModel, Wordings] | None = None,
) -> list[Episode]:
    """One scripted episode per question, through the profile's own engine and retriever."""
    script = Script(protocol, stops, titles, max(1, bench.profile.s3.select), seed, reader)
    return bench.engine(protocol, script, stops.tokenizer).run(questions, seed=seed, progress=False)


def sequences(episodes: Sequence[Episode]) -> list[Sequences]:
    """What an episode teaches: every token the script wrote, and the end that closes it."""
    taught = []
    for e in episodes:
        own = list(e.env_mask)
        own[-1] = int(e.end != "length")  # the end token, which the engine may have added
        taught.append(Sequences((*e.prompt_ids, *e.completion_ids), (*(0 for _ in e.prompt_ids), *own)))
    return taught
