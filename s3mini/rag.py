"""Naive RAG, the answers it leaves behind, and the training questions worth keeping (paper, section 3).

    questions --top-k of the question itself--> contexts --frozen generator--> answers --score--> cache
    train questions --drop yes/no and what naive RAG already answers--> training set

The cache serves twice: its GenAcc is the second term of GBR, and it filters the training set. It lies in
``build/<profile>/rag/<retriever>/<set>-<split>/answers.jsonl``, one line per question, written batch by
batch: killed half-way, the next run answers only what is missing. It belongs to one corpus, index,
generator, judge and k; when any of them changes it is made anew, and the log says what changed.

Departure from the public code: a generator or retriever that fails stops the run with an error; there,
the failure became an empty answer or a document reading "Error".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .corpus import fingerprint, load_questions
from .errors import DataError, ModelError, StageError
from .methods import Bench
from .models.base import ChatModel
from .profile import Profile
from .protocols.parsing import strip_reasoning
from .protocols.wordings import Wordings, context_messages, render_documents
from .records import Document, Question, Score
from .reward import normalize
from .runs.answering import Executor, Record, answer_missing, in_process
from .runs.stages import Stage, atomic_write

BATCHES_PER_FLUSH = 2  # enough prompts to sort by length, few enough to lose


def answer_questions(
    generator: ChatModel,
    questions: Sequence[Question],
    contexts: Sequence[Sequence[Document]],
    wordings: Wordings | None = None,
    max_new_tokens: int | None = None,
) -> list[str]:
    """The frozen generator's answer to each question from its context, in order, reasoning stripped.

    One call: prompts that are equal are asked once, and short ones come first, so that a batch pads
    little. An empty context means the question stands alone (the Direct baseline).

    Args:
        wordings: None takes those the model was made for (``generator.spec.wordings``), else "full".
        max_new_tokens: per answer, reasoning included; None takes the model's own limit.

    Raises:
        DataError: not one context per question.
        ModelError: the generator failed, or returned a wrong number of replies.
    """
    if len(questions) != len(contexts):
        raise DataError(f"{len(contexts)} contexts for {len(questions)} questions: give one per question")
    spec = getattr(generator, "spec", None)
    spoken: Wordings = wordings or ("full" if spec is None else spec.wordings)
    conversations = [
        context_messages("generator", spoken, question.question, documents)
        for question, documents in zip(questions, contexts, strict=True)
    ]
    keys = [conversation[-1]["content"] for conversation in conversations]
    distinct = dict(zip(keys, conversations, strict=True))
    order = sorted(distinct, key=lambda key: (len(key), key))
    if not order:
        return []
    replies = generator.reply(
        [distinct[key] for key in order], max_new_tokens=max_new_tokens, temperature=0.0
    )
    if len(replies) != len(order):
        raise ModelError(f"the generator returned {len(replies)} replies to {len(order)} prompts")
    answers = {key: strip_reasoning(reply) for key, reply in zip(order, replies, strict=True)}
    return [answers[key] for key in keys]


@dataclass(frozen=True, slots=True)
class RagAnswer:
    """What naive RAG made of one question: the ids it read, in order, and how its answer fared."""

    id: str
    question: str
    context: tuple[str, ...]
    score: Score

    def as_json(self) -> dict[str, Any]:
        """The line of the cache."""
        return {
            "id": self.id,
            "question": self.question,
            "context": list(self.context),
            **asdict(self.score),
            "gen_acc": self.score.gen_acc,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RagAnswer:
        """Inverse of `as_json`."""
        score = Score(*(record[name] for name in ("answer", "em", "f1", "span", "judge")))
        return RagAnswer(record["id"], record["question"], tuple(record["context"]), score)


class RagCache:
    """Naive RAG's answers by question id."""

    def __init__(self, answers: Iterable[RagAnswer] = ()) -> None:
        self._answers: dict[str, RagAnswer] = {}
        for answer in answers:
            self.add(answer)

    def add(self, answer: RagAnswer) -> None:
        """Add one answer.

        Raises:
            DataError: the id is taken by another question.
        """
        known = self._answers.setdefault(answer.id, answer)
        if known.question != answer.question:
            raise DataError(
                f"two questions share the id {answer.id!r}: {known.question!r} and {answer.question!r} "
                "(make ids unique across sets and splits)"
            )

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, question: Question) -> bool:
        found = self._answers.get(question.id)
        return found is not None and found.question == question.question

    def __getitem__(self, question: Question) -> RagAnswer:
        """The answer to a question.

        Raises:
            StageError: naive RAG did not answer it, or the id now belongs to another question.
        """
        if question not in self:
            raise StageError(
                f"naive RAG has no answer to question {question.id!r} ({question.question!r}): "
                "run `s3mini precompute` (or notebook 02) for its set and split"
            )
        return self._answers[question.id]

    def lookup(self, question: Question) -> float:
        """Naive RAG's GenAcc on a question, 0.0 or 1.0: the second term of GBR. Raises as `cache[question]`."""
        return self[question].score.gen_acc


