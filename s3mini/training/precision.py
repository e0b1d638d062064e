"""In which precision a machine updates a model faster (``grpo.precision: auto``).

Processors with bfloat16 instructions (AVX-512 BF16, AMX) multiply in it up to 2.6 times as fast; others emulate it, and small
models lose more by the casts than they gain. So it is measured, once at the start of a run, like FAISS' threshold in
`retrieval.dense`. Weights, gradients, AdamW's moments, softmax and loss are float32 in any case. Episodes are sampled in what was
measured, too. On GPUs nothing is measured: there it is bfloat16, and episodes are sampled in the precision of the weights, or by vLLM.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..models.local import multiplied
from ..profile import GrpoSpec
from ..runs.machine import faster_type
from ..runs.processes import Processes
from ..runs.stages import atomic_write
from .trainer import completion_logprobs

FILE = "precision.json"
GAIN = 1.25
"""How many times as fast bfloat16 has to be: it costs digits, and timings scatter."""
HOPELESS = 4.0
"""So many times as slow in a single product, it will not win in an update (AVX2 without bfloat16 instructions: 15 times)."""


def settled(spec: GrpoSpec, model: PreTrainedModel, folder: Path, processes: Processes) -> GrpoSpec:
    """The spec with a precision to train ``model`` in. What was measured is kept in ``folder``: a run ends as it began.

    To be called by all ``processes``.
    """
    if spec.precision != "auto" or model.device.type != "cpu":
        return spec
    if processes.from_main(lambda: not (folder / FILE).exists()):
        took = processes.everywhere(lambda: measured(model))  # together, as they will train
        # A process that is slow in bfloat16 decides: all others would wait for it.
        decides = next((own for own in took if fastest(own) == "float32"), took[0])
        text = json.dumps({"precision": fastest(decides), "seconds": decides})
        processes.from_main(lambda: atomic_write(folder / FILE, text))
    kept = processes.from_main(lambda: json.loads((folder / FILE).read_text()))
    return spec.model_copy(update={"precision": kept["precision"]})


def fastest(seconds: Mapping[str, float]) -> str:
    """The precision to work in where a pass takes so long in each (`measured`)."""
    return faster_type(seconds, GAIN)


def measured(model: PreTrainedModel, rows: int = 2, length: int = 512) -> dict[str, float]:
    """Seconds of an update's forward and backward pass over ``rows`` × ``length`` tokens, by precision; the best of two.

    As long as episodes are: of short rows bfloat16 gains little. Where a single product shows that it is emulated, the seconds
    are that product's: of passes they would be minutes.
    The second half of each row is scored, as if an episode had written it. The model stays as it is.
    """
    single = multiplied()
    if single["bfloat16"] > HOPELESS * single["float32"]:
        return single
    both = [_passes(model, rows, length) for _ in range(2)]
    return {kind: min(one[kind] for one in both) for kind in single}


def _passes(model: PreTrainedModel, rows: int, length: int) -> dict[str, float]:
    ids = torch.arange(rows * length).view(rows, length) % model.config.vocab_size
    scored, seconds = torch.ones(rows, length // 2), {}
    for kind in ("float32", "bfloat16"):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"), torch.enable_grad():
            completion_logprobs(model, ids, torch.ones_like(ids), scored, 1.0)[0].sum().backward()
        seconds[kind] = round(time.perf_counter() - started, 4)
        model.zero_grad(set_to_none=True)
    return seconds
