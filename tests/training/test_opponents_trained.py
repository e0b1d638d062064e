"""Training the other methods: what each is rewarded for, and which model, retriever and numbers it gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from grpo_toys import grpo_parts, grpo_profile
from rag_toys import make_world

from s3mini.bench import Bench, make_protocol, method_spec, protocol_class
from s3mini.errors import StageError
from s3mini.grpo import train
from s3mini.profile import load_profile
from s3mini.records import Collected, Document, Episode, Hit, Question, Turn
from s3mini.reward import DOCUMENT_REWARDS, Judge, Reward, gold_precision, nearness, recall
from s3mini.runs.stages import read_manifest
from s3mini.training.parts import AnswerScorer, DocumentScorer, RankScorer, identity
from s3mini.training.recorder import Played, shown_episodes, step_record

GOLD = Question("q", "Where?", ("Tarn",), {"gold_ids": ["a", "b"]})
DOCUMENTS = [Document(i, i.upper(), f"It is in {i}.") for i in ("a", "b", "c")]


def episode(answer: str | None = None, context: tuple[Document, ...] = ()) -> Episode:
    return Episode(GOLD, (1,), (2,), (1,), (0.0,), (), (), context, "complete", answer)


def test_recall_counts_gold_documents_or_looks_for_the_answer() -> None:
    assert recall(GOLD, DOCUMENTS[:1]) == 0.5
    assert recall(GOLD, DOCUMENTS) == 1.0
    unknown = replace(GOLD, metadata={})
    assert recall(unknown, DOCUMENTS) == 0.0
    assert recall(unknown, [Document("t", "T", "They met in Tarn.")]) == 1.0


class Counting:
    """The parts of a bench that scorers ask for."""

    judge: Judge | None = None

    def count_tokens(self, documents: tuple[Document, ...]) -> int:
        return len(documents)

    def answer(self, questions: list[Question], collected: list[Collected]) -> list[str]:
        return ["Tarn" if found.answer is None else found.answer for found in collected]


class Cache:
    """Naive RAG's, as far as scorers ask for it."""

    def lookup(self, question: Question) -> float:
        return 0.0


def test_search_r1_is_rewarded_for_its_own_answer_only() -> None:
    scorer = AnswerScorer(Counting(), Reward("em"), Cache(), own=True)  # type: ignore[arg-type]
    outcomes = scorer([episode("Tarn"), episode("in Tarn"), episode(None, tuple(DOCUMENTS))])
    assert [o.reward for o in outcomes] == [1.0, 0.0, 0.0]
    assert [o.context_tokens for o in outcomes] == [0, 0, 3]


def test_deepretrieval_is_rewarded_for_what_it_found() -> None:
    scorer = DocumentScorer(Counting(), Reward("gen_acc"), Cache())  # type: ignore[arg-type]
    episodes = [episode(context=tuple(DOCUMENTS[:1])), episode(), episode(context=tuple(DOCUMENTS))]
    outcomes = scorer(episodes)
    assert [o.reward for o in outcomes] == [0.5, 0.0, 1.0]
    assert [o.score and o.score.gen_acc for o in outcomes] == [1.0, 1.0, 1.0]
    scorer = replace(scorer, value=DOCUMENT_REWARDS["all_gold"])
    assert [o.reward for o in scorer(episodes)] == [0.0, 0.0, 1.0], "half of the documents earns nothing"
    scorer = replace(scorer, value=DOCUMENT_REWARDS["gold_precision"])
    gold_alone = episode(context=tuple(d for d in DOCUMENTS if d.id in GOLD.gold_ids))
    assert [o.reward for o in scorer([*episodes, gold_alone])] == [0.0, 0.0, pytest.approx(2 / 3), 1.0]


class Rankings:
    """A retriever that ranks documents as it was told."""

    def __init__(self, **ranked: str) -> None:
        self.ranked = ranked

    def search(self, queries: list[str], k: int) -> list[list[Hit]]:
        return [[Hit(Document(i, i, ""), 0.0) for i in self.ranked[q][:k]] for q in queries]


def asking(*queries: str, context: tuple[Document, ...] = ()) -> Episode:
    turns = tuple(Turn("", q, False, None, (Hit(DOCUMENTS[2], 0.0),), True) for q in queries)
    return replace(episode(context=context), turns=turns, start=(Hit(DOCUMENTS[0], 0.0),))


