"""IDIA sweep: what does the attack infer with other thresholds, fewer photos, and fewer candidates?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backdoor_privacy.attacks.base import REMOVED, Approach, Attack, Headline
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia, cast_votes, majority
from backdoor_privacy.attacks.photos import Photos, see_photos
from backdoor_privacy.attacks.scores import Score, mean_score
from backdoor_privacy.errors import InputError

_NUM_SIMILARITIES_PER_CHUNK = 2**22  # of photos and candidates at a time, 16 MiB


def name_ranks(
    image_features: Float[Tensor, "photo dim"],
    text_features: Float[Tensor, "prompt candidate dim"],
    own_candidates: Int[Tensor, "photo"],
) -> Int[Tensor, "photo prompt"]:
    """Return the rank of the true name among all candidates by similarity: 1 for the best; it leads its equals.

    Args:
        image_features: of unit length.
        text_features: of unit length, one row per candidate's name in the prompt.
        own_candidates: the place among the candidates of the name of the person on each photo.
    """
    num_photos = max(1, _NUM_SIMILARITIES_PER_CHUNK // text_features.shape[1])
    ranks = own_candidates.new_empty(len(image_features), len(text_features))
    for rows in torch.arange(len(image_features)).split(num_photos):
        for prompt, names in enumerate(text_features):
            similarities = image_features[rows] @ names.T
            own = similarities.gather(1, own_candidates[rows].unsqueeze(1))
            ranks[rows, prompt] = 1 + (similarities > own).sum(1)
    return ranks


def person_means(
    values: Float[Tensor, "photo"], person_index: Int[Tensor, "photo"], num_people: int
) -> Float[Tensor, "person"]:
    """Return the mean over each person's photos; not a number where there is none."""
    sums = values.new_zeros(num_people).index_add(0, person_index, values)
    return sums / torch.bincount(person_index, minlength=num_people)


class Names(NamedTuple):
    """What a text encoder makes of the candidates in all prompts, and the names of the attacked people."""

    features: Float[Tensor, "prompt candidate dim"]
    candidates: list[str]
    people: list[str]

    def among(self, candidates: Sequence[str]) -> tuple[Float[Tensor, "prompt some dim"], Int[Tensor, "person"]]:
        """Return the features of some of the candidates, and the place of each attacked person among these."""
        column = {name: number for number, name in enumerate(self.candidates)}
        place = {name: number for number, name in enumerate(candidates)}
        chosen = self.features[:, [column[name] for name in candidates]]
        return chosen, torch.tensor([place[name] for name in self.people])


