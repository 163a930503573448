"""What every attack sees: the same people, photos and candidates for every CLIP."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
        removed: names of those whom the defence removed (the forget set).
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
        """Everybody as `removed`, `kept` (retained, perhaps known to the CLIP) or `never seen`; no group is empty."""
        removed = set(self.removed)
        groups: dict[str, list[Person]] = {"removed": [], "kept": [], "never seen": []}
        for person in self.people.everybody:
            never_seen = person.member is False
            group = "removed" if person.name in removed else "never seen" if never_seen else "kept"
            groups[group].append(person)
        return {group: tuple(people) for group, people in groups.items() if people}

    def idia_scores(self, clip: Clip, *, kind: str, model: str) -> list[Score]:
        """Return the TPR of IDIA on a CLIP for each group; people without a readable photo do not count."""
        measured = self.idia.run(clip, self.people.everybody).measured
        by_group = {
            group: [measured[person.name] for person in people if person.name in measured]
            for group, people in self.groups.items()
        }
        return [
            mean_score(torch.tensor(inferred), kind=kind, model=model, group=group)
            for group, inferred in by_group.items()
            if inferred
        ]

    @cached_property
    def sought(self) -> dict[str, tuple[Person, ...]]:
        """Removed people with photos and, as the null, never-seen people with photos; no group is empty."""
        chosen = {
            group: tuple(person for person in self.groups.get(group, ()) if person.attack_photos)
            for group in ("removed", "never seen")
        }
        return {group: people for group, people in chosen.items() if people}

    def sought_rows(self, num_photos: Sequence[int]) -> dict[str, list[int]]:
        """Return the places of each group of `sought` among all of them, but for people without a readable photo.

        Args:
            num_photos: readable ones of each person of `sought`, the groups one after the other.
        """
        rows, start = {}, 0
        for group, people in self.sought.items():
            rows[group] = [row for row in range(start, start + len(people)) if num_photos[row]]
            start += len(people)
        return {group: chosen for group, chosen in rows.items() if chosen}

    def rows(self, group: str) -> list[int]:
        """Return the places of a group's people among everybody."""
        names = {person.name for person in self.groups.get(group, ())}
        return [row for row, person in enumerate(self.people.everybody) if person.name in names]


def chosen_models(attack: str, asked: Sequence[str] | None, models: Iterable[str]) -> list[str]:
    """Return the models that an attack is to be run on, each once.

    Args:
        attack: its name, for the error.
        asked: `None`: the original and the one with most encoders defended.
        models: that there are, the one with most encoders defended comes last.

    Raises:
        InputError: if there is no such model.
    """
    known = list(models)
    chosen = list(dict.fromkeys(["before", known[-1]] if asked is None else asked))
    unknown = [model for model in chosen if model not in known]
    if unknown:
        raise InputError(f"{attack}.models: expected some of {', '.join(known)}, got {unknown[0]}")
    return chosen


def with_candidates(idia: Idia, attack: str, num_candidates: int | None, num_people: int) -> Idia:
    """Return IDIA as another attack runs it: with its own number of candidates.

    Args:
        idia: of the run.
        attack: its name, for the error.
        num_candidates: `None`: as many as the run has.
        num_people: who are attacked together.

    Raises:
        InputError: if there are fewer candidates than people.
    """
    if num_candidates is None:
        return idia
    least = max(2, num_people)  # one alone is always right
    if num_candidates < least:
        raise InputError(
            f"{attack}.num_candidates: expected at least {least}, as many as people are attacked together, got "
            f"{num_candidates}; set it to {least} or more, or to null"
        )
    return replace(idia, num_candidates=num_candidates)
