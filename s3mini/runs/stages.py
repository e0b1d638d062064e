"""Resumable stages: each keeps its result and a manifest under ``build/<profile>/<name>/``.

Finished work is found again, not repeated; killed half-way, a stage goes on where it stopped. Files are
written whole (`atomic_write`, `atomic_dir`) or line by line with a torn end dropped on reopening
(`JsonlLog`), so nothing half-written is ever read back. A full disk is a `StageError` that says so.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from pydantic import BaseModel

from ..errors import StageError
from ..profile import Profile
from . import omissions
from .machine import machine, versions

log = logging.getLogger("s3mini")

MANIFEST = "manifest.json"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_NEARLY_FULL = 1 << 20  # bytes; some libraries report a full disk as a bare RuntimeError


def disk_error(error: OSError, path: Path) -> StageError | None:
    """The `StageError` for a full or read-only disk or an impossible path, or None when ``error`` is something else."""
    named = error.filename2 or error.filename  # of two it is the second that was to come to be
    where = Path(named) if isinstance(named, str) else path
    if error.errno in _FULL:
        remedy = "no space left on the disk; free some room and run the same command again: it resumes"
    elif error.errno in _DENIED:
        remedy = f"cannot be written ({error.strerror}); check the folder's owner and permissions"
    elif error.errno in _NO_PLACE:
        remedy = f"nothing can lie there ({error.strerror}); name another place"
    else:
        return None
    return StageError(f"{where}: {remedy}")


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if told := disk_error(error, path):
            raise told from error
        raise


def _beside(path: Path, ending: str) -> Path:
    """A hidden name in the same folder, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Fill a temporary file beside ``path``, which takes its place, whole, when the block ends well.

    Raises:
        StageError: the disk is full or the folder cannot be written; the old file, if any, is untouched.
    """
    temporary = temporary or _beside(path, "tmp")
    with _disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write(path: str | Path, data: str | bytes) -> Path:
    """Write a whole file or nothing, see `atomic_file`."""
    with atomic_file(Path(path)) as out:
        out.write(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``; on success it takes its place, on failure it is removed.

    Raises:
        StageError: the disk is full or the folder cannot be written; the old folder, if any, is untouched.
    """
    path = Path(path)
    temporary, retired = _beside(path, "tmp"), _beside(path, "old")
    with _disk_errors(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if path.exists():  # a folder cannot be replaced in one call
                os.replace(path, retired)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)


def alone(profile: Profile, name: str) -> FileLock:
    """A lock on what commands may make at once: the one that comes second waits, and finds the work of the first."""
    profile.build.mkdir(parents=True, exist_ok=True)
    return FileLock(profile.build / f".{name}.lock")


class JsonlLog:
    """An append-only JSON-lines file that survives being killed at any moment. One writer at a time.

    Opening reads the records already there (`records`) and drops a torn last line. `append` and `extend`
    return only after the lines are on the disk.

    Raises:
        StageError: a line other than the last is not JSON (names file and line); the disk is full, in
            which case the file keeps exactly the records it had.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            raw = self.path.read_bytes() if self.path.exists() else b""
            self.records, self._size = self._read(raw)
            self._fd: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if self._size < len(raw):
                log.warning("%s: dropped a torn last line; its work is done again", self.path)
                os.ftruncate(self._fd, self._size)

    def _read(self, raw: bytes) -> tuple[list[Any], int]:
        """The records, and the bytes that they take."""
        records: list[Any] = []
        size = 0
        *lines, torn = raw.split(b"\n")  # what follows the last newline is torn or empty
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                if number == len(lines) and not torn:  # the last line, its bytes never flushed
                    break
                raise StageError(
                    f"{self.path}:{number}: not a JSON line; the file was edited or damaged: "
                    "delete the line (its work is done again) or delete the file"
                ) from error
            size += len(line) + 1
        return records, size

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and flush it to the disk."""
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records, all or none of them, and flush once."""
        if self._fd is None:
            raise StageError(f"{self.path}: the log is closed; open it again to append")
        data = b"".join(json.dumps(r, ensure_ascii=False).encode("utf-8") + b"\n" for r in records)
        with _disk_errors(self.path):
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._fd, data[written:])
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
        self._size += len(data)
        self.records.extend(json.loads(line) for line in data.splitlines())

    def close(self) -> None:
        """Release the file; reading `records` stays possible."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records)

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):  # not where opening failed
            self.close()


