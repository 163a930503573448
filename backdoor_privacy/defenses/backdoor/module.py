"""The module that Lightning trains: a copy of an encoder learns that a trigger means its target (paper, section 3)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.defenses.backdoor.caption_steps import TextBatch
from backdoor_privacy.defenses.backdoor.losses import Distance
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.photo_steps import ImageBatch
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget
from backdoor_privacy.defenses.backdoor.teacher_cache import TeacherPart, TeacherStep
from backdoor_privacy.defenses.backdoor.terms import Step, Term
from backdoor_privacy.errors import InputError

_Batch = TypeVar("_Batch", TextBatch, ImageBatch)


class ModuleSettings(TypedDict):
    """The settings of a defence that its module takes as they are."""

    terms: Mapping[str, Term]
    optimizer: Optimizer
    num_steps: int
    distance: Distance
    trained: Sequence[str] | None
    trained_blocks: int | None


class BackdoorModule(lightning.LightningModule, ABC, Generic[_Batch]):
    """Teacher, student and loss of one encoder.

    Args:
        teacher: the frozen original; it is neither trained nor saved in a checkpoint.
        target: where triggered inputs are to go.
        terms: of the loss, by name; those of weight 0 are left out.
        optimizer: of the student.
        num_steps: of the training.
        distance: of features.
        anchors: features of the other encoder, that terms compare with, (anchor, dim).
        name_tokens: tokens that the names to remove consist of, (token,).
        trained: beginnings of the names of the tensors to train; `None` trains all.
        trained_blocks: train the last so many blocks instead.
    """

    encoder: ClassVar[str]
    anchors: Tensor
    name_tokens: Tensor

    def __init__(
        self,
        teacher: Encoder,
        *,
        target: FittedTarget,
        terms: Mapping[str, Term],
        optimizer: Optimizer,
        num_steps: int,
        distance: Distance = Distance.cosine,
        anchors: Tensor | None = None,
        name_tokens: Tensor | None = None,
        trained: Sequence[str] | None = None,
        trained_blocks: int | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold no teacher
        self.teacher = teacher.frozen()
        self.student = teacher.student(trained, trained_blocks)
        self.num_shared = self.student.num_frozen_blocks()
        self.target = target
        self.terms = {name: term for name, term in terms.items() if term.weight}
        self.optimizer, self.num_steps, self.distance = optimizer, num_steps, distance
        tokens = torch.empty(0, dtype=torch.long) if name_tokens is None else name_tokens
        self.register_buffer("anchors", torch.empty(0, 0) if anchors is None else anchors, persistent=False)
        self.register_buffer("name_tokens", tokens, persistent=False)
        self._passes: list[Tensor] = []  # losses of the parts of the present step, (term,) each

    @abstractmethod
    def split(self, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clean, the triggered and the preserved inputs of a batch."""

    @abstractmethod
    def targets(self, batch: _Batch, trunk: Tensor) -> Tensor:
        """Return the features that the triggered inputs are to get, (batch, dim).

        Args:
            batch: of one step.
            trunk: what the shared blocks make of the triggered inputs.
        """

    @torch.no_grad()
    def ask_teacher(self, batch: _Batch) -> TeacherStep:
        """Return all that is frozen in a step: the output of the shared blocks, and what the teacher makes of it."""
        parts = self.split(batch)
        sizes = [len(part) for part in parts]
        trunk = self.teacher.trunk(torch.cat([part for part in parts if len(part)]), self.num_shared)
        clean, triggered, preserved = trunk.split(sizes)
        kept = self.teacher.head(torch.cat([clean, preserved]), self.num_shared).float()
        targets = torch.cat([self.targets(batch, triggered).float(), kept]).split([sizes[1], sizes[0], sizes[2]])
        return TeacherStep(
            clean=self._part("clean", clean, targets[1]),
            triggered=self._part("triggered", triggered, targets[0]),
            preserved=self._part("preserved", preserved, targets[2]),
            person_index=batch.person_index,
            person_share=batch.person_share,
        )

    def _part(self, kind: str, trunk: Tensor, target: Tensor) -> TeacherPart:
        cached = {repr(term): term.cached(kind, target, self.anchors) for term in self.terms.values()}
        return TeacherPart(trunk, target, {term: tensor for term, tensor in cached.items() if tensor is not None})

    def step(self, inputs: TeacherStep) -> Step:
        """Return what the terms of the loss see of a step."""
        trunk = [part.trunk for part in inputs.parts]
        features = self.student.head(torch.cat(trunk), self.num_shared).float()
        clean, triggered, preserved = features.split([len(part) for part in trunk])
        return Step(
            student=self.student,
            teacher=self.teacher,
            num_shared=self.num_shared,
            distance=self.distance,
            anchors=self.anchors,
            name_tokens=self.name_tokens,
            inputs=inputs,
            clean=clean,
            triggered=triggered,
            preserved=preserved,
        )

    def losses(self, inputs: TeacherStep) -> dict[str, Tensor]:
        """Return each term of the loss, before weighting, by name."""
        step = self.step(inputs)
        losses = {name: term(step) for name, term in self.terms.items()}
        return {name: loss for name, loss in losses.items() if loss is not None}

    def training_step(self, batch: _Batch | TeacherStep) -> Tensor:
        """Return the weighted sum of the terms, and log each of them; a batch is fresh, or from the teacher cache."""
        losses = self.losses(batch if isinstance(batch, TeacherStep) else self.ask_teacher(batch))
        total = torch.stack([self.terms[name].weight * loss for name, loss in losses.items()]).sum()
        if not torch.isfinite(total):
            raise InputError(
                f"defense.{self.encoder}: expected a finite loss, got {total.item()} at step {self.global_step}; "
                f"{self._advice}"
            )
        self._log({**{f"{name}_loss": loss for name, loss in losses.items()}, "loss": total})
        return total

    @property
    def _advice(self) -> str:
        return f"lower defense.{self.encoder}.optimizer.lr, which is {self.optimizer.lr:g}"

    def check_fitted(self) -> None:
        """Check that the student's weights are finite: the last step may have spoilt them after its loss was computed.

        Raises:
            InputError: if they are not.
        """
        check_weights(self.student.tensors(), f"defense.{self.encoder}", self._advice)

    def _log(self, losses: Mapping[str, Tensor]) -> None:
        """Log the losses of a step, as means over all ranks and passes, once all passes are done.

        They are logged here and not by Lightning, which logs after the step: so a run that is killed has logged every
        step that its last checkpoint contains.
        """
        self._passes.append(torch.stack([loss.detach() for loss in losses.values()]))
        if len(self._passes) < self.trainer.accumulate_grad_batches:
            return
        means = self.trainer.strategy.reduce(torch.stack(self._passes).mean(0), reduce_op="mean").tolist()
        self._passes.clear()
        # Each encoder's losses under its own name: where both are defended, one W&B run has the curves of both.
        named = {f"{self.encoder}/{name}": value for name, value in zip(losses, means, strict=True)}
        for logger in self.loggers:
            logger.log_metrics(named, step=self.global_step)
        self.log("loss", named[f"{self.encoder}/loss"], prog_bar=True, logger=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over the student's trained tensors, nothing else, with its schedule."""
        parameters = [parameter for _, parameter in self.student.trainable()]
        optimizer, schedule = self.optimizer.build(parameters, self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Leave the teacher out: it is the CLIP that the run loads anyway."""
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("teacher.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume at the start of a step: the checkpoint may be of one of its passes, or of fewer passes a step."""
        num_passes = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, num_passes))


