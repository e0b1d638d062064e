"""The reward: from a generator's answer to Gain Beyond RAG (paper, section 3).

    answer --normalise--> EM, F1, span match --(judge where the span fails)--> GenAcc --> GBR

Each measure is one small function. Departures from the paper and its public code, all deliberate:

- The public code rewards ``2 * GenAcc - GenAcc_RAG`` (two flags are on at once); here GBR is the paper's
  ``GenAcc - GenAcc_RAG``. Under GRPO both give the same advantages: see `group_advantages`.
- A text made only of what normalisation removes ("The The", "!!!") keeps it, instead of becoming an
  empty string that is contained in every answer.
- Forms of one text count as that text (`unicode`); punctuation above ASCII is removed as ASCII's is.
- A span is also accepted as DPR itself accepts it, on the text as it was written: see `span_match`.
- Of multiple choice the option chosen is scored (`choices`), by all measures alike; no judge is asked.
- Answers are scored in batches, and the judge is asked once per distinct (answer, accepted answers).
- The judge is not asked to speak: "yes" and "no" are compared by their probabilities as its next token, so that any
  model can judge, at the price of one reading. A black box that gives no probabilities and replies neither is counted
  and reported, then an error: never a quiet zero.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import regex

from .choices import chosen_letter, options_of, right_options
from .errors import DataError, ModelError
from .models.base import ChatModel
from .protocols.wordings import Wordings, judge_messages
from .records import Document, Question, Score
from .unicode import blank, canonical, folded

ARTICLES = frozenset({"a", "an", "the"})
# A word is letters, digits and marks; any other visible character stands alone (DPR's tokenizer).
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def normalize(text: str) -> str:
    """Fold forms and case (`unicode.folded`), drop punctuation and articles, squeeze white space; in NFD.

    The normalisation of SQuAD v1.1 (Rajpurkar et al. 2016), with DPR's NFD; used by every measure below.
    Accents stay: "Bronte" is not "Brontë". A text of punctuation or articles only keeps them.
    Idempotent.
    """
    lowered = folded(text)
    words = "".join(c for c in lowered if not _is_punctuation(c)).split()
    kept = [word for word in words if word not in ARTICLES] or words or lowered.split()
    return unicodedata.normalize("NFD", " ".join(kept))


def tokens(text: str) -> list[str]:
    """Tokens of a text as DPR's tokenizer splits it (Karpukhin et al. 2020), in NFD, as spelt."""
    return _TOKEN.findall(unicodedata.normalize("NFD", text)) or text.split()


def _accepted(golden_answers: Sequence[str], where: str = "") -> Sequence[str]:
    if isinstance(golden_answers, str):
        raise DataError(f"golden_answers is one string, {golden_answers!r}: give a list of answers{where}")
    if not golden_answers or any(map(blank, golden_answers)):
        raise DataError(f"no golden answer, or an empty one{where}: every question needs a non-empty answer")
    return golden_answers


def exact_match(answer: str, golden_answers: Sequence[str]) -> float:
    """1.0 when the normalised answer equals a normalised golden answer, else 0.0 (SQuAD EM).

    Raises:
        DataError: no golden answers, or a blank one.
    """
    normal = normalize(answer)
    return float(any(normal == normalize(gold) for gold in _accepted(golden_answers)))


def f1_score(answer: str, golden_answers: Sequence[str]) -> float:
    """Best harmonic mean, in [0, 1], of word precision and recall over the golden answers (SQuAD F1).

    Words are counted as often as they occur.

    Raises:
        DataError: no golden answers, or a blank one.
    """
    words = Counter(normalize(answer).split())
    best = 0.0
    for gold in _accepted(golden_answers):
        wanted = Counter(normalize(gold).split())
        common = (words & wanted).total()
        best = max(best, 2 * common / (words.total() + wanted.total()))
    return best


