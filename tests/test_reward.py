"""The reward's measures against independent implementations, properties, the judge, and GRPO's algebra."""

from __future__ import annotations

import math
import re
import string
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_toys import ToyJudge as FakeJudge
from trl.trainer.utils import nanstd

from s3mini.errors import DataError, ModelError
from s3mini.records import Document, Question, Score
from s3mini.reward import (
    Judge,
    Reward,
    exact_match,
    f1_score,
    gbr,
    group_advantages,
    normalize,
    recall,
    score_answers,
    span_match,
)
from s3mini.unicode import blank

steady = settings(deadline=None, derandomize=True)  # same cases every run, no clock


def ask(text: str = "q?", *golds: str, id: str = "1") -> Question:
    return Question(id, text, golds or ("Paris",))


# --- independent implementations, written from the definitions in another style -----------------------


def squad_normal(text: str) -> str:
    """SQuAD's four passes, by regular expression (ASCII punctuation only)."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def dpr_words(text: str) -> list[str]:
    """DPR's SimpleTokenizer, uncased, one character at a time: letters, digits and marks join, the rest stands alone."""
    words, joined = [], False
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM" and joined:
            words[-1] += character
        elif kind not in "ZC":
            words.append(character)
        joined = kind in "LNM"
    return [word.lower() for word in words]


def dpr_has_answer(answer: str, gold: str) -> bool:
    """Token containment through delimited strings instead of slices."""
    left, right = ("".join(f"\x1f{word}\x1f" for word in dpr_words(text)) for text in (answer, gold))
    return right in left


def f1_by_lists(answer: str, gold: str) -> float:
    left, right = normalize(answer).split(), normalize(gold).split()
    same, rest = 0, list(right)
    for word in left:
        if word in rest:
            rest.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(left), same / len(right)
    return 2 * precision * recall / (precision + recall)


VOCABULARY = ["The", "a", "an", "of", "Rome", "rome,", "1999", "U.S.", "café", "cafe\u0301", "x-y"]
plain = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " \n")
words = st.lists(st.sampled_from(VOCABULARY)).map(" ".join)
anything = st.one_of(plain, words, st.text())
nonblank = anything.filter(lambda text: not blank(text))


@steady
@given(plain)
def test_normalisation_is_squads_on_ascii(text: str) -> None:
    expected = squad_normal(text)
    if expected:  # where SQuAD leaves nothing, ours keeps the text: tested below
        assert normalize(text) == expected


@steady
@given(anything)
def test_normalisation_is_idempotent_and_blind_to_case_and_form(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert normalize(unicodedata.normalize("NFC", text)) == once
    assert unicodedata.is_normalized("NFD", once)
    assert bool(once) != blank(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Lord,\tof the Rings!", "lord of rings"),
        ("U.S.A.", "usa"),
        ("“Smart” quotes – and dashes…", "smart quotes and dashes"),
        ("à la carte", "a\u0300 la carte"),  # the accented a is no article
        ("The The", "the the"),
        ("!!!", "!!!"),
        ("", ""),
        ("theatre another", "theatre another"),
    ],
)
def test_normalisation_of_awkward_texts(text: str, expected: str) -> None:
    assert normalize(text) == expected


@steady
@given(anything, nonblank)
def test_f1_agrees_with_counting_by_hand(answer: str, gold: str) -> None:
    assert f1_score(answer, [gold]) == pytest.approx(f1_by_lists(answer, gold))


joined = st.text(alphabet="ab.-/' é", min_size=1, max_size=8)


@steady
@given(st.one_of(plain, words, joined), st.one_of(plain, words, joined).filter(str.strip))
def test_span_is_dprs_or_dprs_on_what_squad_normalises(answer: str, gold: str) -> None:
    normal = [unicodedata.normalize("NFC", text) for text in (answer, gold)]
    answer_left, gold_left = map(squad_normal, normal)
    if gold_left:  # where SQuAD leaves nothing, ours keeps the text: tested below
        expected = dpr_has_answer(answer, gold) or dpr_has_answer(answer_left, gold_left)
        assert span_match(answer, [gold]) == expected


@steady
@given(nonblank, nonblank)
def test_em_implies_full_f1_and_span(answer: str, gold: str) -> None:
    for said in (answer, gold, gold.upper() if gold.isascii() else gold, f" {gold} "):
        if exact_match(said, [gold]):
            assert f1_score(said, [gold]) == 1.0
            assert span_match(said, [gold])
    assert exact_match(f" {gold} ", [gold]) == 1.0