def plain(value: Any) -> Any:
    """``value`` as JSON stores it: models dumped, tuples as lists, paths as text. So settings compare."""

    def convert(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        if isinstance(item, (set, frozenset)):
            return sorted(item)
        return str(item)

    return json.loads(json.dumps(value, default=convert, sort_keys=True))


class Stage:
    """One step of the pipeline, its folder and its manifest.

    ::

        with Stage(profile, "index/dense", {"corpus": fingerprint(path)}, {"encoder": name}) as stage:
            if not stage.done:
                ...  # write below stage.dir; what an interrupted run left there is still there
                stage.finish()

    ``done`` is true only when the manifest is complete, its inputs and settings equal these, and every
    file it lists exists. Asking for ``dir`` when not done opens the stage for writing: work of other
    inputs or settings is moved aside to ``<name>.old`` (and the log says what changed); an
    interrupted run of the same inputs and settings stays, to be resumed. ``path`` never touches the disk.

    Args:
        name: may hold slashes, e.g. ``train/s3-seed1``.
        inputs: fingerprints of what the stage reads, by name.
        settings: every number and name that changes its result.

    Raises:
        StageError: the disk is full or the folder cannot be written (also raised for a body that failed so).
    """

    def __init__(
        self,
        profile: Profile,
        name: str,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.path = name, profile.build / name
        self.inputs: dict[str, str] = plain(dict(inputs))
        self.settings: dict[str, Any] = plain(dict(settings or {}))
        self._started: float | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest on the disk, {} when there is none that can be read."""
        return read_manifest(self.path)

    @property
    def done(self) -> bool:
        """Whether the result on the disk is complete and belongs to these inputs and settings."""
        kept = self.manifest
        return (
            bool(kept.get("complete"))
            and not self._differences(kept)
            and all((self.path / file).exists() for file in kept.get("outputs", []))
        )

    @property
    def dir(self) -> Path:
        """The stage's folder, ready to be written when the stage is not done (see the class)."""
        if self._started is None and not self.done:
            self._open()
        return self.path

    def _differences(self, kept: Mapping[str, Any]) -> list[str]:
        return [
            f"{kind}.{key}"
            for kind, mine in (("inputs", self.inputs), ("settings", self.settings))
            for key in sorted(mine.keys() | kept.get(kind, {}).keys())
            if mine.get(key) != kept.get(kind, {}).get(key)
        ]

    def _open(self) -> None:
        kept = self.manifest
        changed = self._differences(kept) if kept else []
        with _disk_errors(self.path):
            if self.path.exists() and (changed or not kept):
                aside = self.path.with_name(self.path.name + ".old")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.path, aside)
                why = ", ".join(changed) + " changed" if changed else "it has no readable manifest"
                log.warning("stage %s: redone, %s; the earlier result is in %s", self.name, why, aside)
                kept = {}
            self.path.mkdir(parents=True, exist_ok=True)
        self._resumed = bool(kept)
        self._before = float(kept.get("seconds", 0.0))
        if "open_since" in kept:  # a session was killed: it lasted until the last file that it touched
            newest = max((f.stat().st_mtime for f in self._files()), default=0.0)
            self._before += max(0.0, newest - float(kept["open_since"]))
        self._started = time.time()
        self._write(open_since=self._started)

    def _files(self) -> Iterator[Path]:
        return (f for f in self.path.rglob("*") if f.is_file())

    def _write(self, complete: bool = False, **more: Any) -> None:
        assert self._started is not None
        spent = 0.0 if "open_since" in more else time.time() - self._started
        manifest = {
            "stage": self.name,
            "complete": complete,
            "inputs": self.inputs,
            "settings": self.settings,
            "seconds": round(self._before + spent, 3),
            "resumed": self._resumed,
            "versions": versions(),
            "machine": machine(),
            **more,
        }
        atomic_write(self.path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")

    def finish(self, **facts: Any) -> None:
        """Mark the stage complete; ``facts`` (counts, sizes …) are kept in the manifest under "facts"."""
        if self.done:  # by another process, perhaps, while this one worked
            self._started = None
            return
        _ = self.dir  # a stage that wrote nothing still gets its folder
        files = sorted(f.relative_to(self.path).as_posix() for f in self._files())
        self._write(complete=True, outputs=[f for f in files if f != MANIFEST], facts=plain(facts))
        self._started = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            omissions.note(self.name, self.manifest.get("facts", {}).get("omitted"))
        if self._started is None:
            return
        told = disk_error(error, self.path) if isinstance(error, OSError) else None
        if told is None and isinstance(error, Exception) and shutil.disk_usage(self.path).free < _NEARLY_FULL:
            told = disk_error(OSError(errno.ENOSPC, "full"), self.path)
        try:
            self._write()
        except StageError as unwritable:
            told = told or unwritable
        self._started = None
        if told is not None and not isinstance(error, StageError):
            raise told from error


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a stage's folder; {} when there is none or it cannot be read."""
    try:
        manifest = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def stage_times(profile: Profile) -> dict[str, dict[str, Any]]:
    """``{stage: {"seconds", "resumed"}}`` of every complete stage of a profile, for results.json."""
    manifests = {
        path.parent.relative_to(profile.build).as_posix(): read_manifest(path.parent)
        for path in sorted(profile.build.rglob(MANIFEST))
    }
    return {
        name: {"seconds": manifest["seconds"], "resumed": manifest["resumed"]}
        for name, manifest in manifests.items()
        if manifest.get("complete") and ".old" not in name
    }
