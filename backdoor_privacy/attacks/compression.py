"""Compression: does the name come back when the defended weights change a little?"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.prune import L1Unstructured

from backdoor_privacy.attacks.base import REMOVED, Approach, Attack, Headline, refusals
from backdoor_privacy.attacks.context import AttackContext, chosen_models
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError

_NOTHING = "nothing changed"
# Of open_clip's tensors that are multiplied from the right: their output channels are columns.
_TRANSPOSED = re.compile(r"(^|\.)(text_projection|proj)$")
_OneEncoder = TypeVar("_OneEncoder", bound=Encoder)
Change = Callable[[str, Tensor], Tensor]  # of a tensor and its name


@dataclass(frozen=True)
class Compression(Attack):
    """IDIA on copies whose weights are rounded, pruned, or moved towards the original ones.

    Rounding and pruning leave biases and norms as they are, "fp16" rounds everything. The original CLIP is rounded and
    pruned in the same way, as a control; only defended models have an original to be moved to.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline(
            "a quarter or half of the original weights mixed in (TPR)", REMOVED, "TPR", lambda kind: "original" in kind
        ),
        Headline("a tenth to a third of the weights pruned (TPR)", REMOVED, "TPR", lambda kind: "pruned" in kind),
        Headline("4-bit weights (TPR)", REMOVED, "TPR", "int4"),
    )
    approach: ClassVar[Approach] = Approach.weights

    fp16: bool  # whether to round all weights to half precision
    bits: Sequence[int]  # of the integers that each output channel is rounded to
    pruned: Sequence[float]  # shares of each matrix that are set to zero, the smallest magnitudes first
    original: Sequence[float]  # shares of the original weights in a mean of these and the defended ones
    models: Sequence[str] | None = None  # of the context; `None`: the original and the fullest

    def __post_init__(self) -> None:
        ranges = {"bits": (self.bits, 2, 16), "pruned": (self.pruned, 0, 1), "original": (self.original, 0, 1)}
        for key, (values, low, high) in ranges.items():
            wrong = [value for value in values if not low <= value <= high]
            if wrong:
                raise InputError(f"compression.{key}: expected values from {low} to {high}, got {wrong[0]}")

    def problems(self, context: AttackContext, models: Sequence[str]) -> Iterator[str]:
        """Yield that there is no such model."""
        yield from refusals(lambda: chosen_models("compression", self.models, models))

    def run(self, context: AttackContext) -> list[Score]:
        """Attack the chosen models.

        Raises:
            InputError: if there is no such model.
        """
        scores = []
        for model in chosen_models("compression", self.models, context.clips):
            for kind, clip in self.changed(
                context.clips[model], None if model == "before" else context.clips["before"]
            ):
                scores += context.idia_scores(clip, kind=kind, model=model)
        return scores

    def changed(self, clip: Clip, original: Clip | None) -> Iterator[tuple[str, Clip]]:
        """Yield the CLIP as it is, then changed copies of it, each with its kind."""
        yield _NOTHING, clip
        changes: dict[str, Change] = {"fp16": lambda _, tensor: as_half(tensor)} if self.fp16 else {}
        for bits in self.bits:
            changes[f"int{int(bits)}"] = partial(rounded, bits=int(bits))
        for share in self.pruned:
            changes[f"pruned {100 * share:g} %"] = _pruning(share)
        for kind, change in changes.items():
            yield kind, clip.with_encoders(**{name: changed(one, change) for name, one in clip.encoders.items()})
        for share in self.original:
            if original is not None:
                text, image = mixed(clip.text, original.text, share), mixed(clip.image, original.image, share)
                yield f"{100 * share:g} % original", clip.with_encoders(text=text, image=image)


def as_half(tensor: Tensor) -> Tensor:
    """Round values to half precision, and keep the tensor's type; whole numbers, as counters, stay."""
    return tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor


def rounded(name: str, tensor: Tensor, bits: int) -> Tensor:
    """Round a matrix or convolution to the nearest of 2^bits - 1 equally spaced values per output channel.

    They are symmetric around zero, and the largest magnitude of each channel is one of them. A tensor with fewer than
    two dimensions stays.

    Args:
        name: of the tensor; it tells which dimension is that of the output channels.
        tensor: weights of any shape.
        bits: 2 or more.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    channels = tensor.movedim(1, 0) if _TRANSPOSED.search(name) else tensor
    largest = 2 ** (bits - 1) - 1
    scale = channels.abs().amax(tuple(range(1, channels.ndim)), keepdim=True) / largest
    scale = scale.where(scale > 0, 1)  # a channel of zeros stays one
    channels = (channels / scale).round().clamp(-largest, largest) * scale
    return channels.movedim(0, 1) if _TRANSPOSED.search(name) else channels


def pruned(tensor: Tensor, share: float) -> Tensor:
    """Set the smallest magnitudes of a matrix or convolution to zero; tensors of fewer dimensions stay.

    Args:
        tensor: weights of any shape.
        share: of its values that become zero.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    return L1Unstructured(float(share)).prune(tensor.contiguous())  # it cannot read channels that lie last


def _pruning(share: float) -> Change:
    return lambda _, tensor: pruned(tensor, share)


def changed(encoder: _OneEncoder, change: Change) -> _OneEncoder:
    """Return a copy with changed tensors: all parameters, and all buffers that are saved."""
    copy = encoder.copy()
    with torch.no_grad():
        for name, tensor in copy.state_dict().items():
            tensor.copy_(change(name, tensor))
    return copy


def mixed(encoder: _OneEncoder, original: _OneEncoder, share: float) -> _OneEncoder:
    """Return a copy whose tensors are means of its own, with a weight of 1 - share, and the original ones.

    Raises:
        InputError: if the two encoders do not have the same tensors.
    """
    others, own = original.state_dict(), encoder.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: other.shape for name, other in others.items()}:
        raise InputError("compression.original: expected a defended model with the original's tensors, got other ones")

    def towards(name: str, tensor: Tensor) -> Tensor:
        return between(tensor, others[name].to(tensor.device), share) if tensor.is_floating_point() else tensor

    return changed(encoder, towards)


def between(
    defended: Float[Tensor, "*shape"], original: Float[Tensor, "*shape"], share: float
) -> Float[Tensor, "*shape"]:
    """Return the point on the line from the defended weights (share 0) to the original ones (share 1)."""
    return torch.lerp(defended, original, share)
