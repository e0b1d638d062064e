"""The mini world: seeded, checkable, in the formats of wiki-18 and FlashRAG."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from s3mini.corpus import read_corpus, read_questions
from s3mini.records import Question
from s3mini.world import make_world
from s3mini.world.build import World, build_world, distractors
from s3mini.world.herbal import build_herbal
from s3mini.world.names import NAME_PATTERN, NAMES
from s3mini.world.questions import ask, near_namesakes
from s3mini.world.relations import HERBAL, RELATIONS
from s3mini.world.write import SETS, TRAIN_SETS, question_sets

SMALL = {"train": 30, "dev": 10, "test": 20}


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(7)


@pytest.fixture(scope="module")
def sets(world: World) -> dict[str, dict[str, list[Question]]]:
    return question_sets(world, SMALL)


def test_a_seed_makes_one_world(world: World) -> None:
    again, other = build_world(7), build_world(8)
    assert again.documents == world.documents
    assert other.documents != world.documents
    assert not {d.text for d in other.documents} & {d.text for d in world.documents}


def test_documents_are_two_to_four_sentences_with_unique_ids(world: World) -> None:
    assert len({d.id for d in world.documents}) == len(world.documents) >= 2000
    counts = [d.text.count(". ") + 1 for d in world.documents]
    assert min(counts) >= 1
    assert sum(2 <= c <= 4 for c in counts) / len(counts) > 0.97


def test_every_answer_is_proved_by_its_gold_documents(world: World, sets: dict) -> None:
    texts = {d.id: d.text for d in world.documents}
    for by_split in sets.values():
        for questions in by_split.values():
            for question in questions:
                shown = " ".join(texts[i] for i in question.gold_ids)
                assert all(sentence in shown for sentence in question.metadata["evidence"])
                if question.metadata["type"] != "comparison":
                    assert question.golden_answers[0] in question.metadata["evidence"][-1]


def test_splits_share_no_question_and_only_two_sets_train(sets: dict) -> None:
    for name, by_split in sets.items():
        assert ("train" in by_split) == (name in TRAIN_SETS)
        texts = [q.question for questions in by_split.values() for q in questions]
        assert len(texts) == len(set(texts)) == sum(SMALL[split] for split in by_split)
        ids = [q.id for questions in by_split.values() for q in questions]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("name", "documents"), [("nq", 1), ("triviaqa", 1), ("popqa", 1), ("2wiki", 2), ("musique", 3)]
)
def test_sets_need_the_number_of_documents_they_claim(sets: dict, name: str, documents: int) -> None:
    assert {len(q.gold_ids) for q in sets[name]["test"]} == {documents}


def test_bridges_are_never_named(world: World, sets: dict) -> None:
    titles = {e.id: e.name for e in world.entities}
    for name in ("hotpotqa", "2wiki", "musique"):
        for question in sets[name]["test"]:
            if question.metadata["type"] != "comparison":
                assert all(titles[i] not in question.question for i in question.gold_ids[1:])
    for question in sets["triviaqa"]["test"]:
        assert titles[question.gold_ids[0]] not in question.question


def test_trivia_descriptions_fit_one_entity_only(world: World) -> None:
    rng = random.Random(0)
    checked = 0
    for _ in range(300):
        asked = ask("triviaqa", world, rng.choice(world.entities), rng)
        if asked is None:
            continue
        by = asked.proof[0]
        same = [e for e in world.by_type[by.subject.type] if by.relation.name in e.facts]
        assert [e for e in same if e.facts[by.relation.name].value == by.value] == [by.subject]
        checked += 1
    assert checked > 50


def test_popqa_asks_of_the_long_tail(world: World, sets: dict) -> None:
    by_id = {e.id: e for e in world.entities}
    for question in sets["popqa"]["test"]:
        entity = by_id[question.gold_ids[0]]
        assert entity.id not in world.mentions
        assert near_namesakes(world, entity) >= 2


def test_spouses_agree(world: World) -> None:
    pairs = [e.facts["spouse"] for e in world.by_type["person"] if "spouse" in e.facts]
    assert len(pairs) > 100
    assert all(f.target is not None and f.target.facts["spouse"].target is f.subject for f in pairs)


def test_distractors_are_new_distinct_and_close(world: World) -> None:
    rng = random.Random(1)
    for gold in rng.sample(world.entities, 50):
        found = distractors(world, [gold], 5, rng)
        assert gold not in found
        assert len({e.id for e in found}) == len(found) == 5


def test_statements_name_the_object_last_and_differ() -> None:
    for relation in RELATIONS + HERBAL:
        assert all(s.count("{s}") == 1 and s.endswith("{o}.") for s in relation.statements)
        assert len(set(relation.statements)) == 3
        assert len(set(relation.questions)) == 3


def test_names_are_distinct_and_many_share_a_word_with_a_neighbour() -> None:
    names = [name for names in NAMES.values() for name in names]
    assert len(names) == len(set(names)) > 4000
    assert all(
        re.fullmatch(NAME_PATTERN, name) for kind in ("person", "film", "book") for name in NAMES[kind]
    )
    first = Counter(name.split()[0] for name in NAMES["person"])
    assert sum(first[name.split()[0]] > 1 for name in NAMES["person"]) > 0.9 * len(NAMES["person"])


def test_a_world_too_small_for_its_questions_says_so() -> None:
    tiny = build_world(1, {"river": 3})
    with pytest.raises(ValueError, match="make it larger"):
        question_sets(tiny, {"test": 50})
    with pytest.raises(ValueError, match="lower its size"):
        build_world(1, {"city": 10_000})


def test_files_are_read_by_the_readers_and_identical_each_time(tmp_path: Path) -> None:
    splits = {"train": 5, "dev": 3, "test": 4}
    one, two = make_world(3, tmp_path / "a", splits), make_world(3, tmp_path / "b", splits)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    assert read_corpus(one / "corpus.jsonl") == build_world(3).documents
    for name in SETS:
        assert len(read_questions(one / "questions" / name / "test.jsonl")) == 4
    assert read_corpus(one / "herbal" / "corpus.jsonl") == build_herbal(3).documents
    assert len(read_questions(one / "herbal" / "questions" / "described" / "test.jsonl")) == 200


def test_the_shipped_world_is_that_of_seed_zero(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "data" / "mini"
    made = make_world(0, tmp_path)
    for file in (p for p in made.rglob("*") if p.is_file()):
        assert (shipped / file.relative_to(made)).read_bytes() == file.read_bytes(), file.name
