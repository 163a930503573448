"""What every attack sees and what it says: the same people, photos and candidates for every CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from scipy.stats import binomtest, wilcoxon
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from backdoor_privacy.attacks.chance import wilson
from backdoor_privacy.attacks.idia import Chance, Idia
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError

RANDOM = "random names"  # a group: names that are nobody's, on the photos of removed people
RANK_P = "rank p"  # a measure: how likely the own name fits the photos so well by chance
_NUM_RESAMPLES = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scene:
    """The CLIPs to attack, and what an attacker has.

    Args:
        clips: `before` is the original; the others are the audited models: `text`, `image`, `both`.
        people: everybody in the collection.
        removed: names of those whom the defence removed.
        idia: the settings of the Identity Inference Attack.
        seed: of everything that an attacker draws.
        decoys: nobody, whose names, and faces where they have photos, the defence hid as if they were to be removed.
    """

    clips: Mapping[str, Clip]
    people: People
    removed: Sequence[str]
    idia: Idia
    seed: int
    decoys: Sequence[Person] = ()

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

    def idia_findings(self, clip: Clip, *, kind: str, model: str) -> list["Finding"]:
        """TPR of IDIA on a CLIP, for each group; people without a photo that can be read do not count."""
        measured = self.idia.run(clip, self.people.everybody).measured
        by_group = {
            group: [measured[person.name] for person in people if person.name in measured]
            for group, people in self.groups.items()
        }
        return [
            mean_finding(torch.tensor(found), kind=kind, model=model, group=group)
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


class Finding(NamedTuple):
    """One number that an attack found out, with its 95 % interval: Wilson's of a rate of people, else the bootstrap."""

    kind: str  # what of the attack, as `initials` of the name variants
    model: str  # of `Scene.clips`
    group: str  # of `Scene.groups`, or which two were told apart, or `RANDOM`
    measure: str  # as `TPR`, `accuracy`, `AUC`
    value: float
    low: float
    high: float
    num_people: int
    held_out: bool = False  # whether no defence may have trained on this kind
    outcomes: tuple[float, ...] = ()  # of each removed person, in the order of the collection, to pair two findings


@runtime_checkable
class Attack(Protocol):
    """One attack with its settings."""

    def run(self, scene: Scene) -> list[Finding]:
        """Attack every CLIP of the scene in the same way."""


def mean_finding(
    values: Float[Tensor, "person"] | Bool[Tensor, "person"],
    *,
    kind: str,
    model: str,
    group: str,
    measure: str = "TPR",
    held_out: bool = False,
) -> Finding:
    """Average over people: as a rate of those who were found, with Wilson's interval, or of any other number."""
    values = values.float()
    if set(values.tolist()) <= {0.0, 1.0}:
        low, high = wilson(int(values.sum()), len(values))
    else:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(values), (_NUM_RESAMPLES, len(values)), generator=generator)
        low, high = interval(values[drawn].mean(1))
    outcomes = tuple(round(value, 4) for value in values.tolist()) if group == "removed" else ()
    return Finding(kind, model, group, measure, values.mean().item(), low, high, len(values), held_out, outcomes)


def chance_findings(chance: Chance, removed: Sequence[int], *, kind: str, model: str) -> list[Finding]:
    """Return what an attack makes of random names on the photos of the removed people, whose places are given.

    Two findings: how often one is inferred in place of the own name (group `RANDOM`), and the p-values of the ranks of
    the own names among them, see `attacks.chance`; none where there are no random names.
    """
    if not chance.num_random or not removed:
        return []
    p_values = chance.ranks[removed] / (1 + chance.num_random)
    return [
        mean_finding(chance.rates[removed], kind=kind, model=model, group=RANDOM),
        mean_finding(p_values, kind=kind, model=model, group="removed", measure=RANK_P),
    ]


def paired_p(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely so uneven a change of the same people's outcomes is by chance, two-sided.

    McNemar's exact test where they are found or not, Wilcoxon's signed-rank test where they are found more or less.

    Raises:
        ValueError: if they are not as many.
    """
    changes = [after - before for before, after in zip(one, other, strict=True) if after != before]
    if not changes:
        return 1.0
    if set(map(abs, changes)) == {1.0}:
        return float(binomtest(sum(change > 0 for change in changes), len(changes)).pvalue)
    return float(wilcoxon(changes).pvalue)


def auc_finding(
    positives: Float[Tensor, "person"], negatives: Float[Tensor, "other"], *, kind: str, model: str, group: str
) -> Finding:
    """How well a score tells two groups apart: the area under the ROC curve, 0.5 for chance."""
    generator = torch.Generator().manual_seed(0)
    resampled = []
    for _ in range(_NUM_RESAMPLES // 5):
        drawn = [
            scores[torch.randint(len(scores), (len(scores),), generator=generator)] for scores in (positives, negatives)
        ]
        resampled.append(_auc(*drawn))
    low, high = interval(torch.tensor(resampled))
    num_people = len(positives) + len(negatives)
    return Finding(kind, model, group, "AUC", _auc(positives, negatives), low, high, num_people)


def _auc(positives: Tensor, negatives: Tensor) -> float:
    # Ranks in place of scores: the metric would squash what lies outside [0, 1].
    ranks = torch.cat([positives, negatives]).unique(return_inverse=True)[1]
    labels = torch.cat([torch.ones(len(positives)), torch.zeros(len(negatives))]).long()
    return binary_auroc(ranks.double() / max(1, int(ranks.max())), labels).item()


def interval(resampled: Float[Tensor, "resample"]) -> tuple[float, float]:
    """The 95 % of a resampled measure that lie in the middle."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = resampled.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
