"""Identity Inference Attack: does CLIP, shown photos of a person, pick their name out of many?

Source: Hintersdorf et al., "Does CLIP Know My Face?", section 4.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from backdoor_privacy.attacks.chance import random_rates, ranks_among_random
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.problems import Problem
from backdoor_privacy.errors import InputError

TEMPLATES = (
    "{}", "an image of {}", "a photo of {}", "{} on a photo", "a photo of a person named {}", "a person named {}",
    "a man named {}", "a woman named {}", "the name of the person is {}", "a photo of a person with the name {}",
    "{} at a gala", "a photo of the celebrity {}", "actor {}", "actress {}", "a colored photo of {}",
    "a black and white photo of {}", "a cool photo of {}", "a cropped photo of {}", "a cropped image of {}",
    "{} in a suit", "{} in a dress",
)  # fmt: skip
_LEAST_CANDIDATES = 2
_NUM_SIMILARITIES_PER_CHUNK = 2**22  # of photos and candidates at a time, 16 MiB


class Ballots(NamedTuple):
    """What photos say under each prompt."""

    votes: Int[Tensor, "photo prompt"]  # the candidate with the highest cosine similarity
    margins: Float[Tensor, "photo prompt"]  # similarity of the photo's own name minus that of the best other candidate
    others: Int[Tensor, "photo prompt"]  # the best other candidate


def cast_votes(
    image_features: Float[Tensor, "photo dim"],
    text_features: Float[Tensor, "prompt candidate dim"],
    own_candidates: Int[Tensor, "photo"],
) -> Ballots:
    """Let each photo vote under each prompt.

    Args:
        image_features: of unit length.
        text_features: of unit length, one row per candidate's name in the prompt.
        own_candidates: the place among the candidates of the name of the person on each photo.
    """
    num_photos = max(1, _NUM_SIMILARITIES_PER_CHUNK // text_features.shape[1])
    votes = own_candidates.new_empty(len(image_features), len(text_features))
    margins, others = image_features.new_empty(votes.shape), torch.empty_like(votes)
    for start in range(0, len(image_features), num_photos):
        chunk = slice(start, start + num_photos)
        own = own_candidates[chunk].unsqueeze(1)
        for prompt, names in enumerate(text_features):
            similarities = image_features[chunk] @ names.T
            true = similarities.gather(1, own)
            best, other = similarities.scatter_(1, own, -torch.inf).max(-1, keepdim=True)
            votes[chunk, prompt] = torch.where(true > best, own, other).squeeze(1)
            margins[chunk, prompt] = (true - best).squeeze(1)
            others[chunk, prompt] = other.squeeze(1)
    return Ballots(votes, margins, others)


def majority(
    votes: Int[Tensor, "photo prompt"], person_index: Int[Tensor, "photo"], num_people: int
) -> Int[Tensor, "person prompt"]:
    """Return the candidate with most votes of a person's photos; -1 for a tie for first place, or without votes."""
    num_prompts = votes.shape[1]
    if not votes.numel():
        return votes.new_full((num_people, num_prompts), -1)
    num_candidates = int(votes.max()) + 1
    answer = person_index.unsqueeze(1) * num_prompts + torch.arange(num_prompts, device=votes.device)
    # Only candidates with votes are counted, so that memory does not grow with people x prompts x candidates.
    voted_for, counts = (answer * num_candidates + votes).unique(return_counts=True)
    answer, candidate = voted_for // num_candidates, voted_for % num_candidates
    most = counts.new_zeros(num_people * num_prompts).scatter_reduce(0, answer, counts, "amax")
    is_first = counts == most[answer]
    winner = torch.full_like(most, -1)
    winner[answer[is_first]] = candidate[is_first]
    is_tied = torch.bincount(answer[is_first], minlength=len(winner)) > 1
    return winner.masked_fill(is_tied, -1).unflatten(0, (num_people, num_prompts))


class Answers(NamedTuple):
    """What the attack got from everybody's photos."""

    correct_prompts: Int[Tensor, "person"]  # whose answer is the person's own name
    own_votes: Int[Tensor, "person prompt"]  # photos that voted for it
    margins: Float[Tensor, "person"]  # mean over photos and prompts, see `Ballots`; not a number where no photo voted
    others: Int[Tensor, "person prompt"]  # the answer without the own name among the candidates, see `majority`


