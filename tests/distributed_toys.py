"""The toy searcher, trained by several processes on this machine.

Run by the launcher, in a root where `rag_toys.make_world` has been::

    S3MINI_ROOT=DIR torchrun --nproc_per_node 2 tests/distributed_toys.py RUN [CASE]

CASE: "killed" ends the second process during the third step as ``kill -9`` would, "fails" has its scorer raise there,
"sharded" shards the model in training (FSDP).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from grpo_toys import grpo_parts, grpo_profile, score_low_ids

from s3mini.errors import ModelError
from s3mini.grpo import train
from s3mini.grpo_parts import Outcome
from s3mini.profile import Profile
from s3mini.records import Episode


def shared_profile(steps: int = 3) -> Profile:
    """Groups of 4 for 8 questions a step out of 20: some steps ask a question again."""
    return grpo_profile(
        **{"grpo.steps": steps, "grpo.questions_per_step": 6, "data.train_limit": 7, "grpo.keep_steps": [1]}
    )


def failing_scorer(case: str, step: int = 3) -> object:
    """Scores until the given step, then dies or raises."""
    calls: list[int] = []

    def score(episodes: Sequence[Episode]) -> list[Outcome]:
        calls.append(1)
        if len(calls) == step and case == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == step and case == "fails":
            raise ModelError("the generator of the second process is gone")
        return score_low_ids(episodes)

    return score


def pretend_gpus() -> None:
    """Have accelerate shard on a CPU, which it refuses: the CPU passes for an accelerator with gloo."""
    import torch.distributed as dist
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    dist.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)  # type: ignore[method-assign]


def main() -> None:
    run, case = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    if case == "sharded":
        pretend_gpus()
    profile = shared_profile()
    parts = grpo_parts(profile)
    if os.environ["RANK"] == "1":
        parts.score = failing_scorer(case)  # type: ignore[assignment]
    train(profile, 0, run, progress=False, parts=parts)


if __name__ == "__main__":
    main()
