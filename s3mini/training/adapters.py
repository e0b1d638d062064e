"""Training a few adapter weights in a large searcher's place (LoRA, Hu et al. 2021), by peft.

What is saved is always a whole model: the adapters' product is added to the weights they sit on, so that every command
takes a searcher trained this way like any other. The adapters stand beside it: they are what can be handed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..profile import GrpoSpec
from ..runs.progress import without_bars

if TYPE_CHECKING:
    import torch
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
    config["base_model_name_or_path"] = (
        None  # a folder of this machine; whoever merges them is given the model
    )
    config["target_modules"] = sorted(config["target_modules"])  # a set, which has no order
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def save_whole(
    model: PreTrainedModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write a model as safetensors, adapters (if it has any) added in; the model in memory stays as it is.

    ``weights``, if any, are written in place of its own.
    """
    adapted = any(".lora_" in name for name, _ in model.named_parameters())
    state = dict(weights or {}) or (merged_state(model) if adapted else None)
    with without_bars():
        model.save_pretrained(folder, state_dict=state)


def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a model that peft put adapters into, under their own names, the adapters' product added.

    All in float32: in bfloat16 most of what a short training adds would be rounded away.
    """
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    state = {}
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
