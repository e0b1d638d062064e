"""The experiments: which profiles their arms are, what they train, and what their entries hold."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from evaluation_toys import ToyEvaluation, make_evaluation
from rag_toys import ToyGenerator

from s3mini import experiments
from s3mini.errors import DataError
from s3mini.evaluation import evaluate
from s3mini.experiments import (
    ABLATIONS,
    STUDIES,
    Arm,
    ablation,
    efficiency,
    experiment,
    other_generator,
    recorded,
)
from s3mini.profile import Profile, changed, load_profile
from s3mini.runs.stages import Stage

STEP = {"seconds_rollout": 1.0, "seconds_score": 0.5, "seconds_update": 0.5}


class Trainer:
    """Stands in for `grpo.train`: a folder with a model for every step to keep, and a curve."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, Profile]] = []
        self.pause = 0.0
        self.at_work: set[Path] = set()

    def __call__(
        self, profile: Profile, seed: int, run: str, protocol: str = "s3", progress: bool = True
    ) -> Path:
        self.runs.append((run, protocol, profile))
        with Stage(profile, f"train/{run}-seed{seed}", {}, {"steps": profile.grpo.steps}) as stage:
            assert stage.path not in self.at_work, "two write to one folder"
            self.at_work.add(stage.path)
            time.sleep(self.pause)
            self.at_work.remove(stage.path)
            for name in ("model", *(f"kept/step-{step}" for step in profile.grpo.keep_steps)):
                folder = stage.dir / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "config.json").write_text("{}")
            lines = (json.dumps({"step": n + 1, **STEP}) + "\n" for n in range(profile.grpo.steps))
            (stage.dir / "curve.jsonl").write_text("".join(lines))
            if not stage.done:
                stage.finish()
        return stage.path


class InSentences(ToyGenerator):
    """The toy generator in whole sentences."""

    @staticmethod
    def _one(prompt: str) -> str:
        thought, answer = ToyGenerator._one(prompt).split("</think>")
        return f"{thought}</think> The river is{answer}."


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    stand_in = Trainer()
    monkeypatch.setattr("s3mini.grpo.train", stand_in)

    class Toy(ToyEvaluation):
        def __init__(
            self, profile: Profile, seed: int = 0, searcher: Path | None = None, protocol: str = "s3"
        ):
            kind = InSentences if profile.generator.path == "sentences" else ToyGenerator
            super().__init__(profile, kind(tmp_path / "asked.log"), seed)
            self._searcher = {} if searcher is None else {protocol: Path(searcher)}

    monkeypatch.setattr(experiments, "Bench", Toy)
    return stand_in


def test_an_arm_changes_what_it_says_and_nothing_else() -> None:
    mini = load_profile("mini")
    runs: dict[str, dict[str, Any]] = {}
    for study, arms in ABLATIONS.items():
        first, *others = arms(mini)
        if study == "price-longer":  # all of it is longer than the main run
            others = [first, *others]
        else:
            assert first.settings == {} and first.run == "s3"
        for arm in others:
            assert runs.setdefault(arm.run, dict(arm.settings)) == arm.settings, "one run, one training"
            its = changed(mini, arm.settings)
            assert its != mini and its.build == mini.build
            assert changed(its, {k: _read(mini, k) for k in arm.settings}) == mini


def _read(profile: Profile, dotted: str) -> Any:
    block, key = dotted.split(".")
    return getattr(getattr(profile, block), key)


def test_turns_are_in_the_papers_proportions() -> None:
    paper = changed(load_profile("mini"), {"s3.k": 8, "s3.select": 3, "s3.turns": 3})
    assert [a.name for a in ABLATIONS["turns"](paper)] == ["8-3-3", "5-3-3", "5-3-4", "3-3-4", "3-3-3"]
    assert [a.name for a in ABLATIONS["turns"](load_profile("mini"))][1:3] == ["3-2-3", "3-2-4"]
    small = ABLATIONS["turns"](changed(paper, {"s3.k": 2, "s3.select": 2, "s3.turns": 2}))
    # five eighths of 2 are 2 again, three are 1
    assert [a.name for a in small] == ["2-2-2", "2-2-3", "1-2-3", "1-2-2"]
    assert [bool(a.settings) for a in small] == [False, True, True, True]


