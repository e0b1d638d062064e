"""The bench: a profile's frozen parts, each opened when first needed, and what results made with them depend on.

Everything that plays episodes, answers or scores (naive RAG, training, evaluation, ``s3mini ask``) takes its retriever,
generator, judge and searchers from here, so they are the same everywhere and loaded once.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .corpus import fingerprint
from .errors import DataError, RetrievalError, StageError
from .profile import MethodSpec, ModelSpec, Profile
from .protocols import REGISTRY, Protocol, wordings
from .records import Collected, Document, Episode, Question, Score

if TYPE_CHECKING:  # models, indexes and torch are loaded only when something is left to answer
    from transformers import PreTrainedTokenizerBase

    from .episodes import Engine
    from .models.base import ChatModel, Sampler
    from .retrieval.base import Retriever
    from .reward import Judge

T = TypeVar("T")

WHO_AND_HOW_FAST = {
    "path", "engine", "url", "api", "key_variable", "timeout", "patience", "device", "batch_size", "max_rows",
}  # fmt: skip
"""Keys of a model that do not change its greedy answers: who runs it, and how many rows at a time (path: its files count)."""


def _decoded(spec: ModelSpec) -> list[str]:
    """What of a searcher's decoding, its weights apart, changes its episodes, where it is not the default."""
    dtype: str = spec.dtype
    if spec.engine == "local":
        from .models.local import dtype_of

        dtype = dtype_of(spec)
    now, usual = {"dtype": dtype, "max_length": spec.max_length}, ModelSpec.model_fields
    return [f"{key}={value}" for key, value in now.items() if value != usual[key].default]


