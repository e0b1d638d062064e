"""What this machine has, held against what a profile needs: what is missing, and the command that gets it.

Works before anything is downloaded, without a GPU and on a machine where packages are missing: everything heavy is
imported late, and what cannot be looked at is said to be so. Sizes and hours are computed in `needs`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..errors import S3Error
from ..hub.catalogue import GB
from ..hub.download import Planned, items, look
from ..hub.sizes import Part
from ..profile import ROOT, ModelSpec, Profile
from ..runs.machine import cores, machine
from . import needs
from .hours import CARDS, Speed, cpu_operations, hours

State = Literal["ok", "note", "missing"]
SHOWN = ("torch", "transformers", "trl", "faiss-cpu", "faiss-gpu", "pyserini", "vllm", "peft")
_WAIT = 3.0  # seconds for an answer from the network


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: what there is, what is needed, and what to do where that is not enough."""

    what: str
    has: str
    needed: str = ""
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as its driver lists it; memory in bytes."""

    name: str
    memory: float
    free: float


@dataclass
class Examination:
    """What `examine` found, ready to be shown."""

    profile: Profile
    machine: list[Check] = field(default_factory=list)
    packages: list[Check] = field(default_factory=list)
    data: list[Check] = field(default_factory=list)
    memory: list[Part] = field(default_factory=list)
    disk: list[Part] = field(default_factory=list)
    training: list[tuple[str, list[Part]]] | None = None
    answering: list[tuple[str, list[Part]]] | None = None
    hours: list[tuple[str, float | None, str]] = field(default_factory=list)
    assumed: str = ""  # the card that hours are computed for

    @property
    def checks(self) -> list[Check]:
        return [*self.machine, *self.packages, *self.data]

    @property
    def missing(self) -> list[Check]:
        return [check for check in self.checks if check.state == "missing"]

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def examine(profile: Profile) -> Examination:
    """Look at this machine with a profile's eyes; a few seconds, most of them waiting for the network."""
    found = Examination(profile)
    gpus = list_gpus()
    found.memory, found.disk = needs.memory_parts(profile), needs.disk_parts(profile)
    if needs.big(profile):
        found.answering = needs.gpu_parts(profile, False)
        found.training = needs.gpu_parts(profile, True) if profile.data.train_sets else None
    planned = [look(profile, item) for item in items(profile)] if _has("huggingface_hub") else []
    found.data = [
        *_local_data(profile, {one.target for one in planned}),
        *(_hub_item(profile, one) for one in planned),
    ]
    found.machine = [*_machine_checks(profile, found, gpus, planned), *_service_checks(profile)]
    found.packages = package_checks(profile)
    speed = _speed(profile, gpus)
    if speed is not None:
        found.assumed = f"{speed.count} × {speed.name}{'' if gpus else ', which the profile is laid out for'}"
    found.hours = hours(profile, speed)
    return found


# -------------------------------------------------------------------------------------- machine


