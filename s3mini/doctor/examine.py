"""What this machine has, held against what a profile needs: what is missing, and the command that gets it.

Works before anything is downloaded, without a GPU and on a machine where packages are missing: everything heavy is
imported late, and what cannot be looked at is said to be so. Sizes are computed in `footprint`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..errors import S3Error
from ..hub.catalogue import GB
from ..hub.download import Planned, disks, items, look
from ..hub.sizes import cached
from ..profile import ROOT, ModelSpec, Profile
from ..runs.machine import cores, machine
from . import footprint
from .footprint import Part

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

    def unless(self, good: bool, remedy: str, state: State = "missing") -> Check:
        """This check, passed where ``good``; else in ``state``, with its remedy."""
        return self if good else replace(self, state=state, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as its driver lists it; memory in bytes."""

    name: str
    memory: float


@dataclass
class Examination:
    """What `examine` saw. What lies on GPUs is by role, None where nothing is known or needed."""

    profile: Profile
    memory: list[Part]
    disk: list[Part]
    training: dict[str, list[Part]] | None = None
    answering: dict[str, list[Part]] | None = None
    machine: list[Check] = field(default_factory=list)
    packages: list[Check] = field(default_factory=list)
    data: list[Check] = field(default_factory=list)

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
    seen = Examination(profile, footprint.memory_parts(profile), footprint.disk_parts(profile))
    if profile.gpu is not None:
        seen.answering = footprint.gpu_parts(profile, False)
        seen.training = footprint.gpu_parts(profile, True) if profile.data.train_sets else None
    hub = importlib.util.find_spec("huggingface_hub") is not None
    planned = [look(profile, item) for item in items(profile)] if hub else []
    seen.data = [*_local_data(profile, planned), *(_hub_item(profile, one) for one in planned)]
    seen.machine = [*_machine_checks(seen, planned), *_service_checks(profile)]
    seen.packages = package_checks(profile)
    return seen


