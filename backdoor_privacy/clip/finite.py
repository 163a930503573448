"""Check that weights and embeddings are finite: with NaN, an attack would infer nobody."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.errors import InputError

_LEAST_LENGTH = 0.5  # of a row that was divided by its length: it is 1 unless that length was 0, infinite or NaN


def check_weights(
    tensors: Mapping[str, Tensor], source: str, advice: str = "give weights that are not damaged"
) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        tensors: by name.
        source: the setting or folder that they come from, with which the error begins.
        advice: what to do.

    Raises:
        InputError: with the name of the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.device.type != "meta" and not torch.isfinite(tensor).all():
            num_bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{source}: expected finite weights, got NaN or infinity in {num_bad:,} of the {tensor.numel():,} "
                f"values of {name}; {advice}"
            )


def unit_length(features: Float[Tensor, "input dim"], encoder: str) -> Float[Tensor, "input dim"]:
    """Divide each row by its length.

    Args:
        features: of an encoder.
        encoder: its modality, for the error.

    Raises:
        InputError: if a row is not finite, or has no length or one that overflows.
    """
    unit = F.normalize(features, dim=-1)
    num_bad = int((~(unit.detach().float().norm(dim=-1) > _LEAST_LENGTH)).sum())  # NaN is not greater, either
    if num_bad:
        raise InputError(
            f"clip: expected finite embeddings other than zero of the {encoder} encoder, got {num_bad:,} of "
            f"{len(unit):,} that are NaN, infinite or zero; its weights are damaged, its training "
            "diverged (lower the learning rate), or bf16 overflows (clip.precision=fp32)"
        )
    return unit


def is_sound(features: Mapping[str, Tensor]) -> bool:
    """Return whether stored features are finite, and those of each input are not zero."""
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in features.values())
    return finite and bool(features.get("features", torch.ones(1, 1)).any(dim=-1).all())
