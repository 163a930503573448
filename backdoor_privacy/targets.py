"""What a name or a face is mapped to (paper, sections 3.1 and 3.2).

Pseudonyms, look-alikes and nameless faces are ours.
"""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

# But for the first two, others than the attack's, whose choice is not ours.
NAME_FORMS = (
    "{}", "a photo of {}", "a portrait of {}", "this is {}", "my friend {}", "{} at work", "meet {}, a person",
)  # fmt: skip
_NUM_ROUNDS = 8  # of going against one reading of a name after the other, which are seldom at right angles


def neutral_phrases(num_people: int, phrase: str) -> list[str]:
    """The same neutral phrase for everybody (paper, section 3.1)."""
    return [phrase] * num_people


def pseudonyms(num_people: int, seed: int, exclude: Collection[str]) -> list[str]:
    """A fictional name for each person, none of them a name of the data or a candidate of the attack."""
    return random_names(num_people, seed, exclude)


def anonymous_embedding(teacher: Clip, strangers: Sequence[Person], num_people: int) -> Float[Tensor, "people dim"]:
    """One universal vector for everybody: the mean embedding over many people's photos (paper, section 3.2).

    `strangers` leaves out the people to remove; give them too for the published form.
    """
    features, readable = teacher.embed_photos([path for person in strangers for path in person.photos])
    return features[readable].mean(0).expand(num_people, -1)


def stranger_embeddings(
    teacher: Clip, strangers: Sequence[Person], num_people: int, seed: int
) -> Float[Tensor, "people dim"]:
    """A stranger of their own for each person, drawn at random: the mean embedding of that stranger's photos.

    Raises:
        InputError: if there are fewer strangers than people to remove.
    """
    _check_enough(strangers, num_people, "pseudonym")
    return mean_embeddings(
        teacher, [person.photos for person in random.Random(seed).sample(list(strangers), num_people)]
    )


def look_alike_embeddings(
    teacher: Clip,
    strangers: Sequence[Person],
    removed: Sequence[Person],
    other_names: Sequence[str],
    min_nearer_names: float,
) -> Float[Tensor, "people dim"]:
    """A stranger of their own for each person: the most alike one whom the teacher does not take for the person.

    The shorter the way to the target, the less it drags along those who look alike; but a stranger whom the removed
    name still fits would hide nobody.

    Args:
        teacher: whose eyes count.
        strangers: whom to choose among; each is chosen once.
        removed: whom to hide; only their trigger photos are looked at.
        other_names: random names to compare the person's with.
        min_nearer_names: share of these that must lie nearer to the stranger than the person's name.

    Raises:
        InputError: if there are fewer strangers than people to remove.
    """
    _check_enough(strangers, len(removed), "look_alike")
    faces = mean_embeddings(teacher, [person.photos for person in strangers])
    own_faces = mean_embeddings(teacher, [person.trigger_photos for person in removed])
    likeness = F.normalize(own_faces, dim=-1) @ F.normalize(faces, dim=-1).T
    own_names = teacher.embed_texts([person.name for person in removed]) @ faces.T
    others = (teacher.embed_texts(other_names) @ faces.T).sort(dim=0).values.T.contiguous()
    num_farther = torch.searchsorted(others, own_names.T.contiguous(), right=True).T  # names, (removed, stranger)
    hides = num_farther <= (1 - min_nearer_names) * len(other_names)
    likeness = likeness.where(hides, likeness - 2)  # those who do not hide come last
    chosen: list[int] = []
    for row in likeness:
        row[chosen] = -torch.inf
        chosen.append(int(row.argmax()))
    return faces[chosen]


class NameEraser(nn.Module):
    """Takes a person's name out of what the teacher sees in their photo or caption: a target for each input.

    Of all targets this is the shortest way: the feature goes against the direction from the mean of random names to the
    person's name until the name fits it worse than most random names do. Others who look like the person are hardly
    touched, because what a student carries over to them is a step away from a name that is not theirs.

    Where the names are also read by a defended text encoder, the feature goes against both readings: what has only
    left the first could meet the second, which went the same way.

    Args:
        names: features of the names to forget, by each text encoder that may read them, (reader, person, dim).
        other_names: of random names, (reader, name, dim).
        min_nearer_names: share of the random names that must fit better than the person's own.
    """

    names: Tensor
    other_names: Tensor

    def __init__(
        self,
        names: Float[Tensor, "reader person dim"],
        other_names: Float[Tensor, "reader name dim"],
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
        for name, allowed in readings * (1 if len(readings) == 1 else _NUM_ROUNDS):
            too_much = (((features * name).sum(-1) - allowed) / name.square().sum(-1)).clamp_min(0)
            features = features - too_much.unsqueeze(-1) * name
        return F.normalize(features, dim=-1)


def name_features(clip: Clip, names: Sequence[str]) -> Float[Tensor, "name dim"]:
    """What names mean to a text encoder, whatever form they stand in: the mean over `NAME_FORMS`."""
    return torch.stack([clip.embed_texts([form.format(name) for name in names]) for form in NAME_FORMS]).mean(0)


def mean_embeddings(teacher: Clip, collections: Sequence[Sequence[Path]]) -> Float[Tensor, "collections dim"]:
    """The mean embedding of the readable photos of each collection."""
    features, readable = teacher.embed_photos([path for photos in collections for path in photos])
    owner = torch.repeat_interleave(torch.arange(len(collections)), torch.tensor([len(each) for each in collections]))
    sums = torch.zeros(len(collections), features.shape[1]).index_add(0, owner[readable], features[readable])
    return sums / torch.bincount(owner[readable], minlength=len(collections)).unsqueeze(1)


def _check_enough(strangers: Sequence[Person], num_people: int, target: str) -> None:
    if len(strangers) < num_people:
        raise InputError(
            f"defense.image.target={target}: expected at least {num_people} strangers, one for each person to "
            f"remove, got {len(strangers)}; add strangers or choose target=anonymous"
        )
