"""``s3mini serve``: parts of the system as servers. They listen on this machine only, unless told otherwise."""

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from typer import Option

from ..profile import ModelSpec, Profile
from .base import ProfileName, Seed, Settings, app, one_of, whole

serve = typer.Typer(
    help="Serve a part of the system over HTTP, until Ctrl-C or SIGTERM.", no_args_is_help=True
)
app.add_typer(serve, name="serve")

Host = Annotated[str, Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
_PORT = "Default: the port of the profile's url, else 8001 (generator) or 8002 (searcher)."
Port = Annotated[int | None, Option(min=1, max=65535, help=_PORT)]
_kinds = one_of("dense", "lexical", "boolean")
_WAITING = "Queries that may wait; above, requests get 503 and Retry-After."
_DOCUMENTS = "Documents per request, queries times topk, at most: what its answer holds in memory."
MORE = {"allow_extra_args": True, "ignore_unknown_options": True}  # vLLM has many options: they are handed on


@serve.command()
def retriever(
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    kind: Annotated[
        str, Option(callback=_kinds, help="dense, lexical, or boolean (BM25 of boolean queries).")
    ] = "dense",
    host: Host = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    topk: Annotated[int, Option(min=1, help="Documents per query when a request does not say.")] = 3,
    max_topk: Annotated[int, Option(min=1, help="Documents per query, at most.")] = 100,
    max_queries: Annotated[int, Option(min=1, help="Queries per request, at most.")] = 4096,
    max_documents: Annotated[int, Option(min=1, help=_DOCUMENTS)] = 65_536,
    max_characters: Annotated[int, Option(min=1, help="Characters of a query; a longer one is cut.")] = 8192,
    max_body: Annotated[int, Option(min=1, help="Bytes per request, at most.")] = 32 << 20,
    max_batch: Annotated[int, Option(min=1, help="Queries searched at once, at most.")] = 128,
    max_waiting: Annotated[int, Option(min=1, help=_WAITING)] = 8192,
    cache: Annotated[int, Option(min=0, help="Answers kept in memory; 0 for none.")] = 65_536,
) -> None:
    """Serve an index in the wire format of s3 and Search-R1: POST /retrieve; also /health, /metrics, /docs."""
    if topk > max_topk:
        raise typer.BadParameter(f"{topk} is above --max-topk {max_topk}", param_hint="--topk")
    profile = whole(profile_name, settings)
    from ..retrieval import open_corpus, open_retriever
    from ..retrieval.http.server import bind, make_app, run
    from ..retrieval.http.wire import Limits

    bound = bind(host, port)
    limits = Limits(
        queries=max_queries,
        k=max_topk,
        documents=max_documents,
        characters=max_characters,
        body=max_body,
        batch=max_batch,
        waiting=max_waiting,
    )
    engine = open_retriever(profile, kind, cache=False)
    engine.search(["warm up"], 1)  # loads the encoder, and shows before anybody asks that it works
    size = len(open_corpus(profile))
    address, real_port = bound.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"{engine.name} retriever over {size} documents: http://{shown}:{real_port}/retrieve")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # once it has stopped: being told to is no failure
    run(make_app(engine, documents=size, topk=topk, limits=limits, cache=cache), bound)


@serve.command(context_settings=MORE)
def generator(
    context: typer.Context,
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    host: Host = "127.0.0.1",
    port: Port = None,
) -> None:
    """Serve the profile's generator with vLLM; options it does not know go to `vllm serve`."""
    profile = whole(profile_name, settings)
    port = port or _port(profile.generator.url) or 8001
    _become_vllm(profile, profile.generator, host, port, False, context.args)


@serve.command(context_settings=MORE)
def searcher(
    context: typer.Context,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    trained: Annotated[bool, Option("--trained", help="As training left it, for evaluation.")] = False,
    folder: Annotated[Path | None, Option("--searcher", help="Folder of a searcher instead.")] = None,
    training: Annotated[
        bool, Option("--training", help="For rollouts: training replaces its weights.")
    ] = False,
) -> None:
    """Serve the profile's searcher with vLLM: as it came, trained, or for the rollouts of a training."""
    profile = whole(profile_name, settings)
    from ..bench import Bench

    spec = Bench(profile, seed, folder).checkpoint("s3", trained or folder is not None)
    port = port or _port(profile.grpo.vllm_url if training else spec.url) or 8002
    _become_vllm(profile, spec, host, port, training, context.args)


def _port(url: str | None) -> int | None:
    return urlsplit(url).port if url else None


def _become_vllm(
    profile: Profile, spec: ModelSpec, host: str, port: int, training: bool, more: list[str]
) -> None:
    import torch

    from ..doctor.footprint import server_share
    from ..models.http.vllm_server import serve_command

    cpu = not torch.cuda.is_available()
    share = None if cpu else server_share(profile, spec, torch.cuda.mem_get_info()[1])
    command, environment = serve_command(spec, host, port, cpu=cpu, trained=training, share=share, more=more)
    typer.echo(f"{spec.path} at http://{host}:{port}/v1: {shlex.join(command)}", err=True)
    os.execve(command[0], command, {**os.environ, **environment})