def span_match(answer: str, golden_answers: Sequence[str]) -> bool:
    """Whether a golden answer's tokens occur in the answer's, side by side and in order: "art" is not in "party".

    Two readings, either of which accepts: the paper's (section 3), DPR's tokens of both texts normalised, in which
    "U.S." is "US"; and DPR's own ``has_answer``, of both as they were written but for form and case, in which
    "Paris/Lutetia" holds Paris. In the second a golden answer of articles alone ("A", a blood group) must stand
    in its own case, or every text would hold it. In neither is "twenty-one" the same as "twenty one".

    Raises:
        DataError: no golden answers, or a blank one.
    """

    def occurs(read: Callable[[str], str], gold: str) -> bool:
        said, wanted = tokens(read(answer)), tokens(read(gold))
        return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))

    return any(
        occurs(normalize, gold)
        or occurs(canonical if ARTICLES.issuperset(tokens(folded(gold))) else folded, gold)
        for gold in _accepted(golden_answers)
    )


@dataclass
class Judge:
    """An LLM that says whether a response contains any accepted answer (paper, section 3).

    It says yes where ``p(yes) / (p(yes) + p(no))``, of its next token, exceeds ``threshold``, which
    `report.human_check.calibrate` finds on outputs that a person labelled. Batched by the model, and asked once per
    distinct (response, accepted answers) in its life.

    Where neither has a probability (some black boxes: `models.http.choosing`) the verdict is *unreadable*. It counts
    as no, is tallied in ``unreadable`` (of ``asked``) and warned about. More than one plus the share
    ``max_unreadable`` of all so far is a `ModelError`: that model cannot judge.
    """

    model: ChatModel
    wordings: Wordings = "full"
    threshold: float = 0.5
    max_unreadable: float = 0.05
    asked: int = 0
    unreadable: int = 0
    _known: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict, repr=False)

    def __call__(self, responses: Sequence[str], golden_answers: Sequence[Sequence[str]]) -> list[bool]:
        """One verdict per (response, accepted answers) pair; for errors see `probabilities`."""
        return [p > self.threshold for p in self.probabilities(responses, golden_answers)]

    def probabilities(self, responses: Sequence[str], golden_answers: Sequence[Sequence[str]]) -> list[float]:
        """The probability of yes against no, in [0, 1], per (response, accepted answers) pair.

        Raises:
            ModelError: too many unreadable verdicts, or the model returned a wrong number of them, or no numbers.
            DataError: a pair without accepted answers.
        """
        keys = [
            (response.strip(), tuple(_accepted(gold)))
            for response, gold in zip(responses, golden_answers, strict=True)
        ]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            conversations = [judge_messages(self.wordings, said, gold) for said, gold in new]
            masses = self.model.preference(conversations, ("yes", "no"))
            if len(masses) != len(new):
                raise ModelError(f"the judge returned {len(masses)} replies to {len(new)} questions")
            self._known.update(zip(new, self._read(masses), strict=True))
        return [self._known[key] for key in keys]

    def _read(self, masses: Sequence[Sequence[float]]) -> list[float]:
        if any(math.isnan(mass) for pair in masses for mass in pair):
            raise ModelError(
                "the judge's probabilities are not numbers: are its weights whole, its dtype wide enough?"
            )
        unreadable = sum(max(pair) == -math.inf for pair in masses)
        self.asked += len(masses)
        self.unreadable += unreadable
        if unreadable:
            tally = f"{self.unreadable} of {self.asked} judge replies are neither yes nor no"
            if self.unreadable > 1 + self.max_unreadable * self.asked:
                raise ModelError(f"{tally}: check the judge model and its wordings ({self.wordings!r})")
            warnings.warn(f"{tally}; counted as no", stacklevel=4)
        return [math.exp(yes - np.logaddexp(yes, no)) if yes > -math.inf else 0.0 for yes, no in masses]