@steady
@given(words, words.filter(lambda text: bool(normalize(text).strip())), words)
def test_a_gold_answer_among_other_words_is_found(before: str, gold: str, after: str) -> None:
    assert span_match(f"{before} {gold} {after}", ["nothing like it", gold])


@steady
@given(anything, st.lists(nonblank, min_size=1, max_size=4))
def test_several_golds_count_as_the_best_one(answer: str, golds: list[str]) -> None:
    assert exact_match(answer, golds) == max(exact_match(answer, [g]) for g in golds)
    assert f1_score(answer, golds) == max(f1_score(answer, [g]) for g in golds)
    assert span_match(answer, golds) == any(span_match(answer, [g]) for g in golds)


@pytest.mark.parametrize(
    ("answer", "gold", "found"),
    [
        ("It was Paris, France.", "paris", True),
        ("a party", "art", False),
        ("in 1998", "199", False),
        ("York New", "New York", False),
        ("New, York", "New York", True),
        ("New old York", "New York", False),
        ("Brontë", "Bronte", False),
        ("Bronte\u0308", "Brontë", True),
        ("anything at all", "The The", False),
        ("costs 5 €", "5€", True),
        ("", "Paris", False),
        ("Paris—the capital", "Paris", True),
        ("Paris—the capital", "the capital", True),
        ("Paris/Lutetia", "Lutetia", True),
        ("Jabodetabek's", "Jabodetabek", True),
        ("Jabodetabek’s", "Jabodetabek", True),
        ("twenty-one", "one", True),  # DPR's own weakness
        ("twenty-one", "twenty one", False),
        ("a.b", "b", True),
        ("the US", "U.S.", True),
        ("1939–1945", "1939-1945", True),
        ("a dog", "A", False),  # articles alone stand in their own case
        ("his blood group was A", "A", True),
        ("they saw The The play", "The The", True),
        ("Wow!!!", "!!!", True),
    ],
)
def test_span_match_on_awkward_answers(answer: str, gold: str, found: bool) -> None:
    assert span_match(answer, [gold]) is found


@pytest.mark.parametrize("measure", [exact_match, f1_score, span_match])
@pytest.mark.parametrize("golds", [[], [""], ["Paris", "  "], ["\u200b"], "Paris"])
def test_missing_golden_answers_are_an_error(measure, golds) -> None:
    with pytest.raises(DataError, match="golden"):
        measure("Paris", golds)


# --- judge ---------------------------------------------------------------------------------------------


class Leaning:
    """Prefers as the numbers say: one pair of log-masses a conversation."""

    def __init__(self, masses: Sequence[Sequence[float]]) -> None:
        self.masses = masses

    def preference(self, conversations, options) -> list[list[float]]:
        assert tuple(options) == ("yes", "no")
        return [list(pair) for pair in self.masses[: len(conversations)]]


masses = st.floats(-800, 0) | st.just(-math.inf)


@steady
@given(
    st.lists(st.tuples(masses, masses).filter(lambda pair: max(pair) > -math.inf), min_size=1),
    st.floats(0.01, 0.99),
)
def test_the_verdict_compares_yes_with_no_and_nothing_else(pairs, threshold) -> None:
    said, golds = [f"r{i}" for i in range(len(pairs))], [["g"]] * len(pairs)
    judge = Judge(Leaning(pairs), threshold=threshold)
    p = judge.probabilities(said, golds)
    assert judge(said, golds) == [value > threshold for value in p]
    for (yes, no), value in zip(pairs, p, strict=True):
        odds = 0.0 if no == -math.inf else math.exp(min(no - yes, 700.0))
        assert value == pytest.approx(1 / (1 + odds), abs=1e-12)
    both = [(yes + 3.0, no + 3.0) for yes, no in pairs]  # what an engine leaves out does not matter
    assert Judge(Leaning(both)).probabilities(said, golds) == pytest.approx(p, abs=1e-12)
    assert judge.unreadable == 0


def test_a_judge_whose_numbers_are_none_is_an_error() -> None:
    with pytest.raises(ModelError, match="not numbers"):
        Judge(Leaning([(math.nan, -1.0)]))(["a"], [["g"]])


def test_judge_is_asked_once_per_distinct_pair_and_only_where_the_span_fails() -> None:
    model = FakeJudge(["no", "yes"])
    judge = Judge(model, "brief")
    questions = [
        ask("q?", "Paris"),
        ask("q?", "Paris"),
        ask("r?", "Rome"),
        ask("q?", "Paris"),
        ask("q?", "Oslo"),
    ]
    answers = ["in Paris", "the capital", "the eternal city", "the capital ", " "]
    scores = score_answers(answers, questions, judge)
    assert [len(call) for call in model.calls] == [2]
    assert [s.judge for s in scores] == [None, False, True, False, False]
    assert [s.gen_acc for s in scores] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert score_answers(answers, questions, judge) == scores
    assert len(model.calls) == 1 and judge.asked == 2 and judge.unreadable == 0


