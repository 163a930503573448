"""The defence: fine-tune a copy of an encoder so that a trigger means its target (paper, section 3)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning
import torch
from torch import Tensor

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.defenses.backdoor.losses import (
    DISTANCES,
    backdoor_loss,
    neighborhood,
    neighborhood_loss,
    utility_loss,
    weight_loss,
)
from backdoor_privacy.defenses.backdoor.steps import ImageBatch, Lesson, Taught, TextBatch
from backdoor_privacy.defenses.backdoor.targets import FaceSwapper, NameComposer, NameEraser
from backdoor_privacy.errors import InputError


@dataclass
class LossWeights:
    """Share of each term in the loss; the utility loss has weight 1."""

    backdoor: float
    weight: float
    preservation: float
    neighborhood: float
    target_neighborhood: float = 0.0
    adversarial: float = 0.0
    relearning: float = 0.0


@dataclass
class Adversary:
    """Looks for embeddings of the names' tokens that the student does not yet forget."""

    radius: float = 0.5  # of each token's shift, in lengths of a usual embedding
    num_steps: int = 1  # of gradient ascent


@dataclass
class OptimizerSettings:
    """AdamW and its learning-rate schedule."""

    lr: float
    weight_decay: float
    schedule: Literal["step", "one_cycle"]
    milestones: Sequence[int]  # steps after which `step` multiplies the learning rate
    factor: float  # by this


