"""The machine and the software a result was made with, how many threads to use on it, and what must not leave it."""

import ctypes
import locale
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from .. import __version__

_BRACKETS = re.compile(r"\[(.*)\](:\d+)?")
_NETWORK = re.compile(r"^([0-9a-fA-F.]*:[0-9a-fA-F:.]*)(/\d+)$")  # of IPv6
LIBRARIES = (
    "torch", "transformers", "trl", "pyserini", "faiss-cpu", "faiss-gpu", "sentence-transformers", "numpy", "pymilvus",
    "milvus-lite",
)  # fmt: skip
LOAD = Path("/proc/loadavg")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WORTH = 1.5
"""Times by which bfloat16 has to be faster: less is no reason for digits other than most machines'."""
_held = 0
_kept = False
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries a result depends on."""
    installed = {"python": platform.python_version(), "s3mini": __version__}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def faster_type(seconds: Mapping[str, float], worth: float = WORTH) -> Literal["float32", "bfloat16"]:
    """ "bfloat16" where the same work, timed in both types, is more than ``worth`` times as fast in it."""
    return "bfloat16" if seconds["bfloat16"] * worth < seconds["float32"] else "float32"


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """System, processor, usable cores, memory in GiB, and the GPU (None while torch is not loaded)."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        memory = 0.0
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": next(names, platform.processor() or platform.machine()),
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "gpu": gpu,
    }


def cap_threads(threads: int | None = None) -> int:
    """Cap the numeric libraries at ``threads`` (None: the usable cores), unless the caller's environment
    already says; returns the cap in force. More threads than cores slow small kernels down a hundredfold.

    Where other programs are at work, too, threads that wait for each other are told to sleep meanwhile: by default they
    turn round and round, on the very core that the one they wait for could use.
    """
    wanted = threads or cores()
    asked = os.environ.setdefault("OMP_NUM_THREADS", str(wanted))
    capped = min(wanted, int(asked)) if asked.isdigit() and int(asked) > 0 else wanted
    for name in THREAD_VARIABLES:  # MKL would otherwise take its own count, whatever OpenMP's is
        os.environ.setdefault(name, str(capped))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(capped)
    elif capped > 1 and not any(name in os.environ for name in WAITING) and 0 < busy() > cores() - capped:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when a library begins; alone it costs a tenth
    return capped


@contextmanager
def memory_kept(kept: bool = True) -> Iterator[None]:
    """Inside, what is freed is kept for the next tensors, until `give_back_memory`; or, within such a block, not.

    glibc returns large blocks at once, and the system clears every page of the next ones anew: a sixth of an update's time. Where
    tensors grow, as caches of rollouts do, what is kept is of no use to the next, larger one.
    """
    global _kept
    before = _kept
    _keep(kept)
    try:
        yield
    finally:
        _keep(before)


def _keep(kept: bool) -> None:
    global _kept
    _kept = kept
    with suppress(AttributeError, OSError, TypeError):  # other C libraries have no such call
        libc = ctypes.CDLL(None)
        for option, value in (
            (M_TRIM_THRESHOLD, 2**31 - 1 if kept else 2**26),
            # Of older ones the most; where any option is set, glibc no longer chooses this one itself.
            (M_MMAP_THRESHOLD, 2**25),
            (M_MMAP_MAX, 0 if kept else 2**16),  # blocks that the system is asked for one by one
        ):
            libc.mallopt(option, value)
    give_back_memory()


def give_back_memory(beyond: int = 0) -> None:
    """Return to the system what was freed, where this process holds ``beyond`` bytes more than when it last did so.

    glibc keeps it: tensors of many sizes leave gaps that the next ones do not fit in.
    """
    global _held
    if beyond and _resident() < _held + beyond:
        return
    with suppress(AttributeError, OSError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    _held = _resident()


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def busy(looks: int = 5, seconds: float = 0.01) -> int:
    """How many threads of the machine want a core beside this one, at the least of some ``looks``; 0 where it does not say."""
    running = []
    for look in range(looks):
        time.sleep(seconds if look else 0)
        try:
            running.append(int(LOAD.read_text().split()[3].split("/")[0]))
        except (OSError, ValueError, IndexError):
            return 0
    return max(min(running) - 1, 0)


def keep_local() -> None:
    """Tell other HTTP libraries of this process and of those it starts that this machine needs no proxy.

    They read NO_PROXY, some its one spelling and some the other, and some fail on part of it.
    """
    names = {name.lower() for name, value in os.environ.items() if value}
    if not names & {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy"}:
        return
    for variable in ("no_proxy", "NO_PROXY"):
        listed = os.environ.get(variable) or os.environ.get(variable.swapcase()) or ""
        entries = [_as_httpx_reads(entry) for entry in listed.replace(",", " ").split()]
        if "*" not in entries:
            entries += ["localhost", "127.0.0.1", "::1", "0.0.0.0"]
        os.environ[variable] = ",".join(dict.fromkeys(entries))


def _as_httpx_reads(entry: str) -> str:
    """An entry of NO_PROXY on which httpx, and the hub's client with it, does not fail.

    Brackets are taken off, with the port. A network of IPv6, which other libraries do not know either, becomes a URL, as which
    `http_client` reads it still.
    """
    return entry if "://" in entry else _NETWORK.sub(r"http://[\1]\2", _BRACKETS.sub(r"\1", entry))


def utf8_locale() -> dict[str, str]:
    """Variables under which other programs read paths as UTF-8 where Python does; none where they do already.

    Java goes by the locale: in C, which is that of a bare container, or in one that is named and not installed, it cannot
    name a file that is not ASCII.
    """
    python, others = sys.getfilesystemencoding().lower(), locale.nl_langinfo(locale.CODESET).lower()
    return {"LC_ALL": "C.UTF-8"} if python == "utf-8" != others else {}
