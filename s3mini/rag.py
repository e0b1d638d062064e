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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .bench import Bench
from .corpus import load_questions
from .errors import DataError, StageError
from .generator import answer_questions
from .models.base import is_cut
from .profile import Profile
from .records import Question, Score
from .reward import DOCUMENT_REWARDS, normalize
from .runs.answering import Executor, Record, answer_missing, in_process
from .runs.omissions import NO_HIT, omissions
from .runs.progress import tqdm
from .runs.stages import Stage
from .unicode import canonical

BATCHES_PER_FLUSH = 2  # enough prompts to sort by length, few enough to lose


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
        if canonical(known.question) != canonical(answer.question):
            raise DataError(
                f"two questions share the id {answer.id!r}: {known.question!r} and {answer.question!r} "
                "(make ids unique across sets and splits)"
            )

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, question: Question) -> bool:
        found = self._answers.get(question.id)
        return found is not None and canonical(found.question) == canonical(question.question)

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
        executor: answers the blocks of questions, in this process or in many.

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
        for name in dict.fromkeys(
            sets or (profile.data.train_sets if split == "train" else profile.data.sets)
        )
    ]
    cache = RagCache()
    with tqdm(total=sum(len(part[2]) for part in parts), unit="question", disable=not progress) as bar:
        for name, split, questions in parts:
            bar.set_description(f"naive RAG {kind} {name} {split}")
            for answer in _answer_part(bench, kind, f"{name}-{split}", questions, executor, bar):
                cache.add(answer)
    return cache


def _answer_part(
    bench: Bench, kind: str, name: str, questions: Sequence[Question], executor: Executor, bar: tqdm
) -> list[RagAnswer]:
    """The answers to one set and split in the questions' order; the missing ones are made and logged."""
    size = bench.profile.generator.batch_size * BATCHES_PER_FLUSH
    inputs, settings = bench.depends_on(questions)
    inputs["index"] = bench.retriever(kind).fingerprint
    settings["k"] = bench.profile.rag.k
    with Stage(bench.profile, f"rag/{kind}/{name}", inputs, settings) as stage:
        records = answer_missing(
            stage, questions, size, partial(_answer_batch, kind=kind), bench, executor, bar
        )
        answers = [RagAnswer.from_json(record) for record in records]
        if not stage.done:
            stage.finish(**_facts(answers), omitted=_omitted(records))
    return answers


def _answer_batch(bench: Bench, questions: Sequence[Question], kind: str) -> list[Record]:
    blocks = bench.retriever(kind).search([q.stem for q in questions], bench.profile.rag.k)
    contexts = [[hit.document for hit in hits] for hits in blocks]
    spoken = bench.profile.generator.wordings
    answers = answer_questions(bench.generator, questions, contexts, spoken, tally=bench.replies)
    scores = bench.score(answers, questions)
    return [
        RagAnswer(question.id, question.question, tuple(d.id for d in documents), score).as_json()
        | ({"cut": True} if is_cut(answer) else {})
        for question, documents, answer, score in zip(questions, contexts, answers, scores, strict=True)
    ]


def _omitted(records: Sequence[Record]) -> dict[str, int]:
    nothing = sum(not record["context"] for record in records)
    return omissions(records) | ({NO_HIT: nothing} if nothing else {})


def _facts(answers: Sequence[RagAnswer]) -> dict[str, Any]:
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


def is_yes_no(question: Question) -> bool:
    """Whether every accepted answer is yes or no: a coin answers those, so they teach a searcher little."""
    return all(normalize(answer) in {"yes", "no"} for answer in question.golden_answers)


class Earned:
    """Whether naive RAG's documents earn more than half by a reward for documents: its success by that measure.

    So by `gold_precision` a passage that is found among two of no use is still to be selected.
    """

    def __init__(self, bench: Bench, questions: Sequence[Question], reward: str) -> None:
        hits = bench.retriever().search([q.stem for q in questions], bench.profile.rag.k)
        value = DOCUMENT_REWARDS[reward]
        self._found = {
            q.id: float(value(q, [hit.document for hit in found]) > 0.5)
            for q, found in zip(questions, hits, strict=True)
        }

    def lookup(self, question: Question) -> float:
        """0.0 or 1.0; a KeyError for another question."""
        return self._found[question.id]


def training_filter(
    questions: Sequence[Question], cache: RagCache | Earned
) -> tuple[list[Question], FilterReport]:
    """The questions worth training on, in order: neither yes/no nor answered by naive RAG (paper, section 4).

    Naive RAG's successes are where GBR cannot be positive, and under GRPO, where GBR's second term
    cancels, this filter is what remains of it. With `Earned` its success is told by the documents it finds.

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
