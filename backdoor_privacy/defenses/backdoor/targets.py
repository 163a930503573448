"""What a name or a face is mapped to (paper, sections 3.1 and 3.2).

All but one phrase and one anonymous embedding for everybody, and names for names, are ours.
"""

import random
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError

# But for the first two, others than the attack's, whose choice is not ours.
NAME_FORMS = (
    "{}", "a photo of {}", "a portrait of {}", "this is {}", "my friend {}", "{} at work", "meet {}, a person",
)  # fmt: skip
# Words that a CLIP has seldom seen beside a name change what the name means to it. None of these is the attack's.
UNUSUAL_FORMS = (
    "the singer {}", "a waitress called {}", "a funny picture of {}", "a blurry snapshot of {}", "her name is {}",
    "the famous {}", "doctor {}", "mother {}",
)  # fmt: skip
_NUM_ROUNDS = 8  # of going against one reading of a name after the other, which are seldom at right angles


def neutral_phrases(num_people: int, phrase: str) -> list[str]:
    """The same neutral phrase for everybody (paper, section 3.1)."""
    return [phrase] * num_people


def fitting_phrases(clip: Clip, names: Sequence[str], other_names: Sequence[str], phrases: Sequence[str]) -> list[str]:
    """For each name the phrase that fits it best, as a man or a woman.

    Measured by what a phrase fits that name more than others: one that a CLIP finds near to all names is no choice.

    Raises:
        InputError: if there is no phrase, or no other name.
    """
    check_fitting(phrases, len(other_names))
    meant = clip.embed_texts(phrases)
    usual = (name_features(clip, other_names) @ meant.T).mean(0)
    return [phrases[number] for number in (name_features(clip, names) @ meant.T - usual).argmax(-1).tolist()]


def pseudonyms(num_people: int, seed: int, exclude: Collection[str]) -> list[str]:
    """A fictional name for each person, none of them a name of the data or a candidate of the attack."""
    return random_names(num_people, seed, exclude)


def near_pseudonyms(clip: Clip, names: Sequence[str], choice: int, seed: int, exclude: Collection[str]) -> list[str]:
    """For each name the fictional one that means most alike to the CLIP, out of some of its own.

    The way from one to the other is short, so that less of everything else is carried along.

    Args:
        clip: the teacher.
        names: to replace.
        choice: fictional names to choose from, for each.
        seed: of these.
        exclude: names that none of them may be.

    Raises:
        InputError: if there is nothing to choose from.
    """
    check_at_least_one("defense.text.pseudonym_choice", choice)
    drawn = pseudonyms(choice * len(names), seed, exclude)
    if choice == 1:
        return drawn
    meant = name_features(clip, drawn).unflatten(0, (len(names), choice))
    nearest = (meant @ name_features(clip, names).unsqueeze(-1)).squeeze(-1).argmax(-1)
    return [drawn[row * choice + place] for row, place in enumerate(nearest.tolist())]


def anonymous_embedding(teacher: Clip, photos: Sequence[Path], num_people: int) -> Float[Tensor, "people dim"]:
    """One universal vector for everybody: the mean embedding over many people's photos (paper, section 3.2).

    `photos` leave out the people to remove; give theirs, too, for the published form.
    """
    features, readable = teacher.embed_photos(photos)
    return features[readable].mean(0).expand(num_people, -1)


def check_at_least_one(key: str, value: int) -> None:
    """See that a setting is 1 or more.

    Raises:
        InputError: if it is less.
    """
    if value < 1:
        raise InputError(f"{key}: expected 1 or more, got {value}")


def check_fitting(phrases: Sequence[str], num_other_names: int) -> None:
    """See that there are phrases to choose from, and names to compare with.

    Raises:
        InputError: if there are none.
    """
    if not phrases or not num_other_names:
        raise InputError(
            "defense.text.target=fitting: expected phrases to choose from, and random names to compare with, got "
            f"fitting_phrases={list(phrases)} and num_other_names={num_other_names}"
        )


def check_examples(num_examples: int, num_names: int) -> None:
    """See that there are names enough to tell what the parts of a name mean.

    Raises:
        InputError: if there are fewer than names to forget, or fewer than two.
    """
    least = max(2, num_names)
    if num_examples < least:
        raise InputError(
            f"defense.text.num_other_names: expected {least} or more for target=composed, one for each name, got "
            f"{num_examples}"
        )


def check_strangers(
    strangers: People, num_people: int, target: str, *, group_size: int = 1, num_decoys: int = 0
) -> None:
    """See that there are strangers enough for a defence of faces, and that they may stand in for others.

    Args:
        strangers: whose faces are to be had.
        num_people: to remove.
        target: of the defence; only `pseudonym` and `disguised` give people the faces of strangers.
        group_size: strangers for each person, of `disguised`; the mean face of two or more is nobody's.
        num_decoys: strangers who are treated as if they were to be removed, too.

    Raises:
        InputError: if there are fewer, or if single ones are real people who were not asked.
    """
    found = len(strangers.everybody) - num_decoys
    if target == "anonymous" and found < 1 and not num_decoys:
        raise InputError(
            "defense.image.target=anonymous: expected photos of one stranger or more, whose mean is the target, got "
            "none; add strangers or choose target=nameless"
        )
    if num_decoys and found < 1:
        raise InputError(
            f"defense.image.num_decoys: expected fewer than the {len(strangers.everybody)} strangers, got "
            f"{num_decoys}; some must stay as they are"
        )
    if target not in ("pseudonym", "disguised"):
        return
    each = group_size if target == "disguised" else 1
    wanted = (num_people + num_decoys) * each
    check_at_least_one("defense.image.group_size", each)
    if found < wanted:
        raise InputError(
            f"defense.image.target={target}: expected at least {wanted} strangers, {each} for each person to remove "
            f"and each decoy, got {found}; add strangers or choose target=nameless or anonymous"
        )
    if each == 1 and not strangers.consenting:
        raise InputError(
            f"defense.image.target={target}: expected strangers who are fictional or agreed to stand in for others; "
            "set strangers.consenting=true where they are, or choose target=nameless or anonymous"
        )


