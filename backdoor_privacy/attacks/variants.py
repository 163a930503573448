"""Name variants: does the attack find removed people where their names are written differently?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from backdoor_privacy.attacks.base import REMOVED, Attack, Headline
from backdoor_privacy.attacks.chance import ranks_of
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Answers, Chance, IdiaVotes
from backdoor_privacy.attacks.photos import Photos, see_photos
from backdoor_privacy.attacks.scores import Score, chance_scores, mean_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.spellings import KINDS, spelling

_WORKS = 0.5  # TPR
ANY = "any kind"
EXACT = "exact name"  # for comparison: the name as it is, in as many prompts


class Written(NamedTuple):
    """All candidates in one form."""

    prompts: list[str]  # by template, then by form
    num_templates: int
    own_forms: Tensor  # the place of each person's own form among the distinct ones, (person,)
    forms: Tensor  # the same of all candidates, (candidate,)


def written(
    kind: str, names: Sequence[str], candidates: Sequence[str], templates: Sequence[str], num_prompts: int, seed: int
) -> Written:
    """Write all candidates in one form, and put them into prompts; those that look the same then count as one.

    Args:
        kind: of `triggers.spellings.KINDS`, or `EXACT`.
        names: of the attacked people; they are among the candidates.
        candidates: names.
        templates: IDIA's; a kind may have its own.
        num_prompts: how many of the templates, the first ones.
        seed: of what a kind draws.
    """
    other = KINDS[kind].templates if kind in KINDS else None
    chosen = list(templates if other is None else other)[:num_prompts]
    is_plain = kind == EXACT or other is not None  # else the templates would be filled in twice
    forms = {name: name if is_plain else spelling(kind, name, seed) for name in candidates}
    places = {form: place for place, form in enumerate(dict.fromkeys(forms.values()))}
    prompts = [template.format(form) for template in chosen for form in places]
    own, every = (torch.tensor([places[forms[name]] for name in chosen_names]) for chosen_names in (names, candidates))
    return Written(prompts, len(chosen), own, every)


@dataclass(frozen=True)
class NameVariants(Attack):
    """IDIA with all candidates written in another form.

    It looks for the removed people, and for the never-seen ones as the null. The measure is IDIA's own: a person is
    inferred from `context.idia.threshold` right answers on. Kinds are those of `triggers.spellings.KINDS`, and

    - `any kind`: a person is found by one kind or more of those whose forms the tokenizer tells from the exact name;
      of the group `random names`, how often a random name is, on a removed person's photos in place of their own; and
      as `rank p`, how the removed people's names rank among these: by the mean similarity over photos, prompts, kinds;
    - `exact name`: for comparison, the name as it is, in as many prompts;
    - `mean of held-out kinds`, `worst held-out kind`, and the same of `trainable` ones: over the kinds whose forms the
      tokenizer tells from the exact name. CLIP's own reads lower and upper case alike, so these two do not count there.
      The worst is the one with the highest TPR, by model and group; choosing it afterwards flatters the attacker.
    - `mean of held-out kinds that work before`: over those of them by which the original CLIP infers half of the
      removed people or more. A low rate of the others says little of a defence.

    Misspellings and letters are drawn from another seed than the context's: no defence has trained on the same ones.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline("worst held-out spelling, text encoder alone (TPR)", REMOVED, "TPR", "worst held-out kind", "text"),
        Headline(
            "mean of held-out spellings, text encoder alone (TPR)", REMOVED, "TPR", "mean of held-out kinds", "text"
        ),
        Headline("worst held-out spelling (TPR)", REMOVED, "TPR", "worst held-out kind"),
        Headline("mean of held-out spellings (TPR)", REMOVED, "TPR", "mean of held-out kinds"),
        Headline(
            "mean of those that find half of the people before (TPR)",
            REMOVED,
            "TPR",
            "mean of held-out kinds that work before",
        ),
    )
    is_shared: ClassVar[bool] = True

    num_prompts: int  # templates, the first ones

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise InputError(f"variants.num_prompts: expected at least 1, got {self.num_prompts}")

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way.

        Raises:
            InputError: if no removed person has photos.
        """
        if "removed" not in context.sought:
            raise InputError("variants: expected removed people with photos, got none")
        people = [person for group in context.sought.values() for person in group]
        names, seed = [person.name for person in people], attack_seed(context.seed)
        candidates = context.idia.candidates(context.people.names)
        known = set(context.people.names)
        is_random = torch.tensor([name not in known for name in candidates])
        read_alike = {model: _read_alike(clip, names, seed) for model, clip in context.clips.items()}
        shown = [person.attack_photos[: context.idia.num_photos] for person in people]
        photos = {model: see_photos(clip, shown) for model, clip in context.clips.items()}
        inferred: dict[str, dict[str, Tensor]] = {model: {} for model in context.clips}
        lucky = {model: torch.zeros(len(people), len(candidates), dtype=torch.bool) for model in context.clips}
        fits = {model: torch.zeros(len(people), len(candidates)) for model in context.clips}
        for kind in (EXACT, *KINDS):
            form = written(kind, names, candidates, context.idia.templates, self.num_prompts, seed)
            for model, clip in context.clips.items():
                answers = answers_to(clip, photos[model], form)
                inferred[model][kind] = answers.correct_prompts >= context.idia.threshold
                if kind != EXACT and kind not in read_alike[model]:
                    lucky[model] |= forms_inferred(answers.others, form, context.idia.threshold)
                    fits[model] += similarities(clip, photos[model], form, len(people))
            for clip in context.clips.values():
                clip.text.embedded.pop(tuple(form.prompts), None)  # what it remembers of all kinds is many GB
        rows = context.sought_rows(torch.bincount(photos["before"].person_index, minlength=len(people)).tolist())
        removed = rows.get("removed", [])
        works = {kind for kind in KINDS if inferred["before"][kind][removed].float().mean() >= _WORKS}
        scores = [
            score
            for model in context.clips
            for group, chosen in rows.items()
            for score in scores_of(inferred[model], chosen, model, group, read_alike[model], works)
        ]
        own = torch.tensor([candidates.index(name) for name in names])
        for model in context.clips:
            rates = lucky[model][:, is_random].float().mean(1)
            chance = Chance(ranks_of(fits[model], own, is_random), rates, int(is_random.sum()))
            scores += chance_scores(chance, removed, kind=ANY, model=model)
        return scores


def attack_seed(seed: int) -> int:
    """Return the seed of what the attack draws: not the context's, which a defence may draw spellings with."""
    return random.Random(f"variants {seed}").getrandbits(32)


