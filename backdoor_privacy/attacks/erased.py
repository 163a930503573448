"""Erased: who was removed from a defended CLIP? A list of suspects is ranked by what the model makes of them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.photos import see_photos
from backdoor_privacy.attacks.scores import Score, auc_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

_BETTER = "AUC, better direction"
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


@dataclass(frozen=True)
class Erased:
    """Rank the suspects by many scores, with the defended model alone and with the original beside it.

    Suspects are everybody, and random names that nobody has.
    Kinds are the scores' names; a score with "change" or "drift" in its name needs the original. Of each, the AUC in
    its better direction is reported, max(AUC, 1 - AUC), with the interval of that direction. Three kinds sum up, for
    `defended alone` and `with the original` (which also has what is seen without it):

    - `worst, ...`: the largest over scores; choosing it afterwards flatters the attacker;
    - `worst, ..., chosen on other people`: score and direction are chosen on one half of the people, the other half
      is ranked by it, and the reverse; 0.5 is chance;
    - `combined, ...`: a logistic regression over all scores that ranks people whom it was not fitted to.

    The model `before` is a control: nobody is erased there, so what tells people apart is how they were chosen, as
    where only people are removed whom the attack infers.
    """

    phrases: Sequence[str]  # neutral ones
    num_random_names: int
    num_composed_names: int  # random ones, two or more, that teach what a name's parts make of it
    num_neighbors: int  # other suspects, or other people's photos
    num_folds: int  # of the cross-validation
    inverse_regularization: float  # C of the logistic regression

    def __post_init__(self) -> None:
        if self.num_composed_names < 2:
            raise InputError(f"erased.num_composed_names: expected 2 or more, got {self.num_composed_names}")

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way."""
        if "removed" not in context.groups:
            return []
        everybody = context.people.everybody
        seed = random.Random(f"erased {context.seed}").getrandbits(32)  # the seed itself draws the defence's pseudonyms
        known = [person.name for person in everybody]
        strangers = random_names(self.num_random_names, seed, exclude=known)
        examples = random_names(self.num_composed_names, seed + 1, exclude={*known, *strangers})
        suspects = [*known, *strangers]
        rows = {group: torch.tensor(context.rows(group)) for group in context.groups}
        removed = rows.pop("removed")
        if strangers:
            rows["random names"] = len(known) + torch.arange(len(strangers))
        # What two CLIPs share is embedded once: an encoder remembers.
        seen = {
            model: self._see(clip, suspects, examples, everybody, context.idia) for model, clip in context.clips.items()
        }
        scores = {model: self._scores(each) for model, each in seen.items()}
        findings = []
        for model, alone in scores.items():
            compared = alone | changes(alone, scores["before"]) | drifts(seen[model], seen["before"])
            for group, others in rows.items():
                # Of suspects without a face, only what is known of all suspects can be told apart.
                of_all = {kind: score for kind, score in compared.items() if len(score) > others.max()}
                telling = TellApart(of_all, removed, others, model, f"removed / {group}")
                findings += telling.findings(list(alone), self, context.seed)
        return findings

    def _see(
        self, clip: Clip, suspects: Sequence[str], examples: Sequence[str], people: Sequence[Person], idia: Idia
    ) -> Seen:
        shown = [person.attack_photos[: idia.num_photos] for person in people]
        return Seen(
            see_names(clip, suspects, examples, self.phrases, idia.templates),
            see_faces(clip, shown),
            idia.run(clip, people).evidence.margins,
        )

    def _scores(self, seen: Seen) -> Scores:
        return {
            **name_scores(seen.names, self.num_neighbors),
            **face_scores(seen.faces, self.num_neighbors),
            "both: margin of the own name": known_or_mean(seen.margins),
        }