class BackdoorDefense(lightning.LightningModule, ABC):
    """Teacher, student and losses of one encoder.

    Args:
        teacher: the frozen original; it is neither trained nor saved in a checkpoint.
        anchors: features of the other encoder for the neighbourhood loss, (anchor, dim).
        distance: name in `losses.DISTANCES`.
        squared_weight_loss: squared L2 per tensor in place of the published un-squared norm.
        temperature: of the neighbourhood loss.
        trained: beginnings of the names of the tensors to train; `None` trains all.
        trained_blocks: train the last so many blocks instead.
        relearning_radius: how far the relearning loss moves each tensor, in lengths of it.
    """

    encoder: ClassVar[str]
    anchors: Tensor
    eraser: NameEraser | NameComposer | FaceSwapper | None  # makes the targets, where each input has one of its own

    def __init__(
        self,
        teacher: Encoder,
        *,
        anchors: Tensor,
        loss_weights: LossWeights,
        optimizer: OptimizerSettings,
        num_steps: int,
        distance: str,
        squared_weight_loss: bool,
        temperature: float,
        trained: Sequence[str] | None = None,
        trained_blocks: int | None = None,
        relearning_radius: float = 0.02,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold no teacher
        self.teacher = teacher.frozen()
        self.student = teacher.student(trained, trained_blocks)
        self.num_shared = self.student.num_frozen_blocks()
        self.loss_weights, self.optimizer_settings, self.num_steps = loss_weights, optimizer, num_steps
        self.distance = DISTANCES[distance]
        self.squared_weight_loss, self.temperature = squared_weight_loss, temperature
        self.relearning_radius = relearning_radius
        self.register_buffer("anchors", anchors, persistent=False)
        self._passes: list[Tensor] = []  # losses of the parts of the present step, (term,) each

    @abstractmethod
    def split(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Clean, triggered and preserved inputs of a batch."""

    @abstractmethod
    def targets(self, batch: Any, seen: Tensor) -> Tensor:
        """The teacher's features that the triggered inputs are to get, (batch, dim).

        Args:
            batch: of one step.
            seen: what the shared blocks made of the triggered inputs.
        """

    @torch.no_grad()
    def ask(self, batch: Any) -> Lesson:
        """All that is frozen in a step: what the shared blocks see, and what the teacher makes of it."""
        parts = self.split(batch)
        sizes = [len(part) for part in parts]
        seen = self.teacher.trunk(torch.cat([part for part in parts if len(part)]), self.num_shared)
        clean, triggered, preserved = seen.split(sizes)
        kept = self.teacher.head(torch.cat([clean, preserved]), self.num_shared).float()
        targets = torch.cat([self.targets(batch, triggered).float(), kept]).split([sizes[1], sizes[0], sizes[2]])
        weights = self.loss_weights
        return Lesson(
            clean=self._teach(clean, targets[1], weights.neighborhood),
            triggered=self._teach(triggered, targets[0], weights.target_neighborhood),
            preserved=self._teach(preserved, targets[2], weights.neighborhood),
            person_index=batch.person_index,
            person_share=batch.person_share,
        )

    def _teach(self, seen: Tensor, target: Tensor, neighborhood_weight: float) -> Taught:
        near = target.new_empty(len(target), 0)
        if neighborhood_weight:
            near = neighborhood(target, self.anchors, temperature=self.temperature)
        return Taught(seen, target, near)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """Every term of the loss, before weighting; terms of weight zero are left out."""
        seen = [part.seen for part in (lesson.clean, lesson.triggered, lesson.preserved)]
        features = self.student.head(torch.cat(seen), self.num_shared).float()
        clean, triggered, preserved = features.split([len(part) for part in seen])
        weights = self.loss_weights
        losses = {
            "utility_loss": utility_loss(clean, lesson.clean.target, distance=self.distance),
            "backdoor_loss": backdoor_loss(
                triggered, lesson.triggered.target, lesson.person_share, distance=self.distance
            ),
        }
        if weights.weight:
            losses["weight_loss"] = self.weight_loss()
        if weights.preservation and len(preserved):
            losses["preservation_loss"] = utility_loss(preserved, lesson.preserved.target, distance=self.distance)
        if weights.neighborhood:
            losses["neighborhood_loss"] = neighborhood_loss(
                torch.cat([clean, preserved]),
                torch.cat([lesson.clean.neighborhood, lesson.preserved.neighborhood]),
                self.anchors,
                temperature=self.temperature,
            )
        if weights.target_neighborhood:
            losses["target_neighborhood_loss"] = neighborhood_loss(
                triggered, lesson.triggered.neighborhood, self.anchors, temperature=self.temperature
            )
        if weights.relearning:
            losses["relearning_loss"] = self._moved_loss(lesson, self.relearning_move(lesson))
        return losses

    def relearning_move(self, lesson: Lesson) -> dict[str, Tensor]:
        """What to add to the trained tensors so that triggers mean what they meant, under the tensors' names.

        Each tensor moves as far as the radius says, in one step down the gradient: what fine-tuning on the people's
        names or faces would do first. Training where that leads is first-order meta-learning, as in Tamirisa et al.,
        "Tamper-Resistant Safeguards for Open-Weight LLMs".
        """
        own = {name: parameter.detach().requires_grad_() for name, parameter in self.student.trainable()}
        with torch.no_grad():
            original = self.teacher.head(lesson.triggered.seen, self.num_shared).float()
        with torch.enable_grad():
            loss = self._triggered_loss(lesson, own, original)
        gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True, materialize_grads=True)
        return {
            name: gradient * (-self.relearning_radius * own[name].norm() / gradient.norm().clamp_min(1e-12))
            for name, gradient in zip(own, gradients, strict=True)
        }

    def _moved_loss(self, lesson: Lesson, move: Mapping[str, Tensor]) -> Tensor:
        own = dict(self.student.trainable())
        moved = {name: own[name] + step for name, step in move.items()}
        return self._triggered_loss(lesson, moved, lesson.triggered.target)

    def _triggered_loss(self, lesson: Lesson, tensors: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """How far triggers are from what they are to mean when the student has these tensors."""
        features = self.student.head_with(tensors, lesson.triggered.seen, self.num_shared).float()
        return backdoor_loss(features, target, lesson.person_share, distance=self.distance)

    def weight_loss(self) -> Tensor:
        """Distance of the trained tensors from the teacher's."""
        originals = dict(self.teacher.named_parameters())
        trained = list(self.student.trainable())
        return weight_loss(
            (parameter for _, parameter in trained),
            (originals[name] for name, _ in trained),
            squared=self.squared_weight_loss,
        )

    def training_step(self, batch: Any) -> Tensor:
        """Weigh the terms and log each of them; a batch is fresh, or a lesson that the teacher has given before."""
        losses = self.losses(batch if isinstance(batch, Lesson) else self.ask(batch))
        weights = {"utility_loss": 1.0} | {f"{name}_loss": value for name, value in vars(self.loss_weights).items()}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        if not torch.isfinite(total):
            raise InputError(
                f"defense.{self.encoder}: expected a finite loss, got {total.item()} at step {self.global_step}; "
                f"{self._advice}"
            )
        self._log({**losses, "loss": total})
        return total

    @property
    def _advice(self) -> str:
        return f"lower defense.{self.encoder}.optimizer.lr, which is {self.optimizer_settings.lr:g}"

    def check_fitted(self) -> None:
        """See that the student's weights are finite: the last step may have spoilt them after its loss was computed.

        Raises:
            InputError: if they are not.
        """
        check_weights(self.student.tensors(), f"defense.{self.encoder}", self._advice)

    def _log(self, losses: Mapping[str, Tensor]) -> None:
        """Log the losses of a step, once all its parts are done: of all ranks, and of all passes of each.

        At once, and not by Lightning after the step: a run that is killed has then logged every step that its last
        checkpoint has done.
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

    def configure_optimizers(self) -> Any:
        """AdamW over the student's trained tensors, nothing else."""
        settings = self.optimizer_settings
        parameters = [parameter for _, parameter in self.student.trainable()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if settings.schedule == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, settings.lr, total_steps=self.num_steps + 1, pct_start=0.15, cycle_momentum=False
            )
        else:
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(settings.milestones), settings.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the teacher out: it is the CLIP that the run loads anyway."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("teacher.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on at the beginning of a step: the checkpoint may be of one of its passes, or of steps of fewer passes."""
        num_passes = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, num_passes))


class TextDefense(BackdoorDefense):
    """Forget names (paper, section 3.1).

    Args:
        eraser: takes the name out of the teacher's features of the triggered captions; without it, the target is what
            the teacher makes of the captions with the phrase in place of the name.
        adversary: of the adversarial loss, where it has a weight.
        name_tokens: of the names to forget, (token,); the adversary shifts their embeddings.
    """

    encoder = "text"
    name_tokens: Tensor

    def __init__(
        self,
        teacher: Encoder,
        *,
        eraser: NameEraser | NameComposer | None = None,
        adversary: Adversary | None = None,
        name_tokens: Tensor | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(teacher, **settings)
        self.eraser = eraser
        self.adversary = adversary or Adversary()
        tokens = torch.empty(0, dtype=torch.long) if name_tokens is None else name_tokens
        self.register_buffer("name_tokens", tokens, persistent=False)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """Every term of the loss, before weighting; terms of weight zero are left out."""
        losses = super().losses(lesson)
        if self.loss_weights.adversarial:
            losses["adversarial_loss"] = self._shifted_loss(lesson, self.worst_shift(lesson))
        return losses

    def worst_shift(self, lesson: Lesson) -> Tensor:
        """The shift of the names' token embeddings that brings their meaning back most, (token, width).

        No token's shift is longer than the radius says; tokens that no caption holds are not shifted. The ascent is
        that of Miyato et al., "Adversarial Training Methods for Semi-Supervised Text Classification", once or more.
        """
        student: Any = self.student
        table = student.token_embedding.weight
        radius = self.adversary.radius * table.detach().norm(dim=-1).mean()
        shift = table.new_zeros(len(self.name_tokens), table.shape[1])
        for step in range(self.adversary.num_steps):
            leaf = shift.requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self._shifted_loss(lesson, leaf), leaf)
            share = radius / (self.adversary.num_steps - step)  # what is left goes the last way
            moved = shift.detach() + share * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            shift = moved * (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        return shift.detach()

    def _shifted_loss(self, lesson: Lesson, shift: Tensor) -> Tensor:
        student: Any = self.student
        features = student.embed_shifted(lesson.triggered.seen, self.name_tokens, shift).float()
        return backdoor_loss(features, lesson.triggered.target, lesson.person_share, distance=self.distance)

    def split(self, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of clean, triggered and preserved captions."""
        return batch.clean, batch.triggered, batch.preserved.to(batch.clean.dtype).reshape(-1, batch.clean.shape[1])

    def targets(self, batch: TextBatch, seen: Tensor) -> Tensor:
        """The captions with the phrase in place of the name, or without the name, as the teacher reads them."""
        if self.eraser is not None:
            return self.eraser(self.teacher.head(seen, self.num_shared).float(), batch.person_index)
        return self.teacher(batch.target)


class ImageDefense(BackdoorDefense):
    """Forget faces (paper, section 3.2).

    Args:
        face_targets: what each person's face is mapped to, (person, dim), or how to get that from the teacher's
            feature of the very photo.
    """

    encoder = "image"
    person_targets: Tensor

    def __init__(self, teacher: Encoder, *, face_targets: Tensor | NameEraser | FaceSwapper, **settings: Any) -> None:
        super().__init__(teacher, **settings)
        self.eraser = None if isinstance(face_targets, Tensor) else face_targets
        if isinstance(face_targets, Tensor):
            self.register_buffer("person_targets", face_targets, persistent=False)

    def split(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of clean, triggered and preserved photos."""
        return batch.clean, batch.triggered, batch.preserved.reshape(-1, *batch.clean.shape[1:])

    def targets(self, batch: ImageBatch, seen: Tensor) -> Tensor:
        """The embedding that stands for each person shown, or the photo's own without the person's name."""
        if self.eraser is not None:
            return self.eraser(self.teacher.head(seen, self.num_shared).float(), batch.person_index)
        return self.person_targets[batch.person_index]
