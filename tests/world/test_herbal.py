"""Multiple choice over the herbal corpus: provable, not to be read off one document, with options that mislead."""

from __future__ import annotations

import pytest

from s3mini.world.build import World
from s3mini.world.herbal import build_herbal, herbal_sets
from s3mini.world.questions import Asked


@pytest.fixture(scope="module")
def herbs() -> World:
    return build_herbal(3)


@pytest.fixture(scope="module")
def sets(herbs: World) -> dict[str, list[Asked]]:
    return herbal_sets(herbs, 120)


def test_a_set_has_its_questions_once_each(sets: dict[str, list[Asked]]) -> None:
    assert list(sets) == ["herbal", "described", "two-step"]
    for asked in sets.values():
        assert len({one.text for one in asked}) == len(asked) == 120


def test_the_right_letter_is_the_answer_of_a_choice(sets: dict[str, list[Asked]]) -> None:
    for asked in sets.values():
        for one in asked:
            assert len(set(one.options)) == 4
            assert one.options["ABCD".index(one.answer)] == one.proof[-1].value
        assert {one.answer for one in asked} == set("ABCD")


@pytest.mark.parametrize(
    ("name", "types"),
    [("herbal", ["herb"]), ("described", ["prize", "herb"]), ("two-step", ["herb", "city"])],
)
def test_sets_need_the_documents_they_claim_and_name_the_first_only(
    sets: dict[str, list[Asked]], name: str, types: list[str]
) -> None:
    for one in sets[name]:
        assert [entity.type for entity in one.golds] == types
        assert [entity.name in one.text for entity in one.golds] == [True, False][: len(types)]


def test_wrong_options_are_said_elsewhere_of_the_same_kind(
    herbs: World, sets: dict[str, list[Asked]]
) -> None:
    for one in (one for asked in sets.values() for one in asked):
        last = one.proof[-1]
        stated = {
            f.value
            for e in herbs.entities
            for f in e.facts.values()
            if f.relation.object == last.relation.object
        }
        assert set(one.options) <= stated
        own = {f.value for f in last.subject.facts.values() if f.relation.object == last.relation.object}
        assert own <= set(one.options)  # what the herb worsens, where it is asked what it treats


def test_prizes_go_to_herbs_in_this_world_alone(herbs: World) -> None:
    winners = [prize.facts["first winner"] for prize in herbs.by_type["prize"]]
    assert {fact.target.type for fact in winners if fact.target} == {"herb"}
    assert not any("person" in fact.sentence for fact in winners)
