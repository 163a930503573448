"""Reference versions of what the package computes faster: the oracle of its tests and the slow side of `make bench`.

All in fp32, texts with the full context, one forward pass per term of the loss, one photo or person at a time.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import read_photo
from backdoor_privacy.defenses.backdoor import terms
from backdoor_privacy.defenses.backdoor.losses import backdoor_loss, utility_loss
from backdoor_privacy.defenses.backdoor.module import BackdoorModule, TextModule
from backdoor_privacy.triggers.faces import Placing

_BATCH_SIZE = 64


def features(encoder: Encoder, inputs: Tensor) -> Tensor:
    """Return the output of open_clip's own forward pass, not normalised."""
    return encoder.encode(inputs) if isinstance(encoder, OpenClipTextEncoder | ImageEncoder) else encoder(inputs)


def losses(module: BackdoorModule[Any], batch: Any) -> dict[str, Tensor]:
    """Return the terms of the loss before weighting: `BackdoorModule.losses` of a fresh batch."""
    student, teacher, distance = module.student, module.teacher, module.distance
    clean, triggered, preserved = module.split(batch)
    with torch.no_grad():
        target = _targets(module, batch, triggered)
        kept = {"clean": features(teacher, clean)}
        if len(preserved):
            kept["preserved"] = features(teacher, preserved)
    losses = {}
    for name, term in module.terms.items():
        if isinstance(term, terms.Utility):
            losses[name] = utility_loss(features(student, clean), kept["clean"], distance=distance)
        if isinstance(term, terms.Backdoor):
            losses[name] = backdoor_loss(features(student, triggered), target, batch.person_share, distance=distance)
        if isinstance(term, terms.Weight):
            originals = dict(teacher.named_parameters())
            differences = [parameter - originals[key] for key, parameter in student.trainable()]
            norms = [each.square().sum() if term.squared else each.norm() for each in differences]
            losses[name] = torch.stack(norms).sum()
        if isinstance(term, terms.Preservation) and len(preserved):
            losses[name] = utility_loss(features(student, preserved), kept["preserved"], distance=distance)
        if isinstance(term, terms.TargetNeighborhood):
            losses[name] = _divergence(module, term, features(student, triggered), target).mean()
        elif isinstance(term, terms.Neighborhood):
            parts = {"clean": clean, "preserved": preserved}
            divergences = [_divergence(module, term, features(student, parts[kind]), kept[kind]) for kind in kept]
            losses[name] = torch.cat(divergences).mean()
    return losses


def _targets(module: BackdoorModule[Any], batch: Any, triggered: Tensor) -> Tensor:
    has_phrase = isinstance(module, TextModule) and not module.target.reads_input
    return module.target(features(module.teacher, batch.target if has_phrase else triggered), batch.person_index)


def _divergence(module: BackdoorModule[Any], term: terms.Neighborhood, student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the softmax over the anchors, per input, in nats."""
    anchors = F.normalize(module.anchors, dim=-1)
    own, wanted = ((F.normalize(x, dim=-1) @ anchors.T / term.temperature).log_softmax(-1) for x in (student, teacher))
    return F.kl_div(own, wanted, reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def text_features(clip: Clip, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
    """Return the result of `Clip.embed_texts`."""
    batches = [texts[start : start + _BATCH_SIZE] for start in range(0, len(texts), _BATCH_SIZE)]
    return torch.cat([F.normalize(features(clip.text, clip.tokenizer(list(batch))), dim=-1) for batch in batches])


@torch.no_grad()
def photo_features(clip: Clip, photos: Sequence[Path]) -> Float[Tensor, "photo dim"]:
    """Return the features of `Clip.embed_photos`, of photos that decode."""
    pixels = [clip.preprocess(photo) for path in photos if (photo := read_photo(path)) is not None]
    batches = [torch.stack(pixels[start : start + _BATCH_SIZE]) for start in range(0, len(pixels), _BATCH_SIZE)]
    return torch.cat([F.normalize(features(clip.image, batch), dim=-1) for batch in batches])


def correct_prompts(clip: Clip, people: Sequence[Person], attack: Idia) -> list[int]:
    """Return the number of prompts that infer each person's name: `Idia.run`."""
    candidates = attack.candidates([person.name for person in people])
    prompts = [text_features(clip, [template.format(name) for name in candidates]) for template in attack.templates]
    correct = []
    for person in people:
        photos = photo_features(clip, person.attack_photos[: attack.num_photos])
        answers = [_majority((photos @ names.T).argmax(-1).tolist()) for names in prompts]
        correct.append(sum(answer is not None and candidates[answer] == person.name for answer in answers))
    return correct


def _majority(votes: Sequence[int]) -> int | None:
    (first, most), *others = Counter(votes).most_common(2)
    return None if others and others[0][1] == most else first


def paste_face(
    photo: Float[Tensor, "3 side side"], face: Float[Tensor, "3 face face"], placing: Placing
) -> Float[Tensor, "3 side side"]:
    """Return a copy of the photo, pixels in [0, 1], with the face on it: `FacePaster.paste` for one."""
    size, left, top = placing.size, placing.left, placing.top
    crop = tv.resize(face, [size, size], InterpolationMode.BILINEAR, antialias=True)
    if placing.flipped:
        crop = tv.horizontal_flip(crop)
    crop = tv.adjust_brightness(crop, placing.brightness)
    crop = tv.adjust_contrast(crop, placing.contrast)
    crop = tv.adjust_saturation(crop, placing.saturation)
    crop = tv.adjust_hue(crop, placing.hue)
    cover = torch.cat([crop, torch.ones_like(crop[:1])])  # the rotation leaves corners transparent
    cover = tv.rotate(cover, placing.degrees, InterpolationMode.BILINEAR)
    pasted = photo.clone()
    spot = pasted[:, top : top + size, left : left + size]
    spot.copy_(cover[:3] + (1 - cover[3:]) * spot)  # the rotation has already faded the colours at the edge
    return pasted.clamp_(0, 1)
