"""Profiles: the shipped ones load, and nothing unknown or out of range passes silently."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from s3mini.errors import ProfileError
from s3mini.profile import PROFILES, ROOT, Profile, available, load_profile
from s3mini.protocols import S3Protocol


@pytest.mark.parametrize("name", available())
def test_shipped_profiles_are_valid_and_named_by_their_file(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert set(profile.data.train_sets) <= set(profile.data.sets)
    assert profile.build == ROOT / "build" / name


def test_smoke_differs_from_mini_in_numbers_only() -> None:
    """A profile never changes the path: the same methods, models, retriever and protocol run."""
    smoke, mini = load_profile("smoke"), load_profile("mini")
    for same in ("generator", "judge", "searcher", "retrieval", "s3"):
        assert getattr(smoke, same) == getattr(mini, same)
    assert smoke.evaluation.methods == mini.evaluation.methods
    assert smoke.grpo.reward == mini.grpo.reward


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ProfileError, match=r"unknown profile 'maxi': choose one of .*mini.*smoke"):
        load_profile("maxi")
    with pytest.raises(ProfileError, match="unknown profile"):
        load_profile("nowhere.yaml")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("grpo.stepz", 5, "grpo.stepz: Extra inputs"),
        ("grop.steps", 5, "grop: Extra inputs"),
        ("retrieval.dense.encodr", "x", "retrieval.dense.encodr: Extra inputs"),
        ("retrieval.dense.encoder.name", "x", "retrieval.dense.encoder"),
        ("grpo.steps", 0, "grpo.steps: Input should be greater than or equal to 1"),
        ("grpo.num_generations", 1, "grpo.num_generations: Input should be greater than or equal to 2"),
        ("grpo.learning_rate", -1.0, "grpo.learning_rate"),
        ("retrieval.lexical.b", 1.5, "retrieval.lexical.b: Input should be less than or equal to 1"),
        ("retrieval.kind", "fuzzy", "retrieval.kind"),
        ("s3.turns", "many", "s3.turns: Input should be a valid integer"),
        ("grpo.scale_rewards", "median", "grpo.scale_rewards"),
        ("judge.threshold", 1.0, "judge.threshold: Input should be less than 1"),
        ("judge.threshold", 0.0, "judge.threshold: Input should be greater than 0"),
        ("generator.threshold", 0.5, "generator.threshold: Extra inputs"),
    ],
)
def test_bad_overrides_are_errors(key: str, value: object, told: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("mini", **{key: value})
    assert told in str(caught.value)
    assert "mini.yaml" in str(caught.value)


def test_overrides_reach_nested_keys_and_leave_the_file_alone() -> None:
    changed = load_profile("mini", **{"grpo.steps": 7, "name": "fresh", "retrieval.lexical.k1": 1.2})
    assert (changed.grpo.steps, changed.build.name, changed.retrieval.lexical.k1) == (7, "fresh", 1.2)
    assert load_profile("mini").name == "mini"


def test_a_profile_from_a_file(tmp_path: Path) -> None:
    raw = yaml.safe_load((PROFILES / "mini.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**raw, "name": "mine"}))
    assert load_profile(str(path)).name == "mine"
    path.write_text(yaml.safe_dump({**raw, "colour": "red"}))
    with pytest.raises(ProfileError, match=r"mine\.yaml: 1 bad key\(s\)\n  colour: Extra inputs"):
        load_profile(str(path))
    path.write_text(yaml.safe_dump({k: v for k, v in raw.items() if k != "generator"}))
    with pytest.raises(ProfileError, match="generator: Field required"):
        load_profile(str(path))
    path.write_text("- a\n- list\n")
    with pytest.raises(ProfileError, match="a mapping of keys"):
        load_profile(str(path))
    path.write_text("a: [unclosed\n")
    with pytest.raises(ProfileError, match="not valid YAML"):
        load_profile(str(path))
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ProfileError, match="not valid YAML"):
        load_profile(str(path))


def test_paths_resolve_below_the_root_unless_absolute(tmp_path: Path) -> None:
    profile = load_profile("mini")
    assert profile.resolve("data/x") == ROOT / "data/x"
    assert profile.resolve(str(tmp_path)) == tmp_path


def _specs(model: type[BaseModel]) -> set[type[BaseModel]]:
    nested = {f.annotation for f in model.model_fields.values()}
    inner = {n for n in nested if isinstance(n, type) and issubclass(n, BaseModel)}
    return {model}.union(*(_specs(n) for n in inner))


def test_every_key_is_read_by_the_package() -> None:
    """An override nobody reads is a lie: each field is an attribute somewhere, a protocol's number or TRL's setting."""
    from s3mini.training.trl import SAME_NAME

    code = "\n".join(p.read_text() for p in PROFILES.parent.rglob("*.py") if p.name != "profile.py")
    fields = {name for spec in _specs(Profile) for name in spec.model_fields}
    together = {*inspect.signature(S3Protocol).parameters, *SAME_NAME}  # handed over as they are
    unread = {f for f in fields - together if f".{f}" not in code} - {"description"}
    assert not unread, f"profile keys the package never reads: {sorted(unread)}"


def test_a_profile_may_extend_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mini\nname: mine\ns3: {k: 6}\n")
    mine, mini = load_profile(str(path)), load_profile("mini")
    assert (mine.name, mine.s3.k, mine.s3.turns, mine.grpo) == ("mine", 6, mini.s3.turns, mini.grpo)
    namesake = tmp_path / "mini.yaml"
    namesake.write_text("extends: mini\ns3: {k: 6}\n")
    assert load_profile(str(namesake)).s3.k == 6, "one's own mini.yaml may extend the shipped one"
    path.write_text("extends: nothing\n")
    with pytest.raises(ProfileError, match="extends 'nothing'"):
        load_profile(str(path))
