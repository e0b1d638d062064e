"""Which processes still run for a test: those that inherited its root."""

from __future__ import annotations

import os
import time
from pathlib import Path


def running(root: Path) -> list[int]:
    """Ids of the living processes whose environment names ``root`` as S3MINI_ROOT, this one left out."""
    mark = f"S3MINI_ROOT={root}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:  # it has just ended, or is not ours
                continue
            if mark in environment + b"\0":
                found.append(int(entry.name))
    return found


def ended(root: Path, patience: float = 120.0) -> bool:
    """Whether they have all ended; waits for it, since a busy machine takes its time."""
    until = time.monotonic() + patience
    while running(root):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