def test_the_papers_rewards_are_compared_wherever_another_is_the_profiles_own() -> None:
    mini = load_profile("mini")
    assert [a.name for a in ABLATIONS["reward"](mini)] == ["gen_acc", "judge", "span", "em"]
    own = {a.name: a.settings for a in ABLATIONS["reward"](changed(mini, {"grpo.reward": "gold_rank"}))}
    assert list(own) == ["gen_acc", "judge", "span", "em", "gold_rank"] and own["gold_rank"] == {}
    assert all(own[name] == {"grpo.reward": name} for name in list(own)[:4])


def test_an_ablation_trains_each_arm_and_pairs_it_with_the_first(trainer: Trainer, tmp_path: Path) -> None:
    profile = make_evaluation(tmp_path)
    found = ablation(profile, [Arm("full"), Arm("no begin", {"s3.begin_k": 0})], 0, progress=False)
    assert [(run, p.s3.begin_k) for run, _, p in trainer.runs] == [
        ("s3", profile.s3.begin_k),
        ("s3-no-begin", 0),
    ]
    full, other = found["arms"].values()
    assert full["difference"]["mean"] == 0 and other["settings"] == {"s3.begin_k": 0}
    assert full["searches"]["all"] == {"n": 20, "mean": 1.0, "hops": {"1": 1.0}, "correlation": None}
    assert list(full["searches"]["sets"]) == list(profile.data.sets)
    assert found["n"] == 20 and 0 < full["average"]["gen_acc"] <= 1


def test_a_study_over_seeds_trains_every_arm_with_each(trainer: Trainer, tmp_path: Path) -> None:
    profile = changed(make_evaluation(tmp_path), {"grpo.steps": 2})
    found = experiment(profile, "price-longer", seed=3, progress=False)
    asked = [(run, its.grpo.steps, its.grpo.search_cost) for run, _, its in trainer.runs]
    assert asked == [("s3-free-4-steps", 4, 0.0)] * 2 + [("s3-0.02-a-search-4-steps", 4, 0.02)] * 2
    assert {path.name[-5:] for path in (profile.build / "train").iterdir()} == {"seed3", "seed4"}
    free, paid = found["arms"].values()
    assert found["seeds"] == [3, 4] and found["n"] == 20 and len(paid["by_seed"]) == 2
    assert free["difference"] is None and paid["difference"]["mean"] == 0
    assert free["average"]["gen_acc"] == pytest.approx(sum(free["by_seed"]) / 2)
    assert paid["searches"]["all"] == {"n": 40, "mean": 1.0, "hops": {"1": 1.0}, "correlation": None}


def test_another_generator_reads_the_contexts_that_were_collected(trainer: Trainer, tmp_path: Path) -> None:
    profile = make_evaluation(tmp_path)
    with pytest.raises(DataError, match="other_generator"):
        other_generator(
            profile.model_copy(
                update={"evaluation": profile.evaluation.model_copy(update={"other_generator": None})}
            ),
            0,
        )
    bench = experiments.Bench(profile, 0, trainer(profile, 0, "s3"))
    results = evaluate(profile, bench=bench, progress=False)
    profile = changed(profile, {"evaluation.other_generator": {"path": "other", "wordings": "brief"}})
    found = other_generator(profile, 0, progress=False)
    assert list(found["arms"]) == ["rag-dense", "s3-untrained", "s3", "oracle"]
    for name, arm in found["arms"].items():  # the toy generator is the same reader under another name
        assert arm["average"]["gen_acc"] == results["methods"][name]["average"]["gen_acc"]
        assert arm["context_tokens"] == results["methods"][name]["context_tokens"]


FOREIGN = {
    f"evaluation.{key}": {"path": path, "wordings": "brief"}
    for key, path in (("other_generator", "other"), ("sentence_generator", "sentences"))
}


