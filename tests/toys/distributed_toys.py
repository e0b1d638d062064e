"""The toy searcher, trained by several processes on this machine.

Run by the launcher, in a root where `rag_toys.make_world` has been::

    S3MINI_ROOT=DIR torchrun --nproc_per_node 2 tests/toys/distributed_toys.py RUN [CASE]

CASE: "alike" has a step without signal, and one with signal for the first process alone; "killed" ends the second process during the third step as ``kill -9`` would, "sharded" shards the model in
training (FSDP); before that its second process fails on purpose, and both tell what they made of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from grpo_toys import grpo_parts, grpo_profile, score_low_ids

from s3mini.errors import ModelError, S3Error
from s3mini.grpo import train
from s3mini.profile import Profile, changed
from s3mini.records import Episode
from s3mini.runs.processes import join
from s3mini.training.parts import Outcome, Parts


def shared_profile() -> Profile:
    """Six questions a step out of seven, so that some step asks one again, in another process's share."""
    return grpo_profile(
        **{
            "grpo.steps": 3,
            "grpo.questions_per_step": 6,
            "data.train_limit": 7,
            "grpo.keep_steps": [1],
            "grpo.beta": 0.02,
        }
    )


def shared_parts(profile: Profile) -> Parts:
    """The toy's parts; its weights lie in the root too, from where TRL reads the reference of the KL term."""
    parts = grpo_parts(profile)
    parts.model.config._name_or_path = str(profile.resolve("start"))
    return parts


class ScorerBySteps:
    """Signal in the first step, none in the second, in the third only where ``main``."""

    def __init__(self, main: bool) -> None:
        self.main, self.calls = main, 0

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        self.calls += 1
        scored = score_low_ids(episodes)
        alike = self.calls == 2 or (self.calls == 3 and not self.main)
        return [replace(outcome, reward=1 / 3) for outcome in scored] if alike else scored


class DyingScorer:
    """Scores until the third step, then ends its process."""

    calls = 0

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return score_low_ids(episodes)


def fail_together() -> None:
    """Every process prints how it fails when the second one does."""
    processes = join()

    def work() -> None:
        if not processes.main:
            raise ModelError("the generator is gone")

    try:
        processes.everywhere(work)
    except S3Error as error:
        told = f"{processes.rank}: {type(error).__name__}: {error}\n"
        os.write(sys.stdout.fileno(), told.encode())  # at once: the other process writes into the same pipe


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
        fail_together()
    profile = shared_profile()
    parts = shared_parts(profile)
    if case == "killed" and os.environ["RANK"] == "1":
        parts.score = DyingScorer()
    if case == "alike":
        profile = changed(profile, {"grpo.beta": 0.0, "grpo.keep_steps": [1, 2], "grpo.num_generations": 6})
        parts.score = ScorerBySteps(os.environ["RANK"] == "0")
    train(profile, 0, run, progress=False, parts=parts)
    if case == "alike":
        weights = b"".join(p.detach().numpy().tobytes() for p in parts.model.parameters())
        os.write(sys.stdout.fileno(), f"weights {sha256(weights).hexdigest()}\n".encode())


if __name__ == "__main__":
    main()
