"""Forked processes for two threads that work side by side: started, watched, killed, their CPU seconds counted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as all_done
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil

T, R = TypeVar("T"), TypeVar("R")
WORKERS = 2
"""How many stages, or blocks of inputs, are worked at side by side; each with its share of the cores."""
PRELOAD = """
s3mini.grpo s3mini.training.trainer s3mini.evaluation s3mini.report.page s3mini.owndata s3mini.retrieval served_toys
blocks fuzz_outputs fuzz_imports fuzz_requests kills
""".split()
TICK = 0.02  # seconds between two looks at a process
_LOCK = threading.RLock()
"""An exit code can be read once: of two threads that look at all children at once, one would take its own for lost."""
_stop = threading.Event()
_told = 0.0


def forks() -> ForkServerContext:
    """Processes forked from one that has imported everything and done nothing: they begin at once."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What is made of each, `WORKERS` at a time, in their order; what one raises, or Ctrl-C, ends the others as they `wait`."""
    with ExitStack() as stack:
        stack.callback(_stop.clear)  # when all have ended
        pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
        made = [pool.submit(work, item) for item in items]
        try:
            for one in all_done(made, return_when=FIRST_EXCEPTION).done:
                one.result()
        except BaseException:
            _stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [one.result() for one in made]


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    with _LOCK:
        process = forks().Process(target=target, args=arguments)
        process.start()
    return process


def alive(process: BaseProcess) -> bool:
    with _LOCK:
        return process.is_alive()


def wait(process: BaseProcess, until: Callable[[], bool] = lambda: False) -> bool:
    """Until it ends, or ``until`` something is so; whether it ended.

    Raises:
        InterruptedError: what works beside it has failed, or was interrupted.
    """
    while alive(process):
        if until():
            return False
        if _stop.is_set():
            raise InterruptedError("stopped; the same command goes on")
        time.sleep(TICK)
    return True


def kill(process: BaseProcess) -> bool:
    """SIGKILL it; whether that is what it died of."""
    if alive(process) and process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    while alive(process):
        time.sleep(TICK)
    return process.exitcode == -signal.SIGKILL


def own_seconds() -> float:
    """CPU seconds of this process since it was last asked here, by whichever thread."""
    global _told
    with _LOCK:
        before, _told = _told, time.process_time()
        return _told - before


class Clock:
    """CPU seconds that processes took, all together, as far as they were seen: what else the machine does leaves it alone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seen: dict[int, float] = {}

    def read(self, processes: Iterable[BaseProcess]) -> float:
        for pid in (process.pid for process in processes if process.pid is not None):
            with suppress(psutil.Error):  # it has ended
                times = psutil.Process(pid).cpu_times()
                now, before = times.user + times.system, self._seen.get(pid, 0.0)
                self.seconds += now - before if now >= before else now  # else a new one of that number
                self._seen[pid] = now
        return self.seconds
