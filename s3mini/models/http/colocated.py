"""Training rollouts on vLLM, through the engine that TRL keeps up to date with the policy.

TRL pushes the weights before each rollout; here its engine only samples, turn by turn, with stop strings of our
own: ``colocate`` calls the ``LLM`` inside this process, ``server`` the endpoint of a `vllm serve` on other GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...profile import ModelSpec
from ...runs.processes import ALONE, Processes
from ..base import Sampler
from ..stops import Stops
from ..tokenizer import end_ids
from .served import ServedModel
from .stateless import Ask, StatelessSampler, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ColocatedSampler(StatelessSampler):
    """``llm``, a ``vllm.LLM`` with ``logprobs_mode="processed_logprobs"`` as TRL makes it, as a ``Sampler``."""

    name = "vLLM in this process"

    def __init__(
        self, llm: Any, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], positions: int
    ) -> None:
        self.llm, self.positions, self.stops = llm, positions, Stops(tokenizer, ends)

    def write(self, asks: Sequence[Ask]) -> list[Written]:
        """One call for all asks."""
        from vllm import SamplingParams

        answers = self.llm.generate(
            [{"prompt_token_ids": list(ask.prompt)} for ask in asks],
            sampling_params=[SamplingParams(**self.settings(ask)) for ask in asks],
            use_tqdm=False,
        )
        written = []
        for (output,) in (answer.outputs for answer in answers):
            pairs = zip(output.token_ids, output.logprobs or [], strict=False)
            logprobs = [of_token[i].logprob for i, of_token in pairs]
            written.append(Written(list(output.token_ids), logprobs, output.finish_reason))
        return written


def rollout_sampler(trainer: Any, positions: int, processes: Processes = ALONE) -> Sampler:
    """What a trainer with ``use_vllm`` samples with, in its ``vllm_mode``. To be called by all ``processes``."""
    vllm, tokenizer = trainer.vllm_generation, trainer.processing_class
    ends = end_ids(tokenizer, trainer.model.generation_config)
    if trainer.vllm_mode == "colocate":
        return ColocatedSampler(vllm.llm, tokenizer, ends, positions)
    # TRL's client, which only the main process has, found out under what name the server knows the model
    name, url = processes.from_main(lambda: (vllm.vllm_client.model, vllm.vllm_client.base_url))
    spec = ModelSpec(path=name, engine="served", url=f"{url}/v1", max_length=positions, batch_size=256)
    return ServedModel(spec, tokenizer, ends)
