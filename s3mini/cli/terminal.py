"""What surrounds a command and must not cost its work: the locale, the standard streams, a shell.

- Under ``LC_ALL=C`` with ``PYTHONUTF8=0``, Python reads and writes paths as ASCII, for as long as it runs: it is started
  again in UTF-8, once.
- What cannot be printed (a terminal in Latin-1, a pipe that nobody reads any more, a full disk behind ``>``) does not stop
  a command: it goes on to its end, and then exits with 1. Characters that the terminal has not are shown as ``\\u2026``.
- What is printed as the next command can be pasted: `command` quotes it.
"""

import errno
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import yaml


def restart_in_utf8() -> None:
    """Replace this process by one that reads paths as UTF-8, where it would read them as ASCII."""
    if sys.getfilesystemencoding().lower() not in ("ascii", "us-ascii", "646", "ansi_x3.4-1968"):
        return
    if os.environ.get("PYTHONUTF8") != "1":  # else it was tried, and Python was told not to listen
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Unfailing(io.FileIO):
    """A standard stream's file: the first failure to write is kept in ``failure``, and the rest goes nowhere."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write, or forget: ``data`` is always taken as a whole or in part."""
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def make_unfailing() -> tuple[Unfailing, Unfailing]:
    """Put `Unfailing` files below ``sys.stdout`` and ``sys.stderr``; returns them.

    A stream that was closed at the start is opened on nothing: the next file opened would else take its number, and
    whatever a library prints would be written into it.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    files = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        file = Unfailing(number, "w", closefd=False)
        new = io.TextIOWrapper(
            io.BufferedWriter(file),
            encoding=old.encoding if old else "utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, new)
        files.append(file)
    return files[0], files[1]


def settle(files: tuple[Unfailing, Unfailing]) -> None:
    """The last word of a process: exit with 1 when something could not be printed; a closed pipe needs no more."""
    sys.stdout.flush()
    failure = files[0].failure
    if failure is not None:
        if failure.errno != errno.EPIPE:
            print(
                f"error: not all could be printed ({failure.strerror}); what was made is there",
                file=sys.stderr,
            )
        sys.exit(1)


def command(*words: object, settings: Mapping[str, object] | None = None) -> str:
    """A command line that a shell reads as these words, with ``settings`` as ``--set``, which reads YAML."""
    line = [str(word) for word in words]
    for key, value in (settings or {}).items():
        text = str(value)
        try:
            plain = yaml.safe_load(text) == value
        except yaml.YAMLError:
            plain = False
        line += ["--set", f"{key}={text if plain else json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(line)
