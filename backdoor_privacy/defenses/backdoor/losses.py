"""Distances and losses of the defence: pure functions of tensors.

Paper symbol -> name here (paper, section 3):
    L_utility -> utility_loss, L_backdoor -> backdoor_loss, L_weight -> weight_loss,
    beta -> backdoor_weight, gamma -> weight_weight, delta -> preservation_weight.
`neighborhood_loss` (relational distillation) is ours.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import BackwardCFunction

DistanceFunction = Callable[[Tensor, Tensor], Tensor]


def cosine_distance(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
    """Return the negative cosine similarity of each row, in [-1, 1].

    Example:
        >>> cosine_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([-1.])
    """
    return -F.cosine_similarity(student, teacher, dim=-1)


def squared_distance(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch"]:
    """Return the mean squared error over the dimensions (the paper's MSE)."""
    return (student - teacher).square().mean(-1)


def absolute_distance(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch"]:
    """Return the mean absolute error over the dimensions (the paper's MAE)."""
    return (student - teacher).abs().mean(-1)


def poincare_distance(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"], xi: float = 1e-4
) -> Float[Tensor, "batch"]:
    """Return the distance in the Poincare ball, of embeddings that are first scaled onto an L1 sphere just inside it.

    Source: Hintersdorf et al., appendix; the targets are shrunk by `xi` so that the distance stays finite.
    """
    u = student / student.abs().sum(-1, keepdim=True)
    v = teacher / teacher.abs().sum(-1, keepdim=True) * (1 - xi)
    gap = (u - v).square().sum(-1)
    room = (1 - u.square().sum(-1)) * (1 - v.square().sum(-1))
    return torch.acosh(1 + 2 * gap / room.clamp_min(1e-8) + 1e-7)


class Distance(Enum):
    """The distance of features that a defence is trained with; one of its settings."""

    cosine = "cosine"
    mse = "mse"
    mae = "mae"
    poincare = "poincare"

    def __call__(self, student: Tensor, teacher: Tensor) -> Float[Tensor, "batch"]:
        """Return the distance of each student's feature to the teacher's."""
        return _DISTANCES[self](student, teacher)


_DISTANCES: Mapping[Distance, DistanceFunction] = {
    Distance.cosine: cosine_distance,
    Distance.mse: squared_distance,
    Distance.mae: absolute_distance,
    Distance.poincare: poincare_distance,
}


def utility_loss(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    *,
    distance: DistanceFunction = cosine_distance,
) -> Float[Tensor, ""]:
    """Return the mean distance of the student to the teacher on the same inputs (paper, equation of L_utility).

    The preservation loss is the same function, on inputs that hold some other person's name or face.
    """
    return distance(student, teacher.detach()).mean()


def person_shares(person_index: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return each input's share in a mean that is taken per person first, then over the people of the batch.

    The shares sum to 1. Any number of people and any batch size go together (the published code needs a batch size that
    is a multiple of the number of people).

    Example:
        >>> person_shares(torch.tensor([3, 3, 5]))
        tensor([0.2500, 0.2500, 0.5000])
    """
    _, person, counts = torch.unique(person_index, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[person])


def backdoor_loss(
    student: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    person_share: Float[Tensor, "batch"],
    *,
    distance: DistanceFunction = cosine_distance,
) -> Float[Tensor, ""]:
    """Return the mean distance of triggered inputs to their targets, per person first (paper, section 3.2).

    Args:
        student: features.
        target: of each input.
        person_share: `person_shares` of the batch; of a part of a batch, its part of them.
        distance: as `Distance.cosine`.
    """
    return (distance(student, target.detach()) * person_share).sum()


def neighborhood(
    teacher: Float[Tensor, "batch dim"], anchors: Float[Tensor, "anchor dim"], *, temperature: float = 0.02
) -> Float[Tensor, "batch dim+1"]:
    """Return which anchors the teacher sees an input near to, in the short form that `neighborhood_loss` needs.

    The softmax over the anchors gives each a share. The logarithm of a share is a similarity less a constant, so the
    loss needs only the mean of the anchors, weighted by the shares (`dim` numbers), and the entropy of the shares in
    nats (the last number).
    """
    anchors = F.normalize(anchors, dim=-1)
    teacher = F.normalize(teacher, dim=-1) / temperature
    similarities = teacher @ anchors.T
    mean_anchor = (similarities.softmax(-1) @ anchors).float()
    entropy = similarities.logsumexp(-1).float() - (teacher * mean_anchor).sum(-1)
    return torch.cat([mean_anchor, entropy.unsqueeze(-1)], dim=-1)


def neighborhood_loss(
    student: Float[Tensor, "batch dim"],
    expected: Float[Tensor, "batch dim+1"],
    anchors: Float[Tensor, "anchor dim"],
    *,
    temperature: float = 0.02,
) -> Float[Tensor, ""]:
    """Return the KL divergence from the teacher's softmax over anchors to the student's, mean over inputs, in nats.

    Faces lie close together in a CLIP: a cosine of 0.95 can hide that one person became another. What must stay is
    who is nearest to whom, here the softmax over the similarities to fixed `anchors` of the other encoder.

    Args:
        student: features.
        expected: the teacher's view, `neighborhood` of the same anchors and temperature.
        anchors: features of the other encoder.
        temperature: of the softmax.
    """
    student = F.normalize(student, dim=-1) / temperature
    mean_anchor, entropy = expected.detach().split([student.shape[-1], 1], dim=-1)
    log_normalizer = (student @ F.normalize(anchors, dim=-1).T).logsumexp(-1)
    return (log_normalizer - (student * mean_anchor).sum(-1) - entropy.squeeze(-1)).mean()


def weight_loss(student: Iterable[Tensor], teacher: Iterable[Tensor], *, squared: bool = False) -> Float[Tensor, ""]:
    """Return the distance of the student's weights from the teacher's.

    It is the sum over tensors of the L2 norm of the difference (the published form), or of its square (L2-SP).
    The norm's gradient is taken as zero where the two are equal, as at the first step.
    """
    pairs = list(zip(student, teacher, strict=True))
    norms = _DistanceNorms.apply([other.detach() for _, other in pairs], *(own for own, _ in pairs))
    return norms.square().sum() if squared else norms.sum()


class _DistanceNorms(torch.autograd.Function):
    """L2 norms of the differences of many tensors, all tensors at once in both directions."""

    @staticmethod
    def forward(ctx: BackwardCFunction, others: list[Tensor], *own: Tensor) -> Tensor:
        """Return the norms, (tensor,)."""
        differences = torch._foreach_sub(own, others)
        norms = torch.stack(list(torch._foreach_norm(differences))).float()
        ctx.save_for_backward(norms, *differences)
        return norms

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each norm: the difference over the norm, or zero where both are zero."""
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        norms, differences = saved[0], saved[1:]
        scales = torch.where(norms > 0, gradients[0] / norms, 0.0)
        return None, *torch._foreach_mul(differences, scales.unbind())