class Bench:
    """The parts of a profile.

    ``searcher`` is the folder of a trained searcher, or of the run that trained it, for ``protocol``; None means
    what training of this ``seed`` left.
    """

    def __init__(
        self, profile: Profile, seed: int = 0, searcher: Path | str | None = None, protocol: str = "s3"
    ) -> None:
        self.profile = profile
        self.seed = seed
        self._searcher = {protocol: Path(searcher)} if searcher is not None else {}
        self._made: dict[object, Any] = {}

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What ``make`` returns, made at the first call with this key and kept as long as the bench."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    # ------------------------------------------------------------------------------ frozen parts

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

        spec = self.profile.judge
        return Judge(open_model(spec), spec.wordings, spec.threshold)

    def retriever(self, kind: str | None = None) -> Retriever:
        """The profile's retriever of a kind, see `kind_of_index`.

        Raises:
            RetrievalError: it cannot be opened; dense retrieval asked of a server that has BM25.
        """
        from .retrieval import open_retriever

        index = kind_of_index(self.profile, kind)
        retriever = self.once(("retriever", index), lambda: open_retriever(self.profile, index))
        if index == "remote" and kind == "dense" and retriever.name.startswith("bm25"):
            raise RetrievalError(
                f"{self.profile.retrieval.url} serves {retriever.name}, dense retrieval is asked for: serve "
                "--kind dense there, or set retrieval.kind=lexical"
            )
        return retriever

    # ------------------------------------------------------------------------------ searchers

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
            if folder.is_dir():
                warnings.warn(
                    f"{folder}: not trained to its end; {spec.checkpoint} is taken instead", stacklevel=2
                )
            return model.model_copy(update={"path": spec.checkpoint})
        option = "--searcher FOLDER" if protocol == "s3" else f"--set protocols.{protocol}.checkpoint=FOLDER"
        raise StageError(
            f"{folder}: no trained searcher here; run `s3mini train {self.profile.option} "
            f"--protocol {protocol} --seed {self.seed}` first, or name a searcher's folder by {option}"
        )

    def start(self, protocol: str) -> ModelSpec:
        """The model that training begins with: the one as it came, unless the profile names what it had learnt before."""
        model, path = self.checkpoint(protocol, trained=False), method_spec(self.profile, protocol).start
        return model if path is None else model.model_copy(update={"path": path})

    def engine(
        self,
        protocol: str,
        searcher: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        retriever: Retriever | None = None,
        reader: ChatModel | None = None,
    ) -> Engine:
        """Plays episodes of a protocol with a searcher, over its own retriever unless another is given.

        ``reader`` condenses documents for the protocols that want it; None shows them as they are.
        """
        from .episodes import Engine

        spec = self.checkpoint(protocol, trained=False)  # trained, it has the same limits
        return Engine(
            searcher,
            tokenizer,
            retriever or self.retriever(protocol_class(protocol).retriever),
            make_protocol(protocol, self.profile, reader),
            method_spec(self.profile, protocol).max_turn_tokens,
            spec.max_length,
            spec.max_rows,
        )

    def episodes(self, protocol: str, trained: bool, questions: Sequence[Question]) -> list[Episode]:
        """One greedy episode per question."""
        from .models import open_model

        searcher = open_model(self.checkpoint(protocol, trained))
        assert searcher.tokenizer is not None  # a profile whose searcher gives no tokens is refused
        engine = self.engine(protocol, searcher, searcher.tokenizer, reader=searcher)
        return engine.run(questions, n=1, temperature=0.0, seed=self.seed, progress=False)

    # ------------------------------------------------------------------------------ answers

    @property
    def replies(self) -> Counter[str]:
        """The generator's replies so far, see `generator.answer_questions`."""
        return self.once("replies", Counter)

    def answer(self, questions: Sequence[Question], collected: Sequence[Collected]) -> list[str]:
        """The generator's answers from the contexts; what brings an answer of its own keeps it."""
        from .generator import answer_questions

        own = [given.answer for given in collected]
        asked = [i for i, answer in enumerate(own) if answer is None]
        replies = answer_questions(
            self.generator,
            [questions[i] for i in asked],
            [collected[i].context for i in asked],
            self.profile.generator.wordings,
            tally=self.replies,
        )
        answers = dict(zip(asked, replies, strict=True))
        return [answers[i] if answer is None else answer for i, answer in enumerate(own)]

    def score(self, answers: Sequence[str], questions: Sequence[Question]) -> list[Score]:
        """EM, F1, span match and, where that fails, the judge."""
        from .reward import score_answers

        return score_answers(answers, questions, self.judge)

    def count_tokens(self, documents: Sequence[Document]) -> int:
        """Length of a context, rendered as the generator reads it, in the generator's tokens."""
        return self._length(wordings.render_documents(documents)) if documents else 0

    def prompt_tokens(self, question: Question, documents: Sequence[Document]) -> int:
        """Length of all that the generator reads for a question, in its tokens."""
        spoken = self.profile.generator.wordings
        messages = wordings.context_messages("generator", spoken, question.question, documents)
        return sum(self._length(message["content"]) for message in messages)

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    @cached_property
    def _tokenizer(self) -> Any:
        """The generator's; a black box has none here, then the searcher's."""
        from .models.tokenizer import open_tokenizer, source_of

        own = getattr(self.generator, "tokenizer", None)
        return own if own is not None else open_tokenizer(source_of(self.profile.searcher))

    # ------------------------------------------------------------------------------ what results depend on

    def depends_on(self, questions: Sequence[Question]) -> tuple[dict[str, str], dict[str, Any]]:
        """What scored answers to the questions depend on, whoever collected their contexts.

        Inputs by content: corpus, questions with all that is known of them, generator, judge. Settings by value: every
        key of the two models but those that say only who runs them, so that a key added later counts by itself.
        Naive RAG, training and evaluation add what is theirs.
        """
        profile = self.profile
        asked = [[q.id, q.question, q.golden_answers, dict(q.metadata)] for q in questions]
        text = json.dumps(asked, sort_keys=True, default=str)
        roles = ("generator", "judge")
        inputs = {
            "corpus": fingerprint(profile.resolve(profile.data.corpus)),
            "questions": hashlib.sha256(text.encode()).hexdigest()[:16],
            **{role: self.fingerprint(getattr(profile, role)) for role in roles},
        }
        return inputs, {role: getattr(profile, role).model_dump(exclude=WHO_AND_HOW_FAST) for role in roles}

    def searcher_depends_on(self, protocol: str, spec: ModelSpec) -> dict[str, str]:
        """What a protocol's episodes depend on beside the questions: retriever, searcher ``spec``, the protocol's numbers."""
        kind = protocol_class(protocol).retriever or self.profile.retrieval.kind
        numbers = self.profile.s3 if protocol == "s3" else method_spec(self.profile, protocol)
        left_out = {"model", "checkpoint", "start"}
        if not self.profile.s3.skip_kept:
            left_out.add("skip_kept")  # it came later: switched off, older runs stay valid
        return {
            "retriever": self.retriever_depends_on(kind),
            "searcher": self.fingerprint(spec),
            "protocol": " ".join(
                [protocol, numbers.model_dump_json(exclude=left_out), spec.wordings, *_decoded(spec)]
            ),
        }

    def retriever_depends_on(self, kind: str) -> str:
        """What, with the corpus, decides what a retriever returns; read without opening its index.

        Of a remote one it is asked: a server keeps its URL when its index changes, and its index when it moves.

        Raises:
            RetrievalError: the server does not answer.
        """
        from .retrieval import connect

        spec = self.profile.retrieval
        kind = kind_of_index(self.profile, kind)
        if kind == "remote":
            return f"remote {connect(self.profile).fingerprint}"
        settings = spec.lexical if kind in ("lexical", "boolean") else spec.dense
        # These keys were added later: at their defaults they are left out, so that older answers stay valid.
        later = {"dtype": "float32", "products": "float32", "index": "flat"}
        default = {key for key, value in later.items() if getattr(settings, key, None) == value}
        return f"{kind} {settings.model_dump_json(exclude={'device', 'batch_size', 'search', *default})}"

    def fingerprint(self, spec: ModelSpec) -> str:
        """What tells two models apart: the files of a folder, a name on the hub, or a black box's name and url.

        Not who runs it: a model's greedy answers are the same served and in this process, up to rounding.
        """
        if spec.engine == "served" and spec.api == "chat":
            return f"{spec.url} {spec.path}"
        folder = self.profile.resolve(spec.path)
        files = sorted(p for p in folder.glob("*") if p.suffix in {".json", ".safetensors", ".jinja"})
        return fingerprint(files) if files else spec.path


