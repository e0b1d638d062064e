"""Commands that serve a profile's models with vLLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ..profile import ModelSpec, Profile
from .base import ProfileName, Seed, Settings, opened
from .serve import Host, serve

Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Default: the port of the profile's url, else 8001 (generator) or 8002 (searcher).",
    ),
]
MORE = {"allow_extra_args": True, "ignore_unknown_options": True}  # vLLM has many options: they are handed on


@serve.command(context_settings=MORE)
def generator(
    context: typer.Context,
    profile_name: ProfileName = "mini",
    settings: Settings = None,
    host: Host = "127.0.0.1",
    port: Port = None,
) -> None:
    """Serve the profile's generator with vLLM; options it does not know go to `vllm serve`."""
    profile = opened(profile_name, settings)
    _become_vllm(
        profile, profile.generator, host, port or _port(profile.generator.url) or 8001, False, context.args
    )


@serve.command(context_settings=MORE)
def searcher(
    context: typer.Context,
    profile_name: ProfileName = "mini",
    seed: Seed = 0,
    settings: Settings = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    trained: Annotated[bool, typer.Option("--trained", help="As training left it, for evaluation.")] = False,
    folder: Annotated[Path | None, typer.Option("--searcher", help="Folder of a searcher instead.")] = None,
    training: Annotated[
        bool, typer.Option("--training", help="For rollouts: training replaces its weights.")
    ] = False,
) -> None:
    """Serve the profile's searcher with vLLM: as it came, trained, or for the rollouts of a training."""
    profile = opened(profile_name, settings)
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
    typer.echo(f"{spec.path} at http://{host}:{port}/v1: {' '.join(command)}", err=True)
    os.execve(command[0], command, {**os.environ, **environment})