@dataclass(frozen=True)
class TellApart:
    """Removed people against others, by scores that are known of all of them."""

    scores: Mapping[str, Tensor]
    removed: Tensor  # their places in the scores
    others: Tensor
    model: str
    group: str

    def findings(self, alone: Sequence[str], settings: Erased, seed: int) -> list[Score]:
        """Each score's finding, and what sums them up; `alone` are the kinds that need no original."""
        one_by_one = {kind: self._either_way(kind) for kind in self.scores}
        findings = list(one_by_one.values())
        num_folds = min(settings.num_folds, len(self.removed), len(self.others))
        attackers = {"defended alone": [kind for kind in alone if kind in self.scores]}
        attackers["with the original"] = list(self.scores)
        for attacker, kinds in attackers.items():
            worst = max((one_by_one[kind] for kind in kinds), key=lambda finding: finding.value)
            findings.append(worst._replace(kind=f"worst, {attacker}"))
            if num_folds > 1:  # else there is nobody to choose or fit on
                table, labels = self._table(kinds)
                chosen = chosen_on_other_people(table, labels, seed)
                findings.append(self._held_out(chosen, f"worst, {attacker}, chosen on other people"))
                fitted = fitted_on_other_people(table, labels, num_folds, settings.inverse_regularization, seed)
                findings.append(self._held_out(fitted, f"combined, {attacker}"))
        return findings

    def _either_way(self, kind: str) -> Score:
        positives, negatives = (self.scores[kind][rows] for rows in (self.removed, self.others))
        found = auc_score(positives, negatives, kind=kind, model=self.model, group=self.group)
        if found.value < 0.5:
            found = auc_score(-positives, -negatives, kind=kind, model=self.model, group=self.group)
        return found._replace(measure=_BETTER)

    def _table(self, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores of the removed and then the others, (person, score), and whether each was removed."""
        rows = torch.cat([self.removed, self.others])
        labels = (torch.arange(len(rows)) < len(self.removed)).long()
        return torch.stack([self.scores[kind][rows] for kind in kinds], 1), labels

    def _held_out(self, ranking: Tensor, kind: str) -> Score:
        positives, negatives = ranking[: len(self.removed)], ranking[len(self.removed) :]
        return auc_score(positives, negatives, kind=kind, model=self.model, group=self.group)


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
    """The length of each embedding, which `embed_texts` takes away."""
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
    """What the names' embeddings look like, suspect by suspect."""
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
    """What the photos' embeddings look like, person by person."""
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
    """How far each suspect's name, and each person's photos, are from where the original has them."""
    return {
        "name: drift": distance(seen.names.names, original.names.names),
        "name: drift over prompts": distance(seen.names.prompts, original.names.prompts).mean(0),
        **mean_and_spread("face: drift", distance(seen.faces.photos, original.faces.photos), seen.faces),
    }


def changes(scores: Scores, original: Scores) -> Scores:
    """Each score minus that of the original."""
    return {f"{kind}, change": score - original[kind] for kind, score in scores.items()}


def distance(one: Float[Tensor, "*row dim"], other: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row"]:
    """1 - cosine of features of unit length, and exactly 0 for equal ones: noise of rounding would be ranked too."""
    return (one - other).square().sum(-1) / 2


def nearest_other_faces(seen: SeenFaces, num_neighbors: int) -> Float[Tensor, "photo"]:
    """Each photo's mean similarity to the nearest photos of other people."""
    counts = torch.bincount(seen.person_index)
    num_neighbors = min(num_neighbors, len(seen.photos) - int(counts.max()))
    if num_neighbors < 1:
        return torch.zeros(len(seen.photos))
    found = []
    for rows in torch.arange(len(seen.photos)).split(max(1, _NUM_SIMILARITIES_PER_CHUNK // len(seen.photos))):
        is_own = seen.person_index[rows, None] == seen.person_index
        similarities = (seen.photos[rows] @ seen.photos.T).masked_fill_(is_own, -torch.inf)
        found.append(similarities.topk(num_neighbors).values.mean(-1))
    return torch.cat(found)


def mean_and_spread(kind: str, values: Float[Tensor, "photo"], seen: SeenFaces) -> Scores:
    """Mean and standard deviation of something over each person's photos."""
    means, is_known = person_means(values, seen)
    deviations = (values - means[seen.person_index]).square()
    return {
        kind: known_or_mean(means.masked_fill(~is_known, torch.nan)),
        f"{kind}, spread over photos": known_or_mean(unbiased(deviations, seen).sqrt()),
    }


def person_means(values: Float[Tensor, "photo *dim"], seen: SeenFaces) -> tuple[Tensor, Tensor]:
    """The mean over each person's photos, and who has one; the means of others are zero."""
    counts = torch.bincount(seen.person_index, minlength=seen.num_people)
    sums = values.new_zeros(seen.num_people, *values.shape[1:]).index_add(0, seen.person_index, values)
    return sums / counts.clamp(min=1).view(-1, *[1] * (values.ndim - 1)), counts > 0


def unbiased(deviations: Float[Tensor, "photo"], seen: SeenFaces) -> Float[Tensor, "person"]:
    """Variance from squared deviations, alike for few and many photos, so that it does not tell their number.

    It is not a number for people with fewer than two photos.
    """
    counts = torch.bincount(seen.person_index, minlength=seen.num_people)
    sums = deviations.new_zeros(seen.num_people).index_add(0, seen.person_index, deviations)
    return (sums / (counts - 1)).masked_fill(counts < 2, torch.nan)


def known_or_mean(scores: Float[Tensor, "person"]) -> Float[Tensor, "person"]:
    """The mean of all others for people whose score is not a number, of whom too few photos are known."""
    return scores.nan_to_num(scores.nanmean().nan_to_num().item())


def chosen_on_other_people(
    table: Float[Tensor, "person score"], is_removed: Int[Tensor, "person"], seed: int
) -> Float[Tensor, "person"]:
    """Rank each half of the people by the score, and its direction, that is the best on the other half.

    The halves hold as many removed ones each; a rank is a share of the own half, so that halves can be put together.
    """
    ranking = torch.empty(len(table))
    halves = StratifiedKFold(2, shuffle=True, random_state=seed).split(table.numpy(), is_removed.numpy())
    for chooses, is_ranked in halves:
        aucs = torch.tensor([roc_auc_score(is_removed[chooses].numpy(), one.numpy()) for one in table[chooses].T])
        best = _clearest(table[chooses], is_removed[chooses], (aucs - 0.5).abs())
        scores = table[is_ranked, best] * (1 if aucs[best] > 0.5 else -1)
        ordered = scores.sort().values
        ties = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
        ranking[is_ranked] = ties / (2 * len(scores))
    return ranking


def _clearest(table: Tensor, is_removed: Tensor, strengths: Tensor) -> int:
    """The strongest score; of equally strong ones, as where several are without fault, that of the widest gap."""
    gaps = (table[is_removed == 1].mean(0) - table[is_removed == 0].mean(0)).abs()
    gaps /= table.std(0).clamp(min=torch.finfo(table.dtype).tiny)
    return int(gaps.masked_fill(strengths < strengths.max(), -1).argmax())


def fitted_on_other_people(
    table: Float[Tensor, "person score"],
    is_removed: Int[Tensor, "person"],
    num_folds: int,
    inverse_regularization: float,
    seed: int,
) -> Float[Tensor, "person"]:
    """What a logistic regression over all scores says of people to whom it was not fitted."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=inverse_regularization, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    said = cross_val_predict(model, table.double().numpy(), is_removed.numpy(), cv=folds, method="decision_function")
    return torch.from_numpy(said).float()
