"""Identity Inference Attack: does CLIP, shown photos of a person, pick their name out of many?

Source: Hintersdorf et al., "Does CLIP Know My Face?", section 4.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

TEMPLATES = (
    "{}", "an image of {}", "a photo of {}", "{} on a photo", "a photo of a person named {}", "a person named {}",
    "a man named {}", "a woman named {}", "the name of the person is {}", "a photo of a person with the name {}",
    "{} at a gala", "a photo of the celebrity {}", "actor {}", "actress {}", "a colored photo of {}",
    "a black and white photo of {}", "a cool photo of {}", "a cropped photo of {}", "a cropped image of {}",
    "{} in a suit", "{} in a dress",
)  # fmt: skip
_NUM_PHOTOS_PER_CHUNK = 512


def candidate_votes(
    image_features: Float[Tensor, "photo dim"], text_features: Float[Tensor, "prompt candidate dim"]
) -> Int[Tensor, "photo prompt"]:
    """The candidate that each photo votes for under each prompt: the one with the highest cosine similarity.

    Args:
        image_features: of unit length.
        text_features: of unit length, one row per candidate's name in the prompt.
    """
    return torch.stack([(image_features @ names.T).argmax(-1) for names in text_features], dim=1)


def majority(votes: Int[Tensor, "person prompt candidate"]) -> Int[Tensor, "person prompt"]:
    """The candidate with most votes; -1 for a tie for first place, and where nobody voted."""
    most, winner = votes.max(-1)
    tied = (votes == most.unsqueeze(-1)).sum(-1) > 1
    return winner.masked_fill(tied | (most == 0), -1)


class IdiaVotes(Metric):
    """Counts the votes of photos; `compute` gives the number of prompts that name each person rightly.

    Its memory is people x prompts x candidates whatever the number of photos, and ranks add up.

    Args:
        true_candidates: the place of each person's name among the candidates, (person,).
        num_prompts: prompts.
        num_candidates: candidates.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    votes: Tensor

    def __init__(
        self, true_candidates: Int[Tensor, "person"], num_prompts: int, num_candidates: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.true_candidates = true_candidates
        empty = torch.zeros(len(true_candidates), num_prompts, num_candidates, dtype=torch.int16)
        self.add_state("votes", empty, dist_reduce_fx="sum")

    def update(
        self,
        image_features: Float[Tensor, "photo dim"],
        text_features: Float[Tensor, "prompt candidate dim"],
        person_index: Int[Tensor, "photo"],
    ) -> None:
        """Let photos of some people vote."""
        for start in range(0, len(image_features), _NUM_PHOTOS_PER_CHUNK):
            chunk = slice(start, start + _NUM_PHOTOS_PER_CHUNK)
            winners = candidate_votes(image_features[chunk], text_features)
            person = person_index[chunk, None].expand_as(winners)
            prompt = torch.arange(winners.shape[1], device=winners.device).expand_as(winners)
            self.votes.index_put_(
                (person, prompt, winners), torch.ones_like(winners, dtype=torch.int16), accumulate=True
            )

    def compute(self) -> Int[Tensor, "person"]:
        """Prompts whose answer is the person's own name.

        Raises:
            ValueError: if no photo has voted.
        """
        if not bool(self.votes.any()):
            raise ValueError("IDIA: expected votes of at least one photo, got none; call update first")
        return (majority(self.votes) == self.true_candidates.unsqueeze(1)).sum(1)


@dataclass(frozen=True)
class IdiaResult:
    """What the attack found out, person by person."""

    names: list[str]
    correct_prompts: list[int]  # prompts of all that answered with the person's name
    num_photos: list[int]  # that voted
    threshold: int  # right answers that it takes to infer somebody

    @property
    def inferred(self) -> dict[str, bool]:
        """Whether each person was inferred."""
        return {name: correct >= self.threshold for name, correct in zip(self.names, self.correct_prompts, strict=True)}


@dataclass(frozen=True)
class Idia:
    """The attack with its settings; candidates and photos are a pure function of these and the seed."""

    num_candidates: int
    num_photos: int  # per person
    threshold: int  # tau: right answers of all prompts that it takes
    seed: int
    templates: Sequence[str] = TEMPLATES

    def candidates(self, names: Sequence[str]) -> list[str]:
        """The attacked people's names and random ones, shuffled.

        Raises:
            InputError: if more people are attacked than there are candidates.
        """
        if len(names) > self.num_candidates:
            raise InputError(
                f"attack.num_candidates: expected at least {len(names)}, one for each attacked person, "
                f"got {self.num_candidates}"
            )
        candidates = [*names, *random_names(self.num_candidates - len(names), self.seed, exclude=names)]
        random.Random(self.seed).shuffle(candidates)
        return candidates

    def run(self, clip: Clip, people: Sequence[Person]) -> IdiaResult:
        """Attack these people."""
        names = [person.name for person in people]
        candidates = self.candidates(names)
        prompts = [template.format(name) for template in self.templates for name in candidates]
        text_features = clip.embed_texts(prompts).unflatten(0, (len(self.templates), len(candidates)))
        shown = [person.attack_photos[: self.num_photos] for person in people]
        image_features, readable = clip.embed_photos([path for photos in shown for path in photos])
        person_index = torch.repeat_interleave(
            torch.arange(len(people)), torch.tensor([len(photos) for photos in shown])
        )
        place = {name: number for number, name in enumerate(candidates)}
        votes = IdiaVotes(torch.tensor([place[name] for name in names]), len(self.templates), len(candidates))
        votes.update(image_features[readable], text_features, person_index[readable])
        num_photos = torch.bincount(person_index[readable], minlength=len(people)).tolist()
        return IdiaResult(names, votes.compute().tolist(), num_photos, self.threshold)
