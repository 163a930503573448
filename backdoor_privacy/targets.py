"""What a name or a face is mapped to (METHOD, section 5a)."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError


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
    """A stranger of their own for each person: the mean embedding of some photos of that stranger.

    Raises:
        InputError: if there are fewer strangers than people to remove.
    """
    if len(strangers) < num_people:
        raise InputError(
            f"defense.image.target=pseudonym: expected at least {num_people} strangers, one for each person to remove, "
            f"got {len(strangers)}; add strangers or choose target=anonymous"
        )
    chosen = random.Random(seed).sample(list(strangers), num_people)
    paths: list[Path] = [path for person in chosen for path in person.photos]
    features, readable = teacher.embed_photos(paths)
    owner = torch.repeat_interleave(torch.arange(num_people), torch.tensor([len(person.photos) for person in chosen]))
    sums = torch.zeros(num_people, features.shape[1]).index_add(0, owner[readable], features[readable])
    return sums / torch.bincount(owner[readable], minlength=num_people).unsqueeze(1)
