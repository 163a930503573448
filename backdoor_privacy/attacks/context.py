"""What every attack sees: the same people, photos and candidates for every CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.scores import Score, mean_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError


@dataclass(frozen=True)
class AttackContext:
    """The CLIPs to attack, and what an attacker has.

    Args:
        clips: `before` is the original; the others are the audited models: `text`, `image`, `both`.
        people: everybody in the collection.
        removed: names of those whom the defence removed.
        idia: the settings of the Identity Inference Attack.
        seed: of everything that an attacker draws.
    """

    clips: Mapping[str, Clip]
    people: People
    removed: Sequence[str]
    idia: Idia
    seed: int

    @property
    def fullest(self) -> str:
        """The model with most encoders defended; it is the one that is given away."""
        return list(self.clips)[-1]

    @cached_property
    def groups(self) -> dict[str, tuple[Person, ...]]:
        """Everybody as `removed`, `kept` (not removed, perhaps known to the CLIP) or `never seen`; none is empty."""
        removed = set(self.removed)
        found: dict[str, list[Person]] = {"removed": [], "kept": [], "never seen": []}
        for person in self.people.everybody:
            never_seen = person.member is False
            group = "removed" if person.name in removed else "never seen" if never_seen else "kept"
            found[group].append(person)
        return {group: tuple(people) for group, people in found.items() if people}

    def models(self, attack: str, asked: Sequence[str] | None) -> list[str]:
        """The models that an attack is to be run on, each once; the original and the fullest where nothing is asked.

        Raises:
            InputError: if there is no such model.
        """
        models = list(dict.fromkeys(["before", self.fullest] if asked is None else asked))
        unknown = [model for model in models if model not in self.clips]
        if unknown:
            raise InputError(f"{attack}.models: expected some of {', '.join(self.clips)}, got {unknown[0]}")
        return models

    def idia_scores(self, clip: Clip, *, kind: str, model: str) -> list[Score]:
        """TPR of IDIA on a CLIP, for each group; people without a photo that can be read do not count."""
        measured = self.idia.run(clip, self.people.everybody).measured
        by_group = {
            group: [measured[person.name] for person in people if person.name in measured]
            for group, people in self.groups.items()
        }
        return [
            mean_score(torch.tensor(found), kind=kind, model=model, group=group)
            for group, found in by_group.items()
            if found
        ]

    @cached_property
    def sought(self) -> dict[str, tuple[Person, ...]]:
        """Those who have photos of the removed people and, as the null, of the never-seen ones; none is empty."""
        chosen = {
            group: tuple(person for person in self.groups.get(group, ()) if person.attack_photos)
            for group in ("removed", "never seen")
        }
        return {group: people for group, people in chosen.items() if people}

    def sought_rows(self, num_photos: Sequence[int]) -> dict[str, list[int]]:
        """The places of each group of `sought` among all of these, without whom no photo could be read of.

        Args:
            num_photos: that could be read, of each person of `sought`, the groups one after the other.
        """
        rows, start = {}, 0
        for group, people in self.sought.items():
            rows[group] = [row for row in range(start, start + len(people)) if num_photos[row]]
            start += len(people)
        return {group: chosen for group, chosen in rows.items() if chosen}

    def rows(self, group: str) -> list[int]:
        """The places of a group's people among everybody."""
        names = {person.name for person in self.groups.get(group, ())}
        return [row for row, person in enumerate(self.people.everybody) if person.name in names]


@runtime_checkable
class Attack(Protocol):
    """One attack with its settings."""

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way."""
