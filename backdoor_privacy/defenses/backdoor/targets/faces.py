"""Other faces for people to remove, as embeddings: of groups of look-alikes, and of strangers who look alike."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget
from backdoor_privacy.defenses.backdoor.targets.erasure import NUM_ROUNDS, NameEraser
from backdoor_privacy.errors import InputError


class FaceSwapper(FittedTarget):
    """Gives each photo another face, and none of some names.

    Each photo keeps what is its own: its embedding moves by what the other face differs from the person's mean. So
    photos of a person lie no closer together than anybody's, by which one could tell who was removed.

    Args:
        faces: mean embedding of each person to remove, (people, dim).
        looks: the face that each gets, (people, dim).
        eraser: takes names out of an embedding.
        members: whose names must not fit, in the order of the eraser, (people, member).
        overshoot: how far photos move, in distances to the other face. Photos that a student has not seen move only
            part of the way that it was taught.
    """

    shifts: Tensor
    members: Tensor

    def __init__(
        self,
        faces: Float[Tensor, "people dim"],
        looks: Float[Tensor, "people dim"],
        eraser: NameEraser,
        members: Int[Tensor, "people member"],
        overshoot: float,
    ) -> None:
        super().__init__()
        self.eraser = eraser
        self.register_buffer("shifts", overshoot * (looks - faces), persistent=False)
        self.register_buffer("members", members, persistent=False)

    def forward(
        self, features: Float[Tensor, "input dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """The teacher's features of photos, of unit length, with the other face and without the names."""
        features = F.normalize(F.normalize(features, dim=-1) + self.shifts[person_index], dim=-1)
        for _ in range(1 if self.members.shape[1] == 1 else NUM_ROUNDS):
            for members in self.members[person_index].unbind(1):
                features = self.eraser(features, members)
        return features


def shared_embeddings(
    teacher: Clip, removed: Sequence[Person], eraser: NameEraser, group_size: int
) -> Float[Tensor, "people dim"]:
    """One embedding for each group of people to remove who look alike; none of their names fits it.

    Photos of one embedding vote for one name, and outvote the few that a student misses. It does with embeddings what
    k-Same does with pixels (Newton, Sweeney, Malin: Preserving Privacy by De-identifying Face Images, 2005).

    Args:
        teacher: whose eyes count.
        removed: whom to hide; only their trigger photos are looked at.
        eraser: takes their names, in this order, out of an embedding.
        group_size: people of a group; the last one takes in those who are left over.
    """
    faces = eraser(mean_embeddings(teacher, [person.trigger_photos for person in removed]), torch.arange(len(removed)))
    shared = torch.empty_like(faces)
    for group in look_alikes(faces, group_size):
        face = faces[group].mean(0, keepdim=True)
        for member in group.repeat(1 if len(group) == 1 else NUM_ROUNDS):
            face = eraser(face, member[None])
        shared[group] = face
    return shared


def look_alikes(faces: Float[Tensor, "people dim"], group_size: int) -> list[Int[Tensor, "member"]]:
    """Groups of people whose faces are near each other; the last one takes in those who are left over."""
    groups, left = [], torch.arange(len(faces))
    while len(left):
        size = group_size if len(left) >= 2 * group_size else len(left)
        groups.append(left[(faces[left] @ faces[left[0]]).topk(size).indices])
        left = left[~torch.isin(left, groups[-1])]
    return groups


def blended_faces(
    faces: Float[Tensor, "people dim"], group_size: int
) -> tuple[Float[Tensor, "people dim"], Int[Tensor, "people member"]]:
    """For everybody the face of a group of look-alikes, and who is of it.

    Nobody of a group can be told from the others (k-Same, as `shared_embeddings`).
    """
    groups = look_alikes(F.normalize(faces, dim=-1), group_size)
    looks = torch.empty_like(faces)
    # People of smaller groups are their own group's again, so that all rows are as long.
    members = torch.arange(len(faces)).unsqueeze(1).repeat(1, max(map(len, groups)))
    for group in groups:
        looks[group] = _mean_face(faces[group], faces.mean(0))
        members[group, : len(group)] = group
    return looks, members


def disguises(
    faces: Float[Tensor, "people dim"], strangers: Float[Tensor, "stranger dim"], group_size: int
) -> Float[Tensor, "people dim"]:
    """For everybody the mean face of look-alikes whom the CLIP does not know, and nobody else's look-alikes.

    What the CLIP makes of a face that it knows is another than of one that it does not: a disguised one looks like the
    second, and moves only a little.

    Args:
        faces: of the people to remove.
        strangers: mean embedding of each.
        group_size: strangers for each person.

    The target's `problems` say where there are too few.
    """
    alike = F.normalize(faces - faces.mean(0), dim=-1) @ F.normalize(strangers - strangers.mean(0), dim=-1).T
    looks = torch.empty_like(faces)
    for person, similarities in enumerate(alike):  # rows are views: who is taken is taken in all of them
        nearest = similarities.topk(group_size).indices
        alike[:, nearest] = -torch.inf
        looks[person] = _mean_face(strangers[nearest], strangers.mean(0))
    return looks


def _mean_face(faces: Float[Tensor, "some dim"], middle: Float[Tensor, "dim"]) -> Float[Tensor, "dim"]:
    """The mean of some faces, as far from the middle of all as these are: any nearer, it would tell who was removed."""
    away = faces.mean(0) - middle
    return middle + away * (faces - middle).norm(dim=-1).mean() / away.norm().clamp_min(1e-6)


def mean_embeddings(teacher: Clip, collections: Sequence[Sequence[Path]]) -> Float[Tensor, "collections dim"]:
    """The mean embedding of the readable photos of each collection."""
    features, readable = teacher.embed_photos([path for photos in collections for path in photos])
    owner = torch.repeat_interleave(torch.arange(len(collections)), torch.tensor([len(each) for each in collections]))
    sums = torch.zeros(len(collections), features.shape[1]).index_add(0, owner[readable], features[readable])
    counts = torch.bincount(owner[readable], minlength=len(collections))
    if not counts.all():
        lost = collections[int(counts.argmin())]
        raise InputError(
            f"people.folder, strangers.folder: expected a photo or more that decodes of each person, got none in "
            f"{lost[0].parent if lost else 'one folder'}; replace them, or leave that person out"
        )
    return sums / counts.unsqueeze(1)