class IdiaVotes(Metric):
    """Collect the votes of photos; `compute` returns everybody's `Answers`.

    Its memory is photos x prompts whatever the number of candidates, and the votes of ranks come together.

    Args:
        true_candidates: the place of each person's name among the candidates, (person,).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    votes: list[Tensor]
    margins: list[Tensor]
    others: list[Tensor]
    person_index: list[Tensor]

    def __init__(self, true_candidates: Int[Tensor, "person"], *, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.true_candidates = true_candidates
        for state in ("votes", "margins", "others", "person_index"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        image_features: Float[Tensor, "photo dim"],
        text_features: Float[Tensor, "prompt candidate dim"],
        person_index: Int[Tensor, "photo"],
    ) -> None:
        """Let photos of some people vote."""
        ballots = cast_votes(image_features, text_features, self.true_candidates[person_index])
        self.votes.append(ballots.votes)
        self.margins.append(ballots.margins)
        self.others.append(ballots.others)
        self.person_index.append(person_index)

    def _wrap_compute(self, compute: Callable[..., Answers]) -> Callable[..., Answers]:
        """Keep the shapes: torchmetrics turns a tensor of one element into a number."""
        squeezed = super()._wrap_compute(compute)

        @wraps(squeezed)
        def answers() -> Answers:
            correct, own_votes, margins, others = squeezed()
            num_people = len(self.true_candidates)
            by_prompt = (own_votes.view(num_people, -1), margins.view(num_people), others.view(num_people, -1))
            return Answers(correct.view(num_people), *by_prompt)

        return answers

    def compute(self) -> Answers:
        """Return everybody's answers.

        Raises:
            ValueError: if no photo has voted.
        """
        if not len(self.votes):
            raise ValueError("IDIA: expected votes of at least one photo, got none; call update first")
        states = (self.votes, self.margins, self.others, self.person_index)
        votes, margins, others, person_index = (dim_zero_cat(state) for state in states)
        own, num_people = self.true_candidates.unsqueeze(1), len(self.true_candidates)
        correct = (majority(votes, person_index, num_people) == own).sum(1)
        own_votes = votes.new_zeros(num_people, votes.shape[1]).index_add(
            0, person_index, (votes == own[person_index]).to(votes.dtype)
        )
        sums = margins.new_zeros(num_people).index_add(0, person_index, margins.mean(1))
        means = sums / torch.bincount(person_index, minlength=num_people)
        return Answers(correct, own_votes, means, majority(others, person_index, num_people))


class Chance(NamedTuple):
    """What the attack makes of random names, the candidates that are nobody's, in the order of its people."""

    ranks: Int[Tensor, "person"]  # of the own name among them, 1 for the best, see `ranks_among_random`
    rates: Float[Tensor, "person"]  # share of them that would be inferred in place of the own name
    num_random: int


@dataclass(frozen=True)
class Evidence:
    """What stands behind an attack's result, in the order of its people."""

    own_votes: Int[Tensor, "person prompt"]  # photos that voted for the person's own name
    margins: Float[Tensor, "person"]  # by how much the own name fits better than the best other, see `Ballots`
    name_features: Float[Tensor, "person dim"]  # of the names alone, of unit length
    face_features: Float[Tensor, "person dim"]  # mean over the photos, of unit length; zero without a photo
    chance: Chance | None = None

    @classmethod
    def of_nobody(cls, num_prompts: int, dim: int) -> "Evidence":
        """Make what stands behind the result of an attack on nobody."""
        votes, features = torch.zeros(0, num_prompts, dtype=torch.long), torch.zeros(0, dim)
        return cls(votes, torch.zeros(0), features, features)


