"""The cold start: episodes that are right in format and random in judgement, for every protocol.

An instruct model of 135 million parameters does not keep to a protocol because a prompt says so (2 of 24 turns valid, as it
comes): it answers the question instead. So it is shown what turns look like, before reinforcement learning, by episodes
that a script plays through the real engine and retriever: which query, which documents, when to stop and what to answer
are drawn at random from what was shown. What is learnt is the form; what to search for is left to GRPO.

What decides whether GRPO can begin is how often a group of episodes holds one success. So the queries that a good
searcher would ask (a linked title) occur among the drawn ones, no more often than by chance of the draw. And what is drawn
from stands before it: a turn first names the titles that the last documents link, in their order. That list is there to be
copied, which a small model learns soon; a draw out of two whole passages it learns as words from nowhere.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from ..bench import Bench
from ..models.scripted import Scripted
from ..models.stops import Stops
from ..protocols.search_o1 import BEGIN, END
from ..records import Document, Episode, Question
from .fetch import bare
from .teach import Sequences

_DOCUMENT = re.compile(r"\bDoc \d+ \(Title: (.*?)\) ([^\n]*)")
_NAME = re.compile(r"[A-Z][\w'’-]*(?:(?: of| the| and| de| van| von)* [A-Z][\w'’-]*)*")
LISTED = 6
"""So many linked titles a turn names, at most."""
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


def named(texts: Iterable[str], titles: Container[str]) -> list[str]:
    """The names in some texts, each once, in their order. A name that is no title is taken apart where that makes some:
    "In Mali and Niger" is two."""
    found: dict[str, None] = {}
    for name in (name for text in texts for name in _NAME.findall(text)):
        pieces = [piece for part in name.split(" and ") for piece in (part, part.partition(" ")[2])]
        within = [] if name in titles else [piece for piece in pieces if piece in titles]
        found.update(dict.fromkeys(within or [name]))
    return list(found)


class Draw:
    """What a script can say about one episode so far, drawn at random: names, queries, sentences."""

    def __init__(self, text: str, question: str, titles: Mapping[str, float], rng: random.Random) -> None:
        self.rng, self.question, self.titles = rng, question, titles
        self.documents: list[tuple[str, str]] = _DOCUMENT.findall(text)
        # Search-o1 shows plain text
        names = named([body for _, body in self.documents] or [text.rpartition(question)[2]], titles)
        own = {title for title, _ in self.documents}
        self.links = [n for n in names if n in titles and n not in own] or names
        self.last: list[tuple[str, str]] = _DOCUMENT.findall(text.rpartition("<information>")[2])
        there = named([body for _, body in self.last], titles)
        self.listed = [name for name in there if name in self.links][:LISTED] or self.links[:LISTED]

    def query(self) -> str:
        """A linked title in 8 of 9 draws, by its `rarity`, mostly of those listed; else a shown document's title. Where nothing
        was shown, the question."""
        if not self.links:
            return self.question
        if self.documents and self.rng.random() * 9 < 1:
            return self.rng.choice(self.documents)[0]
        links = self.listed if self.rng.random() < 0.8 else self.links
        return self.rng.choices(links, [self.titles.get(link, 1.0) for link in links])[0]

    def answer(self) -> str:
        """A name that some document holds."""
        return self.rng.choice(self.links) if self.links else "unknown"

    def thought(self) -> str:
        """A line of reasoning that says nothing about the question: what the last documents link."""
        return f"Named: {', '.join(self.listed)}." if self.listed else "Nothing is named."

    def words(self) -> list[str]:
        """Words of the question that a search engine would keep."""
        return [w for w in re.findall(r"[\w'-]+", self.question) if w.lower() not in _STOP] or ["question"]


def s3_turn(draw: Draw, searches: int, select: int) -> str:
    """Select from the last block, if there is one; stop, or ask."""
    shown = len(draw.last)
    text = f"<think>{draw.thought()}</think>\n"
    if shown and draw.rng.random() < 0.8:
        chosen = draw.rng.sample(range(1, shown + 1), draw.rng.randint(1, min(select, shown)))
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
    return (
        draw.rng.choice([f"The question is about {draw.query()}.", f"I need to know more of {draw.query()}."])
        + "\n"
    )


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
    """Draws its turns, of one protocol."""

    def __init__(
        self,
        protocol: str,
        stops: Stops,
        titles: Mapping[str, float],
        select: int,
        seed: int,
    ) -> None:
        super().__init__(stops, positions=10**6)
        self.protocol, self.titles, self.select, self.seed = protocol, titles, select, seed

    def turn(self, ids: Sequence[int], number: int, seed: int) -> str:
        """See `Scripted`; every turn before this one searched."""
        shown = self.stops.decode(ids)
        last = re.findall(r"^(?:.*)Question: (.*)$", shown, re.MULTILINE)[-1]
        question = last.partition("<|")[0]  # a special token may end the line
        draw = Draw(shown, question, self.titles, random.Random(f"{self.seed} {seed} {number}"))
        return TURNS[self.protocol](draw, number, self.select)


def scripted_episodes(
    bench: Bench,
    protocol: str,
    questions: Sequence[Question],
    titles: Mapping[str, float],
    stops: Stops,
    seed: int = 0,
) -> list[Episode]:
    """One scripted episode per question, through the profile's own engine and retriever."""
    script = Script(protocol, stops, titles, max(1, bench.profile.s3.select), seed)
    return bench.engine(protocol, script, stops.tokenizer).run(questions, seed=seed, progress=False)


def sequences(episodes: Sequence[Episode]) -> list[Sequences]:
    """What an episode teaches: every token the script wrote, and the end that closes it."""
    taught = []
    for e in episodes:
        own = list(e.env_mask)
        own[-1] = int(e.end != "length")  # the end token, which the engine may have added
        taught.append(Sequences((*e.prompt_ids, *e.completion_ids), (*(0 for _ in e.prompt_ids), *own)))
    return taught
