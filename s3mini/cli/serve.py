"""``s3mini serve``: the servers that a large run asks, each a command of its own."""

from __future__ import annotations

import typer

from .base import app

serve = typer.Typer(no_args_is_help=True, help="Start a server: the retriever, the generator.")
app.add_typer(serve, name="serve")