def list_gpus() -> list[Gpu]:
    """The GPUs that the NVIDIA driver lists, without loading torch; none where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in told.splitlines()]
    return [Gpu(row[0], float(row[1]) * 2**20) for row in rows if len(row) == 2 and row[1].isdigit()]


def _machine_checks(seen: Examination, planned: Sequence[Planned]) -> Iterator[Check]:
    here, profile = machine(), seen.profile
    yield Check("system", f"{here['system']}, {here['processor']}")
    wanted = 2 if profile.gpu is None else 8
    yield Check("cores", str(cores()), f"{wanted} or more").unless(cores() >= wanted, "", "note")
    memory, need = here["memory_gib"] * 2**30, sum(part.size for part in seen.memory)
    remedy = "a machine with more memory, or an index served elsewhere (--set retrieval.kind=remote, retrieval.url=…)"
    yield Check("memory", size(memory), size(need)).unless(memory >= need, remedy)
    yield _gpu_check(seen)
    coming = [one for one in planned if not _there(one)]
    remedy = (
        "free some room, or put data elsewhere: --set data.corpus=…, HF_HOME for models, S3MINI_ROOT for all"
    )
    for disk in disks(coming, profile.build, sum(part.size for part in seen.disk)):
        check = Check(f"disk of {_short(disk.where)}", f"{size(disk.free)} free", size(disk.needed))
        yield check.unless(not disk.short, remedy)
    yield _java_check()
    if planned:
        yield _hub_check(bool(coming))


def _gpu_check(seen: Examination) -> Check:
    gpus, layout = list_gpus(), seen.profile.gpu
    has = ", ".join(f"{gpu.name} ({size(gpu.memory)})" for gpu in gpus) or "none"
    if layout is None:
        return Check("GPU", has, "none")
    if seen.answering is None:
        return Check("GPU", has, "unknown: no config.json of its models here", "note")
    answer, train = footprint.total(seen.answering), footprint.total(seen.training or seen.answering)
    laid_out = f"{layout.count} × {layout.card} ({layout.memory_gb:g} GB)"
    needed = f"{size(train)} to train, {size(answer)} to answer; laid out for {laid_out}"
    check, memory = Check("GPU", has, needed), sum(gpu.memory for gpu in gpus)
    if memory < answer:
        return check.unless(False, f"a machine with {laid_out}; `--profile mini` needs no GPU")
    return check.unless(memory >= train, "enough to answer and evaluate, not to train", "note")


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
    import httpx
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    needed = "to download" if wanted else "no more: all is here"
    if constants.is_offline_mode():
        return Check("hub", "HF_HUB_OFFLINE is set", needed).unless(not wanted, "unset HF_HUB_OFFLINE")
    try:
        httpx.head(endpoint, timeout=_WAIT)  # whatever it says, it answers
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:  # at last: its proxy's
        has = f"{endpoint} is out of reach ({error})"
        remedy = "connect, set HTTPS_PROXY, or name a mirror by HF_ENDPOINT; or run `s3mini download` elsewhere and copy the data"
        return Check("hub", has, needed).unless(not wanted, remedy)
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
                path = shlex.quote(f"generator.path={profile.judge.path}")
                role, more = "generator", f" --set {path} --port {port}"
            start = f"start it when it is needed: s3mini serve {role} {profile.option}{more}"
            yield Check(", ".join(roles), "no server there", url, "note", start)


def package_checks(profile: Profile) -> list[Check]:
    """Packages by the extra that brings them, each against the bounds that the package declares."""
    try:
        declared = metadata.requires("s3mini") or []
    except metadata.PackageNotFoundError:
        note = "install it, so that its packages can be checked: pip install -e ."
        return [Check("s3mini", "runs from its folder, not installed", "", "note", note)]
    wanted: dict[str, list[str]] = {"": [], "gpu" if profile.gpu else "cpu": [], "train": []}
    for line in declared:
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        name = extra[1] if extra else ""
        if name in wanted and "s3mini[" not in line:
            wanted[name].append(line.partition(";")[0].strip())
    if profile.grpo.lora_rank and not any(line.startswith("peft") for line in wanted["train"]):
        wanted["train"].append("peft")
    return [_extra_check(extra, requirements) for extra, requirements in wanted.items()]


def _extra_check(extra: str, requirements: Sequence[str]) -> Check:
    label, remedy = {
        "": ("packages", "pip install s3mini"),
        "cpu": ("… to search", "pip install 's3mini[cpu]'"),
        # faiss-gpu and faiss-cpu exclude each other
        "gpu": ("… for GPUs", "an environment of its own: conda env create -f environment.yml"),
        "train": ("… to train", "pip install 's3mini[train]'"),
    }[extra]
    troubles = [trouble for requirement in requirements if (trouble := _trouble(requirement))]
    names = {_name(requirement) for requirement in requirements}
    shown = [f"{name} {version}" for name in SHOWN if name in names and (version := _version(name))]
    count = f"{len(requirements)} packages"
    return Check(label, ", ".join(troubles or shown) or count, count).unless(not troubles, remedy)


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


def _local_data(profile: Profile, planned: Sequence[Planned]) -> Iterator[Check]:
    """What the profile names by a path and no download brings."""
    coming, brought = {one.target for one in planned}, {one.item.sources[0].repo for one in planned}
    corpus, questions = profile.resolve(profile.data.corpus), profile.resolve(profile.data.questions)
    wanted = []  # (what, where, whether it is there, the section of the profile that names it)
    data = "data section (--set data.corpus=…)"
    if corpus not in coming:
        wanted.append(("corpus", corpus, corpus.is_file(), data))
    if questions not in coming and questions not in {path.parent for path in coming}:
        wanted.append(("questions", questions, questions.is_dir(), data))
    for role in ("searcher", "generator", "judge"):
        if (name := getattr(profile, role).path) not in brought:
            wanted.append((role, ROOT / name, _is_model(ROOT / name), f"{role}.path"))
    for what, path, there, named in wanted:
        check = Check(what, _short(path) if there else "not there", _short(path))
        fetched = profile.data.wheels and path.is_relative_to(profile.build)
        remedy = f"s3mini download --profile {profile.name}" if fetched else f"check the profile's {named}"
        yield check.unless(there, remedy)


def _is_model(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _there(one: Planned) -> bool:
    """Whether something the profile can use is there, fetched by `download` or not."""
    if one.done:
        return True
    if one.item.model:
        config = cached(one.item.sources[0].repo, "config.json")
        return config is not None and _is_model(config.parent)
    if one.item.name == "questions":
        return any(one.target.glob("*.jsonl"))
    return one.target.is_file() or (one.target.is_dir() and one.item.name == "mirage")


def _hub_item(profile: Profile, one: Planned) -> Check:
    name = one.item.sources[0].repo if one.item.model else one.item.key
    needed = f"{one.item.about}, {size(one.to_keep)}" if one.to_keep else one.item.about
    there = _there(one)
    has = "here, verified" if one.done else "here" if there else "not here"
    return Check(name, has, needed).unless(there, f"s3mini download {profile.option}")


def size(number: float) -> str:
    """Bytes for people: 1 GB is 10⁹ of them."""
    return f"{number / GB:.1f} GB" if number >= GB / 10 else f"{number / 1e6:.0f} MB"


def _short(path: Path) -> str:
    for base, sign in ((ROOT, ""), (Path(os.path.expanduser("~")), "~/")):
        if path == base:
            return sign or "."
        if path.is_relative_to(base):
            return sign + str(path.relative_to(base))
    return str(path)