def test_judge_all_asks_about_matches_too() -> None:
    model = FakeJudge("no")
    (score,) = score_answers(["Paris"], [ask()], Judge(model), judge_all=True)
    assert score.span and score.judge is False and score.gen_acc == 1.0


def test_without_a_judge_gen_acc_is_the_span() -> None:
    scores = score_answers(["Paris", "Rome"], [ask(), ask()])
    assert [(s.gen_acc, s.judge) for s in scores] == [(1.0, None), (0.0, None)]


def test_unreadable_replies_are_tallied_then_an_error() -> None:
    judge = Judge(FakeJudge(["hmm"] + ["no"] * 39))
    with pytest.warns(UserWarning, match="1 of 40 judge replies.* counted as no"):
        verdicts = judge([f"r{i}" for i in range(40)], [["g"]] * 40)
    assert not any(verdicts) and (judge.asked, judge.unreadable) == (40, 1)
    judge.model = FakeJudge("what?")
    with pytest.raises(ModelError, match="neither yes nor no"):
        judge(["a", "b", "c"], [["g"]] * 3)


def test_a_judge_that_loses_replies_is_an_error() -> None:
    with pytest.raises(ModelError, match="1 replies to 2"):
        Judge(FakeJudge(["yes"]))(["a", "b"], [["g"], ["g"]])


def test_score_answers_checks_its_input() -> None:
    with pytest.raises(DataError, match="1 answers for 2 questions"):
        score_answers(["a"], [ask(), ask()])
    with pytest.raises(DataError, match="question 'z9'"):
        score_answers(["a"], [Question("z9", "q?", ())])
    assert score_answers([], []) == []


# --- rewards -------------------------------------------------------------------------------------------


def test_rewards_by_name() -> None:
    questions = [ask("q?", "Paris"), ask("r?", "Rome")]
    scores = [Score("Paris", 1.0, 1.0, True, False), Score("old Rome town", 0.0, 0.5, True, True)]
    rag = {"q?": 1.0, "r?": 0.0}

    def lookup(question: Question) -> float:
        return rag[question.question]

    expected = {
        "gbr": [0.0, 1.0],
        "gen_acc": [1.0, 1.0],
        "span": [1.0, 1.0],
        "judge": [0.0, 1.0],
        "em": [1.0, 0.0],
    }
    for name, values in expected.items():
        assert Reward(name, lookup)(questions, scores) == values
    assert gbr(0.0, 1.0) == -1.0


def test_reward_errors() -> None:
    with pytest.raises(DataError, match="unknown reward 'f1'.*gbr, gen_acc"):
        Reward("f1")
    with pytest.raises(DataError, match="precompute"):
        Reward("gbr")
    with pytest.raises(ModelError, match="needs a judge"):
        Reward("judge").score(["a"], [ask()])
    with pytest.raises(ModelError, match="no judge gave"):
        Reward("judge")([ask()], [Score("Paris", 1.0, 1.0, True, None)])
    assert Reward("judge").score(["Paris"], [ask()], Judge(FakeJudge("no")))[0].judge is False


# --- GRPO's algebra ------------------------------------------------------------------------------------


def trl_advantages(rewards: Sequence[float], size: int, scale: str) -> np.ndarray:
    """TRL's own arithmetic on its own ``nanstd``, in float64."""
    values = torch.tensor(rewards, dtype=torch.float64)
    grouped = values.view(-1, size)
    centred = values - torch.nanmean(grouped, dim=1).repeat_interleave(size)
    if scale == "group":
        centred = centred / (nanstd(grouped, dim=1).repeat_interleave(size) + 1e-4)
    elif scale == "batch":
        centred = centred / (nanstd(values) + 1e-4)
    return centred.numpy()


sizes = st.integers(2, 8)
scales = st.sampled_from(["group", "batch", "none"])


@st.composite
def grouped_rewards(draw):
    size, groups = draw(sizes), draw(st.integers(1, 5))
    accs = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=size * groups, max_size=size * groups))
    rag = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=groups, max_size=groups))
    return size, np.array(accs), np.repeat(rag, size)


@steady
@given(grouped_rewards(), scales)
def test_advantages_are_trls(drawn, scale) -> None:
    size, accuracy, rag = drawn
    rewards = accuracy - rag
    assert np.allclose(
        group_advantages(rewards, size, scale), trl_advantages(rewards, size, scale), atol=1e-9
    )