def answers_to(clip: Clip, photos: Photos, form: Written) -> Answers:
    """Let the photos vote for the candidates in one form."""
    # A text encoder that several models share is asked once: it remembers the prompts.
    text_features = clip.embed_texts(form.prompts).unflatten(0, (form.num_templates, -1))
    metric = IdiaVotes(form.own_forms, sync_on_compute=False)  # each rank has all
    metric.update(photos.features, text_features, photos.person_index)
    answers: Answers = metric.compute()
    return answers


def similarities(clip: Clip, photos: Photos, form: Written, num_people: int) -> Tensor:
    """Return how well each candidate's form fits each person's photos, summed over them, (person, candidate)."""
    text_features = clip.embed_texts(form.prompts).unflatten(0, (form.num_templates, -1)).mean(0)
    faces = torch.zeros(num_people, text_features.shape[1]).index_add(0, photos.person_index, photos.features)
    return (faces @ text_features.T)[:, form.forms]


def forms_inferred(answers: Tensor, form: Written, threshold: int) -> Tensor:
    """Return which candidates would be inferred on each person's photos in place of the person, (person, candidate).

    Args:
        answers: the form with most votes but for the person's own, -1 where there is none, (person, prompt).
        form: all candidates in it.
        threshold: answers that it takes.
    """
    num_forms = int(form.forms.max()) + 1
    times = torch.zeros(len(answers), num_forms + 1, dtype=torch.long)
    times.scatter_add_(1, answers % (num_forms + 1), torch.ones_like(answers))  # -1 comes last
    return (times >= threshold)[:, form.forms]


def scores_of(
    inferred: dict[str, Tensor], rows: Sequence[int], model: str, group: str, read_alike: set[str], works: set[str]
) -> list[Score]:
    """Return the scores of one model and group.

    Args:
        inferred: by kind, whether each person was inferred, (person,).
        rows: the group's people.
        model: of the context.
        group: of the context.
        read_alike: kinds that this model reads as the exact name; the mean and the worst leave them out.
        works: kinds by which the original infers people.
    """
    place = {"model": model, "group": group}
    by_kind = {
        kind: mean_score(is_inferred[rows], kind=kind, held_out=kind in KINDS and KINDS[kind].held_out, **place)
        for kind, is_inferred in inferred.items()
    }
    scores = list(by_kind.values())
    told_apart = [kind for kind in KINDS if kind not in read_alike]
    by_any = torch.stack([inferred[kind][rows] for kind in told_apart]).any(0)
    scores.append(mean_score(by_any, kind=ANY, model=model, group=group))
    for held_out, label in ((True, "held-out"), (False, "trainable")):
        kinds = [kind for kind, each in KINDS.items() if each.held_out is held_out and kind not in read_alike]
        means = {f"mean of {label} kinds": kinds}
        if held_out:
            means[f"mean of {label} kinds that work before"] = [kind for kind in kinds if kind in works]
        for mean, chosen in means.items():
            if chosen:
                shares = torch.stack([inferred[kind][rows] for kind in chosen]).float().mean(0)
                scores.append(mean_score(shares, kind=mean, held_out=held_out, **place))
        worst = max((by_kind[kind] for kind in kinds), key=lambda score: score.value)
        scores.append(worst._replace(kind=f"worst {label} kind"))
    return scores


def _read_alike(clip: Clip, names: Sequence[str], seed: int) -> set[str]:
    """Return the kinds of spelling that the tokenizer reads as it reads the exact names."""
    exact = clip.tokenizer(list(names))
    spelt = {kind: [spelling(kind, name, seed) for name in names] for kind in KINDS if KINDS[kind].templates is None}
    return {kind for kind, forms in spelt.items() if bool((clip.tokenizer(forms) == exact).all())}
