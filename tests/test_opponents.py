"""The opponents' study: which trainings it asks for, and what its entry holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_toys import ToyEvaluation, make_evaluation
from rag_toys import ToyGenerator
from test_experiments import Trainer

from s3mini import opponents as study
from s3mini.experiments import experiment, read_experiments, recorded
from s3mini.opponents import best_opponent
from s3mini.profile import Profile, changed
from s3mini.records import Episode, Question
from s3mini.report.beside_paper import ablation_table


class Toy(ToyEvaluation):
    """s3 finds the town's document; an opponent does, once it had four steps, with any seed but 1."""

    def __init__(self, profile: Profile, seed: int, searcher: Path, protocol: str) -> None:
        super().__init__(profile, ToyGenerator(profile.build / "asked.log"), seed)
        self._searcher = {protocol: searcher}
        self.finds = protocol == "s3" or (profile.grpo.steps == 4 and seed != 1)

    def _episode(self, question: Question, trained: bool) -> Episode:
        return super()._episode(question, self.finds)


def test_all_are_trained_with_three_seeds_at_equal_steps_and_twice_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    trainer = Trainer()
    monkeypatch.setattr("s3mini.grpo.train", trainer)
    monkeypatch.setattr(study, "Bench", Toy)
    profile = changed(make_evaluation(tmp_path), {"grpo.steps": 2})
    entry = experiment(profile, "opponents", progress=False)

    asked = [(run, protocol, its.grpo.steps) for run, protocol, its in trainer.runs]
    budgets = [("s3", "s3", 2)]
    for name in ("search-r1", "deepretrieval"):
        budgets += [(f"{name}-2-steps", name, 2), (f"{name}-4-steps", name, 4)]
    assert asked == [budget for budget in budgets for _ in range(3)]
    seeds = sorted(path.name for path in (profile.build / "train").glob("search-r1-4-steps-*"))
    assert seeds == [f"search-r1-4-steps-seed{seed}" for seed in range(3)]

    s3, equal, longer, *_ = entry["arms"].values()
    right, wrong = s3["by_seed"][0], equal["by_seed"][0]
    assert wrong < right and longer["by_seed"] == [right, wrong, right]
    assert longer["average"]["gen_acc"] == pytest.approx((2 * right + wrong) / 3, abs=1e-5)
    assert longer["difference"]["mean"] == pytest.approx((wrong - right) / 3, abs=1e-5)
    assert longer["difference"]["ci95"][1] == 0  # of three seeds drawn, all may be those that found it
    assert s3["difference"] is None

    name, given = best_opponent(entry)
    assert (name, given["n"]) == ("search-r1, 4 steps", entry["n"])
    assert given["mean"] == -longer["difference"]["mean"] and given["ci95"][0] == 0
    assert read_experiments(recorded(profile))["opponents"]["seeds"] == [0, 1, 2]
    assert "seeds 0, 1, 2" in ablation_table("opponents", entry)._repr_html_()
