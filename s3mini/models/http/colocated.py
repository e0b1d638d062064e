"""Training rollouts on vLLM, through the engine that TRL keeps up to date with the policy.

TRL pushes the weights before each rollout; here its engine only samples, turn by turn, with stop strings of our
own: ``colocate`` calls the ``LLM`` inside this process, ``server`` the endpoint of a `vllm serve` on other GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...profile import ModelSpec
from ...runs.processes import ALONE, Processes
from ..base import Sampler, check_prompts
from ..stops import Stops
from ..tokenizer import end_ids
from .stateless import Ask, StatelessSession, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ColocatedSampler:
    """``llm``, a ``vllm.LLM`` with ``logprobs_mode="processed_logprobs"`` as TRL makes it, as a ``Sampler``.

    ``positions`` is the most tokens a row may have.
    """

    def __init__(
        self, llm: Any, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], positions: int
    ) -> None:
        self.llm, self.end_ids, self.positions = llm, ends, positions
        self.stops = Stops(tokenizer, ends)

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> StatelessSession:
        """Open one row per prompt; see ``models.base.Sampler``.

        Raises:
            ModelError: an empty prompt.
        """
        check_prompts(prompts)
        own = range(len(prompts)) if seeds is None else seeds
        return StatelessSession(self._write, self.stops, self.positions, "vLLM in this process", prompts, own)

    def _write(self, asks: Sequence[Ask]) -> list[Written]:
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                n=1, max_tokens=ask.budget, temperature=ask.temperature, seed=ask.seed, top_p=1.0, top_k=0, min_p=0.0,
                repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0, stop=list(ask.stop),
                stop_token_ids=sorted(self.end_ids), include_stop_str_in_output=True, skip_special_tokens=False,
                logprobs=0,
            )
            for ask in asks
        ]  # fmt: skip
        prompts = [{"prompt_token_ids": list(ask.prompt)} for ask in asks]
        answers = self.llm.generate(prompts, sampling_params=settings, use_tqdm=False)
        return [_written(answer.outputs[0]) for answer in answers]


def _written(output: Any) -> Written:
    ids = list(output.token_ids)
    logprobs = [found[i].logprob for i, found in zip(ids, output.logprobs or [], strict=False)]
    return Written(ids, logprobs, output.finish_reason)


def rollout_sampler(trainer: Any, positions: int, processes: Processes = ALONE) -> Sampler:
    """What a trainer with ``use_vllm`` samples with, in its ``vllm_mode``. To be called by all ``processes``."""
    vllm, tokenizer = trainer.vllm_generation, trainer.processing_class
    ends = end_ids(tokenizer, trainer.model.generation_config)
    if trainer.vllm_mode == "colocate":
        return ColocatedSampler(vllm.llm, tokenizer, ends, positions)
    from .served import ServedModel

    # TRL's client, which only the main process has, found out under what name the server knows the model
    name, url = processes.from_main(lambda: (vllm.vllm_client.model, vllm.vllm_client.base_url))
    spec = ModelSpec(path=name, engine="served", url=f"{url}/v1", max_length=positions, batch_size=256)
    return ServedModel(spec, tokenizer, ends)
