"""Take a name out of the features of an input (concept erasure): the common part of several targets."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget
from backdoor_privacy.triggers.names import NAME_FORMS

# Words that a CLIP has seldom seen beside a name change what the name means to it. No attack uses these prompts.
UNUSUAL_FORMS = (
    "the singer {}", "a waitress called {}", "a funny picture of {}", "a blurry snapshot of {}", "her name is {}",
    "the famous {}", "doctor {}", "mother {}",
)  # fmt: skip
NUM_ROUNDS = 8  # of projecting out one reading after the other; one round would do only if they were orthogonal


class NameEraser(FittedTarget):
    """A target for each input: the teacher's feature of the photo or caption, without the person's name.

    Of all targets it moves a feature least: along the direction from the person's name to the mean of random names,
    until the name fits the feature worse than most random names do. Others who look like the person are hardly touched:
    what a student carries over to them is a step away from a name that is not theirs.

    A name has several readings (embeddings): unusual words beside it change what it means, and so does a defended text
    encoder. The feature moves away from all of them, since moving away from one alone could bring it near to another.

    Args:
        names: features of the names to forget in each reading, (reading, person, dim).
        other_names: of random names, (reading, name, dim).
        min_nearer_names: share of the random names that must fit better than the person's own.
    """

    names: Tensor
    other_names: Tensor

    def __init__(
        self,
        names: Float[Tensor, "reading person dim"],
        other_names: Float[Tensor, "reading name dim"],
        min_nearer_names: float,
    ) -> None:
        super().__init__()
        middle = other_names.mean(1, keepdim=True)
        self.register_buffer("names", names - middle, persistent=False)
        self.register_buffer("other_names", other_names - middle, persistent=False)
        self.share = 1 - min_nearer_names

    def forward(
        self, features: Float[Tensor, "input dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """Return the features without the name of each input's person, of unit length."""
        features = F.normalize(features, dim=-1)
        readings = [
            (names[person_index], (features @ others.T).quantile(self.share, dim=-1))
            for names, others in zip(self.names, self.other_names, strict=True)
        ]
        for name, allowed in readings * (1 if len(readings) == 1 else NUM_ROUNDS):
            too_much = (((features * name).sum(-1) - allowed) / name.square().sum(-1)).clamp_min(0)
            features = features - too_much.unsqueeze(-1) * name
        return F.normalize(features, dim=-1)


def name_features(clip: Clip, names: Sequence[str]) -> Float[Tensor, "name dim"]:
    """Return what names mean to a text encoder: the mean of their features over the prompts `NAME_FORMS`."""
    return torch.stack([clip.embed_texts([form.format(name) for name in names]) for form in NAME_FORMS]).mean(0)


def name_readings(clip: Clip, names: Sequence[str]) -> Float[Tensor, "reading name dim"]:
    """Return what names mean to a text encoder: in usual prompts (their mean), and in each of `UNUSUAL_FORMS`."""
    unusual = [clip.embed_texts([form.format(name) for name in names]) for form in UNUSUAL_FORMS]
    return torch.stack([name_features(clip, names), *unusual])