def list_gpus() -> list[Gpu]:
    """The GPUs that the NVIDIA driver lists, without loading torch; none where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in told.splitlines()]
    return [
        Gpu(r[0], float(r[1]) * 2**20, float(r[2]) * 2**20) for r in rows if len(r) == 3 and r[1].isdigit()
    ]


def _speed(profile: Profile, gpus: Sequence[Gpu]) -> Speed | None:
    if not needs.big(profile) or profile.gpu is None:
        return None
    names = [card for card in CARDS if gpus and card in gpus[0].name]
    card = names[0] if names else profile.gpu.card
    if card not in CARDS:
        return None
    if not gpus:
        return Speed(card, *CARDS[card], profile.gpu.count)
    return Speed(card, *CARDS[card], len(gpus), cpu_operations())


def _machine_checks(
    profile: Profile, found: Examination, gpus: Sequence[Gpu], planned: Sequence[Planned]
) -> Iterator[Check]:
    here = machine()
    yield Check("system", f"{here['system']}, {here['processor']}")
    wanted = 8 if needs.big(profile) else 2
    yield Check("cores", str(cores()), f"{wanted} or more", "ok" if cores() >= wanted else "note")
    memory, need = here["memory_gib"] * 2**30, sum(part.size for part in found.memory)
    short = memory < need
    remedy = "a machine with more memory, or an index served elsewhere (--set retrieval.kind=remote, retrieval.url=…)"
    yield Check("memory", size(memory), size(need), "missing" if short else "ok", remedy if short else "")
    yield _gpu_check(profile, found, gpus)
    yield from _disk_checks(profile, found, planned)
    yield _java_check()
    if planned:
        yield _hub_check(not all(_there(one) for one in planned))


def _gpu_check(profile: Profile, found: Examination, gpus: Sequence[Gpu]) -> Check:
    has = ", ".join(f"{gpu.name} ({size(gpu.memory)})" for gpu in gpus) or "none"
    if not needs.big(profile):
        return Check("GPU", has, "none")
    assert profile.gpu is not None
    if found.answering is None:
        return Check("GPU", has, "unknown: no config.json of its models here", "note")
    answer = needs.total(found.answering)
    train = needs.total(found.training) if found.training is not None else answer
    laid_out = f"{profile.gpu.count} × {profile.gpu.card} ({profile.gpu.memory_gb:g} GB)"
    needed = f"{size(train)} to train, {size(answer)} to answer; laid out for {laid_out}"
    memory = sum(gpu.memory for gpu in gpus)
    if memory < answer:
        return Check(
            "GPU", has, needed, "missing", f"a machine with {laid_out}; `--profile mini` needs no GPU"
        )
    if memory < train:
        remedy = "enough to answer and evaluate, not to train"
        return Check("GPU", has, needed, "note", remedy)
    return Check("GPU", has, needed)


def _disk_checks(profile: Profile, found: Examination, planned: Sequence[Planned]) -> Iterator[Check]:
    wanted: dict[int, tuple[Path, float]] = {}
    jobs = [(one.target, one.room) for one in planned if not one.done and not _there(one)]
    for path, need in [*jobs, (profile.build, sum(part.size for part in found.disk))]:
        where = next(p for p in (path, *path.parents) if p.exists())
        device = where.stat().st_dev
        first, before = wanted.get(device, (where, 0.0))
        wanted[device] = (first, before + need)
    for where, need in wanted.values():
        free = float(shutil.disk_usage(where).free)
        remedy = "free some room, or put data elsewhere: --set data.corpus=…, HF_HOME for models, S3MINI_ROOT for all"
        short = free < need
        yield Check(
            f"disk of {_short(where)}",
            f"{size(free)} free",
            size(need),
            "missing" if short else "ok",
            remedy if short else "",
        )


def _java_check() -> Check:
    try:
        from ..retrieval.java import find_java

        java = find_java()
    except S3Error as error:
        return Check("Java", "none that fits", "21 or newer", "missing", str(error))
    except ImportError as error:
        return Check("Java", f"cannot be looked for: {error.name} is missing", "21 or newer", "note")
    return Check("Java", f"{java.major}, {_short(java.home)}", "21 or newer")


def _hub_check(wanted: bool) -> Check:
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    needed = "to download" if wanted else "no more: all is here"
    state: State = "missing" if wanted else "ok"
    if constants.is_offline_mode():
        return Check("hub", "HF_HUB_OFFLINE is set", needed, state, "unset HF_HUB_OFFLINE" if wanted else "")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_WAIT).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "connect, set HTTPS_PROXY, or name a mirror by HF_ENDPOINT; or run `s3mini download` elsewhere and copy the data"
        return Check("hub", f"{endpoint} is out of reach ({reason})", needed, state, remedy if wanted else "")
    return Check("hub", f"{endpoint} answers", needed)


def _service_checks(profile: Profile) -> Iterator[Check]:
    """The servers that the profile names."""
    served: dict[str, list[str]] = {}
    for role in ("generator", "judge", "searcher"):
        spec: ModelSpec = getattr(profile, role)
        if spec.engine == "served" and spec.url:
            served.setdefault(spec.url, []).append(role)
    if profile.retrieval.kind == "remote" and profile.retrieval.url:
        served.setdefault(profile.retrieval.url, []).append("retriever")
    for url, roles in served.items():
        where = urlsplit(url)
        port = where.port or (443 if where.scheme == "https" else 80)
        try:
            socket.create_connection((where.hostname or "localhost", port), _WAIT).close()
            yield Check(", ".join(roles), f"{url} answers", url)
        except OSError:
            role, more = roles[0], ""
            if role == "judge":  # alone at a url of its own
                role, more = "generator", f" --set generator.path={profile.judge.path} --port {port}"
            start = f"start it when it is needed: s3mini serve {role} --profile {profile.name}{more}"
            yield Check(", ".join(roles), "no server there", url, "note", start)


# ------------------------------------------------------------------------------------- packages


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def package_checks(profile: Profile) -> list[Check]:
    """Packages by the extra that brings them, each against the bounds that the package declares."""
    extras = ["", "cpu", "train"]
    if needs.big(profile):
        extras[1] = "gpu"
    wanted: dict[str, list[str]] = {extra: [] for extra in extras}
    try:
        declared = metadata.requires("s3mini") or []
    except metadata.PackageNotFoundError:
        note = "install it, so that its packages can be checked: pip install -e ."
        return [Check("s3mini", "runs from its folder, not installed", "", "note", note)]
    for line in declared:
        of = re.search(r"extra == ['\"](\w+)['\"]", line)
        name = of[1] if of else ""
        if name in wanted and "s3mini[" not in line:
            wanted[name].append(line.partition(";")[0].strip())
    checks = []
    for extra, requirements in wanted.items():
        if (
            extra == "train"
            and profile.grpo.lora_rank
            and not any(r.startswith("peft") for r in requirements)
        ):
            requirements = [*requirements, "peft"]
        troubles = [t for r in requirements if (t := _trouble(r))]
        shown = [f"{n} {v}" for n in SHOWN if any(_name(r) == n for r in requirements) and (v := _version(n))]
        has = ", ".join(troubles) or ", ".join(shown) or f"{len(requirements)} packages"
        target = f"pip install 's3mini[{extra}]'" if extra else "pip install s3mini"
        if extra == "gpu":  # faiss-gpu and faiss-cpu exclude each other
            target = "an environment of its own: conda env create -f environment.yml"
        remedy = target if troubles else ""
        label = {"": "packages", "cpu": "… to search", "gpu": "… for GPUs", "train": "… to train"}[extra]
        checks.append(
            Check(label, has, f"{len(requirements)} packages", "missing" if troubles else "ok", remedy)
        )
    return checks


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[]", requirement, maxsplit=1)[0]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _trouble(requirement: str) -> str | None:
    """What is wrong with a required package; None when it fits."""
    name = _name(requirement)
    version = _version(name)
    if version is None:
        if name == "faiss-gpu" and _version("faiss-cpu"):
            return "faiss-cpu is installed in faiss-gpu's place"
        return f"{name} is missing" if not (name == "faiss-cpu" and _version("faiss-gpu")) else None
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return None
    wanted = Requirement(requirement).specifier
    return None if wanted.contains(version, prereleases=True) else f"{name} {version} is not {wanted}"


# ----------------------------------------------------------------------------------------- data


def _local_data(profile: Profile, coming: set[Path]) -> Iterator[Check]:
    """What the profile names by a path and no download (to ``coming``) brings."""
    data = profile.data
    command = "check the profile's data section (--set data.corpus=…)"
    corpus, questions = profile.resolve(data.corpus), profile.resolve(data.questions)
    if corpus not in coming:
        yield _path_check("corpus", corpus, Path.is_file, command)
    if not any(path == questions or path.parent == questions for path in coming):
        yield _path_check("questions", questions, Path.is_dir, command)
    models = {role: getattr(profile, role).path for role in ("searcher", "generator", "judge")}
    brought = (
        {item.sources[0].repo for item in items(profile, ["models"])} if _has("huggingface_hub") else set()
    )
    for role, path in models.items():
        if path not in brought:
            yield _path_check(role, ROOT / path, _is_model, f"check the profile's {role}.path")


def _is_model(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _path_check(what: str, path: Path, test: Callable[[Path], bool], remedy: str) -> Check:
    good = test(path)
    return Check(
        what,
        _short(path) if good else "not there",
        _short(path),
        "ok" if good else "missing",
        "" if good else remedy,
    )


def _there(one: Planned) -> bool:
    """Whether something the profile can use is there, fetched by `download` or not."""
    from ..hub.sizes import _cached_config

    if one.done:
        return True
    if one.item.model:
        config = _cached_config(one.item.sources[0].repo)
        return config is not None and _is_model(config.parent)
    if one.item.name == "questions":
        return one.target.is_dir() and any(one.target.glob("*.jsonl"))
    return one.target.is_file() or (one.target.is_dir() and one.item.name == "mirage")


def _hub_item(profile: Profile, one: Planned) -> Check:
    name = one.item.sources[0].repo if one.item.model else one.item.key
    kept = one.to_fetch if one.item.model else one.to_keep
    needed = f"{one.item.about}, {size(kept)}" if kept else one.item.about
    if one.done:
        return Check(name, "here, verified", needed)
    if _there(one):
        return Check(name, "here", needed)
    return Check(name, "not here", needed, "missing", f"s3mini download --profile {profile.name}")


def size(number: float) -> str:
    """Bytes for people: 1 GB is 10⁹ of them."""
    return f"{number / GB:.1f} GB" if number >= GB / 10 else f"{number / 1e6:.0f} MB"


def _short(path: Path) -> str:
    for base, sign in ((ROOT, ""), (Path.home(), "~/")):
        if path == base:
            return sign or "."
        if path.is_relative_to(base):
            return sign + str(path.relative_to(base))
    return str(path)
