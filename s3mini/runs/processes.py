"""The processes that train together, one per GPU, as ``accelerate launch`` or ``torchrun`` start them.

A small model whole on each GPU, a large one sharded (FSDP), two CPU cores (what the tests run)::

    accelerate launch --config_file s3mini/training/accelerate/ddp.yaml --num_processes 2 -m s3mini.cli train --profile gpu
    accelerate launch --config_file s3mini/training/accelerate/fsdp.yaml --num_processes 5 -m s3mini.cli train --profile paper
    torchrun --nproc_per_node 2 -m s3mini.cli train --profile smoke

The processes share the questions of a step evenly, and the folder ``build/``. Index, generator and judge are opened
once per process: at scale let servers hold them (``retrieval.kind=remote``, ``generator.engine=served``).
A process that fails tells the others, which stop too; one that is killed is noticed by the launcher, which ends the rest.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from ..errors import ProfileError, StageError

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long one process waits for a slower one, e.g. for naive RAG before the first step. Dead ones are the launcher's care."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among its like. ``sharded``: no process holds the whole of the model in training (FSDP)."""

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def everywhere(self, work: Callable[[], T]) -> list[T]:
        """``work`` done by every process; all results, by rank. To be called by all of them.

        Raises:
            StageError: another process failed, or is gone. A failure of this process's own work, as it is.
        """
        if self.count == 1:
            return [work()]
        import torch.distributed as dist

        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        message = f"{type(failure).__name__}: {failure}" if failure else ""
        told: list[tuple[T, str]] = [None] * self.count  # type: ignore[list-item]
        try:
            dist.all_gather_object(told, (result, message))
        except RuntimeError as error:
            raise failure or StageError(
                f"process {self.rank} lost the others ({error}): see their messages, then run the same command "
                "again: it goes on from the last checkpoint"
            ) from error
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(told):
            if message:
                raise StageError(f"process {self.rank} stops because process {rank} failed: {message}")
        return [result for result, _ in told]

    def each(self, work: Callable[[], T]) -> T:
        """``work`` done by every process, each keeping its own result, which need not travel. Raises as `everywhere`."""
        made: list[T] = []
        self.everywhere(lambda: made.append(work()))
        return made[0]

    def from_main(self, work: Callable[[], T]) -> T:
        """What the main process makes of ``work``, which the others do not do. Raises as `everywhere`."""
        result = self.everywhere(lambda: work() if self.main else None)[0]
        return result  # type: ignore[return-value]  # the first is the main process's

    def main_first(self, work: Callable[[], T]) -> T:
        """``work`` done by the main process, then by the others, who find what it wrote. Raises as `everywhere`.

        The results stay where they were made, so they may be what cannot travel (models).
        """
        made: list[T] = []
        for turn in (True, False):
            self.everywhere(lambda mine=turn: made.append(work()) if mine == self.main else None)  # type: ignore[misc]
        return made[0]

    def share(self, count: int, what: str) -> int:
        """How many of ``count`` things each process takes.

        Raises:
            ProfileError: they cannot be shared evenly; names ``what`` to change.
        """
        if count % self.count:
            raise ProfileError(
                f"{what} is {count}, which {self.count} processes cannot share evenly: "
                f"set it to a multiple of {self.count}, e.g. --set {what}={-(-count // self.count) * self.count}"
            )
        return count // self.count


ALONE = Processes()


def join() -> Processes:
    """Meet the processes that were launched together with this one; alone where none were.

    Raises:
        ProfileError: launched with an engine, or a setting of it, that episodes cannot be rolled out with.
    """
    if "LOCAL_RANK" not in os.environ:
        return ALONE
    sharded, fsdp = _on("ACCELERATE_USE_FSDP"), "s3mini/training/accelerate/fsdp.yaml"
    if _on("ACCELERATE_USE_DEEPSPEED"):
        raise ProfileError(f"DeepSpeed is not supported: launch with {fsdp}, which shards alike")
    if sharded and os.environ.get("FSDP_VERSION") != "2":
        raise ProfileError(f"FSDP version 1 is not supported: set fsdp_version: 2, as {fsdp} does")
    if sharded and _on("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise ProfileError(
            f"set fsdp_cpu_ram_efficient_loading: false, as {fsdp} does: every process rolls out, so each needs whole models"
        )
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available() or _on("ACCELERATE_USE_CPU")
    if on_cpu:  # not "cpu:0", which torch.load does not know when a checkpoint is read
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), sharded)


def _on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
