"""``s3mini serve``: parts of the system as servers. They listen on this machine only, unless told otherwise."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from .base import ProfileName, Settings, app, opened

serve = typer.Typer(
    help="Serve a part of the system over HTTP, until Ctrl-C or SIGTERM.", no_args_is_help=True
)
app.add_typer(serve, name="serve")

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]


@serve.command()
def retriever(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    kind: Annotated[
        str, typer.Option(help="dense, lexical, or boolean (BM25 of boolean queries).")
    ] = "dense",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    topk: Annotated[int, typer.Option(min=1, help="Documents per query when a request does not say.")] = 3,
    max_topk: Annotated[int, typer.Option(min=1, help="Documents per query, at most.")] = 100,
    max_queries: Annotated[int, typer.Option(min=1, help="Queries per request, at most.")] = 512,
    max_batch: Annotated[int, typer.Option(min=1, help="Queries searched at once, at most.")] = 128,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Queries that may wait; above, requests get 503 and Retry-After.")
    ] = 2048,
    cache: Annotated[int, typer.Option(min=0, help="Answers kept in memory; 0 for none.")] = 65_536,
) -> None:
    """Serve an index in the wire format of s3 and Search-R1: POST /retrieve; also /health, /metrics, /docs."""
    kinds = ("dense", "lexical", "boolean")
    if kind not in kinds:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(kinds)}", param_hint="--kind")
    if topk > max_topk:
        raise typer.BadParameter(f"{topk} is above --max-topk {max_topk}", param_hint="--topk")
    profile = opened(profile_name, settings)
    from ..retrieval import open_corpus, open_retriever
    from ..retrieval.http.server import bind, make_app, run
    from ..retrieval.http.wire import Limits

    bound = bind(host, port)
    limits = Limits(queries=max_queries, k=max_topk, batch=max_batch, waiting=max_waiting)
    engine = open_retriever(profile, kind, cache=False)
    engine.search(["warm up"], 1)  # loads the encoder, and shows before anybody asks that it works
    size = len(open_corpus(profile))
    address, real_port = bound.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"{engine.name} retriever over {size} documents: http://{shown}:{real_port}/retrieve")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # once it has stopped: being told to is no failure
    run(make_app(engine, documents=size, topk=topk, limits=limits, cache=cache), bound)
