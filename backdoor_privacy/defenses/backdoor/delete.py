"""A term of the loss after DELETE: forget the nearest anchor of an input, and keep how near it is to all others."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import Length
from backdoor_privacy.defenses.backdoor.terms import Step, Term
from backdoor_privacy.errors import InputError


def delete_loss(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    anchors: Float[Tensor, "anchor dim"],
    *,
    temperature: float = 0.02,
) -> Float[Tensor, ""]:
    """Return the KL divergence of the student's softmax over anchors from the teacher's without the nearest, in nats.

    The teacher's softmax leaves out the nearest anchor of each input; the others have the shares that they would have
    without it. Source: Zhou et al., "Decoupled Distillation to Erase", the form with a logit of minus infinity.

    Args:
        student: features.
        teacher: features of the same inputs.
        anchors: features of the other encoder, two or more.
        temperature: of the softmax; 1 over it is the scale of the logits.
    """
    anchors = F.normalize(anchors, dim=-1)
    with torch.no_grad():
        logits = F.normalize(teacher, dim=-1) @ anchors.T / temperature
        expected = logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf).softmax(-1)
    actual = (F.normalize(student, dim=-1) @ anchors.T / temperature).log_softmax(-1)
    return F.kl_div(actual, expected, reduction="batchmean")


@dataclass(frozen=True)
class Delete(Term):
    """Take from triggered inputs the anchor that the teacher sees in them, and hold how near all others are.

    Args:
        weight: of the term.
        temperature: of the softmax over the anchors.
    """

    weight: Length
    temperature: Length = 0.02
    min_anchors = 2

    def problems(self, clip: Clip | None, key: str) -> Iterator[str]:
        """Yield that the temperature is 0."""
        if not self.temperature:
            yield f"{key}.temperature: expected more than 0, got 0"

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """Return the KL divergence from the teacher's view without the nearest anchor, in nats.

        Raises:
            InputError: if there are fewer than two anchors.
        """
        if len(step.anchors) < self.min_anchors:  # photos that do not decode are no anchors
            raise InputError(f"num_anchors: expected 2 or more for the term Delete, got {len(step.anchors)}")
        return delete_loss(step.triggered, step.triggered_original(), step.anchors, temperature=self.temperature)
