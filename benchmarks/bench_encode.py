"""Benchmark of encoding passages against a plain loop over transformers' model, in turn with it in the same run.

    python benchmarks/bench_encode.py [--profile mini] [--passages 96] [--rounds 5] [--threads 1] [--record]

The loop sorts by length, batches, takes the mean and normalises, as ``encode`` of sentence-transformers does. With one thread
the processor's time is counted, which other programs change less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from bench_search import in_turn
from common import Row, options, row, tell

from s3mini.profile import Profile, load_profile
from s3mini.retrieval import Encoder, open_corpus
from s3mini.retrieval.encoder import Vectors
from s3mini.runs.machine import cap_threads

GOAL = "ratio ≥ 1.1"


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
    """The row of encoding; ``differ``: the largest difference of a number from the loop's."""
    encoder = Encoder(profile.retrieval.dense)
    texts, loop = [document.contents for document in open_corpus(profile)[:passages]], plain_loop(encoder)
    differ = np.abs(encoder.passages(texts) - loop(texts)).max()
    calls = {"limit": partial(loop, texts), "ours": partial(encoder.passages, texts)}
    took = in_turn(calls, rounds, clock, warm=False)
    ours, limit = ([passages / seconds for seconds in took[name]] for name in ("ours", "limit"))
    return {
        "encoding, a plain loop as the limit": row("passages/s", GOAL, ours, limit)
        | {"differ": float(differ)}
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
