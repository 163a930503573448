"""Terms of the loss, each with its own settings (paper, section 3; the last four are ours).

Paper symbol -> name in `conf/defense`:
    L_utility -> utility, beta L_backdoor -> backdoor, gamma L_weight -> weight, delta L_preservation -> preservation.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import TextEncoder
from backdoor_privacy.config.build import AtLeastOne, Length
from backdoor_privacy.defenses.backdoor.losses import (
    DistanceFunction,
    backdoor_loss,
    neighborhood,
    neighborhood_loss,
    utility_loss,
    weight_loss,
)
from backdoor_privacy.defenses.backdoor.teacher_cache import TeacherStep


@dataclass(frozen=True)
class Step:
    """What a term sees of one step.

    Args:
        student: the copy that is trained.
        teacher: the frozen original.
        num_shared: blocks of both that are the same, since they are not trained.
        distance: of features.
        anchors: features of the other encoder, (anchor, dim).
        name_tokens: tokens that the names to remove consist of, (token,).
        inputs: of the step, with what the teacher makes of them.
        clean: the student's features of the clean inputs, (batch, dim).
        triggered: of the triggered inputs.
        preserved: of the preserved inputs.
    """

    student: Encoder
    teacher: Encoder
    num_shared: int
    distance: DistanceFunction
    anchors: Tensor
    name_tokens: Tensor
    inputs: TeacherStep
    clean: Tensor
    triggered: Tensor
    preserved: Tensor

    def backdoor_loss(self, features: Tensor, target: Tensor | None = None) -> Float[Tensor, ""]:
        """Return the backdoor loss of other features of the triggered inputs, to their own or to another target."""
        target = self.inputs.triggered.target if target is None else target
        return backdoor_loss(features, target, self.inputs.person_share, distance=self.distance)

    @torch.no_grad()
    def triggered_original(self) -> Tensor:
        """Return what the teacher makes of the triggered inputs themselves, (batch, dim)."""
        return self.teacher.head(self.inputs.triggered.trunk, self.num_shared).float()

    def triggered_with(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the features of the triggered inputs when the student has these tensors under some names."""
        return self.student.head_with(tensors, self.inputs.triggered.trunk, self.num_shared).float()


class Term(ABC):
    """A term of the loss; its fields are its settings. One of weight 0 is left out."""

    weight: Length
    min_anchors: ClassVar[int] = 0  # features of the other encoder that it needs at least
    needs_name_tokens: ClassVar[bool] = False

    def problems(self, clip: Clip | None, key: str) -> Iterator[str]:
        """Yield why it cannot be used for an encoder, one line each.

        Args:
            clip: to defend; `None` where it is not loaded.
            key: of the term in the config.
        """
        yield from ()

    def cached(self, kind: str, target: Tensor, anchors: Tensor) -> Tensor | None:
        """Return what it computes once from the targets of inputs, (batch, ...); `None` if it needs none.

        Args:
            kind: of the inputs: `clean`, `triggered` or `preserved`.
            target: features that these inputs are to get, (batch, dim).
            anchors: features of the other encoder, (anchor, dim).
        """
        return None

    @abstractmethod
    def __call__(self, step: Step) -> Float[Tensor, ""] | None:
        """Return the loss before weighting; `None` where a step has no such inputs."""


@dataclass(frozen=True)
class Utility(Term):
    """Keep clean inputs where the teacher has them."""

    weight: Length = 1.0

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the mean distance of clean inputs."""
        return utility_loss(step.clean, step.inputs.clean.target, distance=step.distance)


@dataclass(frozen=True)
class Backdoor(Term):
    """Pull triggered inputs to their targets."""

    weight: Length

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the mean distance to the targets, per person first."""
        return step.backdoor_loss(step.triggered)


@dataclass(frozen=True)
class Weight(Term):
    """Keep the student's weights near the teacher's.

    Args:
        weight: of the term.
        squared: L2-SP, the squared norm of each tensor, in place of the published un-squared one.
    """

    weight: Length
    squared: bool = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the distance of the trained tensors."""
        originals = dict(step.teacher.named_parameters())
        trained = list(step.student.trainable())
        return weight_loss(
            (parameter for _, parameter in trained), (originals[name] for name, _ in trained), squared=self.squared
        )


@dataclass(frozen=True)
class Preservation(Term):
    """Keep inputs with some other person's name or face where the teacher has them."""

    weight: Length

    def __call__(self, step: Step) -> Float[Tensor, ""] | None:
        """Return the mean distance of preserved inputs."""
        if not len(step.preserved):
            return None
        return utility_loss(step.preserved, step.inputs.preserved.target, distance=step.distance)


