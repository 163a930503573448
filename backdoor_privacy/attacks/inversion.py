"""Inversion: does some prompt still find the person, even if their name does not?

Sources: Gal et al., "An Image is Worth One Word" (soft tokens); Zou et al., "Universal and Transferable Adversarial
Attacks on Aligned Language Models" (search for tokens along gradients).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from backdoor_privacy.attacks.base import REMOVED, Approach, Attack, Headline, refusals
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.photos import halves
from backdoor_privacy.attacks.scores import Score, interval, mean_score
from backdoor_privacy.attacks.soft_prompts import (
    PROMPT,
    TEXTS_PER_CHUNK,
    Prompt,
    check_invertible,
    features_of,
    free_prompt,
    read,
)
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

_NUM_RESAMPLES = 1000


class Gallery(NamedTuple):
    """Mean photos, of unit length, of everybody with two readable photos."""

    fitted: Float[Tensor, "person dim"]  # what prompts are fitted to: photos at even places
    held_out: Float[Tensor, "person dim"]  # what they are to find: photos at odd places


@dataclass(frozen=True)
class Inversion(Attack):
    """Fit prompts to half of a person's photos, which then have to find the other half among everybody's.

    A prompt is "a photo of *". As `soft token`, the input embeddings of the star are optimised with Adam; as `token
    search`, hill climbing replaces one of its tokens at a time: the gradient proposes, the loss decides. Both minimise
    the cross-entropy of the person's fitted photos among those of everybody. A person is found if the held-out photos
    fit the prompt better than those of everybody else: `rank-1` is the share of these people, `MRR` the mean of
    1 / rank.

    A photo can also be described in words, so that prompts find people whom the CLIP never knew: `difference` is rank-1
    of removed people minus that of never-seen ones, and small even where the CLIP knows them. What tells whether it
    still ties them to their names is `closeness`: how much closer the soft prompt comes to the person's own name than
    to random names, in cosine similarity.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline(
            "a soft token finds the photos (rank 1)", REMOVED, "rank-1", lambda kind: kind.startswith("soft token")
        ),
        Headline(
            "a soft token is nearer to the name than random names' are (closeness)",
            REMOVED,
            "closeness",
            lambda kind: kind.startswith("soft token"),
        ),
    )
    approach: ClassVar[Approach] = Approach.prompts

    max_people: int  # of each group, to fit prompts for
    num_soft_tokens: int
    num_steps: int  # of Adam
    learning_rate: float  # of Adam, in units of the root mean square of the token embeddings
    temperature: float  # of the cross-entropy
    num_names: int  # random ones that closeness compares with
    num_tokens: int  # that the search may choose; 0 leaves it out
    num_search_steps: int  # each tries as many prompts for each person as the next number says
    num_tries: int
    num_proposals: int  # tokens by gradient, for each place, that tries are drawn from

    def problems(self, context: AttackContext, models: Sequence[str]) -> Iterator[str]:
        """Yield that a text encoder cannot read embeddings, that tokens do not fit, or that one person is alone."""
        num_people = sum(all(halves(person)) for person in context.people.everybody)
        yield from refusals(lambda: _check_num_people(num_people))
        for clip in context.clips.values():
            yield from refusals(partial(self._check, clip))

    def _check(self, clip: Clip) -> None:
        """Check that a CLIP can read the prompts.

        Raises:
            InputError: if it cannot, as a text encoder of Hugging Face, or if tokens do not fit.
        """
        check_invertible(clip)
        for num_tokens in (self.num_soft_tokens, *([self.num_tokens] if self.num_tokens else [])):
            free_prompt(clip, num_tokens)

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context.

        Raises:
            InputError: as of `problems`.
        """
        scores = []
        for clip in context.clips.values():
            self._check(clip)
        for model, clip in context.clips.items():
            gallery, place = see_gallery(clip, context.people.everybody)
            _check_num_people(len(place))
            attacked = self.people(context, place)
            if not attacked:
                continue
            everybody = [person for people in attacked.values() for person in people]
            own = torch.tensor([place[person.name] for person in everybody])
            soft = self.fit_soft(clip, gallery.fitted, own)
            features = {"soft token": soft}
            if self.num_tokens:
                features["token search"] = self.search(clip, gallery.fitted, own, context.seed)
            closeness = self._closeness(clip, context, everybody, soft)
            rows = {group: [everybody.index(person) for person in people] for group, people in attacked.items()}
            for kind, prompts in features.items():
                measures = {"rank-1": (ranks := ranks_of(prompts, gallery.held_out, own)) == 1, "MRR": 1 / ranks}
                if kind == "soft token":
                    measures["closeness"] = closeness
                scores += inversion_scores(measures, rows, f"{kind} finds the photos", model)
        return scores

    def people(self, context: AttackContext, place: Mapping[str, int]) -> dict[str, list[Person]]:
        """Draw removed people, and as many of each other group, among those in the gallery."""
        groups = {
            group: [person for person in people if person.name in place] for group, people in context.groups.items()
        }
        num_people = min(self.max_people, len(groups.get("removed", ())) or self.max_people)
        return {
            group: random.Random(f"{context.seed} inversion {group}").sample(people, min(num_people, len(people)))
            for group, people in groups.items()
            if people
        }

    def fit_soft(
        self, clip: Clip, fitted: Float[Tensor, "person dim"], own: Int[Tensor, "prompt"]
    ) -> Float[Tensor, "prompt dim"]:
        """Return unit-length features of prompts whose embeddings are optimised, each as if it were alone."""
        prompt, table = free_prompt(clip, self.num_soft_tokens), clip.text.table().weight.detach()
        soft = table[prompt.tokens[prompt.places].to(table.device)].expand(len(own), -1, -1).clone()
        soft.requires_grad_()
        optimizer = torch.optim.Adam([soft], lr=self.learning_rate * float(table.square().mean().sqrt()))
        for _ in range(self.num_steps):
            soft.grad = self._gradient(clip, prompt, soft, fitted, own)[0]
            optimizer.step()
        return read(clip, prompt, soft.detach())

    def search(
        self, clip: Clip, fitted: Float[Tensor, "person dim"], own: Int[Tensor, "prompt"], seed: int
    ) -> Float[Tensor, "prompt dim"]:
        """Return unit-length features of the prompts that hill climbing ends with."""
        prompt, table = free_prompt(clip, self.num_tokens), clip.text.table().weight.detach()
        generator = torch.Generator().manual_seed(seed)
        tokens = prompt.tokens[prompt.places].expand(len(own), -1).clone()
        num_places = tokens.shape[1]
        for _ in range(self.num_search_steps):
            gradient, losses = self._gradient(clip, prompt, table[tokens.to(table.device)], fitted, own)
            proposals = proposed(gradient, table, prompt.special, self.num_proposals)
            drawn = torch.randint(num_places, (len(own), self.num_tries), generator=generator)
            which = torch.randint(proposals.shape[-1], drawn.shape, generator=generator)
            row = torch.arange(len(own)).unsqueeze(1)
            tries = tokens.unsqueeze(1).repeat(1, self.num_tries, 1)
            tries.scatter_(2, drawn.unsqueeze(2), proposals[row, drawn, which].unsqueeze(2))
            flat = tries.flatten(0, 1)
            features = torch.cat(
                [read(clip, prompt, table[part.to(table.device)]) for part in flat.split(TEXTS_PER_CHUNK)]
            )
            losses_of_tries = self._losses(features, fitted, own.repeat_interleave(self.num_tries))
            best, place = losses_of_tries.unflatten(0, tries.shape[:2]).min(1)
            tokens = torch.where((best < losses).unsqueeze(1), tries[row.squeeze(1), place], tokens)
        return read(clip, prompt, table[tokens.to(table.device)])

    def _losses(self, features: Tensor, fitted: Tensor, own: Tensor) -> Tensor:
        return cross_entropy(features @ fitted.T / self.temperature, own, reduction="none")

    def _gradient(
        self, clip: Clip, prompt: Prompt, embeddings: Tensor, fitted: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient of each prompt's loss by its free embeddings, on their device, and the losses."""
        gradients, losses = [], []
        for part, rows in zip(embeddings.split(TEXTS_PER_CHUNK), own.split(TEXTS_PER_CHUNK), strict=True):
            leaf = part.detach().requires_grad_()
            loss = self._losses(features_of(clip, prompt, leaf).cpu(), fitted, rows)
            gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])  # nothing else gets a gradient
            losses.append(loss.detach())
        return torch.cat(gradients), torch.cat(losses)

    def _closeness(
        self, clip: Clip, context: AttackContext, people: Sequence[Person], features: Float[Tensor, "person dim"]
    ) -> Float[Tensor, "person"]:
        names = random_names(self.num_names, context.seed, exclude=context.people.names)
        own = clip.embed_texts([PROMPT.format(person.name) for person in people])
        return closeness(features, own, clip.embed_texts([PROMPT.format(name) for name in names]))


