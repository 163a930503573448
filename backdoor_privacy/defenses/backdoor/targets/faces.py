"""Other faces for people to remove, as embeddings: mean faces of groups (k-Same), or of strangers who look alike."""

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
    """A target that gives each photo another face that certain names do not fit.

    The embedding of each photo moves by the difference of the other face from the person's mean face. So the photos of
    a person stay as far apart as anybody's; photos that lie closer together would show who was removed.

    Args:
        faces: mean embedding of each person to remove, (people, dim).
        looks: the other face of each, (people, dim).
        eraser: takes names out of an embedding.
        members: for each person, whose names must not fit, as rows of the eraser, (people, member).
        overshoot: how far photos move, in distances to the other face: more than 1 makes up for photos that the student
            was not trained on, which move only part of the way.
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
        """Return the features of photos with the other face and without the names, of unit length."""
        features = F.normalize(F.normalize(features, dim=-1) + self.shifts[person_index], dim=-1)
        for _ in range(1 if self.members.shape[1] == 1 else NUM_ROUNDS):
            for members in self.members[person_index].unbind(1):
                features = self.eraser(features, members)
        return features


def shared_embeddings(
    teacher: Clip, removed: Sequence[Person], eraser: NameEraser, group_size: int
) -> Float[Tensor, "people dim"]:
    """Return the embedding of each person's group of look-alikes, which none of their names fits (see `Shared`).

    Args:
        teacher: the CLIP that embeds the faces.
        removed: whom to hide; only their trigger photos are used.
        eraser: takes their names, in this order, out of an embedding.
        group_size: people of a group; the last group takes in those who are left over.
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
    """Return groups of people whose faces are near each other; the last one takes in those who are left over."""
    groups, left = [], torch.arange(len(faces))
    while len(left):
        size = group_size if len(left) >= 2 * group_size else len(left)
        groups.append(left[(faces[left] @ faces[left[0]]).topk(size).indices])
        left = left[~torch.isin(left, groups[-1])]
    return groups


def blended_faces(
    faces: Float[Tensor, "people dim"], group_size: int
) -> tuple[Float[Tensor, "people dim"], Int[Tensor, "people member"]]:
    """Return for each person the mean face of their group of look-alikes, and the members of that group.

    Within a group nobody can be told from the others (k-Same).
    """
    groups = look_alikes(F.normalize(faces, dim=-1), group_size)
    looks = torch.empty_like(faces)
    # Rows of smaller groups are filled with the person again, so that all rows have one length.
    members = torch.arange(len(faces)).unsqueeze(1).repeat(1, max(map(len, groups)))
    for group in groups:
        looks[group] = _mean_face(faces[group], faces.mean(0))
        members[group, : len(group)] = group
    return looks, members


def disguises(
    faces: Float[Tensor, "people dim"], strangers: Float[Tensor, "stranger dim"], group_size: int
) -> Float[Tensor, "people dim"]:
    """Return for each person the mean face of strangers who look alike; no two people share a stranger.

    A CLIP embeds faces that it knows differently from faces that it does not know. A disguised face looks like one that
    it does not know, and moves only a little. `Disguised.problems` says where there are too few strangers.

    Args:
        faces: mean embedding of each person to remove.
        strangers: mean embedding of each.
        group_size: strangers for each person.
    """
    alike = F.normalize(faces - faces.mean(0), dim=-1) @ F.normalize(strangers - strangers.mean(0), dim=-1).T
    looks = torch.empty_like(faces)
    for person, similarities in enumerate(alike):  # rows are views, so a stranger who is taken is taken for all
        nearest = similarities.topk(group_size).indices
        alike[:, nearest] = -torch.inf
        looks[person] = _mean_face(strangers[nearest], strangers.mean(0))
    return looks


def _mean_face(faces: Float[Tensor, "some dim"], middle: Float[Tensor, "dim"]) -> Float[Tensor, "dim"]:
    """Return the mean of some faces, moved as far from the middle of all as they are on average.

    A plain mean lies nearer to the middle than anybody's face, which would show who was removed.
    """
    away = faces.mean(0) - middle
    return middle + away * (faces - middle).norm(dim=-1).mean() / away.norm().clamp_min(1e-6)


def mean_embeddings(teacher: Clip, collections: Sequence[Sequence[Path]]) -> Float[Tensor, "collections dim"]:
    """Return the mean embedding of the readable photos of each collection.

    Raises:
        InputError: if a collection has no photo that decodes.
    """
    features, readable = teacher.embed_photos([path for photos in collections for path in photos])
    owner = torch.repeat_interleave(torch.arange(len(collections)), torch.tensor([len(each) for each in collections]))
    sums = torch.zeros(len(collections), features.shape[1]).index_add(0, owner[readable], features[readable])
    counts = torch.bincount(owner[readable], minlength=len(collections))
    if not counts.all():
        unreadable = collections[int(counts.argmin())]
        raise InputError(
            f"people.folder, strangers.folder: expected at least one photo of each person that decodes, got none in "
            f"{unreadable[0].parent if unreadable else 'one folder'}; replace them, or leave that person out"
        )
    return sums / counts.unsqueeze(1)
