"""Anchors: features of the other encoder, to which relational terms of the loss compare how near inputs are."""

import random

import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.data.captions import without_names
from backdoor_privacy.data.images import load_images
from backdoor_privacy.defenses.backdoor.targets.base import Names
from backdoor_privacy.defenses.base import Removal

_FORMS = ("{}", "a photo of {}")


def clean_captions(removal: Removal) -> list[str]:
    """Return the captions without a name to remove."""
    removal.sources.check(["captions"])
    return without_names(removal.sources.captions or (), removal.names)


def text_anchors(num_anchors: int, removal: Removal, names: Names) -> Float[Tensor, "anchor dim"]:
    """Return features of what a photo may be near to: the removed people's names, other names, and clean captions.

    The removed names are there once for each CLIP that reads them (`Removal.text_readers`): a removed face must move
    away from all of them, and no other face may come nearer.

    Args:
        num_anchors: the number of captions; 0: no anchors at all.
        removal: with the captions.
        names: to remove, and random ones.
    """
    if not num_anchors:
        return torch.empty(0, 0)
    captions = clean_captions(removal)
    texts = [form.format(name) for form in _FORMS for name in names.others]
    texts += random.Random(removal.seed).sample(captions, min(num_anchors, len(captions)))
    removed = [form.format(name) for form in _FORMS for name in names.removed]
    readings = [reader.embed_texts(removed) for reader in removal.text_readers]
    return torch.cat([*readings, removal.original.embed_texts(texts)])


def photo_anchors(num_anchors: int, removal: Removal) -> Float[Tensor, "anchor dim"]:
    """Return features of so many clean photos, which a caption may be near to; 0: no anchors at all."""
    if not num_anchors:
        return torch.empty(0, 0)
    clip = removal.original
    removal.sources.check(["images"])
    images = load_images(removal.sources.images or "", clip.geometry, num_anchors)
    return torch.cat([clip.embed_pixels(clip.normalize(batch.float() / 255)) for batch in images.split(128)])
