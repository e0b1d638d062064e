"""Naive RAG: batching, the resumable cache (killed for real), its binding, the filter, the exports."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import rag_toys
from rag_toys import ToyBench, ToyGenerator, ToyRetriever, make_world, question, river, toy_profile

from s3mini.classroom.rag_figures import gold_recall, rag_figures, rag_view
from s3mini.corpus import load_questions
from s3mini.errors import DataError, ModelError, S3Error, StageError
from s3mini.generator import answer_questions
from s3mini.profile import Profile
from s3mini.rag import Earned, RagAnswer, RagCache, is_yes_no, precompute, training_filter
from s3mini.records import Document, Hit, Question, Score
from s3mini.report.tables import rows_table

SCRIPT = Path(rag_toys.__file__)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    return make_world(tmp_path)


def run(profile: Profile, root: Path, **options) -> tuple[RagCache, ToyGenerator]:
    generator = ToyGenerator(root / "asked.log")
    cache = precompute(profile, bench=ToyBench(profile, generator), progress=False, **options)
    return cache, generator


def asked(root: Path) -> list[str]:
    path = root / "asked.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------------------- answering


class Recorder:
    """Replies with the question asked, after some reasoning; remembers the prompts in order."""

    def __init__(self, lose: int = 0) -> None:
        self.prompts: list[str] = []
        self.lose = lose

    def reply(self, conversations, max_new_tokens=None, temperature=0.0, seed=0) -> list[str]:
        self.prompts = [conversation[-1]["content"] for conversation in conversations]
        assert temperature == 0.0
        replies = [f"<think> hm </think>\n answer to {p.splitlines()[-1][10:]} " for p in self.prompts]
        return replies[: len(replies) - self.lose]


def test_answers_come_back_in_order_deduplicated_and_short_prompts_first() -> None:
    texts = ["a rather long question?", "short?", "a rather long question?", "middle one?"]
    questions = [Question(str(i), text, ("x",)) for i, text in enumerate(texts)]
    documents = [Document("1", "T", "words " * 30)]
    generator = Recorder()
    answers = answer_questions(generator, questions, [documents, (), documents, documents], "brief")
    assert answers == [f"answer to {text}" for text in texts]
    assert len(generator.prompts) == 3
    assert [len(p) for p in generator.prompts] == sorted(len(p) for p in generator.prompts)
    assert generator.prompts[0] == "Question: short?"  # no context: the question alone


def test_the_same_question_with_other_documents_is_another_prompt() -> None:
    same = [Question("1", "q?", ("x",)), Question("2", "q?", ("x",))]
    generator = Recorder()
    answer_questions(generator, same, [[Document("1", "T", "one")], [Document("2", "T", "two")]], "brief")
    assert len(generator.prompts) == 2


def test_lost_replies_and_contexts_are_errors() -> None:
    questions = [Question("1", "q?", ("x",)), Question("2", "r?", ("x",))]
    with pytest.raises(ModelError, match="1 replies to 2 prompts"):
        answer_questions(Recorder(lose=1), questions, [(), ()])
    with pytest.raises(DataError, match="1 contexts for 2 questions"):
        answer_questions(Recorder(), questions, [()])
    assert answer_questions(Recorder(), [], []) == []


# ------------------------------------------------------------------------------ precompute


def test_precompute_answers_everything_once_and_scores_it(world: Profile, tmp_path: Path) -> None:
    cache, _ = run(world, tmp_path)
    assert len(cache) == 80 and len(asked(tmp_path)) == 80
    for name in ("nq", "hotpotqa"):
        for i in range(40):
            q = question(name, "train" if i < 30 else "test", i)
            expected = float(i % 2 == 0)
            assert cache.lookup(q) == expected
            assert cache[q].context == tuple(f"d{(i + j) % 40:02}" for j in range(3))
            assert cache[q].score.answer == (river(i) if expected else "unknown")
    folder = tmp_path / "build" / "toy" / "rag" / "dense"
    assert sorted(p.name for p in folder.iterdir()) == [
        "hotpotqa-test",
        "hotpotqa-train",
        "nq-test",
        "nq-train",
    ]
    manifest = json.loads((folder / "nq-train" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["facts"]["gen_acc"] == 0.5
    assert manifest["facts"]["judged"] == 15 and manifest["facts"]["judge_yes"] == 0


def test_done_work_is_found_and_only_what_was_asked_is_returned(world: Profile, tmp_path: Path) -> None:
    first, _ = run(world, tmp_path, splits=("train",), sets=("nq",))
    assert len(first) == 30
    second, generator = run(world, tmp_path, splits=("train",))
    assert len(second) == 60 and len(asked(tmp_path)) == 60
    third, generator = run(world, tmp_path, splits=("train",), sets=("nq",))
    assert generator.calls == 0 and len(third) == 30
    assert question("hotpotqa", "train", 0) not in third
    assert [third[question("nq", "train", i)] for i in range(30)] == [
        first[question("nq", "train", i)] for i in range(30)
    ]


def test_each_retriever_has_its_own_cache(world: Profile, tmp_path: Path) -> None:
    run(world, tmp_path, splits=("test",))
    _, generator = run(world, tmp_path, splits=("test",), kind="lexical")
    assert generator.calls > 0
    assert (tmp_path / "build/toy/rag/lexical/nq-test/answers.jsonl").is_file()


def test_a_failing_generator_stops_the_run_and_loses_nothing(world: Profile, tmp_path: Path) -> None:
    generator = ToyGenerator(tmp_path / "asked.log", fail_after=3)
    with pytest.raises(ModelError, match="died"):
        precompute(world, bench=ToyBench(world, generator), progress=False)
    assert len(asked(tmp_path)) == 24  # three flushes of two batches of four
    cache, _ = run(world, tmp_path)
    assert len(cache) == 80
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) == 80


def change_k(root: Path) -> Profile:
    return toy_profile(**{"rag.k": 2})


def change_corpus(root: Path) -> Profile:
    path = root / "data" / "corpus.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "new", "contents": '"New"\nNew text.'}) + "\n")
    return toy_profile()


def change_generator(root: Path) -> Profile:
    (root / "model" / "config.json").write_text('{"retrained": true}')
    return toy_profile()


def change_index(root: Path) -> Profile:
    ToyRetriever.fingerprint = "toy-index-2"
    return toy_profile()


def change_limit(root: Path) -> Profile:
    return toy_profile(**{"data.test_limit": 7})


@pytest.mark.parametrize(
    ("change", "what", "made"),
    [
        (change_k, "settings.k", 20),
        (change_corpus, "inputs.corpus", 20),
        (change_generator, "inputs.generator", 20),
        (change_index, "inputs.index", 20),
        (change_limit, "inputs.questions", 14),
    ],
)
def test_a_stale_cache_is_redone_with_a_message(
    world: Profile, tmp_path: Path, monkeypatch, caplog, change, what: str, made: int
) -> None:
    monkeypatch.setattr(ToyRetriever, "fingerprint", ToyRetriever.fingerprint)  # restored afterwards
    run(world, tmp_path, splits=("test",))
    (tmp_path / "asked.log").unlink()
    with caplog.at_level(logging.WARNING, logger="s3mini"):
        cache, _ = run(change(tmp_path), tmp_path, splits=("test",))
    assert len(cache) == len(asked(tmp_path)) == made
    assert "redone" in caplog.text and what in caplog.text


def finished(root: Path) -> list[str]:
    """Questions whose answers lie on the disk in whole lines."""
    files = sorted((root / "build/toy/rag/dense").glob("*/answers.jsonl"))
    lines = [line for p in files for line in p.read_text().split("\n")[:-1]]
    return [f"Question: {json.loads(line)['question']}" for line in lines]


def test_killed_half_way_it_goes_on_where_it_stopped(world: Profile, tmp_path: Path) -> None:
    """SIGKILL a real process in the first set, then in the second; a third run finishes the rest."""
    environment = {**os.environ, "S3MINI_ROOT": str(tmp_path)}

    def start(pause: str) -> subprocess.Popen[bytes]:
        (tmp_path / "asked.log").write_text("")
        return subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path), pause], env=environment)

    kept: list[str] = []
    for wanted in (9, 33):
        process = start("0.2")
        patience = time.monotonic() + 120
        while len(finished(tmp_path)) < wanted:
            assert process.poll() is None and time.monotonic() < patience, "it ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not set(asked(tmp_path)) & set(kept)
        kept = finished(tmp_path)
        assert wanted <= len(kept) < 80
        logs = (tmp_path / "build/toy/rag/dense").glob("*/answers.jsonl")
        with open(max(logs, key=lambda p: p.stat().st_mtime), "a") as out:
            out.write('{"id": "torn')  # what a kill inside a write leaves
    assert start("0").wait() == 0
    assert not set(asked(tmp_path)) & set(kept) and len(asked(tmp_path)) == 80 - len(kept)
    assert len(finished(tmp_path)) == len(set(finished(tmp_path))) == 80
    cache, generator = run(world, tmp_path)
    assert generator.calls == 0 and len(cache) == 80
    assert [cache.lookup(question("nq", "train", i)) for i in range(30)] == [1.0, 0.0] * 15


# ----------------------------------------------------------------------------- cache, filter


def answer(id: str, text: str, gen_acc: bool, context: tuple[str, ...] = ()) -> RagAnswer:
    return RagAnswer(id, text, context, Score("a", 0.0, 0.25, gen_acc, None if gen_acc else False))


def test_cache_misses_and_clashes_are_errors() -> None:
    cache = RagCache([answer("1", "q?", True)])
    assert cache.lookup(Question("1", "q?", ("x",))) == 1.0
    with pytest.raises(StageError, match="no answer to question '2'.*precompute"):
        cache.lookup(Question("2", "q?", ("x",)))
    with pytest.raises(StageError, match="another text"):
        cache.lookup(Question("1", "another text", ("x",)))
    with pytest.raises(DataError, match="share the id '1'"):
        cache.add(answer("1", "other?", True))
    assert issubclass(StageError, S3Error)


def test_forms_of_one_question_are_one_question() -> None:
    cache = RagCache([answer("1", "Cafe\u0301’s\u00a0owner?", True)])
    assert cache.lookup(Question("1", "Café's owner?", ("x",))) == 1.0
    cache.add(answer("1", "Café's own\u00ader?", True))
    with pytest.raises(StageError, match="no answer"):
        cache.lookup(Question("1", "Cafe's owner?", ("x",)))


def test_records_survive_the_disk() -> None:
    for made in (answer("1", "q “x”?", True, ("d1", "d2")), answer("2", "r?", False)):
        assert RagAnswer.from_json(json.loads(json.dumps(made.as_json()))) == made


def test_training_filter_drops_yes_no_and_answered_ones(world: Profile, tmp_path: Path) -> None:
    cache, _ = run(world, tmp_path, splits=("train",))
    questions = [q for name in ("nq", "hotpotqa") for q in load_questions(world, name, "train")]
    kept, report = training_filter(questions, cache)
    numbers = [i for i in range(30) if i % 2 == 1 and i % 10 != 9]
    assert [q.id for q in kept] == [f"{s}-train-{i}" for s in ("nq", "hotpotqa") for i in numbers]
    assert [(s.name, s.seen, s.yes_no, s.answered, s.kept) for s in report.sets] == [
        ("nq", 30, 3, 15, 12),
        ("hotpotqa", 30, 3, 15, 12),
    ]
    assert str(report) == "60 questions: 6 yes/no and 30 that naive RAG answers dropped, 24 kept"
    assert "40%" in rows_table(report.rows)._repr_html_()


def test_by_documents_naive_rag_succeeds_where_they_earn_more_than_half() -> None:
    """Three are found, ``abc``: of one that is needed there are two too many, of two there is one, and of ``ax`` one is missing."""

    class Three:
        def search(self, queries: list[str], k: int) -> list[list[Hit]]:
            return [[Hit(Document(i, i, ""), 1.0) for i in "abcd"[:k]] for _ in queries]

    bench = SimpleNamespace(retriever=Three, profile=SimpleNamespace(rag=SimpleNamespace(k=3)))
    asked = [Question(gold, gold, ("x",), {"gold_ids": list(gold)}) for gold in ("a", "ab", "ax", "xy")]
    kept = {}
    for reward in ("recall", "all_gold", "gold_precision", "gold_rank"):
        kept[reward] = [q.id for q in training_filter(asked, Earned(bench, asked, reward))[0]]
    assert kept["recall"] == kept["all_gold"] == ["ax", "xy"]
    assert kept["gold_precision"] == kept["gold_rank"] == ["a", "ax", "xy"]


@pytest.mark.parametrize(
    ("golds", "expected"),
    [(("Yes.",), True), (("no", "NO"), True), (("yes", "Paris"), False), (("Nobel",), False)],
)
def test_is_yes_no(golds: tuple[str, ...], expected: bool) -> None:
    assert is_yes_no(Question("1", "q?", golds)) is expected


def test_a_filter_that_leaves_nothing_or_misses_answers_is_an_error() -> None:
    cache = RagCache([answer("1", "q?", True)])
    with pytest.raises(DataError, match="nothing left to train on"):
        training_filter([Question("1", "q?", ("x",))], cache)
    with pytest.raises(StageError, match="precompute"):
        training_filter([Question("7", "q?", ("x",))], cache)


# --------------------------------------------------------------------------- figures, export


def test_figures_by_set() -> None:
    questions = [
        Question("1", "a?", ("x",), {"set": "nq", "gold_ids": ["d1"]}),
        Question("2", "b?", ("x",), {"set": "nq", "gold_ids": ["d1", "d9"]}),
        Question("3", "c?", ("x",), {"set": "popqa"}),
    ]
    cache = RagCache(
        [
            answer("1", "a?", True, ("d1", "d2")),
            answer("2", "b?", False, ("d1", "d2")),
            answer("3", "c?", False, ("d3",)),
        ]
    )
    nq, popqa = rag_figures(questions, cache).sets
    assert (nq.n, nq.gen_acc, nq.f1, nq.recall, nq.all_gold, nq.given_gold) == (2, 0.5, 0.25, 0.75, 0.5, 1.0)
    assert nq.room == 0.5  # question 2: wrong, and d9 was not read
    assert (popqa.gen_acc, popqa.recall, popqa.given_gold, popqa.room) == (0.0, None, None, None)
    assert rag_figures(questions, cache).average == 0.25
    assert gold_recall(questions[1], cache) == 0.5
    assert "popqa" in rag_figures(questions, cache)._repr_html_()
    with pytest.raises(DataError, match="no questions"):
        rag_figures([], cache)


def test_tables_escape_what_they_show() -> None:
    shown = rows_table([{"x": ("<b>", "small"), "y": 0.5, "z": None, "w": True}])
    assert "&lt;b&gt;" in shown._repr_html_() and "<b>" not in shown._repr_html_()
    assert repr(shown).splitlines()[1].split() == ["<b>", "0.500", "–", "yes"]


def test_a_view_marks_gold_documents_and_escapes() -> None:
    asked = Question("1", "Who <i>?", ("Ann",), {"gold_ids": ["d1", "d9"]})
    hits = [Hit(Document("d1", "T1", "x <script>"), 0.5), Hit(Document("d2", "T2", "y"), 0.25)]
    view = rag_view(asked, hits, "<think> x </think> Ann", Score("Ann", 1.0, 1.0, True, None))
    assert "1. T1 [gold]  0.500" in repr(view) and "2. T2  0.250" in repr(view)
    html = view._repr_html_()
    assert "<script>" not in html and "1 gold not found" in html and html.count("tag gold") == 1
    assert '<b class="right">Ann</b> (✓ right)' in html
    assert "<i>thinks:</i> x</li>" in html and "&lt;think" not in html.split("<details")[0]


def test_the_plot_is_drawn() -> None:
    cache = RagCache([answer("1", "q?", True)])
    plot = rag_figures([Question("1", "q?", ("x",))], cache).plot()
    assert plot.png()[:4] == b"\x89PNG" and "Naive RAG" in repr(plot)
