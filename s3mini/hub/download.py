"""What a profile needs from the hub: listed, room made sure of, fetched, verified, unpacked, and found the next time.

`published.TABLE` is the list; a profile names its items under ``data.hub``, and the models it names are fetched with them.
Every item is a stage of its own beside the data, ``<folder of the corpus>/.hub/<item>/``, whose manifest holds commits,
sizes and counts: a second call finds everything done without a connection, a killed one goes on in the middle of
a file, and ``make clean`` leaves it alone. Models go to the hub client's cache, where transformers and vLLM look.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError, DownloadError
from ..profile import ROOT, ModelSpec, Profile
from ..runs.stages import Stage
from .catalogue import GB, NAMES, TABLE, Item
from .client import Hub, HubFile, Source
from .sizes import ENCODERS, shape_of

_WEIGHTS = (
    "*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model"
)  # never a format that can hold code  # fmt: skip
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
    return [*chosen, *(model_items(profile) if "models" in wanted else ())]


def model_items(profile: Profile) -> list[Item]:
    """The models that a profile names by their names on the hub, each once."""
    roles: dict[str, list[str]] = {}
    for role, name in hub_models(profile):
        roles.setdefault(name, []).append(role)
    made = []
    for name, played in roles.items():
        shape = shape_of(name)
        size = shape.file_bytes if shape else ENCODERS.get(name, (0.0, 0))[0]
        source = Source(name, _WEIGHTS, kind="model", without=_NOT_WEIGHTS)
        made.append(
            Item(
                "models", ", ".join(dict.fromkeys(played)), (source,), size=size, key=name.replace("/", "--")
            )
        )
    return made


def hub_models(profile: Profile) -> list[tuple[str, str]]:
    """(role, name on the hub) of every model of a profile that is no folder here."""
    specs: list[tuple[str, ModelSpec | None]] = [
        (role, getattr(profile, role)) for role in ("searcher", "generator", "judge")
    ]
    specs.append(("other generator", profile.evaluation.other_generator))
    named = [(role, spec.path) for role, spec in specs if spec is not None]
    named.append(("encoder", profile.retrieval.dense.encoder))
    for protocol, method in profile.protocols.items():
        if method.model is not None:
            named.append((f"{protocol}, untrained", method.model.path))
        if method.checkpoint is not None:
            named.append((f"{protocol}, trained", method.checkpoint))
    return [
        (role, name)
        for role, name in named
        if _HUB_NAME.fullmatch(name) and not Path(name).is_dir() and not (ROOT / name).is_dir()
    ]


# ------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class Planned:
    """An item and what is known of it: whether it is here, else its files and the bytes still to come and to keep.

    ``listed`` is False where the hub did not answer and the table's own sizes stand in.
    """

    item: Item
    target: Path
    stage: Stage
    done: bool
    files: tuple[HubFile, ...] = ()
    to_fetch: float = 0.0
    to_keep: float = 0.0
    listed: bool = True

    @property
    def room(self) -> float:
        """Bytes that its folder needs at the worst moment: what comes, and beside it what is made of it."""
        return self.to_fetch + (0.0 if self.item.model else self.to_keep)


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
        target = cache_folder()
    return Planned(item, target, stage, done, to_fetch=item.size, to_keep=item.unpacked, listed=False)


def fetched(profile: Profile, name: str) -> Path | None:
    """Where `download` left an item that the profile names in ``data.hub``, whole; else None."""
    if name not in profile.data.hub:
        return None
    here = look(profile, *items(profile, [name]))
    return here.target if here.done else None


def cache_folder() -> Path:
    """The hub client's cache, where models lie."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _present(item: Item, target: Path, facts: dict[str, Any]) -> bool:
    """Whether every file that the manifest names is there, in its size."""
    if item.model:
        from huggingface_hub import try_to_load_from_cache

        name = item.sources[0].repo
        found = [(try_to_load_from_cache(name, path), size) for path, size in facts.get("files", {}).items()]
        return all(isinstance(p, str) and Path(p).stat().st_size == size for p, size in found)
    made = facts.get("made", {})
    root = target.parent
    return bool(made) and all(
        (root / p).is_file() and (root / p).stat().st_size == n for p, n in made.items()
    )


def plan(
    profile: Profile, only: Sequence[str] = (), hub: Hub | None = None, guess: bool = False
) -> list[Planned]:
    """Every item with what the hub lists for it; ``guess`` puts the table's sizes where the hub cannot be asked.

    Raises:
        DownloadError: the hub cannot be asked (unless ``guess``), or lists no safe weights. DataError: unknown item.
    """
    hub = hub or Hub()
    made = []
    for item in items(profile, only):
        here = look(profile, item)
        if not here.done:
            try:
                here = listed(here, hub)
            except DownloadError:
                if not guess:
                    raise
        made.append(here)
    return made


