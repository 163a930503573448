"""Take a name out of what an encoder makes of an input: the common part of several targets."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget

# But for the first two, others than the attack's, whose choice is not ours.
NAME_FORMS = (
    "{}", "a photo of {}", "a portrait of {}", "this is {}", "my friend {}", "{} at work", "meet {}, a person",
)  # fmt: skip
# Words that a CLIP has seldom seen beside a name change what the name means to it. None of these is the attack's.
UNUSUAL_FORMS = (
    "the singer {}", "a waitress called {}", "a funny picture of {}", "a blurry snapshot of {}", "her name is {}",
    "the famous {}", "doctor {}", "mother {}",
)  # fmt: skip
NUM_ROUNDS = 8  # of going against one reading of a name after the other, which are seldom at right angles


class NameEraser(FittedTarget):
    """Takes a person's name out of what the teacher sees in their photo or caption: a target for each input.

    Of all targets this is the shortest way: the feature goes against the direction from the mean of random names to the
    person's name until the name fits it worse than most random names do. Others who look like the person are hardly
    touched, because what a student carries over to them is a step away from a name that is not theirs.

    A name has several readings: unusual words beside it change what it means, and so does a defended text encoder. The
    feature goes against all of them: what has only left the first could meet another.

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
        """The teacher's features of inputs without the name of the person that each shows, of unit length."""
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
    """What names mean to a text encoder, whatever form they stand in: the mean over `NAME_FORMS`."""
    return torch.stack([clip.embed_texts([form.format(name) for name in names]) for form in NAME_FORMS]).mean(0)


def name_readings(clip: Clip, names: Sequence[str]) -> Float[Tensor, "reading name dim"]:
    """What names mean to a text encoder: in usual forms, and in each of `UNUSUAL_FORMS`."""
    unusual = [clip.embed_texts([form.format(name) for name in names]) for form in UNUSUAL_FORMS]
    return torch.stack([name_features(clip, names), *unusual])