def test_ranks_tell_apart_episodes_that_all_fail() -> None:
    retriever = Rankings(**{"far": "xxxxxxb", "near": "xxb", "none": "xxx"})
    scorer = RankScorer(
        DocumentScorer(Counting(), Reward("gen_acc"), Cache(), value=gold_precision), retriever
    )  # type: ignore[arg-type]
    episodes = [
        asking(),
        asking("none"),
        asking("far"),
        asking("none", "near"),
        asking("near", context=tuple(DOCUMENTS[:2])),
    ]
    rewards = [outcome.reward for outcome in scorer(episodes)]
    # the loop began with a: half of nearness, a quarter of the reward
    assert rewards == pytest.approx([0.25, 0.25, 0.25 + 1 / 12, 0.25 + 1 / 8, 0.5 + 0.25 + 1 / 8])
    broken = [replace(episodes[-1], end=end) for end in ("invalid", "length", "turns")]
    assert [o.reward for o in scorer(broken)] == [0.0, 0.0, rewards[-1]], "the form would be lost"
    shallow = replace(scorer, depth=2)
    assert [o.reward for o in shallow(episodes[:4])] == [0.25] * 4


def test_nearness_is_the_best_rank_of_each_gold_document() -> None:
    assert nearness(GOLD, []) == 0.0
    assert nearness(GOLD, [["a", "c", "b"]]) == 0.75
    assert nearness(GOLD, [["c", "a"], ["c", "c", "b"], ["a"]]) == 0.75
    assert nearness(replace(GOLD, metadata={}), [["a"]]) == 0.0


def test_where_groups_may_be_replaced_nobody_is_asked() -> None:
    counting = Counting()

    def answer(questions: list[Question], collected: list[Collected]) -> list[str]:
        raise AssertionError("asked")

    counting.answer = answer  # type: ignore[method-assign]
    scorer = DocumentScorer(counting, Reward("gen_acc"), Cache(), answered=False)  # type: ignore[arg-type]
    episodes = [episode(context=tuple(DOCUMENTS[:n])) for n in (1, 3, 3, 0)]
    outcomes = scorer(episodes)
    assert [o.reward for o in outcomes] == [0.5, 1.0, 1.0, 0.0]
    assert [o.context_tokens for o in outcomes] == [1, 3, 3, 0]
    assert {(o.score, o.gbr) for o in outcomes} == {(None, None)}
    record = step_record([Played.of(*pair) for pair in zip(episodes, outcomes, strict=True)], 2)
    assert (record["reward"], record["gen_acc"]) == (0.625, None)
    (best, worst) = shown_episodes(episodes, outcomes, 2)
    assert (best["answer"], worst["answer"]) == (None, None)


def test_numbers_and_retrievers_come_from_the_profile() -> None:
    profile = load_profile("mini", **{"protocols.search-r1.k": 5, "protocols.search-r1.turns": 2})
    protocol = make_protocol("search-r1", profile)
    assert (protocol.k, protocol.turns, protocol.start_k) == (5, 2, 0)
    assert make_protocol("s3", profile).k == profile.s3.k
    assert protocol_class("deepretrieval").retriever == "boolean" and protocol_class("s3").retriever is None
    assert method_spec(profile, "search-o1").max_turn_tokens == profile.protocols["search-o1"].max_turn_tokens


def test_a_trained_opponent_is_this_seeds_run_else_the_named_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    profile = load_profile("mini")
    with pytest.raises(StageError, match="--protocol search-r1"):
        Bench(load_profile("mini", **{"protocols.search-r1.checkpoint": None})).checkpoint("search-r1", True)
    named = load_profile("mini", **{"protocols.search-r1.checkpoint": "hub/searcher"})
    assert Bench(named).checkpoint("search-r1", True).path == "hub/searcher"
    folder = profile.build / "train" / "search-r1-seed0" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert Bench(named).checkpoint("search-r1", True).path == str(folder.resolve())
    assert Bench(named, searcher=tmp_path).checkpoint("search-r1", False).path == named.searcher.path


def test_training_begins_where_the_profile_says_and_the_untrained_searcher_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    make_world(tmp_path)
    plain, begun = grpo_profile(), grpo_profile(**{"protocols.s3.start": "hub/begun"})
    assert Bench(plain).start("s3") == plain.searcher
    assert Bench(begun).start("s3") == begun.searcher.model_copy(update={"path": "hub/begun"})
    assert Bench(begun).start("search-r1") == Bench(begun).checkpoint("s3", trained=False) == plain.searcher
    inputs, changed = (identity(profile, 0, "s3", "gbr")[0] for profile in (plain, begun))
    assert {key for key in inputs if inputs[key] != changed[key]} == {"searcher"}


def test_each_protocol_has_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    make_world(tmp_path)
    profile = grpo_profile(**{"grpo.steps": 1})
    folder = train(profile, 0, protocol="search-r1", progress=False, parts=grpo_parts(profile))
    assert folder.name == "search-r1-seed0"
    manifest = read_manifest(folder)
    assert manifest["inputs"]["protocol"].startswith("search-r1 {") and manifest["settings"]["reward"] == "em"