# ------------------------------------------------------------------------------------ precompute


def precompute(
    profile: Profile,
    sets: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "test"),
    kind: str | None = None,
    bench: Bench | None = None,
    progress: bool = True,
    executor: Executor = in_process,
) -> RagCache:
    """Answer every question of the sets by naive RAG; finished answers are reused.

    Args:
        sets: None takes, for the train split, the sets trained on, for the others all of the profile's.
        splits: any of "train", "dev", "test".
        kind: retriever, "dense" or "lexical"; None takes the profile's.
        bench: opened parts to use, for tests and for models already in memory.
        executor: answers the blocks of questions, see `runs.ray.open_executor`.

    Returns:
        The cache of exactly these sets and splits.

    Raises:
        DataError: unknown set, malformed data. StageError: a full disk.
        RetrievalError, ModelError: a part failed; what was answered before is kept.
    """
    bench = bench or Bench(profile)
    kind = kind or profile.retrieval.kind
    parts = [
        (name, split, load_questions(profile, name, split))
        for split in splits
        for name in (sets or (profile.data.train_sets if split == "train" else profile.data.sets))
    ]
    cache = RagCache()
    with tqdm(total=sum(len(part[2]) for part in parts), unit="question", disable=not progress) as bar:
        for name, split, questions in parts:
            bar.set_description(f"naive RAG {kind} {name} {split}")
            for answer in _answer_part(bench, kind, f"{name}-{split}", questions, executor, bar):
                cache.add(answer)
    return cache


def _answer_part(
    bench: Bench, kind: str, name: str, questions: Sequence[Question], executor: Executor, bar: tqdm[Any]
) -> list[RagAnswer]:
    """The answers to one set and split in the questions' order; the missing ones are made and logged."""
    size = bench.profile.generator.batch_size * BATCHES_PER_FLUSH
    with Stage(bench.profile, f"rag/{kind}/{name}", *_identity(bench, kind, questions)) as stage:
        records = answer_missing(
            stage, questions, size, partial(_answer_batch, kind=kind), bench, executor, bar
        )
        answers = [RagAnswer.from_json(record) for record in records]
        if not stage.done:
            stage.finish(**_facts(bench, answers))
    return answers


