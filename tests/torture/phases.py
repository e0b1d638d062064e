"""How far a command got with a stage, told by the files that it left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from s3mini.runs.stages import MANIFEST, read_manifest

PHASES = ("before", "opened", "within", "after")
"""How far a killed stage was, see `phase`."""


def phase(build: Path, makes: Sequence[str], since: float) -> str:
    """How far a command that started then got with what it makes.

    ``before``: it has opened no stage; ``opened``: one, and written nothing there; ``within``: something, and the stage is
    open; ``after``: what it opened is complete (and, where it makes several, the next not yet open).
    """
    touched = [file for name in makes for file in _touched(build / name, since)]
    manifests = [read_manifest(file.parent) for file in touched if file.name == MANIFEST]
    if not touched:
        return "before"
    if manifests and all(manifest.get("complete") for manifest in manifests):
        return "after"
    return "within" if len(touched) > len(manifests) else "opened"


def _touched(path: Path, since: float) -> Iterator[Path]:
    """Files that are not empty and were written since, without manifests half-written; the command may be at work there."""
    inside = (
        Path(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if not name.startswith(f".{MANIFEST}.")
    )
    for file in inside if path.is_dir() else [path]:
        with suppress(OSError):
            told = file.stat()
            if told.st_size and told.st_mtime >= since:
                yield file