def kind_of_index(profile: Profile, kind: str | None) -> str:
    """Which index serves what asks for ``kind``: None means the profile's own.

    Where the profile's own is remote or Milvus, it stands in for the dense index; lexical and boolean stay here.
    """
    own = profile.retrieval.kind
    return own if kind is None or (kind == "dense" and own in ("remote", "milvus")) else kind


def method_spec(profile: Profile, protocol: str) -> MethodSpec:
    """The profile's numbers for a protocol; for those it does not mention, the defaults. s3's stand in ``s3``."""
    spec = profile.protocols.get(protocol, MethodSpec(max_turn_tokens=profile.s3.max_turn_tokens))
    return (
        spec.model_copy(update={"max_turn_tokens": profile.s3.max_turn_tokens}) if protocol == "s3" else spec
    )


def protocol_class(name: str) -> type[Protocol]:
    """The class of the protocol called ``name``, which tells its retriever and what it is trained for.

    Raises:
        DataError: unknown protocol.
    """
    if name not in REGISTRY:
        raise DataError(f"unknown protocol {name!r}: choose from {', '.join(REGISTRY)}")
    return REGISTRY[name]


def make_protocol(name: str, profile: Profile, reader: ChatModel | None = None) -> Protocol:
    """The protocol called ``name`` with the profile's numbers and its model's wordings.

    ``reader`` condenses documents, in protocols that have them condensed.

    Raises:
        DataError: unknown protocol.
    """
    kind: Any = protocol_class(name)
    spec = method_spec(profile, name)
    given = (profile.s3 if name == "s3" else spec).model_dump(include=set(kind.numbers), exclude_none=True)
    if kind.needs_reader and reader is not None:
        given["reader"] = reader.reply
    made: Protocol = kind(**given, wordings=(spec.model or profile.searcher).wordings)
    return made