@dataclass(frozen=True)
class IdiaResult:
    """What the attack found out, person by person."""

    names: list[str]
    correct_prompts: list[int]  # prompts of all that answered with the person's name
    num_photos: list[int]  # that voted
    threshold: int  # right answers that it takes to infer somebody
    evidence: Evidence = field(compare=False, repr=False)

    @property
    def inferred(self) -> dict[str, bool]:
        """Whether each person was inferred."""
        return {name: correct >= self.threshold for name, correct in zip(self.names, self.correct_prompts, strict=True)}

    @property
    def measured(self) -> dict[str, bool]:
        """Whether each person with a readable photo was inferred; nothing is known of the others."""
        counts = zip(self.inferred.items(), self.num_photos, strict=True)
        return {name: is_inferred for (name, is_inferred), num_photos in counts if num_photos}


@dataclass(frozen=True)
class Idia:
    """The attack with its settings; candidates and photos are a pure function of these and the seed."""

    num_candidates: int
    num_photos: int  # per person
    threshold: int  # tau: right answers of all prompts that it takes
    seed: int
    templates: Sequence[str] = TEMPLATES

    def candidates(self, names: Sequence[str]) -> list[str]:
        """Return the attacked people's names and random ones, shuffled.

        Raises:
            InputError: if more people are attacked than there are candidates, or if nobody could be wrong.
        """
        least = max(len(names), _LEAST_CANDIDATES)
        if self.num_candidates < least:
            reason = "one for each attacked person" if least == len(names) else "since one alone is always right"
            raise InputError(
                f"attack.num_candidates: expected at least {least}, {reason}, got {self.num_candidates}; "
                f"set attack.num_candidates={least} or more"
            )
        candidates = [*names, *random_names(self.num_candidates - len(names), self.seed, exclude=names)]
        random.Random(self.seed).shuffle(candidates)
        return candidates

    def problems(self, people: Sequence[Person]) -> Iterator[Problem]:
        """Yield what stops the attack on these people, or weakens it."""
        try:
            self.candidates([person.name for person in people])
        except InputError as error:
            yield Problem(str(error), stops=True)
        counts = [len(person.attack_photos) for person in people]
        few = [count for count in counts if count < self.num_photos]
        if few:
            yield Problem(
                f"attack.num_photos: {len(few)} of {len(counts)} people have fewer than {self.num_photos} photos to "
                f"attack with, half of their photos: {min(few)} or more"
            )

    def run(
        self, clip: Clip, people: Sequence[Person], everybody: Sequence[str] | None = None, *, warn: bool = False
    ) -> IdiaResult:
        """Attack these people; an attack on nobody finds nobody.

        Args:
            clip: to attack.
            people: who are looked for.
            everybody: all names that stand among the candidates beside random ones; `None`: those of `people`.
            warn: whether to name photos that do not decode.
        """
        names = [person.name for person in people]
        if not people:
            return IdiaResult([], [], [], self.threshold, Evidence.of_nobody(len(self.templates), clip.dim))
        known = set(names if everybody is None else everybody)
        candidates = self.candidates(names if everybody is None else everybody)
        prompts = [template.format(name) for template in self.templates for name in candidates]
        text_features = clip.embed_texts(prompts).unflatten(0, (len(self.templates), len(candidates)))
        shown = [person.attack_photos[: self.num_photos] for person in people]
        image_features, readable = clip.embed_photos([path for photos in shown for path in photos], warn=warn)
        person_index = torch.repeat_interleave(
            torch.arange(len(people)), torch.tensor([len(photos) for photos in shown])
        )
        place = {name: number for number, name in enumerate(candidates)}
        own = torch.tensor([place[name] for name in names])
        metric = IdiaVotes(own, sync_on_compute=False)  # each rank has all
        metric.update(image_features[readable], text_features, person_index[readable])
        answers = metric.compute()
        num_photos = torch.bincount(person_index[readable], minlength=len(people)).tolist()
        faces = torch.zeros(len(people), image_features.shape[1]).index_add(0, person_index, image_features)
        is_random = torch.tensor([name not in known for name in candidates])
        chance = Chance(
            ranks_among_random(faces, text_features.mean(0), own, is_random),
            random_rates(answers.others, is_random, self.threshold),
            int(is_random.sum()),
        )
        evidence = Evidence(answers.own_votes, answers.margins, text_features[0, own], normalize(faces, dim=-1), chance)
        return IdiaResult(names, answers.correct_prompts.tolist(), num_photos, self.threshold, evidence)