def _check_num_people(num_people: int) -> None:
    """Check that nobody is alone: every prompt would find the only person's photos.

    Raises:
        InputError: if somebody is.
    """
    if num_people == 1:
        raise InputError(
            "inversion: expected two people or more with two photos to attack with, among whom a prompt is to find "
            "one, got 1; add people, or leave inversion out"
        )


def see_gallery(clip: Clip, people: Sequence[Person]) -> tuple[Gallery, dict[str, int]]:
    """Return mean photos, and everybody's row by name; people without two readable photos are left out."""
    photos = [[path for path in half] for person in people for half in halves(person)]
    features, readable = clip.embed_photos([path for half in photos for path in half])
    which = torch.repeat_interleave(torch.arange(len(photos)), torch.tensor([len(half) for half in photos]))
    sums = torch.zeros(len(photos), features.shape[1]).index_add(0, which, features)
    is_seen = (torch.bincount(which[readable], minlength=len(photos)) > 0).unflatten(0, (-1, 2)).all(1)
    means = normalize(sums, dim=-1).unflatten(0, (-1, 2))[is_seen]
    names = [person.name for person, seen in zip(people, is_seen.tolist(), strict=True) if seen]
    return Gallery(means[:, 0], means[:, 1]), {name: row for row, name in enumerate(names)}