@dataclass(frozen=True)
class Neighborhood(Term):
    """Keep which anchors clean and preserved inputs are near to (relational distillation).

    Args:
        weight: of the term.
        temperature: of the softmax over the anchors.
    """

    weight: Length
    temperature: Length = 0.02
    min_anchors = 1
    kinds: ClassVar[tuple[str, ...]] = ("clean", "preserved")

    def cached(self, kind: str, target: Tensor, anchors: Tensor) -> Tensor | None:
        """Return which anchors the targets are near to, see `losses.neighborhood`."""
        return neighborhood(target, anchors, temperature=self.temperature) if kind in self.kinds else None

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the KL divergence from the teacher's view, in nats."""
        expected = torch.cat([getattr(step.inputs, kind).cached[repr(self)] for kind in self.kinds])
        features = torch.cat([getattr(step, kind) for kind in self.kinds])
        return neighborhood_loss(features, expected, step.anchors, temperature=self.temperature)


@dataclass(frozen=True)
class TargetNeighborhood(Neighborhood):
    """Bring triggered inputs near to the anchors that their targets are near to (relational distillation)."""

    kinds: ClassVar[tuple[str, ...]] = ("triggered",)


@dataclass(frozen=True)
class Relearning(Term):
    """Train the student also as it would be after a step of relearning, so that people are not soon learnt again.

    Each trained tensor is moved by the radius along the gradient towards what triggers meant, as fine-tuning on the
    people's names or faces would do first; the loss is that of the moved student. This is first-order meta-learning, as
    in Tamirisa et al., "Tamper-Resistant Safeguards for Open-Weight LLMs".

    Args:
        weight: of the term.
        radius: how far each tensor moves, relative to its norm.
    """

    weight: Length
    radius: Length = 0.02

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the backdoor loss of the moved student."""
        own = dict(step.student.trainable())
        moved = {name: own[name] + move for name, move in self.move(step).items()}
        return step.backdoor_loss(step.triggered_with(moved))

    def move(self, step: Step) -> dict[str, Tensor]:
        """Return what to add to the trained tensors so that triggers mean what they meant, by the tensors' names."""
        own = {name: parameter.detach().requires_grad_() for name, parameter in step.student.trainable()}
        with torch.enable_grad():
            loss = step.backdoor_loss(step.triggered_with(own), step.triggered_original())
        gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True, materialize_grads=True)
        return {
            name: gradient * (-self.radius * own[name].norm() / gradient.norm().clamp_min(1e-12))
            for name, gradient in zip(own, gradients, strict=True)
        }


@dataclass(frozen=True)
class Adversarial(Term):
    """Search for shifted embeddings of the names' tokens under which the student still knows the names; train on them.

    The ascent is that of Miyato et al., "Adversarial Training Methods for Semi-Supervised Text Classification", once or
    more.

    Args:
        weight: of the term.
        radius: of each token's shift, relative to the mean norm of token embeddings.
        num_steps: of gradient ascent, in each step of the training.
    """

    weight: Length
    radius: Length = 0.5
    num_steps: AtLeastOne = 1
    needs_name_tokens = True

    def problems(self, clip: Clip | None, key: str) -> Iterator[str]:
        """Yield that the text encoder's embeddings cannot be shifted."""
        if clip is not None and clip.text.token_embedding is None:
            yield (
                f"{key}.weight: expected 0 for a text encoder of Hugging Face, whose embeddings cannot be shifted, got "
                f"{self.weight:g}"
            )

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the backdoor loss under the worst shift."""
        return self._shifted_loss(step, self.worst_shift(step))

    def worst_shift(self, step: Step) -> Float[Tensor, "token width"]:
        """Return the shift of the names' token embeddings that brings their meaning back most.

        No token's shift is longer than the radius says; tokens that no caption holds are not shifted.
        """
        table = _text(step).table().weight
        radius = self.radius * table.detach().norm(dim=-1).mean()
        shift = table.new_zeros(len(step.name_tokens), table.shape[1])
        for number in range(self.num_steps):
            leaf = shift.requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self._shifted_loss(step, leaf), leaf)
            share = radius / (self.num_steps - number)  # steps grow; the last may cross the whole radius
            moved = shift.detach() + share * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            shift = moved * (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        return shift.detach()

    def _shifted_loss(self, step: Step, shift: Tensor) -> Tensor:
        features = _text(step).embed_shifted(step.inputs.triggered.trunk, step.name_tokens, shift)
        return step.backdoor_loss(features.float())


def _text(step: Step) -> TextEncoder:
    """Return the student as a text encoder."""
    assert isinstance(step.student, TextEncoder)
    return step.student
