"""Evaluation: figures known by construction, resumption after a real kill, failures, results.json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import evaluation_toys
import pytest
from evaluation_toys import METHODS, ToyEvaluation, make_evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_toys import ToyGenerator, ToyJudge

from s3mini.bench import Bench
from s3mini.errors import DataError, ModelError, S3Error, StageError
from s3mini.evaluation import ANSWERS, evaluate, load_answers
from s3mini.methods import METHODS as REGISTERED
from s3mini.profile import MethodSpec, Profile
from s3mini.protocols.base import everything
from s3mini.records import Document, Episode, Hit, Question, Turn, episode_as_json, episode_from_json
from s3mini.results import differences

SCRIPT = Path(evaluation_toys.__file__)
TESTED = 10  # questions per set; every tenth accepts only "yes", which nobody says; half are answerable


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    return make_evaluation(tmp_path)


class Run:
    """Evaluates the toy world and counts what its generator was asked."""

    def __init__(self, profile: Profile, root: Path, fail_after: int | None = None) -> None:
        self.profile, self.root = profile, root
        self.generator = ToyGenerator(root / "asked.log", fail_after=fail_after)
        self.bench = ToyEvaluation(profile, self.generator)
        self.bench._searcher = {"s3": root / "model"}

    def __call__(self, methods: Sequence[str] | None = None, **options) -> dict:
        return evaluate(self.profile, methods, bench=self.bench, progress=False, **options)

    @property
    def asked(self) -> int:
        log = self.root / "asked.log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def run(profile: Profile, tmp_path: Path) -> Run:
    return Run(profile, tmp_path)


def files(profile: Profile) -> list[Path]:
    return sorted((profile.build / "evaluation").rglob(ANSWERS))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------- figures


def test_figures_are_those_of_the_toy_world(run: Run) -> None:
    results = run()
    methods = results["methods"]
    assert list(methods) == list(METHODS)
    accuracy = {name: method["average"]["gen_acc"] for name, method in methods.items()}
    # of ten towns the five even ones have a river in their own document, and no searcher gets "yes"
    assert accuracy == {"direct": 0.0, "rag-dense": 0.5, "s3-untrained": 0.0, "s3": 0.5, "oracle": 0.5}
    assert methods["s3"]["searches_per_question"] == 1.0
    assert methods["rag-dense"]["searches_per_question"] == 0.0
    assert methods["direct"]["context_tokens"] == 0.0
    assert methods["s3"]["documents"] == 1.0 and methods["rag-dense"]["documents"] == 3.0
    assert methods["s3"]["searcher_tokens"] == 3.0  # the environment's token is not the searcher's
    assert methods["s3"]["valid_format"] == 1.0


def test_differences_are_paired_and_split_by_what_was_trained_on(run: Run) -> None:
    found = run()["differences"]
    assert set(found) == {"s3 - direct", "s3 - s3-untrained", "s3 - rag-dense"}
    gain = found["s3 - s3-untrained"]
    assert gain["average"]["mean"] == 0.5 and gain["average"]["ci95"][0] > 0
    assert gain["average"]["n"] == 2 * TESTED
    assert gain["trained"] == gain["sets"]["nq"] and gain["transfer"] == gain["sets"]["hotpotqa"]
    assert found["s3 - rag-dense"]["average"] == {"n": 20, "mean": 0.0, "ci95": [0.0, 0.0]}


def test_trained_and_transfer_are_the_right_sets(profile: Profile) -> None:
    def records(values: Sequence[float]) -> list[dict]:
        return [{"id": str(i), "gen_acc": value} for i, value in enumerate(values)]

    s3 = {"nq": records([1.0, 1.0]), "hotpotqa": records([1.0, 0.0])}
    before = {"nq": records([0.0, 0.0]), "hotpotqa": records([1.0, 1.0])}
    gain = differences(profile, {"s3": s3, "s3-untrained": before}, 0)["s3 - s3-untrained"]
    means = {name: gain[name]["mean"] for name in ("trained", "transfer", "average")}
    assert means == {"trained": 1.0, "transfer": -0.5, "average": 0.25}


def test_selection_is_judged_on_the_same_episodes(run: Run) -> None:
    selection = run()["selection"]
    assert selection["selected"]["documents"] == 1.0
    assert selection["all"]["documents"] == 2.0  # the town's own and the other, the latter shown twice
    assert selection["difference"]["mean"] == 0.0
    assert selection["shrink"] == pytest.approx(
        selection["all"]["context_tokens"] / selection["selected"]["context_tokens"], abs=1e-3
    )


def test_a_methods_own_answers_are_read_from_the_episodes_it_played(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.bench._searcher = {"search-r1": run.root / "model"}
    played: list[str] = []
    play = ToyEvaluation.episodes

    def counted(bench: ToyEvaluation, protocol: str, trained: bool, questions: Sequence[Question]) -> list:
        played.extend(q.id for q in questions)
        return [replace(e, answer="River") for e in play(bench, protocol, trained, questions)]

    monkeypatch.setattr(ToyEvaluation, "episodes", counted)
    run(["search-r1", "search-r1-own"])
    assert len(played) == len(set(played)) == 2 * TESTED, "each once, for both rows"
    ret, own = (load_answers(run.profile, name, "nq") for name in ("search-r1", "search-r1-own"))
    assert [r["episode"] for r in own] == [r["episode"] for r in ret]
    assert [r["searcher_tokens"] for r in own] == [r["searcher_tokens"] for r in ret] != [0] * len(ret)
    assert {r["answer"] for r in own} == {"River"} and {r["answer"] for r in ret} != {"River"}
    assert all(o["seconds"] == r["seconds_collecting"] <= r["seconds"] for o, r in zip(own, ret, strict=True))
    run.profile.build.joinpath("results.json").unlink()
    run(["search-r1-own"])
    assert len(played) == 2 * TESTED, "found again"


def test_results_file_has_the_promised_shape(run: Run) -> None:
    run()
    results = json.loads((run.profile.build / "results.json").read_text())
    assert {"profile", "seed", "versions", "machine", "methods", "training", "stages"} <= set(results)
    for method in results["methods"].values():
        assert {"sets", "average", "searches_per_question", "context_tokens", "seconds"} <= set(method)
        assert list(method["sets"]) == list(run.profile.data.sets)
        for figures in [*method["sets"].values(), method["average"]]:
            assert set(figures) == {"n", "gen_acc", "span", "em", "f1", "ci95"}
            low, high = figures["ci95"]
            assert 0 <= low <= figures["gen_acc"] <= high <= 1
            assert figures["em"] <= figures["span"] <= figures["gen_acc"]
    assert all(set(stage) == {"seconds", "resumed"} for stage in results["stages"].values())
    assert "evaluation/s3-seed0/nq" in results["stages"]
    assert json.loads((run.profile.build / "evaluation" / "results-seed0.json").read_text()) == results


def test_training_is_reported_with_its_curve(run: Run) -> None:
    folder = run.profile.build / "train" / "s3-seed0"
    folder.mkdir(parents=True)
    (folder / "curve.jsonl").write_text('{"step": 1, "reward": 0.25}\n{"step": 2, "reward": 0.5}\n')
    training = run(["direct"])["training"]["s3-seed0"]
    assert training["steps"] == 2
    assert [step["reward"] for step in training["curve"]] == [0.25, 0.5]


def test_naive_rag_reuses_its_cache(run: Run) -> None:
    from s3mini.rag import precompute

    precompute(run.profile, splits=("test",), bench=run.bench, progress=False)
    before = run.asked
    results = run(["rag-dense"])
    assert run.asked == before
    assert results["methods"]["rag-dense"]["average"]["gen_acc"] == 0.5


# ---------------------------------------------------------------------------- resumption


def test_a_second_run_answers_nothing_and_says_the_same(run: Run, tmp_path: Path) -> None:
    first = run()
    again = Run(run.profile, tmp_path, fail_after=0)
    second = again()
    assert again.generator.calls == 0
    assert {k: v for k, v in second.items() if k != "stages"} == {
        k: v for k, v in first.items() if k != "stages"
    }


def test_a_new_searcher_redoes_its_own_rows_only(run: Run, tmp_path: Path) -> None:
    run()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"trained": "longer"}')
    before = run.asked
    again = Run(run.profile, tmp_path)
    again.bench._searcher = {"s3": other}
    again()
    assert again.asked - before == 2 * 2 * TESTED  # s3, and the same episodes without selection


def test_a_narrower_evaluation_loses_no_rows(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run()
    some = Run(run.profile, tmp_path)
    some(["direct"])
    aside = run.profile.build / "results.json.old"
    assert json.loads(aside.read_text())["methods"] == whole["methods"]
    assert "results.json now lacks" in caplog.text and "they stand in" in caplog.text
    some(["s3"])
    assert json.loads(aside.read_text())["methods"] == whole["methods"], "the fullest is the one that is kept"
    caplog.clear()
    run()
    assert "lacks" not in caplog.text


@pytest.mark.parametrize(
    ("changed", "rows"),
    # s3, trained and not, and without selection; what is trained is read in float32 in any case
    [({"dtype": "bfloat16"}, 1), ({"max_length": 64}, 3)],
)
def test_a_searcher_that_decodes_otherwise_redoes_its_own_rows(
    run: Run, tmp_path: Path, changed: dict[str, object], rows: int
) -> None:
    """What is told to cut episodes is to be raised: afterwards the cut ones may not come back."""
    run()
    before = run.asked
    searcher = run.profile.searcher.model_copy(update=changed)
    again = Run(run.profile.model_copy(update={"searcher": searcher}), tmp_path)
    again()
    assert again.asked - before == rows * 2 * TESTED


def test_what_is_evaluated_in_place_of_an_unfinished_training_is_told(profile: Profile) -> None:
    given = {"s3": MethodSpec(checkpoint="somebody/searcher")}
    named = profile.model_copy(update={"protocols": given})
    assert Bench(named).checkpoint("s3", True).path == "somebody/searcher"
    (named.build / "train" / "s3-seed0").mkdir(parents=True)
    with pytest.warns(UserWarning, match="s3-seed0: not trained to its end; somebody/searcher is taken"):
        assert Bench(named).checkpoint("s3", True).path == "somebody/searcher"


def test_killed_half_way_it_goes_on_and_nothing_is_doubled(run: Run, tmp_path: Path) -> None:
    environment = {**os.environ, "S3MINI_ROOT": str(tmp_path)}
    child = subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path), "0.3"], env=environment)
    deadline = time.time() + 120
    done: list[Path] = []
    try:
        while time.time() < deadline and child.poll() is None:
            done = [path for path in files(run.profile) if path.stat().st_size]
            if len(done) >= 3:
                break
            time.sleep(0.02)
        assert child.poll() is None, "the toy evaluation ended before it could be killed"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (run.profile.build / "results.json").exists()
    kept = {path: ids(path) for path in done}
    assert sum(map(len, kept.values())) > 0
    before = run.asked
    results = run()
    for path in files(run.profile):
        assert sorted(ids(path)) == sorted(set(ids(path))) and len(ids(path)) == TESTED
    for path, earlier in kept.items():
        assert ids(path)[: len(earlier)] == earlier  # what was answered stayed
    assert run.asked - before < 6 * 2 * TESTED - sum(map(len, kept.values())) + 1
    assert results["methods"]["s3"]["average"]["gen_acc"] == 0.5


# ------------------------------------------------------------------------------ failures


def test_a_dead_generator_stops_the_run_and_is_never_an_answer(profile: Profile, tmp_path: Path) -> None:
    broken = Run(profile, tmp_path, fail_after=4)
    with pytest.raises(ModelError, match="died"):
        broken()
    assert not (profile.build / "results.json").exists()
    kept = [json.loads(line) for path in files(profile) for line in path.read_text().splitlines()]
    assert 0 < len(kept) <= 4 * profile.generator.batch_size
    assert all(record["answer"] for record in kept)
    results = Run(profile, tmp_path)()
    assert results["methods"]["oracle"]["average"]["gen_acc"] == 0.5


def test_a_dead_judge_stops_the_run(run: Run) -> None:
    run.bench.judge = replace(run.bench.judge, model=ToyJudge("perhaps"))
    with pytest.raises(ModelError, match="neither yes nor no"):
        run(["direct"])
    assert not (run.profile.build / "results.json").exists()


def test_what_the_judge_added_can_be_seen(run: Run) -> None:
    run.bench.judge = replace(run.bench.judge, model=ToyJudge("yes"))
    average = run(["direct"])["methods"]["direct"]["average"]
    assert (average["gen_acc"], average["span"]) == (1.0, 0.0)


def test_without_a_trained_searcher_it_says_what_to_run(run: Run) -> None:
    run.bench._searcher = {}
    with pytest.raises(StageError, match="s3mini train"):
        run(["direct", "s3"])
    assert run.asked == 0, "nothing was answered before"


@pytest.mark.parametrize(
    ("methods", "sets", "message"),
    [
        (["s4"], None, "unknown method 's4'"),
        ([], None, "no method"),
        (["direct"], ["nqq"], "no such question set"),
    ],
)
def test_unknown_names_are_errors(run: Run, methods: list[str], sets: list[str] | None, message: str) -> None:
    with pytest.raises(S3Error, match=message):
        run(methods, sets=sets)
    assert not (run.profile.build / "results.json").exists()


def test_the_oracle_needs_gold_documents_that_exist(run: Run) -> None:
    bench, oracle = run.bench, REGISTERED["oracle"]
    for metadata, message in (
        ({}, "no metadata.gold_ids"),
        ({"gold_ids": ["d00", "d99"]}, "'d99' is not in"),
    ):
        with pytest.raises(DataError, match=message):
            oracle.collect(bench, "nq", [Question("q1", "what?", ("x",), metadata)])


def test_oracle_keeps_the_gold_order(run: Run) -> None:
    question = Question("q1", "what?", ("x",), {"gold_ids": ["d07", "d02"]})
    (found,) = REGISTERED["oracle"].collect(run.bench, "nq", [question])
    assert [d.id for d in found.context] == ["d07", "d02"]


def test_answers_not_there_yet_are_an_error(profile: Profile) -> None:
    with pytest.raises(DataError, match="s3mini evaluate"):
        load_answers(profile, "direct", "nq")


def test_every_method_of_the_shipped_profiles_is_registered() -> None:
    from s3mini.profile import available, load_profile

    for name in available():
        assert set(load_profile(name).evaluation.methods) <= set(REGISTERED)


def test_an_episode_that_answers_by_itself_is_not_asked_again(run: Run) -> None:
    bench: Bench = run.bench
    question = Question("q1", "nq: which river at Town32?", ("River32",))
    (found,) = REGISTERED["s3"].collect(bench, "nq", [question])
    assert found.episode is not None
    said = replace(found, episode=replace(found.episode, answer="its own"))  # handed over, not scored ("Ret")
    own = replace(found, answer="its own")
    assert bench.answer([question] * 3, [own, said, found]) == ["its own", "River32", "River32"]


# -------------------------------------------------------------------------- stored episodes

words = st.text(max_size=12)
documents = st.builds(Document, st.integers(0, 5).map(str), st.just("t"), st.just("x"))
hits = st.lists(st.integers(0, 5), max_size=4, unique=True)


@st.composite
def stored_episodes(draw: st.DrawFn) -> Episode:
    corpus = [Document(str(i), f"title {i}", f"text {i}") for i in range(6)]

    def block() -> tuple[Hit, ...]:
        return tuple(Hit(corpus[i], 0.0) for i in draw(hits))

    def turn() -> Turn:
        chosen = draw(st.none() | hits.map(lambda ranks: tuple(str(i) for i in ranks)))
        return Turn(
            draw(words), draw(st.none() | words), draw(st.booleans()), chosen, block(), draw(st.booleans()),
            draw(words),
        )  # fmt: skip

    turns = tuple(turn() for _ in range(draw(st.integers(0, 3))))
    context = tuple(corpus[i] for i in draw(hits))
    question = Question("q", draw(words), ("gold",))
    end = draw(st.sampled_from(["complete", "turns", "length", "invalid"]))
    return Episode(question, (), (), (), (), turns, block(), context, end, draw(st.none() | words))


@settings(max_examples=80, deadline=None)
@given(stored_episodes())
def test_episodes_come_back_from_disk_as_they_were(episode: Episode) -> None:
    corpus = {str(i): Document(str(i), f"title {i}", f"text {i}") for i in range(6)}
    record = {
        "id": "q",
        "question": episode.question.question,
        "golden_answers": ["gold"],
        "context": [d.id for d in episode.context],
        "episode": json.loads(json.dumps(episode_as_json(episode))),
    }
    assert episode_from_json(record, corpus) == episode
    shown = [hit.document.id for block in (episode.start, *(t.shown for t in episode.turns)) for hit in block]
    assert [d.id for d in everything(episode)] == list(dict.fromkeys(shown))


def test_a_stored_document_that_left_the_corpus_is_an_error() -> None:
    record = {"id": "q", "question": "?", "golden_answers": ["x"], "context": ["gone"], "episode": None}
    with pytest.raises(DataError, match="holds no episode"):
        episode_from_json(record, {})
    record["episode"] = {"start": [], "turns": [], "end": "complete", "answer": None}
    with pytest.raises(DataError, match="'gone' is not in the corpus"):
        episode_from_json(record, {})