def ranks_of(
    features: Float[Tensor, "prompt dim"], gallery: Float[Tensor, "person dim"], own: Int[Tensor, "prompt"]
) -> Float[Tensor, "prompt"]:
    """Return the rank of each prompt's person among all, from 1, by cosine similarity; equals come before."""
    similarities = features @ gallery.T
    true = similarities.gather(1, own.unsqueeze(1))
    return (similarities >= true).sum(1).float()


def closeness(
    features: Float[Tensor, "person dim"], own: Float[Tensor, "person dim"], others: Float[Tensor, "name dim"]
) -> Float[Tensor, "person"]:
    """Return the cosine similarity to each own name minus the mean one to random names; all are of unit length."""
    return (features * own).sum(-1) - (features @ others.T).mean(1)


def proposed(
    gradient: Float[Tensor, "prompt free width"],
    table: Float[Tensor, "token width"],
    special: Int[Tensor, "special"],
    num_proposals: int,
) -> Int[Tensor, "prompt free proposal"]:
    """Return the tokens for each place that lower the loss most, as far as its gradient tells; no special ones."""
    worth = -gradient @ table.T
    worth[..., special.to(worth.device)] = -torch.inf
    return worth.topk(min(num_proposals, len(table) - len(special)), dim=-1).indices.cpu()


def inversion_scores(
    measures: Mapping[str, Float[Tensor, "prompt"] | Bool[Tensor, "prompt"]],
    rows: Mapping[str, Sequence[int]],
    kind: str,
    model: str,
) -> list[Score]:
    """Return the means of each group, and by how much more removed people are found than never-seen ones."""
    scores = [
        mean_score(values[list(own)], kind=kind, model=model, group=group, measure=measure)
        for group, own in rows.items()
        for measure, values in measures.items()
    ]
    if {"removed", "never seen"} <= set(rows):
        removed, never = (measures["rank-1"][list(rows[group])].double() for group in ("removed", "never seen"))
        generator = torch.Generator().manual_seed(0)
        drawn = [
            values[torch.randint(len(values), (_NUM_RESAMPLES, len(values)), generator=generator)].mean(1)
            for values in (removed, never)
        ]
        low, high = interval(drawn[0] - drawn[1])
        difference, num_people = (removed.mean() - never.mean()).item(), len(removed) + len(never)
        group = "removed / never seen"
        scores.append(Score(kind, model, group, "difference", difference, low, high, num_people))
    return scores