def listed(here: Planned, hub: Hub) -> Planned:
    """An item with its files as the hub lists them, and the bytes still to come."""
    item = here.item
    files = [file for source in item.sources for file in hub.list(source)]
    if item.model and not any(file.path.endswith(".safetensors") for file in files):
        raise DownloadError(
            f"{item.sources[0].repo}: publishes no safetensors; other formats can run code when they are read and "
            "are not fetched. Convert them where that does no harm, and name the folder in the profile"
        )
    whole = float(sum(file.size or 0 for file in files))
    grown = item.unpacked / item.size if item.size and not item.model else 0.0
    here_already = sum(_started(here, file) for file in files)
    return replace(
        here, files=tuple(files), to_fetch=max(0.0, whole - here_already), to_keep=whole * grown, listed=True
    )


def _started(here: Planned, file: HubFile) -> int:
    if here.item.model:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(file.source.repo, file.path)
        return Path(found).stat().st_size if isinstance(found, str) else 0
    path = here.stage.path / "files" / file.source.repo / file.path
    parts = [path, *path.parent.glob(f".{path.name}.*.part")] if path.parent.is_dir() else []
    return min(file.size or 0, max((p.stat().st_size for p in parts if p.is_file()), default=0))


def room_lacking(planned: Sequence[Planned]) -> list[tuple[Path, float, float]]:
    """(folder, bytes needed, bytes free) of each disk with too little room. Items' own files go as soon as they are unpacked."""
    disks: dict[int, tuple[Path, list[Planned]]] = {}
    for one in planned:
        if not one.done:
            where = _existing(one.target)
            disks.setdefault(where.stat().st_dev, (where, []))[1].append(one)
    lacking = []
    for where, ones in disks.values():
        kept = sum(p.to_fetch if p.item.model else p.to_keep for p in ones)
        beside = max((p.to_fetch for p in ones if not p.item.model), default=0.0)
        free = float(shutil.disk_usage(where).free)
        if kept + beside > free:
            lacking.append((where, kept + beside, free))
    return lacking


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


# ------------------------------------------------------------------------------------ fetch


def download(
    profile: Profile,
    only: Sequence[str] = (),
    hub: Hub | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Planned]:
    """Fetch what is not here yet; one item that fails does not keep the others from coming.

    Raises:
        DownloadError: too little room (before anything is fetched), or one or more items failed (after the others came).
        DataError: unknown item; a file that is not what it should be. StageError: the disk is full.
    """
    hub = hub or Hub()
    here = [look(profile, item) for item in items(profile, only)]
    failed: list[str] = []
    planned: list[Planned] = []
    for one in here:
        if one.done:
            tell(f"{one.item.key}: here")
            continue
        try:
            planned.append(listed(one, hub))
        except DownloadError as error:
            failed.append(str(error))
    if lacking := room_lacking(planned):
        told = "; ".join(
            f"{where}: {need / GB:.1f} GB needed, {free / GB:.1f} free" for where, need, free in lacking
        )
        raise DownloadError(
            f"too little room on the disk: {told}. Free some, fetch less at a time (--only), or put the data elsewhere "
            "(--set data.corpus=…, HF_HOME for models)"
        )
    for one in planned:
        try:
            tell(f"{one.item.key}: {_facts(fetch(one, hub))}")
        except (DownloadError, DataError) as error:
            failed.append(str(error))
    if failed:
        raise DownloadError("\n  ".join([f"{len(failed)} of {len(here)} items are not here", *failed]))
    return here


def fetch(one: Planned, hub: Hub) -> dict[str, Any]:
    """Fetch, verify and unpack one item; returns its facts."""
    from .unpack import UNPACKERS

    item = one.item
    with one.stage as stage:
        if item.model:
            _ = stage.dir
            for file in one.files:
                hub.fetch_cached(file)
            facts: dict[str, Any] = {}
        else:
            raw = stage.dir / "files"
            got = [hub.fetch(file, raw / file.source.repo) for file in one.files]
            facts = UNPACKERS[item.how](got, one.target)
            facts["made"] = {
                p.relative_to(one.target.parent).as_posix(): p.stat().st_size for p in _made(one.target)
            }
            shutil.rmtree(raw)
        facts["files"] = {file.path: file.size for file in one.files}
        facts["commits"] = {file.source.repo: file.commit or file.source.url for file in one.files}
        stage.finish(**facts)
    return facts


def _made(target: Path) -> Iterator[Path]:
    if target.is_file():
        yield target
    else:
        yield from sorted(p for p in target.rglob("*.jsonl") if not p.name.startswith("."))


def _facts(facts: dict[str, Any]) -> str:
    size = sum(n or 0 for n in facts["files"].values())
    counted = [f"{facts[k]:,} {k}" for k in ("lines", "vectors") if k in facts]
    if isinstance(facts.get("questions"), dict):
        counted.append(f"{sum(facts['questions'].values()):,} questions")
    return ", ".join([f"fetched and verified, {size / GB:.2f} GB", *counted])
