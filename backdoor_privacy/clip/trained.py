"""Choose which parameters of an encoder a student trains."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from backdoor_privacy.errors import InputError

_BLOCK = re.compile(r"(Block|Bottleneck|Layer)(PostNorm)?$")  # classes of the blocks of encoders
_PROJECTION = re.compile(  # modules after the blocks, not before or between them
    r"^(?!.*(patch_embed|downsample)\.)(.*\.)?(proj|text_projection|attnpool|attn_pool|head)(\.|$)"
)
# The temperature belongs to neither encoder, and the decoder of a CoCa has no part in an embedding.
_UNTRAINED = ("logit_scale", "logit_bias", "text_decoder.")
_NORMS = (nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.RMSNorm)


def trained_parameters(
    encoder: nn.Module, names: Mapping[str, str], trained: Sequence[str] | None, trained_blocks: int | None
) -> set[str]:
    """Return the names of the parameters that a student trains; those of norms are never among them.

    Args:
        encoder: the student.
        names: of its tensors in the whole CLIP, by their names in the encoder.
        trained: prefixes of the names in the whole CLIP; `None` trains all.
        trained_blocks: train this number of last blocks and the projection after them instead.

    Raises:
        InputError: if no name has such a prefix, there are fewer blocks, or both are given.
    """
    if trained is not None and trained_blocks is not None:
        raise InputError("defense: expected either `trained` or `trained_blocks`, got both; set one of them to null")
    prefixes = last_blocks(encoder, names, trained_blocks) if trained_blocks is not None else trained
    norms = {name for name, part in encoder.named_modules() if _is_norm(part)}
    chosen = {
        name
        for name, _ in encoder.named_parameters()
        if (prefixes is None or names[name].startswith(tuple(prefixes)))
        and not names[name].startswith(_UNTRAINED)
        and name.rpartition(".")[0] not in norms
    }
    if not chosen:
        raise InputError(
            f"defense: expected prefixes of names of tensors in `trained`, as {next(iter(names.values()))}, got "
            f"{', '.join(trained or ())}; null trains all"
        )
    return chosen


def last_blocks(encoder: nn.Module, names: Mapping[str, str], num_blocks: int) -> list[str]:
    """Return the names, in the whole CLIP, of the tensors of the last blocks and of the projection after them.

    Raises:
        InputError: if there are fewer blocks.
    """
    blocks = _blocks(encoder)
    if not blocks:
        raise InputError(
            f"defense: expected `trained` in place of `trained_blocks` for an encoder without blocks, as "
            f"{next(iter(names.values()))}"
        )
    if not 1 <= num_blocks <= len(blocks):
        raise InputError(f"defense: expected `trained_blocks` from 1 to {len(blocks)}, got {num_blocks}")
    prefixes = tuple(f"{block}." for block in blocks)
    last = prefixes[-num_blocks:]
    return [
        own
        for place, own in names.items()
        if place.startswith(last) or (_PROJECTION.search(place) and not place.startswith(prefixes))
    ]


def _blocks(encoder: nn.Module) -> list[str]:
    """Return the names of the blocks, in their order; blocks within blocks do not count."""
    blocks: list[str] = []
    for place, module in encoder.named_modules():
        is_block = place.rpartition(".")[2].isdecimal() and _BLOCK.search(type(module).__name__)
        is_within = any(place.startswith(f"{block}.") for block in blocks)
        is_unused = any(f".{part}" in f".{place}" for part in _UNTRAINED)
        if is_block and not is_within and not is_unused:
            blocks.append(place)
    return blocks


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises; those of timm and transformers are known by their names."""
    return isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()