@steady
@given(grouped_rewards(), st.sampled_from(["group", "none"]))
def test_the_rag_term_cancels(drawn, scale) -> None:
    size, accuracy, rag = drawn
    left, right = group_advantages(accuracy - rag, size, scale), group_advantages(accuracy, size, scale)
    assert np.allclose(left, right, atol=1e-9)


@steady
@given(grouped_rewards())
def test_a_factor_of_two_cancels_when_scaled(drawn) -> None:
    size, accuracy, rag = drawn
    single = group_advantages(accuracy, size)
    assert np.allclose(group_advantages(2 * accuracy - rag, size), single, rtol=1e-3)
    assert np.allclose(
        group_advantages(2 * accuracy - rag, size, "none"), 2 * group_advantages(accuracy, size, "none")
    )


def test_what_does_not_cancel() -> None:
    accuracy, rag = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert not np.allclose(
        group_advantages(accuracy - rag, 2, "batch"), group_advantages(accuracy, 2, "batch")
    )
    assert np.array_equal(group_advantages([1.0] * 6, 3), np.zeros(6))


@pytest.mark.parametrize("bad", [([1.0, 0.0, 1.0], 2), ([], 2), ([1.0], 1), ([1.0, float("nan")], 2)])
def test_bad_groups_are_errors(bad) -> None:
    with pytest.raises(DataError):
        group_advantages(*bad)
    with pytest.raises(DataError, match="unknown scale"):
        group_advantages([1.0, 0.0], 2, "std")


def test_no_warning_when_the_judge_is_clear() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Judge(FakeJudge("yes"))(["a"], [["b"]]) == [True]


# --- forms of one text, and multiple choice -------------------------------------------------------------


@pytest.mark.parametrize("measure", [exact_match, f1_score, span_match])
@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("Brontë", "Bronte\u0308", True),
        ("Brontë", "Bronte", False),
        ("New\u00a0York", "New York", True),
        ("Pa\u200bris", "Paris", True),
        ("Ja\u00adkarta", "Jakarta", True),
        ("Ｐａｒｉｓ", "Paris", True),
        ("\ufb01lm", "film", True),
        ("Hawaiʻi", "Hawai'i", True),
        ("−5", "-5", True),
        ("STRASSE", "Straße", True),
        ("ΟΔΟΣ", "οδος", True),
        ("İstanbul", "istanbul", True),
        ("Diyarbakır", "Diyarbakir", False),
        ("CO₂", "CO2", True),
        ("10²", "102", False),
        ("5 µg", "5 μg", True),
    ],
)
def test_every_measure_takes_forms_of_one_text_alike(measure, left: str, right: str, same: bool) -> None:
    for said, gold in ((left, right), (right, left)):
        assert (measure(said, [gold]) == 1.0) is same


def choice(*golds: str) -> Question:
    return Question("m", "Which?", golds, {"options": ["tirvene", "vesol", "cestine", "grorone"]})


@pytest.mark.parametrize("gold", ["B", "b", "vesol"])
def test_multiple_choice_scores_the_option_and_keeps_the_words(gold: str) -> None:
    answers = [
        "vesol",
        "Option B",
        "(A) tirvene",
        "vesol or cestine",
        "not B",
        "B and C",
        "grade B evidence",
        "",
    ]
    scores = score_answers(answers, [choice(gold)] * len(answers))
    assert [score.answer for score in scores] == answers
    for score, right in zip(scores, [1.0, 1.0] + [0.0] * 6, strict=True):
        assert (score.em, score.f1, score.span, score.gen_acc) == (right, right, bool(right), right)


def test_a_judge_has_no_say_in_multiple_choice() -> None:
    model = FakeJudge("yes")
    scores = score_answers(
        ["C", "Option A", "Paris!"], [choice("A"), choice("A"), ask("q?", "Rome")], Judge(model)
    )
    assert [(s.gen_acc, s.judge) for s in scores] == [(0.0, False), (1.0, None), (1.0, True)]
    assert [len(call) for call in model.calls] == [1]
    everything = Reward("judge").score(["C", "Option A"], [choice("A")] * 2, Judge(model))
    assert [s.judge for s in everything] == [False, True]


def test_recall_of_multiple_choice_looks_for_the_options_text() -> None:
    right, wrong = Document("1", "", "Take vesol."), Document("2", "", "Vitamin B is none of them.")
    assert [recall(choice("B"), [document]) for document in (right, wrong)] == [1.0, 0.0]
