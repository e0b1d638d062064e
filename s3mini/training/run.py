"""A run of TRL's trainer in its folder: resume, train, save. Of several processes all take part, and the main one writes."""

import copy
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from ..errors import DataError, ProfileError, StageError
from ..profile import GrpoSpec
from ..runs.machine import memory_kept
from ..runs.omissions import EPISODE_CUT
from ..runs.processes import Processes
from ..runs.progress import without_bars
from ..runs.stages import JsonlLog, Stage, atomic_dir
from .adapters import lora_config, save_adapters, save_whole
from .parts import Parts
from .precision import settled
from .recorder import CHECKPOINTS, CURVE, LORA, MODEL, Recorder, episodes_played, latest_checkpoint, updates
from .share import RolloutFunc, Share
from .trainer import LeanGRPOTrainer, SharedPrompt, whole_weights
from .trl import data_order, given_reward, trl_config


class Training(TrainerCallback):
    """``parts``, of which the loop is to be made, are the given ones as every process shares in them.

    As TRL's callback it does what all processes have a part in, before the main one's `Recorder` writes.

    Raises:
        DataError: no question to train on.
        ProfileError: adapters in a sharded model.
        StageError: the folder cannot be written.
    """

    def __init__(
        self, stage: Stage, parts: Parts, spec: GrpoSpec, seed: int, processes: Processes, progress: bool
    ) -> None:
        if not parts.questions:
            raise DataError("no question to train on: give more or harder training questions")
        if processes.sharded and spec.lora_rank:
            raise ProfileError(
                "adapters are not sharded: launch with s3mini/training/accelerate/ddp.yaml, or set grpo.lora_rank=0"
            )
        self.folder = processes.from_main(lambda: stage.dir)
        self._own, self._spec, self._seed, self._processes = parts, spec, seed, processes
        self._share = Share(parts, spec, seed, processes)
        self.parts = self._share.parts
        self._progress = progress and processes.main
        self._checkpoint: Path | None = None
        self._trainer: LeanGRPOTrainer | None = None
        self._whole: dict[str, torch.Tensor] = {}  # a sharded model's weights, gathered in the main process

    def resume(self) -> bool:
        """Take the last checkpoint, if there is one. False when nothing is left to train: the model is saved."""
        if self._processes.from_main((self.folder / MODEL).exists):  # killed between saving and finishing
            self._drop_checkpoints()
            return False
        self._checkpoint = self._processes.from_main(lambda: latest_checkpoint(self.folder / CHECKPOINTS))
        return True

    def train(self, loop: RolloutFunc) -> None:
        """From the checkpoint, or the start, to the last step."""
        parts, main = self._own, self._processes.main
        spec = settled(self._spec, parts.model, self.folder, self._processes)
        self._share.narrow = spec.precision == "bfloat16" and parts.model.device.type == "cpu"
        done = updates(self._checkpoint) // spec.num_iterations if self._checkpoint else 0
        # Sharded, a model can roll out nothing: the parts keep a whole one, brought up to date before each rollout.
        model = copy.deepcopy(parts.model).float() if self._processes.sharded else parts.model
        length = getattr(parts.engine, "max_length", None)
        checkpoints, device = self.folder / CHECKPOINTS, str(parts.model.device)
        with Recorder(self.folder, spec.steps, done, self._progress) if main else nullcontext() as recorder:
            if recorder:
                recorder.keep(spec.keep_steps, self._write)
            self._trainer = LeanGRPOTrainer(
                model=model,
                processing_class=parts.tokenizer,
                args=trl_config(spec, self._seed, checkpoints, device, self._processes, max_length=length),
                train_dataset=data_order(parts.questions, self._seed, spec.steps * spec.questions_per_step),
                rollout_func=self._share.around(loop, recorder),  # type: ignore[arg-type]  # prompts are messages
                reward_funcs=given_reward,  # type: ignore[arg-type]  # called by keyword
                callbacks=[self, *([recorder] if recorder else [])],
                peft_config=lora_config(spec),
            )
            # Elsewhere the update's pass is TRL's.
            own_pass = parts.model.device.type == "cpu" and self._processes.count == 1
            self._trainer.prompt = SharedPrompt() if spec.share_prompts and own_pass else None
            self._trainer.remove_callback(PrinterCallback)
            with memory_kept(), without_bars():  # no bars over every checkpoint that is written
                self._trainer.train(
                    resume_from_checkpoint=str(self._checkpoint) if self._checkpoint else None
                )
            if recorder and len(recorder.curve) != spec.steps:
                raise StageError(
                    f"{self.folder}: {len(recorder.curve)} steps recorded of {spec.steps}; train again"
                )

    def save(self) -> None:
        """The trained model, whole, and its adapters if it has any; the checkpoints go."""
        self._gather()
        if self._processes.main:
            if self._spec.lora_rank:
                assert self._trainer is not None
                with atomic_dir(self.folder / LORA) as folder:
                    save_adapters(self._trainer.accelerator.unwrap_model(self._trainer.model), folder)
            with atomic_dir(self.folder / MODEL) as folder:
                self._write(folder)
        self._drop_checkpoints()

    def facts(self) -> dict[str, Any]:
        """What the curve tells of the whole run: episodes and examples played, and episodes cut by a limit, if any."""
        with JsonlLog(self.folder / CURVE) as curve:
            episodes = episodes_played(curve)
            cut = round(sum(step["cut"] * step["episodes"] for step in curve))
        omitted = {"omitted": {EPISODE_CUT: cut}} if cut else {}
        return {"episodes": episodes, "examples": episodes // self._spec.num_generations, **omitted}

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End of a step's update: a model to keep is made whole."""
        if state.global_step in [step * self._spec.num_iterations for step in self._spec.keep_steps]:
            self._gather()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every process has written its part of the checkpoint: only then may it be marked complete."""
        self._processes.everywhere(lambda: None)

    def _gather(self) -> None:
        assert self._trainer is not None
        for name, weight in whole_weights(self._trainer.model) if self._processes.sharded else ():  # type: ignore[arg-type]
            if self._processes.main:
                self._whole[name] = weight.detach().cpu()

    def _write(self, folder: Path) -> None:
        save_whole(self._own.model, folder, self._whole)
        self._own.tokenizer.save_pretrained(folder)

    def _drop_checkpoints(self) -> None:
        if self._processes.main:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
