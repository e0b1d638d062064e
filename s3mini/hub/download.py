"""What a profile needs from the hub: listed, room made sure of, fetched, verified, unpacked, and found the next time.

`catalogue.TABLE` is the list; a profile names its items under ``data.hub``, and the models it names are fetched with them.
Every item is a stage of its own beside the data, ``<folder of the corpus>/.hub/<item>/``, whose manifest holds commits,
sizes and counts: a second call finds everything done without a connection, a killed one goes on in the middle of
a file, and ``make clean`` leaves it alone. Models go to the hub client's cache, where transformers and vLLM look.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError, DownloadError
from ..profile import ROOT, Profile
from ..runs.stages import Stage
from .catalogue import GB, NAMES, TABLE, Item
from .client import Hub, HubFile, Source
from .sizes import ENCODERS, cached, shape_of

# Never a format that can hold code.
_WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model")
_NOT_WEIGHTS = ("onnx/*", "openvino/*", "original/*", "consolidated*", "runs/*", "checkpoint-*/*")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def items(profile: Profile, only: Sequence[str] = ()) -> list[Item]:
    """What a profile needs from the hub, of the names in ``only`` (all of its own when empty).

    Raises:
        DataError: a name that is not in `NAMES`.
    """
    for name in (*only, *profile.data.hub):
        if name not in NAMES:
            raise DataError(f"unknown item {name!r}: choose from {', '.join(NAMES)}")
    wanted = only or (*profile.data.hub, "models")
    chosen = [
        replace(item, key=item.key or item.name)
        for item in TABLE
        if item.name in wanted and (item.name != "questions" or item.key[10:] in profile.data.sets)
    ]
    return [*chosen, *(_model_items(profile) if "models" in wanted else ())]


def _model_items(profile: Profile) -> list[Item]:
    """The models that a profile names by their names on the hub, each once, with the roles they play."""
    named = [(role, getattr(profile, role).path) for role in ("searcher", "generator", "judge")]
    for key in ("other_generator", "sentence_generator"):
        foreign = getattr(profile.evaluation, key)
        named.append((key.replace("_", " "), foreign and foreign.path))
    named.append(("encoder", profile.retrieval.dense.encoder))
    for protocol, method in profile.protocols.items():
        named.append((f"{protocol}, untrained", method.model and method.model.path))
        named.append((f"{protocol}, start", method.start))
        named.append((f"{protocol}, trained", method.checkpoint))
    roles: dict[str, list[str]] = {}
    for role, name in named:
        if name and _HUB_NAME.fullmatch(name) and not Path(name).is_dir() and not (ROOT / name).is_dir():
            roles.setdefault(name, []).append(role)
    made = []
    for name, played in roles.items():
        shape = shape_of(name)
        size = shape.file_bytes if shape else ENCODERS.get(name, (0.0, 0))[0]
        source = Source(name, _WEIGHTS, kind="model", without=_NOT_WEIGHTS)
        about, key = ", ".join(dict.fromkeys(played)), name.replace("/", "--")
        made.append(Item("models", about, (source,), size=size, unpacked=size, key=key))
    return made


@dataclass(frozen=True, slots=True)
class Planned:
    """An item and what is known of it: whether it is here, else its files and the bytes still to come and to keep.

    ``listed`` is False where the hub did not answer (``problem``) and the table's own sizes stand in.
    """

    item: Item
    target: Path
    stage: Stage
    done: bool
    to_fetch: float
    to_keep: float
    files: tuple[HubFile, ...] = ()
    listed: bool = False
    problem: str = ""


def data_folder(profile: Profile) -> Path:
    """Where downloads lie: the folder of the corpus."""
    return profile.resolve(profile.data.corpus).parent


def look(profile: Profile, item: Item) -> Planned:
    """The item as it stands on this machine; no connection is needed."""
    folder = data_folder(profile)
    named = item.target.format(corpus=profile.data.corpus, questions=profile.data.questions)
    target = profile.resolve(named) if "{" in item.target else folder / named
    sources = [f"{s.url or s.repo}@{s.revision} {' '.join(s.files)}" for s in item.sources]
    stage = Stage(profile, f"download/{item.key}", {"hub": "; ".join(sources)}, {"target": target.name})
    stage.path = folder / ".hub" / item.key  # beside the data: profiles share it, and build/ may be removed
    done = stage.done and _present(item, target, stage.manifest.get("facts", {}))
    if item.model:
        from huggingface_hub import constants

        target = Path(constants.HF_HUB_CACHE)
    return Planned(item, target, stage, done, item.size, item.unpacked)


def _present(item: Item, target: Path, facts: dict[str, Any]) -> bool:
    """Whether every file that the manifest names is there, in its size."""
    if item.model:
        sizes = {cached(item.sources[0].repo, path): size for path, size in facts.get("files", {}).items()}
    else:
        sizes = {target.parent / path: size for path, size in facts.get("made", {}).items()}
    return (item.model or bool(sizes)) and all(
        path is not None and path.is_file() and path.stat().st_size == size for path, size in sizes.items()
    )


def plan(profile: Profile, only: Sequence[str] = ()) -> list[Planned]:
    """Every item with what the hub lists for it, or with the table's sizes where the hub cannot be asked.

    Raises:
        DataError: unknown item.
    """
    hub, planned = Hub(), []
    for here in (look(profile, item) for item in items(profile, only)):
        try:
            planned.append(here if here.done else listed(here, hub))
        except DownloadError as error:
            planned.append(replace(here, problem=str(error)))
    return planned


def listed(here: Planned, hub: Hub) -> Planned:
    """An item with its files as the hub lists them, and the bytes still to come.

    Raises:
        DownloadError: the hub cannot be asked, or lists no safe weights.
    """
    item = here.item
    files = [file for source in item.sources for file in hub.list(source)]
    if item.model and not any(file.path.endswith(".safetensors") for file in files):
        raise DownloadError(
            f"{item.sources[0].repo}: publishes no safetensors; other formats can run code when they are read and "
            "are not fetched. Convert them where that does no harm, and name the folder in the profile"
        )
    whole = float(sum(file.size or 0 for file in files))
    coming = max(0.0, whole - sum(_started(here, file) for file in files))
    kept = coming if item.model else whole * item.unpacked / item.size
    return replace(here, files=tuple(files), to_fetch=coming, to_keep=kept, listed=True)


def _started(here: Planned, file: HubFile) -> int:
    """Bytes of a file that came already."""
    if here.item.model:
        copy = cached(file.source.repo, file.path)
        return copy.stat().st_size if copy else 0
    path = here.stage.path / "files" / file.source.repo / file.path
    parts = [path, *path.parent.glob(f".{path.name}.*.part")]
    return min(file.size or 0, max((p.stat().st_size for p in parts if p.is_file()), default=0))


@dataclass(slots=True)
class Disk:
    """The room on the disk of a folder, in bytes: what will be written and kept, what passes through, what is free."""

    where: Path
    free: float
    kept: float = 0.0
    passing: float = 0.0

    @property
    def needed(self) -> float:
        return self.kept + self.passing

    @property
    def short(self) -> bool:
        return self.needed > self.free


def disks(planned: Sequence[Planned], folder: Path | None = None, more: float = 0.0) -> list[Disk]:
    """Every disk that items come to, and ``more`` bytes in ``folder``. An item's files go as soon as they are unpacked."""
    coming = [one for one in planned if not one.done]
    wanted = [(one.target, one.to_keep, 0.0 if one.item.model else one.to_fetch) for one in coming]
    if folder is not None:
        wanted.append((folder, more, 0.0))
    by_device: dict[int, Disk] = {}
    for path, kept, passing in wanted:
        where = next(p for p in (path, *path.parents) if p.exists())
        new = Disk(where, float(shutil.disk_usage(where).free))
        disk = by_device.setdefault(where.stat().st_dev, new)
        disk.kept += kept
        disk.passing = max(disk.passing, passing)
    return list(by_device.values())


