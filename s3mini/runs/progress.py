"""Progress bars that a notebook keeps as they ended.

tqdm's own notebook bar is a widget: a stored notebook, opened later, shows the text it began with, 0 %. Here a bar in a
notebook is one line of text that is replaced as it grows, so the notebook is stored with the last one. Everywhere else
it is tqdm's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.std import tqdm as plain


class tqdm(plain):
    """`tqdm.std.tqdm`, shown in a notebook as a line of text of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "file" not in kwargs and not kwargs.get("disable") and in_notebook():
            kwargs |= {"file": _Line(), "ncols": 100, "ascii": " -#"}
        super().__init__(*args, **kwargs)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _Line:
    """A file that shows what was last written to it, in one output that is replaced."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        if not (line := text.replace("\x1b[A", "").strip()):
            return
        shown = {"text/plain": line}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def flush(self) -> None:
        """Nothing waits: what is written is shown."""


@contextmanager
def without_bars() -> Iterator[None]:
    """Hides the bars of transformers, over what takes a moment to load or save."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
