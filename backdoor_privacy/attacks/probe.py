"""Probe: can removed people still be told apart by the image encoder alone, without any name?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from backdoor_privacy.attacks.base import REMOVED, Approach, Attack, Headline
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.photos import distinct_photos
from backdoor_privacy.attacks.scores import Score, interval, mean_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

_NUM_RESAMPLES = 200  # of the people behind pairs; each is a ROC curve of its own
_ACCEPTED = 0.01  # of two people's pairs, at most, where the share of one person's is measured
_OF_ROC = ("AUC", "EER", "TPR at 1 % FPR")


class Faces(NamedTuple):
    """Photos of some people, two or more of each."""

    features: Float[Tensor, "photo dim"]  # of unit length
    person_index: Int[Tensor, "photo"]  # from 0 to the number of people, ascending
    is_even: Bool[
        Tensor, "photo"
    ]  # the photo's place among those of its person: these train, the others are classified

    @property
    def num_people(self) -> int:
        """Number of people."""
        return len(self.person_index.unique())

    def of(self, people: list[int]) -> "Faces":
        """Return the photos of some of the people, who are numbered anew in this order."""
        rows = [torch.nonzero(self.person_index == person).flatten() for person in people]
        person_index = torch.repeat_interleave(torch.arange(len(people)), torch.tensor([len(own) for own in rows]))
        chosen = torch.cat(rows)
        return Faces(self.features[chosen], person_index, self.is_even[chosen])


class Pairs(NamedTuple):
    """Pairs of photos: the first half shows the same person twice, the second half two people."""

    left: Int[Tensor, "pair"]  # rows of photos
    right: Int[Tensor, "pair"]
    is_same: Bool[Tensor, "pair"]


class Verification(NamedTuple):
    """How well a similarity tells the same person from another: what its ROC curve comes down to."""

    auc: float  # area under the ROC curve
    eer: float  # the rate of wrongly accepted pairs where it is that of wrongly rejected ones
    tpr: float  # the rate of rightly accepted pairs where at most 1 % are wrongly accepted


@dataclass(frozen=True)
class Probe(Attack):
    """Identification among the people of a group, and face verification, with the image encoder alone.

    Measures of `linear probe` and `k-NN`: `accuracy`, the mean over people of the share of their photos that is right,
    and `excess over chance`, the same minus 1 / number of people. Removed people are classified among removed ones; of
    the other groups as many people are drawn. Measures of `face verification`, over all people of a group: `AUC`,
    `EER` and `TPR at 1 % FPR`. A person with fewer than two photos is left out, and a group with fewer than two people.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline("same person or not, from two photos (AUC)", REMOVED, "AUC", "face verification"),
        Headline("linear probe of removed faces, over chance", REMOVED, "excess over chance", "linear probe"),
        Headline("k-NN of removed faces, over chance", REMOVED, "excess over chance", "k-NN"),
    )
    approach: ClassVar[Approach] = Approach.features

    num_photos: int | None  # of each person, at most
    num_neighbors: int  # of k-NN
    inverse_regularization: float  # C of the logistic regression
    max_iterations: int  # of the logistic regression
    num_pairs: int  # of the same person, and as many of different people

    def __post_init__(self) -> None:
        for key, least in (("num_photos", 2), ("num_neighbors", 1), ("max_iterations", 1), ("num_pairs", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise InputError(f"probe.{key}: expected {least} or more, got {value}")
        if self.inverse_regularization <= 0:
            raise InputError(f"probe.inverse_regularization: expected more than 0, got {self.inverse_regularization}")

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every image encoder of the context; models that share one have the same scores."""
        known: dict[int, list[Score]] = {}
        scores = []
        for model, clip in context.clips.items():
            if id(clip.image) not in known:
                known[id(clip.image)] = self._attack(clip, context)
            scores += [score._replace(model=model) for score in known[id(clip.image)]]
        return scores

    def _attack(self, clip: Clip, context: AttackContext) -> list[Score]:
        seen = {group: see_faces(clip, people, self.num_photos) for group, people in context.groups.items()}
        groups = {group: faces for group, faces in seen.items() if faces is not None}
        num_classes = groups["removed"].num_people if "removed" in groups else None
        scores = []
        for group, faces in groups.items():
            # The draws are the same for every CLIP: they see nothing of its features.
            drawn = list(range(faces.num_people))
            if num_classes is not None and len(drawn) > num_classes:
                drawn = sorted(random.Random(f"{context.seed} {group}").sample(drawn, num_classes))
            scores += self._identify(faces.of(drawn), group) + self._verify(faces, group, context.seed)
        return scores

    def _identify(self, faces: Faces, group: str) -> list[Score]:
        train, test = faces.is_even, ~faces.is_even
        known = faces.features[train], faces.person_index[train]
        answers = {
            "linear probe": linear_probe(
                *known, faces.features[test], self.inverse_regularization, self.max_iterations
            ),
            "k-NN": nearest_neighbors(*known, faces.features[test], self.num_neighbors),
        }
        scores = []
        for kind, answer in answers.items():
            accuracy = accuracy_by_person(answer, faces.person_index[test])
            measures = {"accuracy": accuracy, "excess over chance": accuracy - 1 / faces.num_people}
            scores += [
                mean_score(values, kind=kind, model="", group=group, measure=measure)
                for measure, values in measures.items()
            ]
        return scores

    def _verify(self, faces: Faces, group: str, seed: int) -> list[Score]:
        pairs = draw_pairs(faces.person_index, self.num_pairs, seed)
        similarities = (faces.features[pairs.left] * faces.features[pairs.right]).sum(-1)
        people = torch.stack([faces.person_index[pairs.left], faces.person_index[pairs.right]])
        measured = verification(similarities, pairs.is_same)
        resampled = torch.tensor(resampled_verification(similarities, pairs.is_same, people), dtype=torch.float64)
        return [
            Score("face verification", "", group, measure, value, *interval(drawn), faces.num_people)
            for measure, value, drawn in zip(_OF_ROC, measured, resampled.unbind(1), strict=True)
        ]


def see_faces(clip: Clip, people: tuple[Person, ...], num_photos: int | None) -> Faces | None:
    """Embed these people's attack photos, exact duplicates once; `None` where fewer than two people have two."""
    shown = [distinct_photos(person) for person in people]
    shown = [photos[:num_photos] for photos in shown]
    features, readable = clip.embed_photos([path for photos in shown for path in photos])
    by_person = [
        own[ok] for own, ok in zip(features.split([*map(len, shown)]), readable.split([*map(len, shown)]), strict=True)
    ]
    by_person = [own for own in by_person if len(own) > 1]
    if len(by_person) < 2:
        return None
    places = torch.cat([torch.arange(len(own)) for own in by_person])
    person_index = torch.repeat_interleave(torch.arange(len(by_person)), torch.tensor([len(own) for own in by_person]))
    return Faces(torch.cat(by_person), person_index, places % 2 == 0)


def linear_probe(
    known: Float[Tensor, "known dim"],
    labels: Int[Tensor, "known"],
    asked: Float[Tensor, "asked dim"],
    inverse_regularization: float,
    max_iterations: int,
) -> Int[Tensor, "asked"]:
    """Classify photos by a logistic regression on standardised features."""
    # Standardised, what a defence made small is as large as the rest. In double precision, since it may be very small.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularization, max_iter=max_iterations))
    probe.fit(known.double().numpy(), labels.numpy())
    return torch.from_numpy(probe.predict(asked.double().numpy()))


def nearest_neighbors(
    known: Float[Tensor, "known dim"],
    labels: Int[Tensor, "known"],
    asked: Float[Tensor, "asked dim"],
    num_neighbors: int,
) -> Int[Tensor, "asked"]:
    """Classify photos by the most similar ones, by cosine; a closer one counts more (1 / distance)."""
    votes = KNeighborsClassifier(min(num_neighbors, len(known)), weights="distance", metric="cosine", algorithm="brute")
    votes.fit(known.double().numpy(), labels.numpy())
    return torch.from_numpy(votes.predict(asked.double().numpy()))


def accuracy_by_person(answers: Int[Tensor, "photo"], true: Int[Tensor, "photo"]) -> Float[Tensor, "person"]:
    """Return the share of right answers over the photos of each person; everybody has some."""
    return torch.bincount(true, weights=(answers == true).double()).div(torch.bincount(true)).float()


def draw_pairs(person_index: Int[Tensor, "photo"], num_pairs: int, seed: int) -> Pairs:
    """Draw pairs of one person's photos, and as many of two people's; each person comes as often as another.

    Args:
        person_index: of two people or more with two photos or more, ascending.
        num_pairs: of each kind.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(person_index)
    starts = counts.cumsum(0) - counts

    def below(limits: Tensor) -> Tensor:
        """Draw a whole number below each limit."""
        return (torch.rand(len(limits), generator=generator, dtype=torch.float64) * limits).long()

    def another(first: Tensor, limits: Tensor) -> Tensor:
        """Draw a whole number below each limit that is not the first one again."""
        second = below(limits - 1)
        return second + (second >= first)

    everybody = torch.full((num_pairs,), len(counts))
    person, one = below(everybody), below(everybody)
    other = another(one, everybody)
    first = below(counts[person])
    same = starts[person] + first, starts[person] + another(first, counts[person])
    different = starts[one] + below(counts[one]), starts[other] + below(counts[other])
    left, right = (torch.cat(sides) for sides in zip(same, different, strict=True))
    return Pairs(left, right, torch.arange(2 * num_pairs) < num_pairs)


def verification(
    similarities: Float[Tensor, "pair"], is_same: Bool[Tensor, "pair"], weights: Float[Tensor, "pair"] | None = None
) -> Verification:
    """Tell the same person from another by a threshold; each pair counts as often as its weight says."""
    own = None if weights is None else weights.numpy()
    wrongly, rightly, _ = roc_curve(is_same.numpy(), similarities.numpy(), sample_weight=own, drop_intermediate=False)
    # Errors are equal where wrongly accepted = wrongly rejected = 1 - rightly accepted, between two thresholds or so.
    return Verification(
        auc=float(auc(wrongly, rightly)),
        eer=float(np.interp(0, wrongly + rightly - 1, wrongly)),
        tpr=float(rightly[wrongly <= _ACCEPTED].max()),
    )


def resampled_verification(
    similarities: Float[Tensor, "pair"], is_same: Bool[Tensor, "pair"], people: Int[Tensor, "two pair"]
) -> list[Verification]:
    """Repeat it for people drawn again and again; a pair counts as often as its people were drawn (together)."""
    generator = torch.Generator().manual_seed(0)
    num_people = int(people.max()) + 1
    verifications: list[Verification] = []
    while len(verifications) < _NUM_RESAMPLES:
        drawn = torch.randint(num_people, (num_people,), generator=generator)
        times = torch.bincount(drawn, minlength=num_people).double()
        weights = torch.where(is_same, times[people[0]], times[people[0]] * times[people[1]])
        if weights[is_same].any() and weights[~is_same].any():  # not one person all over
            verifications.append(verification(similarities, is_same, weights))
    return verifications