def score_answers(
    answers: Sequence[str],
    questions: Sequence[Question],
    judge: Judge | None = None,
    judge_all: bool = False,
) -> list[Score]:
    """Score the answers (reasoning already stripped), one per question, in order.

    The judge is asked in one batch, only where the span match fails (paper, section 3) unless
    ``judge_all``, and never about an empty answer, which contains nothing. Without a judge GenAcc is
    the span match alone. Of a question with ``metadata["options"]`` the option chosen is scored: every measure, the
    judge's verdict with them, says whether it is an accepted one.

    Raises:
        DataError: a question without golden answers or with malformed options, or counts that differ.
        ModelError: the judge could not be read.
    """
    if len(answers) != len(questions):
        raise DataError(
            f"{len(answers)} answers for {len(questions)} questions: give one answer per question"
        )
    for question in questions:
        _accepted(question.golden_answers, f" (question {question.id!r})")
    golds = [question.golden_answers for question in questions]
    chosen = [_chosen_right(answer, question) for answer, question in zip(answers, questions, strict=True)]
    spans = [
        span_match(answer, gold) if right is None else right
        for answer, gold, right in zip(answers, golds, chosen, strict=True)
    ]
    verdicts: list[bool | None] = [None] * len(answers)
    if judge is not None:
        wanted = [i for i, span in enumerate(spans) if judge_all or not span]
        asked = [i for i in wanted if answers[i].strip() and chosen[i] is None]
        for i in wanted:
            verdicts[i] = bool(chosen[i])
        replies = judge([answers[i] for i in asked], [golds[i] for i in asked])
        for i, verdict in zip(asked, replies, strict=True):
            verdicts[i] = verdict
    return [
        Score(answer, exact_match(answer, gold), f1_score(answer, gold), span, verdict)
        if right is None
        else Score(answer, float(right), float(right), span, verdict)
        for answer, gold, right, span, verdict in zip(answers, golds, chosen, spans, verdicts, strict=True)
    ]


def _chosen_right(answer: str, question: Question) -> bool | None:
    """Whether the answer chooses an accepted option; None where the question has no options."""
    options = options_of(question)
    return chosen_letter(answer, options) in right_options(question) if options else None


def gbr(gen_acc: float, rag_gen_acc: float) -> float:
    """Gain Beyond RAG: GenAcc with the searcher's context minus GenAcc with naive RAG's (paper, section 3).

    Arguments in [0, 1], result in [-1, 1].
    """
    return gen_acc - rag_gen_acc


REWARDS: dict[str, Callable[[Score, float], float]] = {
    "gbr": lambda score, rag: gbr(score.gen_acc, rag),  # what s3 is trained with (section 3)
    "gen_acc": lambda score, rag: score.gen_acc,  # 58.9 general, 76.6 medical: the ablation's figures
    "judge": lambda score, rag: float(bool(score.judge)),  # 59.6, 77.3
    "span": lambda score, rag: float(score.span),  # 57.1, 74.3
    "em": lambda score, rag: score.em,  # 50.5, 70.3
}
"""Name -> the reward of a score, given naive RAG's GenAcc on its question (paper: table of rewards used for training)."""

RagAccuracy = Callable[[Question], float]


@dataclass(frozen=True)
class Reward:
    """A named reward of `REWARDS`: ``score`` measures answers as it needs them, calling it turns scores to numbers.

    ``rag_gen_acc`` gives naive RAG's GenAcc on a question (`RagCache.lookup`); ``gbr`` needs it.

    Raises:
        DataError: unknown name, or ``gbr`` without naive RAG's accuracies.
    """

    name: str
    rag_gen_acc: RagAccuracy | None = None

    def __post_init__(self) -> None:
        if self.name not in REWARDS:
            raise DataError(
                f"unknown reward {self.name!r}: choose one of {', '.join(REWARDS)}; "
                f"to train with, also {', '.join(DOCUMENT_REWARDS)}"
            )
        if self.name == "gbr" and self.rag_gen_acc is None:
            raise DataError(
                "the reward 'gbr' needs naive RAG's accuracies: run precompute, pass cache.lookup"
            )

    def score(
        self, answers: Sequence[str], questions: Sequence[Question], judge: Judge | None = None
    ) -> list[Score]:
        """`score_answers`, the judge asked about every answer when the reward is its verdict alone."""
        if judge is None and self.name == "judge":
            raise ModelError('the reward "judge" needs a judge model')
        return score_answers(answers, questions, judge, judge_all=self.name == "judge")

    def __call__(self, questions: Sequence[Question], scores: Sequence[Score]) -> list[float]:
        """One reward per score: in [-1, 1] for ``gbr``, in [0, 1] for the others."""
        if self.name == "judge" and any(score.judge is None for score in scores):
            raise ModelError('the reward "judge" got a score no judge gave: use Reward.score')
        rag = self.rag_gen_acc if self.name == "gbr" and self.rag_gen_acc else lambda question: 0.0
        return [REWARDS[self.name](score, rag(q)) for q, score in zip(questions, scores, strict=True)]


