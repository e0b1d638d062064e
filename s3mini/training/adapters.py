"""Training a few adapter weights in a large searcher's place (LoRA, Hu et al. 2021), by peft.

What is saved is always a whole model: the adapters' product is added to the weights they sit on, so that every command
takes a searcher trained this way like any other. The adapters stand beside it: they are what can be handed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..profile import GrpoSpec
from ..runs.progress import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ADAPTERS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def lora_config(spec: GrpoSpec) -> Any:
    """TRL's ``peft_config``: adapters as `of_rank` lays them out; None where all weights are trained."""
    return of_rank(spec.lora_rank) if spec.lora_rank else None


def of_rank(rank: int) -> Any:
    """peft's settings: adapters of this rank on every matrix of the layers, scaled by 2."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def save_adapters(adapted: Any, folder: Path) -> None:
    """Write the adapters of a peft model to ``folder``, in float16, as peft reads them; they are small enough to ship."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = {name: value.half().contiguous() for name, value in get_peft_model_state_dict(adapted).items()}
    save_file(state, folder / ADAPTERS)
    adapted.peft_config["default"].save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    # a folder of this machine, where whoever merges them is given the model; and a set, which has no order
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@contextmanager
def merged(model: PreTrainedModel) -> Iterator[None]:
    """For the length of a block, adapters are added into the weights they sit on: sampling makes a third of the products.

    Afterwards the weights are what they were, to the bit. Weights coarser than float32 are left alone: they would round away
    what the adapters have learnt.
    """
    layers = _adapted_layers(model).values() if model.dtype == torch.float32 else ()
    kept = {layer: layer.get_base_layer().weight.detach().clone() for layer in layers}
    try:
        for layer in kept:
            layer.merge()
        yield
    finally:
        for layer, weight in kept.items():
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """The layers of a model that have adapters, by name; peft is not asked for where there are none."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def save_whole(
    model: PreTrainedModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write a model as safetensors, adapters (if it has any) added in; the model in memory stays as it is.

    ``weights``, if any, are written in place of its own.
    """
    state = dict(weights or {}) or (merged_state(model) if _adapted_layers(model) else None)
    with without_bars():
        model.save_pretrained(folder, state_dict=state)


def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a model that peft put adapters into, under their own names, the adapters' product added.

    All in float32: in bfloat16 most of what a short training adds would be rounded away.
    """
    layers, state = _adapted_layers(model), {}
    for key, value in model.state_dict().items():
        if ".lora_" in key:
            continue
        name, below, leaf = key.rpartition(".base_layer.")
        if value.is_floating_point():
            value = value.float()
        if below and leaf == "weight":
            value = value + layers[name].get_delta_weight("default").float()
        state[f"{name}.{leaf}" if below else key] = value
    return state