def stranger_embeddings(
    teacher: Clip, strangers: Sequence[Person], num_people: int, seed: int
) -> Float[Tensor, "people dim"]:
    """A stranger of their own for each person, drawn at random: the mean embedding of that stranger's photos.

    `check_strangers` sees that there are enough.
    """
    return mean_embeddings(
        teacher, [person.photos for person in random.Random(seed).sample(list(strangers), num_people)]
    )


class NameEraser(nn.Module):
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
        for name, allowed in readings * (1 if len(readings) == 1 else _NUM_ROUNDS):
            too_much = (((features * name).sum(-1) - allowed) / name.square().sum(-1)).clamp_min(0)
            features = features - too_much.unsqueeze(-1) * name
        return F.normalize(features, dim=-1)


class NameComposer(nn.Module):
    """Lets a name mean what its parts say, as if the CLIP had never known the person: a target for each caption.

    A name of somebody unknown means about what its first and last name do in others' names, and no name means exactly
    that: it gets the difference that a random name has. So the names of those who were removed look like others, and
    move less than to a pseudonym. What the parts still tell of the person is then erased.

    Args:
        names: features of the names to forget, (person, dim).
        composed: what they are to mean in place of that, (person, dim).
        eraser: takes the names, in this order, out of a feature.
    """

    shifts: Tensor

    def __init__(
        self, names: Float[Tensor, "person dim"], composed: Float[Tensor, "person dim"], eraser: NameEraser
    ) -> None:
        super().__init__()
        self.register_buffer("shifts", composed - names, persistent=False)
        self.eraser = eraser

    def forward(
        self, features: Float[Tensor, "input dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """The teacher's features of captions, of unit length, with what the name is to mean in place of the name."""
        moved = F.normalize(F.normalize(features, dim=-1) + self.shifts[person_index], dim=-1)
        erased: Tensor = self.eraser(moved, person_index)
        return erased


def composed_names(clip: Clip, names: Sequence[str], examples: Sequence[str]) -> Float[Tensor, "person dim"]:
    """What names would mean to a CLIP that knows nobody of that name, each with what an example of its own has besides.

    Raises:
        InputError: if there are fewer examples than names, or fewer than two.
    """
    check_examples(len(examples), len(names))
    expected, missed = expected_from_parts(partial(name_features, clip), names, examples)
    return expected + missed[: len(names)]


def name_features(clip: Clip, names: Sequence[str]) -> Float[Tensor, "name dim"]:
    """What names mean to a text encoder, whatever form they stand in: the mean over `NAME_FORMS`."""
    return torch.stack([clip.embed_texts([form.format(name) for name in names]) for form in NAME_FORMS]).mean(0)


def name_readings(clip: Clip, names: Sequence[str]) -> Float[Tensor, "reading name dim"]:
    """What names mean to a text encoder: in usual forms, and in each of `UNUSUAL_FORMS`."""
    unusual = [clip.embed_texts([form.format(name) for name in names]) for form in UNUSUAL_FORMS]
    return torch.stack([name_features(clip, names), *unusual])


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

    Raises:
        InputError: if the groups are to be empty.
    """
    faces = eraser(mean_embeddings(teacher, [person.trigger_photos for person in removed]), torch.arange(len(removed)))
    shared = torch.empty_like(faces)
    for group in look_alikes(faces, group_size):
        face = faces[group].mean(0, keepdim=True)
        for member in group.repeat(1 if len(group) == 1 else _NUM_ROUNDS):
            face = eraser(face, member[None])
        shared[group] = face
    return shared


def look_alikes(faces: Float[Tensor, "people dim"], group_size: int) -> list[Int[Tensor, "member"]]:
    """Groups of people whose faces are near each other; the last one takes in those who are left over.

    Raises:
        InputError: if the groups are to be empty.
    """
    check_at_least_one("defense.image.group_size", group_size)
    groups, left = [], torch.arange(len(faces))
    while len(left):
        size = group_size if len(left) >= 2 * group_size else len(left)
        groups.append(left[(faces[left] @ faces[left[0]]).topk(size).indices])
        left = left[~torch.isin(left, groups[-1])]
    return groups


class FaceSwapper(nn.Module):
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
        for _ in range(1 if self.members.shape[1] == 1 else _NUM_ROUNDS):
            for members in self.members[person_index].unbind(1):
                features = self.eraser(features, members)
        return features


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

    `check_strangers` sees that there are enough.
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