@pytest.mark.parametrize("which", ["other", "sentences"])
def test_a_searcher_is_trained_for_a_generator_that_reads_all_rivals(
    trainer: Trainer, tmp_path: Path, which: str
) -> None:
    plain = changed(make_evaluation(tmp_path), dict.fromkeys(FOREIGN))
    with pytest.raises(DataError, match=f"{which.removesuffix('s')}.*_generator"):
        experiment(plain, f"trained-for-{which}", progress=False)
    profile = changed(plain, FOREIGN)
    found = experiment(profile, f"trained-for-{which}", progress=False)
    trained = [(run, p.name, p.generator.path) for run, _, p in trainer.runs]
    assert trained == [("s3", f"toy-{which}", which), ("s3", "toy", "model")]
    first, own, *rivals = found["arms"]
    assert (first, own) == ("s3, trained for it", "s3, trained for toy's own")
    assert rivals == ["search-r1", "rag-dense", "s3-untrained", "oracle"]
    for name in (first, own, "search-r1", "oracle"):
        measured = found["arms"][name]["average"]
        assert measured["gen_acc"] > 0 and (measured["em"] == 0) == (which == "sentences"), "who answers"
    assert found["arms"]["s3-untrained"]["difference"]["mean"] < 0 == found["arms"][own]["difference"]["mean"]
    assert list(experiments.read_experiments(recorded(profile))) == [f"trained-for-{which}"]
    assert not (profile.build / "evaluation").exists(), "answers of another generator lie in its own build"


def test_the_rewards_are_compared_with_a_generator_that_answers_in_sentences(
    trainer: Trainer, tmp_path: Path
) -> None:
    profile = changed(make_evaluation(tmp_path), FOREIGN)
    found = experiment(profile, "reward-sentences", progress=False)
    trained = [(run, p.name, p.generator.path, p.grpo.reward) for run, _, p in trainer.runs]
    assert trained == [
        (f"s3{ending}", "toy-sentences", "sentences", reward)
        for ending, reward in (("", "gbr"), ("-judge", "judge"), ("-span", "span"), ("-em", "em"))
    ]
    assert list(found["arms"]) == ["gen_acc", "judge", "span", "em", "s3-untrained"]
    assert found["arms"]["s3-untrained"]["difference"]["mean"] < 0


def test_studies_at_once_train_what_they_share_once_and_keep_each_others_entries(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = make_evaluation(tmp_path)
    experiment(profile, "steps", progress=False)
    read = experiments.read_experiments

    def slowly(path: Path) -> dict[str, Any]:
        content = read(path)
        time.sleep(0.1)
        return content

    monkeypatch.setattr(experiments, "read_experiments", slowly)
    trainer.pause = 0.1
    at_once = ("loop", "filter", "reward")
    with ThreadPoolExecutor(len(at_once)) as threads:
        list(threads.map(lambda study: experiment(profile, study, progress=False), at_once))
    assert set(read(recorded(profile))) == {"steps", *at_once} < set(STUDIES)


def test_efficiency_evaluates_along_training(trainer: Trainer, tmp_path: Path) -> None:
    profile = changed(make_evaluation(tmp_path), {"grpo.steps": 10})
    found = efficiency(profile, 0, ("s3", "search-r1"), progress=False, timed=True)
    assert [(run, protocol, p.grpo.steps) for run, protocol, p in trainer.runs] == [
        ("s3-curve", "s3", 10), ("search-r1-curve", "search-r1", 20),
    ]  # fmt: skip
    s3, rival = found["curves"].values()
    assert [point["step"] for point in s3] == [0, 2, 4, 6, 10]
    assert [point["seconds"] for point in s3] == [0, 4, 8, 12, 20]
    assert rival[-1]["examples"] == 20 * profile.grpo.questions_per_step


def test_experiments_add_up_in_one_file(trainer: Trainer, tmp_path: Path) -> None:
    profile = make_evaluation(tmp_path)
    assert recorded(profile) is None and experiments.read_experiments(None) == {}
    shipped = tmp_path / "data/mini/results/experiments.json"
    shipped.parent.mkdir(parents=True)
    shipped.write_text('{"price": {}}')
    assert recorded(profile) == shipped and recorded(changed(profile, {"records": None})) is None
    experiment(profile, "loop", progress=False)
    experiment(profile, "filter", progress=False)
    assert list(experiments.read_experiments(recorded(profile))) == ["loop", "filter"]
    with pytest.raises(DataError, match="efficiency"):
        experiment(profile, "luck")
    with pytest.raises(DataError, match="no evaluation.sentence_generator: set it, or name studies"):
        experiments.check_studies(load_profile("wiki"), ["loop", "reward-sentences"])
    experiments.check_studies(load_profile("mini"), STUDIES)
