"""The command line, ``s3mini``: the same steps as the notebooks, on a profile.

Each command loads only what it needs (``ask`` never imports the training stack). An expected failure is one
line on stderr and exit code 1; wrong usage is exit code 2.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import S3Error
from ..runs import omissions
from .base import app

# Their commands, in the order of --help.
from . import use, steps, owndata, make, serve  # noqa: F401 # isort: skip

EXTRAS = {  # what to install for a module that is missing
    **dict.fromkeys(("trl", "datasets", "peft"), "train"),
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client"), "serve"),
    **dict.fromkeys(("pyarrow", "bs4"), "data"),
    **{"papermill": "notebooks", "faiss": "cpu", "ray": "ray", "pymilvus": "milvus"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: expected failures become one line on stderr and exit code 1."""
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
    except OSError as error:
        from ..runs.stages import disk_error

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
