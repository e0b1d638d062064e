"""GRPO: what a run records and keeps, how episodes become rewards, the order of the data."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from grpo_toys import episode, grpo_parts, grpo_profile, low_ids, outcome
from rag_toys import ToyBench, ToyGenerator, make_world, toy_profile
from toy_model import toy_local

from s3mini import profile as profile_module
from s3mini.errors import ProfileError, RetrievalError
from s3mini.grpo import Loop, train
from s3mini.profile import Profile, load_profile
from s3mini.rag import precompute
from s3mini.records import Document, Episode, Question, Turn
from s3mini.reward import Reward, group_advantages
from s3mini.runs.processes import ALONE, Processes
from s3mini.training import precision
from s3mini.training.parts import AnswerScorer, Outcome, Parts, PricedScorer, identity
from s3mini.training.recorder import (
    Played,
    episodes_played,
    keep_until,
    kl_to_start,
    latest_checkpoint,
    shown_episodes,
    step_record,
)
from s3mini.training.share import Share
from s3mini.training.trl import data_order, drawn, reserve, trl_config


@pytest.fixture()
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profile_module, "ROOT", tmp_path)
    make_world(tmp_path)
    return tmp_path


# --------------------------------------------------------------------------- small kernels


def test_data_order_is_seeded_permutations_end_to_end() -> None:
    questions = [Question(f"id{i}", f"q{i}?", ("a",)) for i in range(5)]
    rows = data_order(questions, 7, 12)
    ids = [row["prompt"][-1]["id"] for row in rows]
    assert len(ids) == 12 and set(ids[:5]) == set(ids[5:10]) == {q.id for q in questions}
    assert rows[0]["prompt"][-1] == {"role": "user", "content": f"q{ids[0][2:]}?", "id": ids[0]}
    assert ids == [row["prompt"][-1]["id"] for row in data_order(questions, 7, 12)]
    assert ids != [row["prompt"][-1]["id"] for row in data_order(questions, 8, 12)]


@pytest.mark.parametrize(("questions", "group", "micro"), [(12, 8, 16), (5, 3, 8), (3, 5, 64), (7, 2, 4)])
def test_one_step_is_one_batch_of_episodes_and_one_update(
    tmp_path: Path, questions: int, group: int, micro: int
) -> None:
    spec = grpo_profile(
        **{
            "grpo.questions_per_step": questions,
            "grpo.num_generations": group,
            "grpo.micro_batch": micro,
            "grpo.num_iterations": 2,
        }
    ).grpo
    config = trl_config(spec, 0, tmp_path)
    assert config.generation_batch_size == questions * group
    assert config.per_device_train_batch_size <= micro
    assert config.steps_per_generation == config.gradient_accumulation_steps
    assert config.max_steps == spec.steps * 2 and config.save_steps == spec.save_steps * 2


def test_step_record_by_hand() -> None:
    episodes = [episode(own=2), episode(own=4, context=3), episode(own=1, end="length"), episode(own=1)]
    outcomes = [outcome(1.0, True, 1.0), outcome(0.0), outcome(0.5), outcome(0.5)]
    record = step_record([Played.of(*pair) for pair in zip(episodes, outcomes, strict=True)], group=2)
    assert record["episodes"] == 4 and record["reward"] == 0.5 and record["gen_acc"] == 0.25
    assert record["gbr"] == 1.0  # the mean of the one that is known
    assert record["zero_variance"] == 0.5 and record["cut"] == 0.25 and record["valid_format"] == 0.5
    assert record["searches"] == 1.0 and record["documents"] == 1.5 and record["context_tokens"] == 10
    assert record["completion_tokens"] == 2.0 and record["entropy"] == pytest.approx(0.5)


# ------------------------------------------------------------------------- a price per search


ASKS = Turn("t", "query", False, None, (), True)


def searching(episodes: Sequence[Episode]) -> list[Episode]:
    """The same episodes, as if they had made none, one, two, none … searches."""
    return [replace(e, turns=(ASKS,) * (i % 3)) for i, e in enumerate(episodes)]


def test_a_search_costs_what_the_profile_says(world: Path) -> None:
    episodes = searching([episode() for _ in range(3)])
    priced = PricedScorer(lambda episodes: [outcome(1.0, True, 1.0) for _ in episodes], 0.25)(episodes)
    assert [o.reward for o in priced] == [1.0, 0.75, 0.5]
    assert all((o.earned, o.gbr, o.score.gen_acc) == (1.0, 1.0, 1.0) for o in priced)
    record = step_record([Played.of(*pair) for pair in zip(episodes, priced, strict=True)], group=3)
    assert (record["reward"], record["earned"], record["searches"]) == (0.75, 1.0, 1.0)
    assert record["zero_variance"] == 0.0  # they differ in their price, and so teach something


@pytest.mark.parametrize("cost", [0.0, 0.1])
def test_a_run_trains_with_the_price_and_records_both(world: Path, cost: float) -> None:
    profile = grpo_profile(**{"grpo.search_cost": cost})
    parts = grpo_parts(profile)
    run = parts.engine.run
    parts.engine.run = lambda *given, **named: searching(run(*given, **named))  # type: ignore[method-assign]
    folder = train(profile, parts=parts, progress=False)
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert all(("earned" in step) == bool(cost) for step in curve)
    for step in curve:
        assert step["searches"] > 0
        assert step["reward"] == pytest.approx(step.get("earned", step["reward"]) - cost * step["searches"])


def test_a_price_is_part_of_a_run_and_none_changes_no_older_one(world: Path) -> None:
    free, dear = (
        identity(grpo_profile(**{"grpo.search_cost": cost}), 0, "s3", "gbr")[1] for cost in (0.0, 0.1)
    )
    assert "search_cost" not in free
    assert dear == free | {"search_cost": 0.1}


@pytest.mark.parametrize("cost", [-0.1, float("nan"), float("inf")])
def test_a_price_is_a_number_from_nothing_up(cost: float) -> None:
    with pytest.raises(ProfileError, match="search_cost"):
        grpo_profile(**{"grpo.search_cost": cost})


# ------------------------------------------------------------- questions that are replaced


def by_question(episodes: Sequence[Episode]) -> list[Outcome]:
    """All alike, but for the questions whose number is a multiple of 3."""
    numbers = [int(e.question.id.rpartition("-")[2]) for e in episodes]
    return [outcome(float(n % 3 == 0 and i % 2), gbr=0.0) for i, n in enumerate(numbers)]


def play(
    profile: Profile, shares: int = 1, step: int = 1, left: int | None = None
) -> tuple[list[list[str]], list[dict], list[dict]]:
    """A step shared by ``shares`` processes (threads here): the ids asked, round by round, and what TRL and curve get."""
    spec, asked = profile.grpo, [[] for _ in range(shares)]
    tables: dict[tuple[int, int], list] = {}
    barrier = threading.Barrier(shares)

    class Thread(Processes):
        calls = 0

        def everywhere(self, work):  # type: ignore[no-untyped-def]
            call = Thread.calls_of[self.rank] = Thread.calls_of.get(self.rank, 0) + 1
            tables[call, self.rank] = work()
            barrier.wait(60)
            return [tables[call, rank] for rank in range(shares)]

    Thread.calls_of = {}  # type: ignore[attr-defined]
    left_behind: list[dict] = []

    class Kept:
        def leave(self, record: dict, shown: list[dict]) -> None:
            left_behind.append(record)

    made = [grpo_parts(profile) for _ in range(shares)]  # one after the other: torch's seed is global

    def one(rank: int) -> dict:
        parts = made[rank]
        parts = replace(parts, questions=parts.questions[:left], score=by_question, start=None)
        rows = data_order(parts.questions, 0, spec.steps * spec.questions_per_step)
        per_step, mine = spec.questions_per_step, spec.questions_per_step // shares
        first = (step - 1) * per_step + rank * mine
        prompts = [rows[i]["prompt"] for i in range(first, first + mine) for _ in range(spec.num_generations)]
        share = Share(parts, spec, 0, Thread(rank, shares))

        def loop(given: Sequence, trainer: object) -> dict:
            ids = [prompt[-1]["id"] for prompt in given[:: spec.num_generations]]
            asked[rank].append(ids)
            return Loop(share.parts, spec, 0)(given, trainer)

        trainer = SimpleNamespace(state=SimpleNamespace(global_step=step - 1))
        return share.around(loop, Kept() if rank == 0 else None)(prompts, trainer)  # type: ignore[arg-type]

    with ThreadPoolExecutor(shares) as pool:
        completions = list(pool.map(one, range(shares)))
    rounds = [sum(together, []) for together in zip_longest(*asked, fillvalue=[])]
    return rounds, completions, left_behind


def resampling(**overrides: object) -> Profile:
    return grpo_profile(
        **{"grpo.resample": 2, "grpo.questions_per_step": 6, "data.train_limit": 30, **overrides}
    )


def test_alike_questions_make_way_for_fresh_ones_up_to_the_bound(world: Path) -> None:
    rounds, (completions,), (record,) = play(resampling())
    assert len(rounds) == 3 and len(rounds[0]) == 6
    places = list(rounds[0])
    for fresh in rounds[1:]:
        alike = [i for i, question in enumerate(places) if int(question.rpartition("-")[2]) % 3]
        assert len(fresh) == len(alike) > 0, "each alike one, no other, is replaced"
        for i, question in zip(alike, fresh, strict=True):
            places[i] = question
    every = sum(rounds, [])
    assert len(set(every)) == len(every), "fresh: asked once in the step"
    # the last question of a place is what TRL updates with, in the rows of the first one
    signal = [float(int(q.rpartition("-")[2]) % 3 == 0) for q in places]
    scored = completions["scored"]
    assert [max(scored[i : i + 4]) for i in range(0, 24, 4)] == signal
    texts = grpo_parts(resampling())
    ids = {q.id: q for q in texts.questions}
    for i, question in enumerate(places):
        read = texts.tokenizer.decode(completions["prompt_ids"][4 * i])
        assert (
            ids[question].question in read
            and completions["prompt_ids"][4 * i] == completions["prompt_ids"][4 * i + 3]
        )
    assert all(len(values) == 24 for values in completions.values())
    replaced = sum(len(fresh) for fresh in rounds[1:])
    assert record["episodes"] == 24 and record["wasted"] == round(replaced / (6 + replaced), 6)
    assert record["zero_variance"] == round(1 - sum(signal) / 6, 6)
    assert episodes_played([record, {"episodes": 24}]) == 4 * len(every) + 24


def test_fresh_questions_depend_on_seed_and_step_alone(world: Path) -> None:
    assert play(resampling())[:2] == play(resampling())[:2]
    spec, questions = resampling(**{"grpo.steps": 2}).grpo, [Question(str(i), "?", ("a",)) for i in range(36)]
    parts = [[q.id for q in reserve(questions, 3, spec, step)] for step in (1, 2)]
    rows = [q.id for q in drawn(questions, 3, 12)]
    assert sorted([*rows, *parts[0], *parts[1]]) == sorted(q.id for q in questions), "new to the run"
    assert parts[0] != [q.id for q in reserve(questions, 4, spec, 1)]
    assert [row["prompt"][-1]["id"] for row in data_order(questions, 3, 12)] == rows


@pytest.mark.parametrize("shares", [2, 3, 6])
def test_several_processes_replace_what_one_would(world: Path, shares: int) -> None:
    """Though the alike ones lie unevenly in their shares, and some process may have none."""
    rounds, (whole,), (record,) = play(resampling())
    again, parts, (figures,) = play(resampling(), shares)
    assert again == rounds
    joined = {key: sum((part[key] for part in parts), []) for key in whole}
    assert {k: v for k, v in joined.items() if k != "logprobs"} == {
        k: v for k, v in whole.items() if k != "logprobs"
    }
    drop = [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in (record, figures)]
    assert drop[0] == pytest.approx(drop[1], rel=1e-4)


@pytest.mark.parametrize("left", [6, 7, 9])
def test_when_no_fresh_question_is_left_the_alike_ones_stay(world: Path, left: int) -> None:
    rounds, (completions,), (record,) = play(resampling(), left=left)
    every = sum(rounds, [])
    assert len(every) == len(set(every)) <= left
    assert record["episodes"] == 24 and all(len(values) == 24 for values in completions.values())


def test_without_replacement_nothing_is_asked_twice_and_no_waste_recorded(world: Path) -> None:
    rounds, _, (record,) = play(resampling(**{"grpo.resample": 0}))
    assert len(rounds) == 1 and "wasted" not in record


def test_a_whole_run_that_replaces_is_killed_and_goes_on_with_the_same(world: Path) -> None:
    profile = resampling(**{"grpo.steps": 4, "grpo.save_steps": 2, "grpo.questions_per_step": 3})
    curves, asked = [], []
    for run in ("straight", "killed"):
        calls: list[list[str]] = []

        def score(episodes: Sequence[Episode], calls: list = calls, run: str = run) -> list[Outcome]:
            calls.append([e.question.id for e in episodes])
            if run == "killed" and len(calls) == 8:  # within the third step's rounds
                raise RetrievalError("gone")
            return by_question(episodes)

        def parts() -> Parts:
            return replace(grpo_parts(profile), score=score)

        if run == "killed":
            with pytest.raises(RetrievalError):
                train(profile, 0, run, progress=False, parts=parts())
        folder = train(profile, 0, run, progress=False, parts=parts())
        lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        curves.append([{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines])
        asked.append(calls)
        facts = json.loads((folder / "manifest.json").read_text())["facts"]
        assert facts["episodes"] == 4 * facts["examples"] == episodes_played(lines)
    third = next(i for i, ids in enumerate(asked[0]) if ids == asked[1][8])  # where it went on
    assert asked[1][8:] == asked[0][third:] and 0 < third < 8
    assert facts["episodes"] == sum(map(len, asked[0])) > 48
    for line, expected in zip(*curves, strict=True):
        assert 0 < line["wasted"] < 1 and line == pytest.approx(expected, rel=1e-3, abs=1e-4)


# ------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(("fast", "chosen"), [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_auto_takes_bfloat16_where_it_is_clearly_faster_and_a_run_ends_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: float, chosen: str
) -> None:
    spec, model = grpo_profile(**{"grpo.precision": "auto"}).grpo, toy_local(0).model
    monkeypatch.setattr(precision, "measured", lambda model: {"float32": 1.0, "bfloat16": fast})
    assert precision.settled(spec, model, tmp_path, ALONE).precision == chosen
    monkeypatch.setattr(precision, "measured", None)  # what is settled is not measured again
    assert precision.settled(spec, model, tmp_path, ALONE).precision == chosen
    assert json.loads((tmp_path / "precision.json").read_text())["seconds"]["bfloat16"] == fast
    for named in ("float32", "bfloat16"):
        given = spec.model_copy(update={"precision": named})
        assert precision.settled(given, model, tmp_path, ALONE) == given


def test_a_run_goes_on_where_another_precision_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, found = load_profile("smoke", **{"searcher.dtype": "fastest"}), []
    for fastest in ("float32", "bfloat16"):
        monkeypatch.setattr("s3mini.models.local.fastest_dtype", lambda device, kind=fastest: kind)
        found.append(identity(profile, 0, "s3", "gbr"))
    assert found[0] == found[1]


def test_one_process_that_emulates_bfloat16_decides_for_all(tmp_path: Path) -> None:
    spec, model = grpo_profile(**{"grpo.precision": "auto"}).grpo, toy_local(0).model
    passes, product = {"float32": 3.0, "bfloat16": 1.5}, {"float32": 0.001, "bfloat16": 0.015}
    two = SimpleNamespace(from_main=lambda work: work(), everywhere=lambda work: [passes, product])
    assert precision.settled(spec, model, tmp_path, two).precision == "float32"


def test_where_products_are_emulated_no_pass_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    single = {"float32": 1.0, "bfloat16": 4.1}
    monkeypatch.setattr(precision, "multiplied", lambda: single)
    monkeypatch.setattr(precision, "_passes", None)
    assert precision.measured(toy_local(0).model) == single


def test_measuring_leaves_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplied", lambda: {"float32": 1.0, "bfloat16": 3.9})
    model = toy_local(0).model.train()
    before = [p.detach().clone() for p in model.parameters()]
    took = precision.measured(model)
    assert set(took) == {"float32", "bfloat16"} and all(seconds > 0 for seconds in took.values())
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "rank"),
    [("float32", 0), ("bfloat16", 0), ("bfloat16", 4)],
    ids=["float32", "bfloat16", "adapters"],
)
def test_episodes_are_sampled_in_the_precision_of_the_update_and_the_weights_stay_fine(
    world: Path, kind: str, rank: int
) -> None:
    profile = grpo_profile(**{"grpo.steps": 2, "grpo.precision": kind, "grpo.lora_rank": rank})
    parts, seen = grpo_parts(profile), []
    before, run = {name: w.clone() for name, w in parts.model.named_parameters()}, parts.engine.run

    def watched(*given: object, **named: object) -> list[Episode]:
        seen.append({str(weight.dtype) for weight in parts.model.parameters()})
        return run(*given, **named)

    parts.engine.run = watched
    train(profile, 0, kind, progress=False, parts=parts)
    assert seen == [{f"torch.{kind}"}] * 2
    after = {name.replace(".base_layer", ""): w for name, w in parts.model.named_parameters()}
    assert {w.dtype for w in after.values()} == {torch.float32}
    if rank:  # what the adapters sit on was rounded for a while only
        assert all(torch.equal(after[name], w) for name, w in before.items())


def test_shown_are_best_and_worst_of_the_first_group_that_differs() -> None:
    episodes = [episode(question=name) for name in ("a", "a", "b", "b")]
    shown = shown_episodes(episodes, [outcome(r) for r in (1.0, 1.0, 0.0, 1.0)], group=2)
    assert [(e["id"], e["reward"]) for e in shown] == [("b", 1.0), ("b", 0.0)]
    alike = shown_episodes(episodes, [outcome(0.0)] * 4, group=2)
    assert [e["id"] for e in alike] == ["a", "a"]
    assert json.loads(json.dumps(shown)) == shown


def test_kl_to_start_is_the_mean_over_model_tokens() -> None:
    local = toy_local(0)
    made = [episode(own=3, env=2), episode(own=5, env=1, prompt_ids=(4, 4, 4, 4, 4))]
    distances = []
    for e in made:
        ids = torch.tensor([e.prompt_ids + e.completion_ids])
        with torch.no_grad():
            logps = torch.log_softmax(local.model(ids).logits[0] / 0.8, -1)
        for j, mine in enumerate(e.env_mask):
            if mine:
                d = logps[len(e.prompt_ids) + j - 1, e.completion_ids[j]] - e.logprobs[j]
                distances.append(float(torch.exp(d) - d - 1))
    assert kl_to_start(local.model, made, 0.8, batch_size=1) == pytest.approx(sum(distances) / 8, rel=1e-4)


def test_only_complete_checkpoints_are_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-10").exists()
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_curve_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(f'{{"step": {s}}}\n' for s in (1, 2, 3)) + '{"step": 4, "rew')
    keep_until(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_generator_scorer_rewards_gain_beyond_rag(world: Path) -> None:
    profile = toy_profile()
    bench = ToyBench(profile, ToyGenerator(world / "asked.log"))
    bench.count_tokens = len  # type: ignore[method-assign]
    cache = precompute(profile, ["nq"], ("train",), bench=bench, progress=False)
    questions = {q.id: q for q in profile_questions(profile)}
    documents = list(bench.documents.values())
    even, odd = questions["nq-train-4"], questions["nq-train-5"]
    found = Document("extra", "Town5", "Town5 lies on River5.")
    episodes = [episode(question="x", context=0) for _ in range(4)]
    contexts = [(even, (documents[4],)), (even, ()), (odd, (found,)), (odd, (found,))]
    episodes = [replace(e, question=q, context=c) for e, (q, c) in zip(episodes, contexts, strict=True)]
    before = len((world / "asked.log").read_text().splitlines())
    outcomes = AnswerScorer(bench, Reward("gbr", cache.lookup), cache)(episodes)
    assert [o.score.gen_acc for o in outcomes] == [1.0, 0.0, 1.0, 1.0]
    assert [o.reward for o in outcomes] == [o.gbr for o in outcomes] == [0.0, -1.0, 1.0, 1.0]
    assert [o.context_tokens for o in outcomes] == [1, 0, 1, 1]
    assert len((world / "asked.log").read_text().splitlines()) == before + 3  # the equal contexts asked once
    plain = AnswerScorer(bench, Reward("gen_acc"), cache)(episodes)
    assert [o.reward for o in plain] == [1.0, 0.0, 1.0, 1.0]
    both = [group_advantages([o.reward for o in side], 2) for side in (outcomes, plain)]
    assert both[0] == pytest.approx(both[1])


def profile_questions(profile: Profile) -> list[Question]:
    from s3mini.corpus import load_questions

    return load_questions(profile, "nq", "train")


def test_rollouts_do_not_leave_the_model_in_evaluation_mode(world: Path) -> None:
    profile = grpo_profile()
    parts = grpo_parts(profile)
    parts.model.train()
    loop = Loop(parts, profile.grpo, 0)
    episodes = loop.roll_out(parts.questions[:2], step=1)
    assert parts.model.training and len(episodes) == 8
    assert [e.question.id for e in episodes] == [q.id for q in parts.questions[:2] for _ in range(4)]
    assert len({e.completion_ids for e in episodes[:4]}) > 1
    assert [low_ids(e) for e in loop.roll_out(parts.questions[:2], 1)] == [low_ids(e) for e in episodes]
    assert [e.completion_ids for e in loop.roll_out(parts.questions[:2], 2)] != [
        e.completion_ids for e in episodes
    ]


def test_a_finished_run_is_found_without_loading_torch() -> None:
    code = "import sys, s3mini.grpo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
