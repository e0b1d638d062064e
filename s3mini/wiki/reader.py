"""The reader: the instruct model taught once, before it is frozen, to say the evidence and then the answer.

As it comes, a model of 135 million parameters cannot read two documents: of a city it names the country, or guesses. The
paper's generator reads well without being taught; so this is a departure, told wherever its figures stand, and the row of
the reader *as it came* stands beside it.

It is taught on questions of its own (``reader`` splits: never the searcher's training questions, whose answers it would know
by heart and so pay for nothing, never dev's or test's), each with its gold passages among retrieved ones, and without some
of them. What it is to say is made from the passages: the sentence of each that proves, then the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from ..bench import Bench
from ..corpus import read_questions
from ..errors import DataError
from ..methods import gold_documents
from ..models.base import chat_ids
from ..models.tokenizer import open_tokenizer, source_of
from ..protocols.wordings import context_messages
from ..records import Document, Question
from .fetch import QUESTIONS, bare, holds
from .teach import Sequences

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_NUMBER = re.compile(r"\b\d[\d,.]*\d\b")
LONGEST = 28
"""Words of evidence from one passage, at most: the sentence is cut around what it proves."""


def evidence(document: Document, words: Sequence[str]) -> str:
    """The sentence of a passage that holds one of ``words``; its first sentence where none does."""
    sentences = _SENTENCE.split(document.text)
    return next((s for s in sentences if holds(s, words)), sentences[0])


def target(question: Question, gold: Sequence[Document]) -> str:
    """What the reader is to say: one sentence of evidence from each gold passage, then the answer in a sentence."""
    said = []
    for document, following in zip(gold, [*gold[1:], None], strict=True):
        if question.metadata["set"] == "comparison":
            words = _NUMBER.findall(document.text)[:1]  # what is compared is mostly a year or a size
        elif following is not None:
            words = [bare(following.title)]
        else:
            words = list(question.golden_answers)
        said.append(f"{bare(document.title)}: {_around(evidence(document, words), words)}")
    return " ".join(said) + f" So the answer is {question.golden_answers[0]}."


def _around(sentence: str, words: Sequence[str]) -> str:
    parts = sentence.split()
    if len(parts) <= LONGEST:
        return sentence
    width = max((len(word.split()) for word in words), default=1)
    begin = next((i for i in range(len(parts)) if holds(" ".join(parts[i : i + width]), words)), 0)
    first = max(0, min(begin - LONGEST // 2, len(parts) - LONGEST))
    return " ".join(parts[first : first + LONGEST]).rstrip(".,;:") + "."


def shelf(
    gold: Sequence[Document], retrieved: Sequence[Document], rng: random.Random, most: int
) -> tuple[Document, ...]:
    """A context to read a question from: its gold passages among retrieved ones, ``most`` together, in a drawn order.

    How many others is drawn, too, down to none: a reader that always saw as many would count on it.
    """
    others = [d for d in retrieved if d.id not in {g.id for g in gold}]
    room = min(len(others), max(0, most - len(gold)))
    among = [*gold, *rng.sample(others, rng.randint(0, room))]
    rng.shuffle(among)
    return tuple(among)


def reader_sequences(bench: Bench, seed: int = 0) -> list[Sequences]:
    """Prompts as the generator gets them, and what it is to reply.

    A context holds as many passages as s3's loop may hand over, of those that it could meet: what a search for the question
    finds, and for each gold title.

    Raises:
        DataError: the ``reader`` splits are missing (fetch the profile's parts first), or a gold passage is.
    """
    profile = bench.profile
    tokenizer = open_tokenizer(source_of(profile.generator))
    rng = random.Random(seed)
    most = profile.s3.begin_k + profile.s3.turns * profile.s3.select
    questions = reader_questions(bench)
    golds = [gold_documents(bench, question) for question in questions]
    queries = [[q.stem, *(bare(d.title) for d in gold)] for q, gold in zip(questions, golds, strict=True)]
    found = iter(bench.retriever().search([query for its in queries for query in its], profile.rag.k))
    sequences = []
    for question, gold, its in zip(questions, golds, queries, strict=True):
        hits = {hit.document.id: hit.document for _ in its for hit in next(found)}
        context = shelf(gold, list(hits.values()), rng, most)
        messages = context_messages("generator", profile.generator.wordings, question.question, context)
        (prompt,) = chat_ids(tokenizer, [messages])
        reply = tokenizer(target(question, gold), add_special_tokens=False)["input_ids"]
        ids = (*prompt, *reply, tokenizer.eos_token_id)
        sequences.append(Sequences(ids, (*(0 for _ in prompt), *(1 for _ in reply), 1)))
    return sequences


def reader_questions(bench: Bench) -> list[Question]:
    """The reader's own questions, of all sets, as ``fetch`` placed them."""
    folder = bench.profile.resolve(bench.profile.data.questions)
    files = sorted(folder.glob("*/reader.jsonl"))
    if not files:
        raise DataError(
            f"{folder}: no */reader.jsonl here ({QUESTIONS} ships them): s3mini download --profile wiki"
        )
    return [question for path in files for question in read_questions(path)]