def download(
    profile: Profile, only: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None
) -> list[Planned]:
    """Fetch what is not here yet; one item that fails does not keep the others from coming.

    Raises:
        DownloadError: too little room (before anything is fetched), or one or more items failed (after the others came).
        DataError: unknown item; a file that is not what it should be. StageError: the disk is full.
    """
    planned = plan(profile, only)
    failed = [one.problem for one in planned if one.problem]
    coming = [one for one in planned if one.listed]
    if short := [disk for disk in disks(coming) if disk.short]:
        lines = (f"{one.where}: {one.needed / GB:.1f} GB needed, {one.free / GB:.1f} free" for one in short)
        told = "; ".join(lines)
        raise DownloadError(
            f"too little room on the disk: {told}. Free some, fetch less at a time (--only), or put the data elsewhere "
            "(--set data.corpus=…, HF_HOME for models)"
        )
    hub = Hub()
    for one in planned:
        if one.done:
            tell(f"{one.item.key}: here")
        elif one.listed:
            try:
                tell(f"{one.item.key}: {_facts(fetch(one, hub))}")
            except (DownloadError, DataError) as error:
                failed.append(str(error))
    if failed:
        raise DownloadError("\n  ".join([f"{len(failed)} of {len(planned)} items are not here", *failed]))
    return planned


def fetch(one: Planned, hub: Hub) -> dict[str, Any]:
    """Fetch, verify and unpack one item; returns its facts."""
    from .unpack import UNPACKERS

    item, target = one.item, one.target
    with one.stage as stage:
        facts: dict[str, Any] = {}
        raw = stage.dir / "files"
        if item.model:
            for file in one.files:
                hub.fetch_cached(file)
        else:
            sources = [hub.fetch(file, raw / file.source.repo) for file in one.files]
            facts = UNPACKERS[item.name](sources, target)
            paths = [target] if target.is_file() else sorted(target.rglob("[!.]*.jsonl"))
            facts["made"] = {p.relative_to(target.parent).as_posix(): p.stat().st_size for p in paths}
            shutil.rmtree(raw)
        facts["files"] = {file.path: file.size for file in one.files}
        facts["commits"] = {file.source.repo: file.commit or file.source.url for file in one.files}
        stage.finish(**facts)
    return facts


def _facts(facts: dict[str, Any]) -> str:
    size = sum(n or 0 for n in facts["files"].values())
    counted = [f"{facts[k]:,} {k}" for k in ("lines", "vectors") if k in facts]
    if isinstance(facts.get("questions"), dict):
        counted.append(f"{sum(facts['questions'].values()):,} questions")
    return ", ".join([f"fetched and verified, {size / GB:.2f} GB", *counted])
