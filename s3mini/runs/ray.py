"""Blocks of questions answered by Ray's actors, on one machine or a cluster (``--engine ray``).

Each actor opens its own context (a bench: models, retriever) once and keeps it for the whole command; blocks go out as actors
come free, and their records come back in the blocks' order. An actor that dies is started again and its block
repeated; a typed error in one stops the run as it would here. What was logged stays, so the command resumes.

Actors and not a `ray.data.Dataset`: a dataset's actors live for one execution, so every method and question set
would load the models again, and its tables would turn nested records into Arrow's types and back.

Without ``RAY_ADDRESS`` a Ray of its own is started, which listens on this machine only and ends with the command. With
it, the cluster there is used; every node must see the root (``S3MINI_ROOT``) under the same path. Actors that
each hold the index and the models need much memory: at scale let servers hold them (``retrieval.kind=remote``,
``generator.engine=served``).
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

from ..errors import DataError, StageError
from ..profile import ROOT
from ..records import Question
from .answering import Executor, Record, Work, in_process
from .machine import THREAD_VARIABLES, cap_threads, cores

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

AHEAD = 4
"""Blocks per actor that may be finished before the one whose turn it is."""
RETRIES = 3
"""Times a block is given to a new process after its process died: more often, and it is the block that kills."""
STARTS = 3
"""Tries to start: on a busy machine Ray may not be up within the 15 seconds it gives itself."""
PLACED = 300
"""Seconds in which every process has to have started: what fits on no machine of a cluster would wait for ever."""
STORE = 256 * 2**20
"""Bytes of shared memory of an own Ray: only questions and records pass through."""

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def open_executor(
    name: str, open_context: Callable[[], object], workers: int | None = None
) -> AbstractContextManager[Executor]:
    """The executor called "local" or "ray", see `RayExecutor`."""
    return nullcontext(in_process) if name == "local" else RayExecutor(open_context, workers)


class _Worker:
    """An actor: a context, opened when first needed, so that what is wrong with it comes back as a typed error."""

    def __init__(self, open_context: Callable[[], object], threads: int) -> None:
        cap_threads(threads)
        self._open_context = open_context
        self._context: object | None = None
        self._work: tuple[str, Work[Any]] | None = None

    def answer(self, key: str, work: list[Any], block: Sequence[Question]) -> list[Record]:
        """The records of a block. ``work`` holds a reference, fetched when its ``key`` is new."""
        import ray

        if self._context is None:
            self._context = self._open_context()
        if self._work is None or self._work[0] != key:
            self._work = key, ray.get(work[0])
        return self._work[1](self._context, block)


class RayExecutor:
    """An `Executor` of ``workers`` actors. A context: its processes end with it, however it is left.

    Args:
        open_context: opens an actor's context; travels to it.
        workers: None takes one per GPU, or one per processor where there is none.

    Raises:
        DataError: more workers than processors.
    """

    def __init__(self, open_context: Callable[[], object], workers: int | None = None) -> None:
        self._open_context, self._wanted = open_context, workers
        self._actors: list[Any] = []

    def __enter__(self) -> RayExecutor:
        if not os.environ.get("RAY_ADDRESS"):
            self._check(cores())
        _begin()
        import ray

        try:
            self._start(ray.cluster_resources())
        except BaseException:
            ray.shutdown()
            raise
        return self

    def _start(self, resources: dict[str, float]) -> None:
        import ray

        processors, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        workers = self._wanted or min(gpus, processors) or processors
        self._check(processors)
        threads, share = processors // workers, gpus_each(workers, gpus)
        variables = {"S3MINI_ROOT": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        variables |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        actor = ray.remote(_Worker).options(
            num_cpus=threads, num_gpus=share, max_restarts=-1, max_task_retries=RETRIES,
            runtime_env={"env_vars": variables},
        )  # fmt: skip
        self._actors = [actor.remote(self._open_context, threads) for _ in range(workers)]
        _, absent = ray.wait(
            [a.__ray_ready__.remote() for a in self._actors], num_returns=workers, timeout=PLACED
        )
        if absent:
            raise StageError(
                f"{len(absent)} of {workers} workers found no place within {PLACED} s: each wants {threads} processors and "
                f"{share:g} GPUs of one machine; give fewer --workers, or more where machines are small"
            )

    def _check(self, processors: int) -> None:
        if self._wanted and self._wanted > processors:
            told = f"{self._wanted} workers on {processors} processors"
            raise DataError(f"{told}: give --workers {processors} or fewer")

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()  # ends the actors, in a cluster too

    def __call__(
        self, work: Work[Any], context: Any, blocks: Iterable[Sequence[Question]]
    ) -> Iterator[list[Record]]:
        """See `Executor`; ``context`` is the caller's own and stays at home.

        Raises:
            StageError: processes died again and again on the same block. Errors of the work, as they are.
        """
        import ray

        shared = ray.put(work)
        waiting = enumerate(blocks)
        free = self._actors * 2  # one block in the making, one on the way
        running: dict[Any, tuple[int, Any]] = {}
        done: dict[int, Any] = {}
        turn = 0
        while True:
            room = AHEAD * len(self._actors) - len(running) - len(done)
            for number, block in islice(waiting, min(len(free), room)):
                actor = free.pop(0)
                running[actor.answer.remote(shared.hex(), [shared], block)] = number, actor
            while turn in done:  # a failure waits its turn, so that what came before it is kept
                yield _fetched(done.pop(turn))
                turn += 1
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            number, actor = running.pop(ready)
            free.append(actor)
            done[number] = ready


def gpus_each(workers: int, gpus: int) -> float:
    """GPUs for each worker: Ray gives whole ones, or a part of one. 3 workers on 2 GPUs get a half each."""
    if not gpus:
        return 0
    return gpus // workers if workers <= gpus else 1 / math.ceil(workers / gpus)


def _begin() -> None:
    """Join the cluster named by ``RAY_ADDRESS``, else start a Ray of our own, reachable from this machine only.

    Raises:
        StageError: it does not start, in several tries; somebody imported ray before its token was made.
    """
    own = not os.environ.get("RAY_ADDRESS")
    if own and "ray" in sys.modules and "RAY_AUTH_TOKEN" not in os.environ:
        raise StageError(
            "this process has imported ray already, which reads its token then: run the command in a process of its own, or "
            "start a Ray (`ray start --head`) and name it by RAY_ADDRESS"
        )
    if own:  # read when ray is imported, here and in its processes
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # false means the loopback address, everywhere
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would give way to everything else here
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    settings: dict[str, Any] = (
        {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": STORE} if own else {}
    )
    for left in reversed(range(STARTS)):
        try:
            ray.init(**QUIET, **settings)
            return
        except Exception as error:  # what Ray raises here has no type of its own
            ray.shutdown()
            if not left:
                logs = "/tmp/ray/session_latest/logs"
                raise StageError(f"Ray does not start: {error} (its logs: {logs})") from error


def _fetched(ready: Any) -> list[Record]:
    import ray

    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise StageError(
            f"{RETRIES + 1} processes died on one block of questions (out of memory?): give fewer --workers or a smaller "
            f"generator.batch_size, then run the same command again: it goes on there. Ray says: {error}"
        ) from error