def _identity(
    bench: Bench, kind: str, questions: Sequence[Question]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Everything the answers depend on: inputs by content, settings by value."""
    profile = bench.profile
    asked = "\n".join(json.dumps([q.id, q.question, q.golden_answers]) for q in questions)
    inputs = {
        "corpus": fingerprint(profile.resolve(profile.data.corpus)),
        "index": bench.retriever(kind).fingerprint,
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "generator": bench.fingerprint(profile.generator),
        "judge": bench.fingerprint(profile.judge),
    }
    settings = {
        "k": profile.rag.k,
        "generator": profile.generator.model_dump(include={"wordings", "max_new_tokens", "max_length"}),
        "judge": profile.judge.model_dump(include={"wordings", "max_new_tokens"}),
    }
    return inputs, settings


def _answer_batch(bench: Bench, questions: Sequence[Question], kind: str) -> list[Record]:
    blocks = bench.retriever(kind).search([q.stem for q in questions], bench.profile.rag.k)
    contexts = [[hit.document for hit in hits] for hits in blocks]
    answers = answer_questions(bench.generator, questions, contexts, bench.profile.generator.wordings)
    return [
        RagAnswer(question.id, question.question, tuple(d.id for d in documents), score).as_json()
        for question, documents, score in zip(
            questions, contexts, bench.score(answers, questions), strict=True
        )
    ]


def _facts(bench: Bench, answers: Sequence[RagAnswer]) -> dict[str, Any]:
    judged = [answer for answer in answers if answer.score.judge is not None]
    return {
        "questions": len(answers),
        "gen_acc": sum(a.score.gen_acc for a in answers) / max(1, len(answers)),
        "empty_answers": sum(not a.score.answer for a in answers),
        "judged": len(judged),
        "judge_yes": sum(bool(a.score.judge) for a in judged),
    }


# ------------------------------------------------------------------------------ training filter


@dataclass(frozen=True, slots=True)
class SetCounts:
    """How many questions of one set the training filter saw, dropped and kept."""

    name: str
    seen: int
    yes_no: int
    answered: int

    @property
    def kept(self) -> int:
        """Questions left to train on."""
        return self.seen - self.yes_no - self.answered


@dataclass(frozen=True, slots=True, repr=False)
class FilterReport:
    """What the training filter did, set by set."""

    sets: tuple[SetCounts, ...]

    @property
    def total(self) -> SetCounts:
        """All sets together."""
        return SetCounts(
            "all",
            sum(s.seen for s in self.sets),
            sum(s.yes_no for s in self.sets),
            sum(s.answered for s in self.sets),
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per set, then the sum."""
        return [
            {
                "set": s.name,
                "questions": s.seen,
                "yes/no": s.yes_no,
                "naive RAG answers": s.answered,
                "kept": s.kept,
                "share kept": f"{s.kept / max(1, s.seen):.0%}",
            }
            for s in (*self.sets, self.total)
        ]

    def __repr__(self) -> str:
        t = self.total
        return (
            f"{t.seen} questions: {t.yes_no} yes/no and {t.answered} that naive RAG answers dropped, "
            f"{t.kept} kept"
        )

    def _repr_html_(self) -> str:
        from .report.tables import rows_table

        return rows_table(self.rows)._repr_html_()


def is_yes_no(question: Question) -> bool:
    """Whether every accepted answer is yes or no: a coin answers those, so they teach a searcher little."""
    return all(normalize(answer) in {"yes", "no"} for answer in question.golden_answers)


def training_filter(questions: Sequence[Question], cache: RagCache) -> tuple[list[Question], FilterReport]:
    """The questions worth training on, in order: neither yes/no nor answered by naive RAG (paper, section 4).

    Naive RAG's successes are where GBR cannot be positive, and under GRPO, where GBR's second term
    cancels, this filter is what remains of it.

    Raises:
        StageError: naive RAG has not answered one of the questions.
        DataError: nothing is left to train on.
    """
    kept: list[Question] = []
    counts: dict[str, list[int]] = {}
    for question in questions:
        seen = counts.setdefault(str(question.metadata.get("set", "questions")), [0, 0, 0])
        seen[0] += 1
        if is_yes_no(question):
            seen[1] += 1
        elif cache.lookup(question) > 0:
            seen[2] += 1
        else:
            kept.append(question)
    report = FilterReport(tuple(SetCounts(name, *numbers) for name, numbers in counts.items()))
    if not kept:
        raise DataError(f"nothing left to train on ({report}): give more or harder training questions")
    return kept, report


# --------------------------------------------------------------------------- contexts on disk


def export_contexts(
    path: str | Path,
    questions: Sequence[Question],
    contexts: Sequence[Sequence[Document]],
    responses: Sequence[str],
) -> Path:
    """Write contexts as the public code does, to be named ``<dataset>_output_sequences.json``.

    ``{question: {"golden_answers": […], "context_with_info": the rendered documents, "response_str": the
    response}}``; other tools of that family read it.

    Raises:
        DataError: counts differ, or two questions have the same text (the format's key).
        StageError: the disk is full.
    """
    if not len(questions) == len(contexts) == len(responses):
        raise DataError(
            f"{len(questions)} questions, {len(contexts)} contexts, {len(responses)} responses: give one of each"
        )
    entries: dict[str, dict[str, Any]] = {}
    for question, documents, response in zip(questions, contexts, responses, strict=True):
        if question.question in entries:
            raise DataError(
                f"{path}: {question.question!r} is asked twice; this format keeps one entry a text"
            )
        entries[question.question] = {
            "golden_answers": list(question.golden_answers),
            "context_with_info": render_documents(documents),
            "response_str": response,
        }
    return atomic_write(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