def recall(question: Question, documents: Sequence[Document]) -> float:
    """Share of the question's gold documents among ``documents``, in [0, 1]; of the first k it is recall@k.

    Where no gold documents are known: whether the text of any document holds an accepted answer (the recall of
    DPR, and DeepRetrieval's reward).
    """
    if question.gold_ids:
        ids = {document.id for document in documents}
        return sum(i in ids for i in question.gold_ids) / len(question.gold_ids)
    texts = [*right_options(question).values()] or question.golden_answers
    return float(any(span_match(document.contents, texts) for document in documents))


def gold_precision(question: Question, documents: Sequence[Document]) -> float:
    """Precision of ``documents`` where their `recall` is 1, else 0; in [0, 1].

    A generator that is misled by what it does not need is served by the gold documents alone.
    """
    if recall(question, documents) < 1.0:
        return 0.0
    return sum(recall(question, [document]) > 0 for document in documents) / len(documents)


DOCUMENT_REWARDS: dict[str, Callable[[Question, Sequence[Document]], float]] = {
    "recall": recall,
    "all_gold": lambda question, documents: float(recall(question, documents) == 1.0),
    "gold_precision": gold_precision,
    "gold_rank": gold_precision,
}
"""Name -> a reward of the documents alone, whatever the generator makes of them. By "recall" half of what a question needs earns
half, so that asking for that half becomes a habit; "all_gold" pays for the whole, and "gold_precision" less for each document beside it. "gold_rank" pays half of that, and half for
how near the queries came (`nearness`), which `training.parts.RankScorer` adds: where hardly one episode finds all, it tells the
others apart."""


def nearness(question: Question, rankings: Iterable[Sequence[str]]) -> float:
    """Mean over the gold documents of 1 / log2(1 + rank), the best of some rankings (document ids, best first); in [0, 1].

    The discount of DCG (Järvelin & Kekäläinen 2002): 1 at rank 1, 0.5 at 3, 0.15 at 100. Not ranked is 0.
    """
    best = dict.fromkeys(question.gold_ids, 0.0)
    for ids in rankings:
        for rank, i in enumerate(ids, 1):
            if i in best:
                best[i] = max(best[i], 1 / math.log2(1 + rank))
    return sum(best.values()) / max(1, len(best))


def alike(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards are all one: it has no advantages, and teaches nothing. In float32, as TRL has them."""
    return len(set(np.asarray(rewards, dtype=np.float32).tolist())) == 1


def group_advantages(
    rewards: Sequence[float] | np.ndarray,
    group_size: int,
    scale: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> np.ndarray:
    """GRPO's advantages, as TRL 1.16 computes them (Shao et al. 2024, section 4.1).

    ``A = (r - mean of its group) / (std + epsilon)``, the std (with Bessel's correction) taken over the
    group, over the whole batch, or left out (``"none"``, Dr. GRPO). A term that is constant in a group,
    such as GBR's ``GenAcc_RAG``, cancels in ``r - mean``: with ``"group"`` and ``"none"`` exactly; with
    ``"batch"`` the batch's std still sees it. A common factor cancels in the division, up to ``epsilon``.

    Args:
        rewards: one per completion, the ``group_size`` completions of a prompt side by side; shape (n,).

    Returns:
        float64 array, shape (n,).

    Raises:
        DataError: the rewards do not fill whole groups, or one is not finite.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or group_size < 2 or len(values) == 0 or len(values) % group_size:
        raise DataError(f"{values.shape} rewards do not fill groups of {group_size} (at least 2)")
    if not np.isfinite(values).all():
        raise DataError("a reward is not finite: a completion that could not be scored has no advantage")
    groups = values.reshape(-1, group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if scale == "group":
        centred = centred / (groups.std(axis=1, ddof=1, keepdims=True) + epsilon)
    elif scale == "batch":
        centred = centred / (values.std(ddof=1) + epsilon)
    elif scale != "none":
        raise DataError(f"unknown scale {scale!r}: choose group, batch or none")
    return centred.reshape(-1)
