"""The methods that evaluation compares: how each collects the context that the frozen generator reads.

As in the paper's tables, every method differs only in its context (none, naive retrieval, what a
searcher's episodes collected, the gold documents); one generator answers from it. A method is one
line of `METHODS`. A protocol that answers by itself (`Episode.answer`) hands over its documents all the same (the
paper's "(Ret)" rows); a method with ``own`` is scored on its own answer instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .bench import Bench, kind_of_index
from .errors import DataError
from .rag import RagCache, precompute
from .records import Collected, Document, Question
from .runs.answering import Executor, in_process
from .runs.stages import read_manifest

Collect = Callable[[Bench, str, Sequence[Question]], list[Collected]]
"""Bench, name of the question set, questions of its test split -> what the method collected for each."""
Inputs = Callable[[Bench], dict[str, str]]
First = Callable[[Bench, str, Executor], object]
"""Bench, name of the question set, executor: done once for the whole set, before its questions are answered."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the results table. ``inputs`` fingerprints what the context depends on.

    ``replays`` names a method whose episodes are its own as well.
    """

    name: str
    about: str
    collect: Collect
    inputs: Inputs
    seeded: bool = False  # its outcome depends on the training seed
    first: First = lambda bench, set_name, executor: None
    replays: str | None = None


def _nothing(bench: Bench) -> dict[str, str]:
    return {}


def no_context(name: str, about: str) -> Method:
    """The generator answers from what it knows."""
    return Method(name, about, lambda bench, name, questions: [Collected(())] * len(questions), _nothing)


def naive(name: str, about: str, kind: str) -> Method:
    """Naive RAG: the top `rag.k` documents for the question itself, from (and into) its cache."""

    def answers(bench: Bench, set_name: str, executor: Executor = in_process) -> RagCache:
        own = kind_of_index(bench.profile, kind)
        return bench.once(
            ("naive RAG", own, set_name),
            lambda: precompute(bench.profile, [set_name], ("test",), own, bench, False, executor),
        )

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        cache = answers(bench, set_name)
        folder = bench.profile.build / "rag" / kind_of_index(bench.profile, kind) / f"{set_name}-test"
        # what the whole set took when its cache was made, index building left out
        seconds = float(read_manifest(folder).get("seconds", 0.0)) / max(1, len(cache))
        known, documents = [cache[question] for question in questions], bench.documents
        contexts = [tuple(documents[i] for i in answer.context) for answer in known]
        return [Collected(c, score=a.score, seconds=seconds) for c, a in zip(contexts, known, strict=True)]

    def inputs(bench: Bench) -> dict[str, str]:
        return {"retriever": bench.retriever_depends_on(kind), "k": str(bench.profile.rag.k)}

    return Method(name, about, collect, inputs, first=answers)


def episodes(
    name: str, about: str, protocol: str, trained: bool = False, own: bool = False, replays: str | None = None
) -> Method:
    """What the episodes of a protocol collected, with its model as it came or trained.

    ``own``: score the episode's own answer. One that gave none answered nothing, which is wrong.
    """

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        played = bench.episodes(protocol, trained, questions)
        return [Collected(e.context, e, (e.answer or "") if own else None) for e in played]

    def inputs(bench: Bench) -> dict[str, str]:
        return bench.searcher_depends_on(protocol, bench.checkpoint(protocol, trained))

    return Method(name, about, collect, inputs, seeded=trained, replays=replays)


def gold(name: str, about: str) -> Method:
    """The documents that prove the answer, in order: what perfect search would give the generator."""

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        return [Collected(gold_documents(bench, question)) for question in questions]

    return Method(name, about, collect, _nothing)


def gold_documents(bench: Bench, question: Question) -> tuple[Document, ...]:
    """The gold documents of a question.

    Raises:
        DataError: the question names none, or one that is not in the corpus.
    """
    missing = [i for i in question.gold_ids if i not in bench.documents]
    if missing or not question.gold_ids:
        what = f"gold document {missing[0]!r} is not in the corpus" if missing else "no metadata.gold_ids"
        raise DataError(
            f"question {question.id!r}: {what}; the oracle needs both, leave `oracle` out of the methods otherwise"
        )
    return tuple(bench.documents[i] for i in question.gold_ids)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        no_context("direct", "no context"),
        episodes("cot", "no context, reasons first", "cot", own=True),
        naive("rag-bm25", "top documents of the question, BM25", "lexical"),
        naive("rag-dense", "top documents of the question, dense", "dense"),
        episodes("deepretrieval", "one boolean query, BM25; trained", "deepretrieval", trained=True),
        episodes("ircot", "each sentence of reasoning is a query", "ircot"),
        episodes("search-o1", "searches inside its reasoning, results condensed", "search-o1"),
        episodes("search-r1", "what Search-R1 retrieved; trained", "search-r1", trained=True),
        episodes(
            "search-r1-own",
            "Search-R1's own answer",
            "search-r1",
            trained=True,
            own=True,
            replays="search-r1",
        ),
        episodes("s3-untrained", "s3's loop, searcher as it came", "s3"),
        episodes("s3", "s3's loop, searcher trained by GRPO", "s3", trained=True),
        gold("oracle", "the gold documents"),
    )
}
