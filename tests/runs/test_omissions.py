"""What is cut short or finds nothing is counted and told with its remedy, in the manifest and at a command's end."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import rag_toys
from family_toys import family_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from rag_toys import ToyBench, ToyGenerator, make_world
from test_episodes import ASK, DONE, QUESTIONS, Library, Scripted, engine
from toy_model import toy_local, toy_model

from s3mini.corpus import load_questions
from s3mini.errors import ModelError
from s3mini.evaluation import evaluate
from s3mini.generator import answer_questions
from s3mini.models.base import Reply
from s3mini.models.local import LocalModel
from s3mini.profile import ModelSpec, Profile
from s3mini.rag import precompute
from s3mini.records import Document, Hit, Question, episode_as_json
from s3mini.runs import omissions
from s3mini.runs.omissions import CUT, EMPTY, EPISODE_CUT, MALFORMED, NO_HIT, NO_HITS, SHORTENED, TURN_CUT
from s3mini.runs.stages import read_manifest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    return make_world(tmp_path)


@pytest.fixture(autouse=True)
def nothing_noted() -> None:
    omissions.told()


class Cut:
    """Answers the first ``whole`` prompts, is cut in the others: by default inside its reasoning."""

    def __init__(self, whole: int, text: str = "<think> Let me see, the") -> None:
        self.whole, self.text = whole, text

    def reply(self, conversations, max_new_tokens=None, temperature=0.0, seed=0) -> list[Reply]:
        whole = min(self.whole, len(conversations))
        return [Reply("<think> so </think> yes")] * whole + [Reply(self.text, cut=True)] * (
            len(conversations) - whole
        )


def ask(generator: Cut, count: int, **more: object) -> list[str]:
    questions = [Question(str(i), f"question {i}?", ("x",)) for i in range(count)]
    return answer_questions(generator, questions, [()] * count, "brief", **more)


# ------------------------------------------------------------------------------------ the generator


@pytest.mark.parametrize(
    ("whole", "count", "text", "fails"),
    [
        (0, 1, "<think> hm", True),
        (0, 5, "<think> hm", True),
        (2, 5, "<think> hm", True),
        (0, 5, "", True),
        (3, 5, "<think> hm", False),
        (2, 4, "<think> hm", False),  # half is not most
        (0, 5, "The answer may be Paris, since", False),  # cut, but an answer
        (0, 5, "<think> so </think> Paris, sin", False),
        (0, 5, "<think> so </think>", True),
    ],
)
def test_replies_cut_before_an_answer_are_an_error_when_most_are(
    whole: int, count: int, text: str, fails: bool
) -> None:
    told = "raise generator.max_new_tokens"
    if fails:
        with pytest.raises(ModelError, match=f"{count - whole} of {count} replies.*{told}"):
            ask(Cut(whole, text), count)
    else:
        with pytest.warns(UserWarning, match=f"{count - whole} of {count} replies.*{told}"):
            answers = ask(Cut(whole, text), count)
        assert sum(getattr(a, "cut") for a in answers) == count - whole  # noqa: B009


def test_nothing_cut_is_nothing_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(Cut(5), 5) == ["yes"] * 5


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_a_tally_judges_all_replies_so_far_and_warns_once(calls: Sequence[tuple[int, int]]) -> None:
    tally: Counter[str] = Counter()
    asked = lost = warned = 0
    for whole, cut in calls:
        asked, lost = asked + whole + cut, lost + cut
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if 2 * lost > asked:
                with pytest.raises(ModelError, match=f"{lost} of {asked} replies"):
                    ask(Cut(whole), whole + cut, tally=tally)
                return
            ask(Cut(whole), whole + cut, tally=tally)
        warned += len(caught)
        assert (tally["asked"], tally["lost"]) == (asked, lost) and warned == (lost > 0)


def test_a_small_last_block_does_not_stop_a_long_run() -> None:
    tally: Counter[str] = Counter()
    ask(Cut(60), 60, tally=tally)
    with pytest.warns(UserWarning, match="1 of 61"):
        assert ask(Cut(0), 1, tally=tally) == [""]


def test_a_local_model_whose_template_opens_the_reasoning_is_seen_through() -> None:
    """DeepSeek-R1's reply holds no <think> of its own: cut, it would pass for an answer."""
    tokenizer = family_tokenizer("deepseek-r1")
    spec = ModelSpec(path="r1", max_length=1024, max_new_tokens=4)
    local = LocalModel(spec, toy_model(len(tokenizer)), tokenizer)
    with pytest.raises(ModelError, match="3 of 3 replies.*limit of 4 tokens.*generator.max_new_tokens"):
        ask(local, 3)


def test_a_question_that_is_too_long_names_its_line(world: Profile) -> None:
    questions = load_questions(world, "nq", "test")
    long = replace(questions[3], question="why " * 900)
    with pytest.raises(ModelError, match=r"nq/test\.jsonl:4: too long.*raise max_length"):
        answer_questions(toy_local(), [*questions[:3], long], [()] * 4, "brief")
    with pytest.warns(
        UserWarning, match=r"nq/test\.jsonl:4: too long for the searcher.*searcher\.max_length"
    ):
        engine(Scripted(lambda row, turn: DONE), length=200).run([questions[0], long], progress=False)
    with pytest.raises(ModelError, match="question 'x': too long"):
        answer_questions(toy_local(), [Question("x", "why " * 900, ("y",))], [()], "brief")


# ------------------------------------------------------------------------------------ episodes


class Bare(Library):
    """Finds nothing for stop words; takes no unbalanced brackets."""

    malformed = frozenset({"(a AND"})

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [
            [] if query == "the of" else hits
            for query, hits in zip(queries, super().search(queries, k), strict=True)
        ]


