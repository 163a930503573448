"""Train a student with Lightning, on one process or many, from the start or from where it was interrupted."""

import itertools
import logging
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy
from rich.progress import track

from backdoor_privacy.defenses.backdoor.budget import Budget, Evaluation, UtilityBudget
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers, TextBatch
from backdoor_privacy.defenses.backdoor.module import BackdoorModule
from backdoor_privacy.defenses.backdoor.photo_steps import ImageBatch, PhotoTriggers
from backdoor_privacy.defenses.backdoor.steps import TriggerData
from backdoor_privacy.defenses.backdoor.teacher_cache import Replay, TeacherStep
from backdoor_privacy.defenses.base import Fit
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.checkpoints import LAST, DurableCheckpoints, last_checkpoint
from backdoor_privacy.system.distributed import (
    broadcast,
    is_launched,
    is_main_process,
    num_devices,
    num_processes,
)
from backdoor_privacy.system.hardware import (
    computes_in_bf16,
    default_device,
    default_num_workers,
    fastest_attention,
    usable_workers,
)
from backdoor_privacy.system.signals import Stopped
from backdoor_privacy.system.stopping import KeepSignals, place_of

# Frozen norms are in eval mode on purpose, and a resumed run finds its own checkpoints.
_EXPECTED_WARNINGS = (
    ".*module\\(s\\) in eval mode|Checkpoint directory .* exists|.*does not have many workers|.*LeafSpec"
    "|The dirpath has changed from"  # of a run folder that was moved
    "|You're resuming from a checkpoint that ended before the epoch ended"  # each step knows its own batch
)


@dataclass(frozen=True)
class Training:
    """The training of a module's student.

    Args:
        module: teacher, student and loss.
        steps: to train on.
        num_fresh_steps: the first so many steps draw inputs and ask the teacher, and all steps replay what they drew.
            `None`: each step draws.
        budget: of utility.
        fit: how it is trained.
    """

    module: BackdoorModule
    steps: CaptionTriggers | PhotoTriggers
    num_fresh_steps: int | None
    budget: Budget
    fit: Fit

    def run(self) -> list[Evaluation]:
        """Train, or resume a training that was interrupted; return the evaluations of its utility budget."""
        module, budget = self.module, None if self.budget.min_similarity is None else UtilityBudget(self.budget)
        trainer = self._trainer(budget)
        if self.fit.trainer.gradient_checkpointing:
            module.student.save_memory(True)
        with fastest_attention(trainer.strategy.root_device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _EXPECTED_WARNINGS)
            self._fit(trainer, self._data(trainer, budget))
        if self.fit.trainer.gradient_checkpointing:
            module.student.save_memory(False)
        evaluations = budget.keep_best(module) if budget else []
        module.check_fitted()
        return evaluations

    @property
    def _folder(self) -> Path | None:
        return self.fit.checkpoints and self.fit.checkpoints / self.module.encoder

    @property
    def _shows_progress(self) -> bool:
        return self.fit.trainer.progress_bar and is_main_process()

    def _trainer(self, budget: UtilityBudget | None) -> lightning.Trainer:
        options, callbacks = self.fit.trainer, list[Callback]([KeepSignals()])
        if budget:
            callbacks.append(budget)
        if self._folder is not None:
            every, name = options.checkpoint_every_steps, Path(LAST).stem
            callbacks.append(
                ModelCheckpoint(self._folder, name, every_n_train_steps=every, enable_version_counter=False)
            )
        if self._shows_progress:
            callbacks.append(_StudentProgress(leave=True))
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no list of absent accelerators
        return lightning.Trainer(
            accelerator=options.accelerator,
            **processes(options.accelerator, options.devices),
            precision=_precision(options.precision),
            max_steps=self.module.num_steps,
            accumulate_grad_batches=options.accumulate_grad_batches,
            logger=self.fit.loggers(self.module.encoder),
            callbacks=callbacks,
            plugins=[DurableCheckpoints()],
            enable_checkpointing=self._folder is not None,
            enable_progress_bar=self._shows_progress,
            enable_model_summary=False,
            log_every_n_steps=1,
            use_distributed_sampler=False,
        )

    def _data(self, trainer: lightning.Trainer, budget: UtilityBudget | None) -> TriggerData:
        """Return the steps as Lightning reads them; where a teacher cache is replayed, it is filled first."""
        steps, num_workers = self.steps, self.fit.trainer.num_workers
        workers = usable_workers(default_num_workers() if num_workers is None else num_workers)
        if budget:
            num_batches = budget.settings.num_batches
            steps, others = steps.apart()
            held_out = TriggerData(replace(others, num_steps=num_batches), workers)
            budget.held_out = self._ask_teacher(held_out, num_batches, trainer)
        data, num_fresh_steps = TriggerData(steps, workers), self.num_fresh_steps
        if num_fresh_steps is None or num_fresh_steps >= len(steps):
            return data
        cache = self._ask_teacher(data, num_fresh_steps, trainer)
        replay = Replay(cache=cache, sizes=steps.sizes, num_steps=len(steps), seed=steps.seed)
        return TriggerData(replay, num_workers=0)

    def _ask_teacher(self, data: TriggerData, num_steps: int, trainer: lightning.Trainer) -> TeacherStep:
        """Return what the teacher makes of the inputs of the first steps, in main memory."""
        module = self.module.to(trainer.strategy.root_device)
        batches: Iterable[TextBatch | ImageBatch] = itertools.islice(data.train_dataloader(), num_steps)
        if self._shows_progress:
            batches = track(batches, "Teacher ", total=num_steps)
        with trainer.precision_plugin.forward_context():
            steps = (module.ask_teacher(trainer.strategy.batch_to_device(batch, module.device)) for batch in batches)
            return TeacherStep.collect(steps, num_steps)

    def _fit(self, trainer: lightning.Trainer, data: TriggerData) -> None:
        folder = self._folder
        last = broadcast(last_checkpoint(folder) if folder is not None and is_main_process() else None)
        try:
            trainer.fit(self.module, data, ckpt_path=last)
        except Stopped as stop:
            stop.place = place_of(folder and folder / LAST, f"the {self.module.encoder} encoder")
            raise


class Processes(TypedDict, total=False):
    """Lightning's settings of the processes that train."""

    devices: int | list[int]
    num_nodes: int
    strategy: DDPStrategy


def processes(accelerator: str, devices: int) -> Processes:
    """Return Lightning's settings for one process per device, where they were launched, or for this one alone.

    Raises:
        InputError: if several devices are asked for and nothing connected a process for each.
    """
    if not is_launched():
        if num_devices(devices) != 1:
            raise InputError(
                f"trainer.devices: expected 1 in a single process, got {devices}; start the script with torchrun, one "
                "process per device"
            )
        uses_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
        return {"devices": [torch.cuda.current_device()] if uses_gpu else 1}
    # Every trained tensor contributes to every loss, and buffers are the same in all processes.
    strategy = DDPStrategy(find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True)
    num_here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": num_here, "num_nodes": num_processes() // num_here, "strategy": strategy}


class _StudentProgress(RichProgressBar):
    """Lightning's progress bar, named after what is trained, without a version number."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Student "


_Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16"]  # of Lightning


def _precision(precision: str) -> _Precision:
    """Return Lightning's precision; `auto` is bf16-mixed where the processor computes in bfloat16."""
    if precision != "auto":
        return cast(_Precision, precision)
    return "bf16-mixed" if computes_in_bf16(default_device()) else "32-true"
