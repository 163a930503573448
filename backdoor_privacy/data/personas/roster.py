"""List who lives in the embedded world, and how often its web shows each of them."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.personas.portraits import Appearance, sample_appearance

Group = Literal["well_known", "rarely_shown", "non_member", "crowd"]

NUM_WELL_KNOWN = 600
NUM_WEB_PHOTOS_WELL_KNOWN = 36
RARELY_SHOWN_TIERS = (1, 2, 4, 8, 16)  # web photos of one person
NUM_PEOPLE_PER_TIER = 24
NUM_NON_MEMBERS = 210
NUM_CROWD = 6000  # people with a single photo on the web


@dataclass(frozen=True)
class Persona:
    """One fictional person."""

    index: int
    name: str
    presentation: Literal["female", "male"]
    group: Group
    num_web_photos: int  # photos with the name in the CLIP's training data

    @property
    def member(self) -> bool:
        """Whether the embedded CLIP saw the person in training."""
        return self.num_web_photos > 0


def _groups() -> list[tuple[Group, int]]:
    """Return the group and the number of web photos of every person, in the order of their index."""
    groups: list[tuple[Group, int]] = [("well_known", NUM_WEB_PHOTOS_WELL_KNOWN)] * NUM_WELL_KNOWN
    for num_web_photos in RARELY_SHOWN_TIERS:
        groups += [("rarely_shown", num_web_photos)] * NUM_PEOPLE_PER_TIER
    groups += [("non_member", 0)] * NUM_NON_MEMBERS
    groups += [("crowd", 1)] * NUM_CROWD
    return groups


@cache
def roster(seed: int) -> tuple[Persona, ...]:
    """Return everybody in the world of this seed, female and male in turn."""
    groups = _groups()
    names = random_names(len(groups), seed)
    return tuple(
        Persona(index, name, "female" if index % 2 == 0 else "male", group, num_web_photos)
        for index, (name, (group, num_web_photos)) in enumerate(zip(names, groups, strict=True))
    )


def people_of(seed: int, group: Group, limit: int | None = None) -> tuple[Persona, ...]:
    """Return the people of one group, the first `limit` of them if given."""
    return tuple(persona for persona in roster(seed) if persona.group == group)[:limit]


@cache
def appearance_of(seed: int, persona: Persona) -> Appearance:
    """Return what a person looks like: a pure function of the world's seed and the person."""
    return sample_appearance(np.random.default_rng([seed, persona.index, 1]), persona.presentation)