@dataclass(frozen=True)
class IdiaSweep(Attack):
    """IDIA with other settings; the settings that are not swept are IDIA's own.

    Kinds and measures:

    - `tau 1` to as many prompts as there are: TPR with this many right answers needed;
    - `5 photos`: TPR with at most so many photos of each person, the first ones, `1 photo` for one. What nobody has is
      left out;
    - `300 candidates`: TPR with so many names: everybody's and random ones, or, where there are more people than that,
      the person's own and random ones;
    - `margin`: similarity of a photo's true name minus that of the best other one, mean over photos and prompts;
    - `rank`: the place of the true name among the candidates, 1 is best, mean over photos and prompts; chance is the
      middle of the candidates.

    Margin and rank leave out people of whom no photo could be read; such people are not inferred.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        # Not with fewer candidates: of ten names the right one is often found by chance.
        Headline(
            "IDIA with other photos or thresholds, the worst (TPR)",
            REMOVED,
            "TPR",
            lambda kind: not kind.endswith(" candidates"),
        ),
    )
    approach: ClassVar[Approach] = Approach.settings

    num_photos: Sequence[int]  # of each person
    num_candidates: Sequence[int]  # names

    def __post_init__(self) -> None:
        # Of one candidate the right one is always found.
        for key, values, least in (("num_photos", self.num_photos, 1), ("num_candidates", self.num_candidates, 2)):
            if any(value < least for value in values):
                raise InputError(f"idia_sweep.{key}: expected numbers of {least} or more, got {list(values)}")

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way."""
        idia, people = context.idia, context.people
        # Fewer random names are the first ones of more, so that the largest list has them all.
        needed = [size if size >= len(people.names) else len(people.names) + size - 1 for size in self.num_candidates]
        every = replace(idia, num_candidates=max([*needed, idia.num_candidates])).candidates(people.names)
        most = max([*self.num_photos, idia.num_photos])
        shown = [person.attack_photos[:most] for person in people.everybody]
        scores = []
        for model, clip in context.clips.items():
            prompts = [template.format(name) for template in idia.templates for name in every]
            features = clip.embed_texts(prompts).unflatten(0, (len(idia.templates), len(every)))
            values = self._values(see_photos(clip, shown), Names(features, every, people.names), idia)
            for group in context.groups:
                rows = torch.tensor(context.rows(group))
                for kind, (measure, of_person) in values.items():
                    known = of_person[rows][~of_person[rows].isnan()]
                    if len(known):
                        scores.append(mean_score(known, kind=kind, model=model, group=group, measure=measure))
        return scores

    def _values(self, photos: Photos, names: Names, idia: Idia) -> dict[str, tuple[str, Float[Tensor, "person"]]]:
        """Return the measure of each kind, and everybody's value of it."""
        text_features, own = names.among(idia.candidates(names.people))
        own_of_photo, num_people = own[photos.person_index], len(own)
        ballots = cast_votes(photos.features, text_features, own_of_photo)
        ranks = name_ranks(photos.features, text_features, own_of_photo)
        is_shown = photos.numbers < idia.num_photos
        values: dict[str, tuple[str, Tensor]] = {}

        correct = correct_prompts(ballots.votes, photos.person_index, own, is_shown)
        for tau in range(1, len(idia.templates) + 1):
            values[f"tau {tau}"] = "TPR", (correct >= tau).float()
        num_known = int(photos.numbers.max()) + 1
        for size in self.num_photos:
            if size <= num_known:
                num_correct = correct_prompts(ballots.votes, photos.person_index, own, photos.numbers < size)
                values[counted(size, "photo")] = "TPR", (num_correct >= idia.threshold).float()
        for size in self.num_candidates:
            if size >= num_people:
                fewer, own_of_fewer = names.among(replace(idia, num_candidates=size).candidates(names.people))
                votes = cast_votes(photos.features, fewer, own_of_fewer[photos.person_index]).votes
            else:
                votes, own_of_fewer = votes_among_random_names(photos, names, size), torch.full_like(own, size - 1)
            num_correct = correct_prompts(votes, photos.person_index, own_of_fewer, is_shown)
            values[counted(size, "candidate")] = "TPR", (num_correct >= idia.threshold).float()
        for kind, of_photo in (("margin", ballots.margins), ("rank", ranks.float())):
            means = person_means(of_photo[is_shown].mean(1), photos.person_index[is_shown], num_people)
            values[kind] = kind, means
        return values


def votes_among_random_names(photos: Photos, names: Names, num_candidates: int) -> Int[Tensor, "photo prompt"]:
    """Return the votes where each person's own name, the last candidate, competes with the same random names."""
    people = set(names.people)
    unknown = [name for name in names.candidates if name not in people][: num_candidates - 1]
    others, own = names.among([*unknown, *names.people])
    votes = photos.person_index.new_empty(len(photos.features), len(others))
    for person in photos.person_index.unique().tolist():
        rows = photos.person_index == person
        candidates = others[:, [*range(len(unknown)), int(own[person])]]
        last = torch.full((int(rows.sum()),), len(unknown))
        votes[rows] = cast_votes(photos.features[rows], candidates, last).votes
    return votes


def correct_prompts(
    votes: Int[Tensor, "photo prompt"],
    person_index: Int[Tensor, "photo"],
    own_candidates: Int[Tensor, "person"],
    is_shown: Bool[Tensor, "photo"],
) -> Int[Tensor, "person"]:
    """Count the prompts whose answer is the person's own name, if only these photos vote."""
    if not is_shown.any():
        return torch.zeros_like(own_candidates)
    answers = majority(votes[is_shown], person_index[is_shown], len(own_candidates))
    return (answers == own_candidates.unsqueeze(1)).sum(1)


def counted(number: int, thing: str) -> str:
    """Return a number and its thing, as `1 photo` or `5 photos`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
