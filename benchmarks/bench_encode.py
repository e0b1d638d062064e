"""Benchmark of encoding passages against a plain loop over transformers' model, in turn with it in the same run.

    python benchmarks/bench_encode.py [--profile mini] [--passages 96] [--rounds 5] [--threads 1] [--record]

The loop sorts by length, batches, takes the mean and normalises, as ``encode`` of sentence-transformers does. With one thread
the processor's time is counted, which other programs change less. Where the processor multiplies bfloat16 fast (``products:
auto`` finds out), a second row has it, and what it changes: of the profile's test questions, recall at 10, and how many have
the same ten passages in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from bench_search import in_turn
from common import Row, options, row, tell

from s3mini.corpus import load_questions
from s3mini.profile import Profile, load_profile
from s3mini.retrieval import Encoder, open_corpus
from s3mini.retrieval.encoder import Vectors
from s3mini.reward import recall
from s3mini.runs.machine import cap_threads

GOAL, NARROW_GOAL = "ratio ≥ 1.1", "ratio ≥ 2"
K = 10


def plain_loop(encoder: Encoder, batch: int = 32) -> Callable[[Sequence[str]], Vectors]:
    """A function that computes what ``Encoder.passages`` does for MiniLM, with transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(encoder.path)
    model = AutoModel.from_pretrained(encoder.path).eval()

    def encode(texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.empty((len(texts), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                options = {"truncation": True, "max_length": encoder.spec.max_passage_tokens}
                tokens = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt", **options)
                mask = tokens["attention_mask"][..., None]
                mean = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
                out[rows] = torch.nn.functional.normalize(mean).numpy()
        return out

    return encode


def encode_rows(profile: Profile, passages: int, rounds: int, clock: Callable[[], float]) -> dict[str, Row]:
    """The rows of encoding; ``differ``: the largest difference of a number from the loop's."""
    spec = profile.retrieval.dense
    encoder, narrow = Encoder(spec), Encoder(spec.model_copy(update={"products": "auto"}))
    texts, loop = [document.contents for document in open_corpus(profile)[:passages]], plain_loop(encoder)
    ours = {"encoding, a plain loop as the limit": (encoder, GOAL)}
    if narrow.products == "bfloat16":
        ours["encoding in bfloat16, a plain loop as the limit"] = narrow, NARROW_GOAL
    calls = {name: partial(its.passages, texts) for name, (its, _) in ours.items()}
    took = in_turn(calls | {"limit": partial(loop, texts)}, rounds, clock, warm=False)
    speed = {name: [passages / seconds for seconds in runs] for name, runs in took.items()}
    rows = {}
    for name, (its, goal) in ours.items():
        rows[name] = row("passages/s", goal, speed[name], speed["limit"])
        rows[name]["differ"] = float(np.abs(its.passages(texts) - loop(texts)).max())
        if its is narrow:
            rows[name] |= changed_hits(profile, encoder, narrow)
    return rows


def changed_hits(profile: Profile, encoder: Encoder, narrow: Encoder) -> dict[str, float]:
    """Of all test questions: recall at `K` by passages of both encoders, and the share with the same hits in the same order."""
    documents = open_corpus(profile)
    questions = [q for name in profile.data.sets for q in load_questions(profile, name, "test")]
    asked = encoder.queries([q.stem for q in questions])
    found = []
    for its in (encoder, narrow):
        scores = asked @ its.passages([document.contents for document in documents]).T
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :K])
    recalled = [
        [recall(q, [documents[row] for row in rows]) for q, rows in zip(questions, hits, strict=True)]
        for hits in found
    ]
    same = (found[0] == found[1]).all(1).mean()
    return {
        "recall": float(np.mean(recalled[0])),
        "recall in bfloat16": float(np.mean(recalled[1])),
        "same hits": float(same),
        "n": len(questions),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--passages", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    profile = load_profile(given.profile)
    clock = time.process_time if cap_threads(given.threads or profile.threads) == 1 else time.perf_counter
    tell(__file__, encode_rows(profile, given.passages, given.rounds, clock), given.record)


if __name__ == "__main__":
    main()
