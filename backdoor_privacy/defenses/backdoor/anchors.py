"""Features of the other encoder that inputs are near to or far from: what relational terms of the loss compare with."""

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

    The removed names are what a removed face must leave and no other face may come near to, whoever reads them.

    Args:
        num_anchors: captions; 0: no anchors at all.
        removal: whose captions are taken.
        names: to remove, and others.
    """
    if not num_anchors:
        return torch.empty(0, 0)
    captions = clean_captions(removal)
    texts = [form.format(name) for form in _FORMS for name in names.others]
    texts += random.Random(removal.seed).sample(captions, min(num_anchors, len(captions)))
    removed = [form.format(name) for form in _FORMS for name in names.removed]
    read = [reader.embed_texts(removed) for reader in removal.text_readers]
    return torch.cat([*read, removal.original.embed_texts(texts)])


def photo_anchors(num_anchors: int, removal: Removal) -> Float[Tensor, "anchor dim"]:
    """Return features of clean photos: what a caption may be near to; 0: no anchors at all."""
    if not num_anchors:
        return torch.empty(0, 0)
    clip = removal.original
    removal.sources.check(["images"])
    images = load_images(removal.sources.images or "", clip.geometry, num_anchors)
    return torch.cat([clip.embed_pixels(clip.normalize(batch.float() / 255)) for batch in images.split(128)])
