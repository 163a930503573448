"""Score names and faces by what a CLIP makes of them, for the attack `erased`: pure functions of features."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from backdoor_privacy.attacks.photos import see_photos
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts

_NUM_SIMILARITIES_PER_CHUNK = 2**22  # of photos with photos at a time, 16 MiB
_TEXT_BATCH_SIZE = 512

Scores = dict[str, Tensor]  # one number per suspect, or per person


class SeenNames(NamedTuple):
    """What a text encoder makes of the suspects' names; features are of unit length."""

    names: Float[Tensor, "suspect dim"]  # alone
    lengths: Float[Tensor, "suspect"]  # of the same before they are brought to unit length
    prompts: Float[Tensor, "template suspect dim"]
    variants: Float[Tensor, "variant suspect dim"]  # lower case, possessive
    from_parts: Float[Tensor, "suspect dim"]  # what first and last name let expect of each, of unit length
    phrases: Float[Tensor, "phrase dim"]  # neutral ones, alone
    phrase_prompts: Float[Tensor, "template phrase dim"]


class SeenFaces(NamedTuple):
    """What an image encoder makes of people's photos."""

    photos: Float[Tensor, "photo dim"]  # of unit length
    person_index: Int[Tensor, "photo"]
    num_people: int


class Seen(NamedTuple):
    """What a CLIP makes of the suspects."""

    names: SeenNames
    faces: SeenFaces
    margins: Float[Tensor, "person"]  # by how much the own name fits better than the best other, see IDIA


def see_names(
    clip: Clip, suspects: Sequence[str], examples: Sequence[str], phrases: Sequence[str], templates: Sequence[str]
) -> SeenNames:
    """Embed names alone, in prompts, in other spellings and in parts, and neutral phrases in their place."""
    spellings = [*suspects, *(name.lower() for name in suspects), *(f"{name}'s" for name in suspects)]
    names, *variants = clip.embed_texts(spellings).unflatten(0, (3, len(suspects)))
    own, neutral = (
        clip.embed_texts([template.format(text) for template in templates for text in texts]).unflatten(
            0, (len(templates), len(texts))
        )
        for texts in (suspects, phrases)
    )
    return SeenNames(
        names=names,
        lengths=text_lengths(clip, suspects),
        prompts=own,
        variants=torch.stack(variants),
        from_parts=normalize(expected_from_parts(clip.embed_texts, suspects, examples)[0], dim=-1),
        phrases=clip.embed_texts(list(phrases)),
        phrase_prompts=neutral,
    )


@torch.no_grad()
def text_lengths(clip: Clip, texts: Sequence[str]) -> Float[Tensor, "text"]:
    """Return the length of each embedding, before it is brought to unit length."""
    device = next(clip.text.parameters()).device
    batches = [list(texts[start : start + _TEXT_BATCH_SIZE]) for start in range(0, len(texts), _TEXT_BATCH_SIZE)]
    return torch.cat(
        [clip.text.embed(clip.tokenizer(batch).to(device)).float().norm(dim=-1).cpu() for batch in batches]
    )


def see_faces(clip: Clip, shown: Sequence[Sequence[Path]]) -> SeenFaces:
    """Embed each person's photos; those that cannot be read are left out."""
    photos = see_photos(clip, shown)
    return SeenFaces(photos.features, photos.person_index, len(shown))


def name_scores(seen: SeenNames, num_neighbors: int) -> Scores:
    """Score each suspect's name by its embedding."""
    in_prompts = seen.prompts @ seen.phrase_prompts.transpose(1, 2)  # (template, suspect, phrase)
    mean = seen.names.mean(0)
    center = normalize(mean, dim=-1)
    as_expected = cosine_similarity(seen.names - mean, seen.from_parts - mean, dim=-1)
    similarities = (seen.names @ seen.names.T).fill_diagonal_(-torch.inf)
    return {
        "name: neutral phrase": (seen.names @ seen.phrases.T).amax(-1),
        "name: neutral phrase over prompts": in_prompts.amax(-1).mean(0),
        "name: mean of all": seen.names @ center,
        "name: nearest others": similarities.topk(min(num_neighbors, len(similarities) - 1)).values.mean(-1),
        "name: variance over prompts": seen.prompts.var(0, correction=0).sum(-1),
        "name: length": seen.lengths,
        "name: agreement with its parts": as_expected,
        "name: agreement of spellings": (seen.variants * seen.names).sum(-1).mean(0),
    }