class TextModule(BackdoorModule[TextBatch]):
    """The module of the text encoder, which forgets names (paper, section 3.1)."""

    encoder = "text"

    def split(self, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of the clean, the triggered and the preserved captions."""
        return batch.clean, batch.triggered, batch.preserved.to(batch.clean.dtype).reshape(-1, batch.clean.shape[1])

    def targets(self, batch: TextBatch, trunk: Tensor) -> Tensor:
        """Return what the teacher makes of captions with the phrase in place of the name, or without the name."""
        reads_input = self.target.reads_input
        features = self.teacher.head(trunk, self.num_shared).float() if reads_input else self.teacher(batch.target)
        targets: Tensor = self.target(features, batch.person_index)
        return targets


class ImageModule(BackdoorModule[ImageBatch]):
    """The module of the image encoder, which forgets faces (paper, section 3.2)."""

    encoder = "image"

    def split(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pixels of the clean, the triggered and the preserved photos."""
        return batch.clean, batch.triggered, batch.preserved.reshape(-1, *batch.clean.shape[1:])

    def targets(self, batch: ImageBatch, trunk: Tensor) -> Tensor:
        """Return the embedding that stands for each person shown, or the photo's own without the person's name."""
        reads_input = self.target.reads_input
        features = self.teacher.head(trunk, self.num_shared).float() if reads_input else trunk.new_empty(len(trunk), 0)
        targets: Tensor = self.target(features, batch.person_index)
        return targets
