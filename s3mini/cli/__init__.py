"""The command line, ``s3mini``: the same steps as the notebooks, on a profile.

Each command loads only what it needs (``ask`` never imports the training stack). An expected failure is one
line on stderr and exit code 1; wrong usage is exit code 2.
"""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import S3Error
from ..runs import omissions
from ..runs.machine import keep_local
from .base import app
from .terminal import make_unfailing, restart_in_utf8, settle

# Their commands, in the order of --help.
from . import use, steps, owndata, make, serve  # noqa: F401 # isort: skip

EXTRAS = {  # what to install for a module that is missing
    **dict.fromkeys(("trl", "datasets", "peft"), "train"),
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client"), "serve"),
    **dict.fromkeys(("pyarrow", "bs4"), "data"),
    **{"papermill": "notebooks", "faiss": "cpu", "ray": "ray", "pymilvus": "milvus"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: expected failures become one line on stderr and exit code 1.

    Without ``arguments`` the process is its own: see `terminal` for what is made of its streams.
    """
    keep_local()
    if arguments is not None:
        _run(arguments)
        return
    restart_in_utf8()
    atexit.register(gc.freeze)  # else the end looks through all that was imported once more: a second or two
    files = make_unfailing()
    try:
        _run(None)
    except SystemExit as ended:
        if not ended.code:
            settle(files)
        raise
    settle(files)


def _run(arguments: Sequence[str] | None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="s3mini")
    except S3Error as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        _fail(f"{error.name!r} is not installed; pip install 's3mini[{extra}]', or run make setup")
    except UnicodeEncodeError as error:
        if error.encoding.lower() != sys.getfilesystemencoding().lower() or error.encoding == "utf-8":
            raise
        _fail(
            f"{error.object!r}: no path can have this name in this locale ({error.encoding}); set PYTHONUTF8=1"
        )
    except OSError as error:
        from ..runs.stages import disk_error

        try:
            os.getcwd()
        except FileNotFoundError:  # whatever was asked of it
            _fail("the current folder was deleted: cd to another, and run the same command again")
        told = disk_error(error, Path(os.curdir))
        if told is None:
            raise
        _fail(str(told))
    finally:
        for line in omissions.told():
            typer.echo(f"note: {line}", err=True)


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)
