"""The methods that evaluation compares: how each collects the context that the frozen generator reads.

As in the paper's tables, every method differs only in its context (none, naive retrieval, what a
searcher's episodes collected, the gold documents); one generator answers from it. A method is one
line of `METHODS`. A protocol that answers by itself (`Episode.answer`) hands over its documents all the same (the
paper's "(Ret)" rows); a method with ``own`` is scored on its own answer instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .corpus import fingerprint
from .errors import DataError, RetrievalError, StageError
from .profile import MethodSpec, ModelSpec, Profile
from .protocols import wordings
from .records import Document, Episode, Question, Score
from .runs.answering import Executor, in_process
from .runs.stages import read_manifest

if TYPE_CHECKING:  # models, indexes and torch are loaded only when something is left to answer
    from .models.base import ChatModel
    from .protocols import Protocol
    from .rag import RagCache
    from .retrieval.base import Retriever
    from .reward import Judge


@dataclass(frozen=True, slots=True)
class Collected:
    """What a method hands over for one question.

    The documents in order; the episode that found them, if any; its own answer, where that is to be scored instead
    of the generator's; the answer's score where the method already has it (naive RAG's cache), with the seconds it took then.
    """

    context: tuple[Document, ...]
    episode: Episode | None = None
    answer: str | None = None
    score: Score | None = None
    seconds: float = 0.0


class Bench:
    """The frozen parts an evaluation works with, each opened when first needed and only once.

    ``searcher`` is the folder of a trained searcher, or of the run that trained it, for ``protocol``; None means
    what training of this ``seed`` left.
    """

    def __init__(
        self, profile: Profile, seed: int = 0, searcher: Path | str | None = None, protocol: str = "s3"
    ) -> None:
        self.profile = profile
        self.seed = seed
        self._searcher = {protocol: Path(searcher)} if searcher is not None else {}
        self._retrievers: dict[str, Retriever] = {}
        self._naive: dict[tuple[str, str], RagCache] = {}

    @cached_property
    def documents(self) -> Mapping[str, Document]:
        """The corpus by document id."""
        from .retrieval import open_corpus

        return open_corpus(self.profile).by_id

    @cached_property
    def generator(self) -> ChatModel:
        """The frozen generator."""
        from .models import open_model

        return open_model(self.profile.generator)

    @cached_property
    def judge(self) -> Judge:
        """The judge that is asked where the span match fails."""
        from .models import open_model
        from .reward import Judge

        return Judge(open_model(self.profile.judge), self.profile.judge.wordings)

    def retriever(self, kind: str | None = None) -> Retriever:
        """The profile's retriever of a kind, see `kind_of_index`.

        Raises:
            RetrievalError: it cannot be opened; dense retrieval asked of a server that has BM25.
        """
        from .retrieval import open_retriever

        index = kind_of_index(self.profile, kind)
        if index not in self._retrievers:
            self._retrievers[index] = open_retriever(self.profile, index)
        found = self._retrievers[index]
        if index == "remote" and kind == "dense" and found.name.startswith("bm25"):
            raise RetrievalError(
                f"{self.profile.retrieval.url} serves {found.name}, dense retrieval is asked for: serve "
                "--kind dense there, or set retrieval.kind=lexical"
            )
        return found

    def naive_rag(self, kind: str, set_name: str, executor: Executor = in_process) -> RagCache:
        """Naive RAG's answers to a test split, from (and into) its cache, read once."""
        from .rag import precompute

        key = kind, set_name
        if key not in self._naive:
            self._naive[key] = precompute(self.profile, [set_name], ("test",), kind, self, False, executor)
        return self._naive[key]

    def checkpoint(self, protocol: str, trained: bool) -> ModelSpec:
        """The model behind a protocol: as it came, or trained.

        Trained means this seed's run where there is one, else the checkpoint that the profile names.

        Raises:
            StageError: there is no trained searcher yet.
        """
        spec = method_spec(self.profile, protocol)
        model = spec.model or self.profile.searcher
        if not trained:
            return model
        given = self._searcher.get(protocol)
        folder = given or self.profile.build / "train" / f"{protocol}-seed{self.seed}"
        if (folder / "model").is_dir():  # a run's folder, as training returns it
            folder = folder / "model"
        if (folder / "config.json").is_file():
            return model.trained(folder)
        if given is None and spec.checkpoint is not None:
            return model.model_copy(update={"path": spec.checkpoint})
        raise StageError(
            f"{folder}: no trained searcher here; run `s3mini train --profile {self.profile.name} "
            f"--protocol {protocol} --seed {self.seed}` first, or name a searcher's folder"
        )

    def episodes(self, protocol: str, trained: bool, questions: Sequence[Question]) -> list[Episode]:
        """One greedy episode per question."""
        from .episodes import Engine
        from .models import open_model

        spec = self.checkpoint(protocol, trained)
        model = open_model(spec)
        assert model.tokenizer is not None  # a profile whose searcher gives no tokens is refused
        engine = Engine(
            model,
            model.tokenizer,
            self.retriever(kind_of(protocol).retriever),
            make_protocol(protocol, self.profile, reader=model),
            method_spec(self.profile, protocol).max_turn_tokens,
            spec.max_length,
            spec.max_rows,
        )
        return engine.run(questions, n=1, temperature=0.0, seed=self.seed, progress=False)

    def answer(self, questions: Sequence[Question], collected: Sequence[Collected]) -> list[str]:
        """The generator's answers from the contexts; what brings an answer of its own keeps it."""
        from .rag import answer_questions

        own = [found.answer for found in collected]
        asked = [i for i, answer in enumerate(own) if answer is None]
        replies = answer_questions(
            self.generator,
            [questions[i] for i in asked],
            [collected[i].context for i in asked],
            self.profile.generator.wordings,
        )
        answers = dict(zip(asked, replies, strict=True))
        return [answers[i] if answer is None else answer for i, answer in enumerate(own)]

    def score(self, answers: Sequence[str], questions: Sequence[Question]) -> list[Score]:
        """EM, F1, span match and, where that fails, the judge."""
        from .reward import score_answers

        return score_answers(answers, questions, self.judge)

    def count_tokens(self, documents: Sequence[Document]) -> int:
        """Length of a context, rendered as the generator reads it, in the generator's tokens."""
        if not documents:
            return 0
        return len(self._tokenizer.encode(wordings.render_documents(documents), add_special_tokens=False))

    def prompt_tokens(self, question: Question, documents: Sequence[Document]) -> int:
        """Length of all that the generator reads for a question, in its tokens."""
        spoken = self.profile.generator.wordings
        messages = wordings.context_messages("generator", spoken, question.question, documents)
        return sum(len(self._tokenizer.encode(m["content"], add_special_tokens=False)) for m in messages)

    @cached_property
    def _tokenizer(self) -> Any:
        """The generator's; a black box has none here, then the searcher's."""
        from .models.tokenizer import open_tokenizer, source_of

        found = getattr(self.generator, "tokenizer", None)
        return found if found is not None else open_tokenizer(source_of(self.profile.searcher))

    def fingerprint(self, spec: ModelSpec) -> str:
        """What tells two models apart: the files of a folder, a name on the hub, or a black box's name and url.

        Not who runs it: a model's greedy answers are the same served and in this process, up to rounding.
        """
        if spec.engine == "served" and spec.api == "chat":
            return f"{spec.url} {spec.path}"
        folder = self.profile.resolve(spec.path)
        files = sorted(p for p in folder.glob("*") if p.suffix in {".json", ".safetensors", ".jinja"})
        return fingerprint(files) if files else spec.path


def method_spec(profile: Profile, protocol: str) -> MethodSpec:
    """The profile's numbers for a protocol; for those it does not mention, the defaults. s3's stand in ``s3``."""
    found = profile.protocols.get(protocol, MethodSpec(max_turn_tokens=profile.s3.max_turn_tokens))
    return (
        found.model_copy(update=profile.s3.model_dump(include={"max_turn_tokens"}))
        if protocol == "s3"
        else found
    )


def kind_of(name: str) -> type[Protocol]:
    """The class of the protocol called ``name``, which tells its retriever and what it is trained for.

    Raises:
        DataError: unknown protocol.
    """
    from .protocols import REGISTRY

    if name not in REGISTRY:
        raise DataError(f"unknown protocol {name!r}: choose from {', '.join(REGISTRY)}")
    return REGISTRY[name]


def make_protocol(name: str, profile: Profile, reader: ChatModel | None = None) -> Protocol:
    """The protocol called ``name`` with the profile's numbers and its model's wordings.

    ``reader`` condenses documents, in protocols that have them condensed.

    Raises:
        DataError: unknown protocol.
    """
    factory: Callable[..., Protocol] = kind_of(name)
    spec = method_spec(profile, name)
    numbers: dict[str, Any] = {"k": spec.k, "turns": spec.turns, "reader": reader}
    if name == "s3":
        numbers = profile.s3.model_dump(exclude={"max_turn_tokens"})
    takes = inspect.signature(factory).parameters
    given = {key: value for key, value in numbers.items() if key in takes and value is not None}
    return factory(**given, wordings=(spec.model or profile.searcher).wordings)


Collect = Callable[[Bench, str, Sequence[Question]], list[Collected]]
"""Bench, name of the question set, questions of its test split -> what the method collected for each."""
Inputs = Callable[[Bench], dict[str, str]]
First = Callable[[Bench, str, Executor], object]
"""Bench, name of the question set, executor: done once for the whole set, before its questions are answered."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the results table. ``inputs`` fingerprints what the context depends on."""

    name: str
    about: str
    collect: Collect
    inputs: Inputs
    seeded: bool = False  # its outcome depends on the training seed
    first: First = lambda bench, set_name, executor: None


def kind_of_index(profile: Profile, kind: str | None) -> str:
    """Which index serves what asks for ``kind``: None means the profile's own.

    Where the profile's own is remote or Milvus, it stands in for the dense index; lexical and boolean stay here.
    """
    own = profile.retrieval.kind
    return own if kind is None or (kind == "dense" and own in ("remote", "milvus")) else kind


def retrieval_settings(profile: Profile, kind: str) -> str:
    """What, with the corpus, decides what a retriever returns; read without opening its index.

    Of a remote one it is asked: a server keeps its URL when its index changes, and its index when it moves.

    Raises:
        RetrievalError: the server does not answer.
    """
    from .retrieval import connect

    spec = profile.retrieval
    kind = kind_of_index(profile, kind)
    if kind == "remote":
        return f"remote {connect(profile).fingerprint}"
    settings = spec.lexical if kind in ("lexical", "boolean") else spec.dense
    # Keys that came later count where they are not as they were before there were any.
    later = {key for key in ("dtype", "index") if getattr(settings, key, None) in ("float32", "flat")}
    return f"{kind} {settings.model_dump_json(exclude={'device', 'batch_size', 'search', *later})}"


def _nothing(bench: Bench) -> dict[str, str]:
    return {}


def no_context(name: str, about: str) -> Method:
    """The generator answers from what it knows."""
    return Method(name, about, lambda bench, name, questions: [Collected(())] * len(questions), _nothing)


def naive(name: str, about: str, kind: str) -> Method:
    """Naive RAG: the top `rag.k` documents for the question itself, from (and into) its cache."""

    def first(bench: Bench, set_name: str, executor: Executor) -> RagCache:
        return bench.naive_rag(kind_of_index(bench.profile, kind), set_name, executor)

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        own = kind_of_index(bench.profile, kind)
        cache = bench.naive_rag(own, set_name)
        seconds = cache_seconds(bench.profile, own, set_name) / max(1, len(cache))
        found = [cache[question] for question in questions]
        return [
            Collected(tuple(bench.documents[i] for i in f.context), score=f.score, seconds=seconds)
            for f in found
        ]

    def inputs(bench: Bench) -> dict[str, str]:
        return {"retriever": retrieval_settings(bench.profile, kind), "k": str(bench.profile.rag.k)}

    return Method(name, about, collect, inputs, first=first)


def cache_seconds(profile: Profile, kind: str, set_name: str) -> float:
    """What naive RAG took for a set when its cache was made, index building left out."""
    return float(read_manifest(profile.build / "rag" / kind / f"{set_name}-test").get("seconds", 0.0))


def episodes(name: str, about: str, protocol: str, trained: bool = False, own: bool = False) -> Method:
    """What the episodes of a protocol collected, with its model as it came or trained.

    ``own``: score the episode's own answer. One that gave none answered nothing, which is wrong.
    """

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        found = bench.episodes(protocol, trained, questions)
        return [Collected(e.context, e, (e.answer or "") if own else None) for e in found]

    def inputs(bench: Bench) -> dict[str, str]:
        spec = bench.checkpoint(protocol, trained)
        kind = kind_of(protocol).retriever or bench.profile.retrieval.kind
        numbers = bench.profile.s3 if protocol == "s3" else method_spec(bench.profile, protocol)
        return {
            "retriever": retrieval_settings(bench.profile, kind),
            "searcher": bench.fingerprint(spec),
            "protocol": f"{protocol} {numbers.model_dump_json(exclude={'model', 'checkpoint'})} {spec.wordings}",
        }

    return Method(name, about, collect, inputs, seeded=trained)


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
        episodes("search-r1-own", "Search-R1's own answer", "search-r1", trained=True, own=True),
        episodes("s3-untrained", "s3's loop, searcher as it came", "s3"),
        episodes("s3", "s3's loop, searcher trained by GRPO", "s3", trained=True),
        gold("oracle", "the gold documents"),
    )
}