WHOLE = {"length": 900, "turn": 60}


@pytest.mark.parametrize(
    ("turns", "settings", "kinds"),
    [
        ([ASK % "a", DONE], WHOLE, {}),
        ([ASK % "the of", DONE], WHOLE, {NO_HITS: 1}),
        ([ASK % "(a AND", DONE], WHOLE, {MALFORMED: 1}),
        ([ASK % ("=" * 9000), DONE], {"length": 40_000, "turn": 20_000}, {SHORTENED: 1}),
        ([ASK % "a", "word " * 300], WHOLE, {TURN_CUT: 1}),
        (["word " * 300], {"length": 150, "turn": 120}, {EPISODE_CUT: 1}),  # room for less than a turn
        ([ASK % "a", DONE], {"length": 125, "turn": 60}, {EPISODE_CUT: 1}),  # none for what was found
        ([DONE], {"length": 40, "turn": 60}, {EPISODE_CUT: 1}),  # nor for the question
    ],
)
@pytest.mark.filterwarnings("ignore:.*too long for the searcher")
def test_what_an_episode_leaves_out_is_read_off_its_record(
    turns: list[str], settings: dict[str, int], kinds: dict[str, int]
) -> None:
    (episode,) = engine(Scripted(*turns), Bare(), **settings).run(QUESTIONS[:1], progress=False)
    assert +omissions.in_episode(json.loads(json.dumps(episode_as_json(episode)))) == kinds


# ------------------------------------------------------------------------------------ manifests, commands


class Sometimes(ToyGenerator):
    """Every fifth question is cut inside its reasoning; every seventh is answered by nothing."""

    def reply(self, conversations, max_new_tokens=None, temperature=0.0, seed=0) -> list[Reply]:
        replies = super().reply(conversations, max_new_tokens, temperature, seed)
        return [
            Reply("<think> hm", cut=True) if number % 5 == 0 else Reply("" if number % 7 == 0 else reply)
            for reply, number in zip(replies, map(_town, conversations), strict=True)
        ]


def _town(conversation: Sequence[dict[str, str]]) -> int:
    return int(conversation[-1]["content"].rstrip("?").rpartition("Town")[2])


@pytest.mark.filterwarnings("ignore:.*replies of the generator")
def test_naive_rag_counts_in_its_manifest_what_an_interrupted_run_left_out_too(
    world: Profile, tmp_path: Path
) -> None:
    class Lost(rag_toys.ToyRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            found = super().search(queries, k)
            return [
                [] if query.endswith("Town13?") else hits for query, hits in zip(queries, found, strict=True)
            ]

    bench = ToyBench(world, Sometimes(tmp_path / "log", fail_after=4))
    bench._toy = Lost(list(bench.documents.values()))
    with pytest.raises(ModelError, match="died"):
        precompute(world, splits=("train",), bench=bench, progress=False)
    for _ in range(2):  # gone on with, and found again
        bench = ToyBench(world, Sometimes(tmp_path / "log"))
        bench._toy = Lost(list(bench.documents.values()))
        precompute(world, splits=("train",), bench=bench, progress=False)
        facts = read_manifest(world.build / "rag/dense/nq-train")["facts"]
        assert facts["omitted"] == {CUT: 6, EMPTY: 4, NO_HIT: 1} and facts["empty_answers"] == 10
        lines = omissions.told()
        assert [line.split(":")[0] for line in lines] == [f"12 {CUT}", f"8 {EMPTY}", f"2 {NO_HIT}"]
        assert (
            "raise generator.max_new_tokens (6 in rag/dense/nq-train, 6 in rag/dense/hotpotqa-train)"
            in lines[0]
        )
        assert omissions.told() == []


@pytest.mark.filterwarnings("ignore:.*replies of the generator")
def test_evaluation_counts_them_too(world: Profile, tmp_path: Path) -> None:
    bench = ToyBench(world, Sometimes(tmp_path / "log"))
    evaluate(world, ["direct"], ["nq"], bench=bench, progress=False)
    facts = read_manifest(world.build / "evaluation/direct/nq")["facts"]
    assert facts == {"questions": 10, "omitted": {CUT: 2}}
    records = [
        json.loads(line)
        for line in (world.build / "evaluation/direct/nq/answers.jsonl").read_text().splitlines()
    ]
    assert [r["id"] for r in records if r.get("cut")] == ["nq-test-30", "nq-test-35"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_ends_with_a_line_for_each_kind(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def step(*_: object, **__: object) -> dict[str, int]:
        omissions.note("rag/dense/nq-test", {CUT: 3})
        omissions.note("rag/dense/nq-test", {CUT: 3})  # the same stage, opened again
        omissions.note("evaluation/s3/nq", {CUT: 1, TURN_CUT: 2})
        if fails:
            raise ModelError("the judge died")
        return {}

    monkeypatch.setattr("s3mini.rag.precompute", step)
    code, _, told = run("precompute", "--profile", "smoke", "--split", "test")
    assert code == fails
    first, second = told.strip().splitlines()[-2:]
    assert (
        first
        == f"note: 4 {CUT}: raise generator.max_new_tokens (3 in rag/dense/nq-test, 1 in evaluation/s3/nq)"
    )
    assert second.startswith(f"note: 2 {TURN_CUT}: raise max_turn_tokens")


def test_records_from_before_are_read_as_they_were() -> None:
    old = {"id": "1", "answer": "x", "context": ["d"]}
    assert omissions.omissions([old, {**old, "episode": None}, {**old, "answer": ""}]) == {EMPTY: 1}
    assert all(omissions.REMEDIES.values()) and Document("1", "T", "x").contents