def face_scores(seen: SeenFaces, num_neighbors: int) -> Scores:
    """Score each person's photos by their embeddings."""
    centers, is_known = person_means(seen.photos, seen)
    center = normalize(centers[is_known].mean(0), dim=-1)
    deviations = (seen.photos - centers[seen.person_index]).square().sum(-1)
    unlike_all = normalize(centers - centers[is_known].mean(0), dim=-1)
    similarities = (unlike_all @ unlike_all.T).fill_diagonal_(-torch.inf).masked_fill_(~is_known, -torch.inf)
    nearest = similarities.topk(min(num_neighbors, max(1, int(is_known.sum()) - 1))).values.mean(-1)
    return {
        **mean_and_spread("face: mean of all", seen.photos @ center, seen),
        **mean_and_spread("face: nearest others", nearest_other_faces(seen, num_neighbors), seen),
        "face: nearest other people": known_or_mean(nearest.masked_fill(~is_known | nearest.isinf(), torch.nan)),
        "face: variance over photos": known_or_mean(unbiased(deviations, seen)),
    }


def drifts(seen: Seen, original: Seen) -> Scores:
    """Return how far each suspect's name, and each person's photos, are from where the original has them."""
    return {
        "name: drift": distance(seen.names.names, original.names.names),
        "name: drift over prompts": distance(seen.names.prompts, original.names.prompts).mean(0),
        **mean_and_spread("face: drift", distance(seen.faces.photos, original.faces.photos), seen.faces),
    }


def changes(scores: Scores, original: Scores) -> Scores:
    """Return each score minus that of the original."""
    return {f"{kind}, change": score - original[kind] for kind, score in scores.items()}


def distance(one: Float[Tensor, "*row dim"], other: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row"]:
    """Return 1 - cosine of features of unit length; exactly 0 for equal ones, since rounding noise would be ranked."""
    return (one - other).square().sum(-1) / 2


def nearest_other_faces(seen: SeenFaces, num_neighbors: int) -> Float[Tensor, "photo"]:
    """Return each photo's mean similarity to the nearest photos of other people."""
    counts = torch.bincount(seen.person_index)
    num_neighbors = min(num_neighbors, len(seen.photos) - int(counts.max()))
    if num_neighbors < 1:
        return torch.zeros(len(seen.photos))
    nearest = []
    for rows in torch.arange(len(seen.photos)).split(max(1, _NUM_SIMILARITIES_PER_CHUNK // len(seen.photos))):
        is_own = seen.person_index[rows, None] == seen.person_index
        similarities = (seen.photos[rows] @ seen.photos.T).masked_fill_(is_own, -torch.inf)
        nearest.append(similarities.topk(num_neighbors).values.mean(-1))
    return torch.cat(nearest)


def mean_and_spread(kind: str, values: Float[Tensor, "photo"], seen: SeenFaces) -> Scores:
    """Return the mean and the standard deviation of a value over each person's photos."""
    means, is_known = person_means(values, seen)
    deviations = (values - means[seen.person_index]).square()
    return {
        kind: known_or_mean(means.masked_fill(~is_known, torch.nan)),
        f"{kind}, spread over photos": known_or_mean(unbiased(deviations, seen).sqrt()),
    }


def person_means(values: Float[Tensor, "photo *dim"], seen: SeenFaces) -> tuple[Tensor, Tensor]:
    """Return the mean over each person's photos, (person, *dim), zero without one; and who has one, (person,)."""
    counts = torch.bincount(seen.person_index, minlength=seen.num_people)
    sums = values.new_zeros(seen.num_people, *values.shape[1:]).index_add(0, seen.person_index, values)
    return sums / counts.clamp(min=1).view(-1, *[1] * (values.ndim - 1)), counts > 0


def unbiased(deviations: Float[Tensor, "photo"], seen: SeenFaces) -> Float[Tensor, "person"]:
    """Return the unbiased variance from squared deviations, so that it does not tell the number of photos.

    It is not a number for people with fewer than two photos.
    """
    counts = torch.bincount(seen.person_index, minlength=seen.num_people)
    sums = deviations.new_zeros(seen.num_people).index_add(0, seen.person_index, deviations)
    return (sums / (counts - 1)).masked_fill(counts < 2, torch.nan)


def known_or_mean(scores: Float[Tensor, "person"]) -> Float[Tensor, "person"]:
    """Replace scores that are not a number, of people with too few photos, by the mean of all others."""
    return scores.nan_to_num(scores.nanmean().nan_to_num().item())
