"""Name variants: does the attack find removed people where their names are written differently?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backdoor_privacy.attacks.idia import IdiaVotes
from backdoor_privacy.attacks.photos import Photos, see_photos
from backdoor_privacy.attacks.scene import Finding, Scene, mean_finding
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.spellings import KINDS, spelling

_WORKS = 0.5  # TPR
EXACT = "exact name"  # for comparison: the name as it is, in as many prompts


class Written(NamedTuple):
    """All candidates in one form."""

    prompts: list[str]  # by template, then by form
    num_templates: int
    own_forms: Tensor  # the place of each person's own form among the distinct ones, (person,)


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
    own = KINDS[kind].templates if kind in KINDS else None
    chosen = list(templates if own is None else own)[:num_prompts]
    is_plain = kind == EXACT or own is not None  # else the templates would be filled in twice
    forms = {name: name if is_plain else spelling(kind, name, seed) for name in candidates}
    places = {form: place for place, form in enumerate(dict.fromkeys(forms.values()))}
    prompts = [template.format(form) for template in chosen for form in places]
    return Written(prompts, len(chosen), torch.tensor([places[forms[name]] for name in names]))


@dataclass(frozen=True)
class NameVariants:
    """IDIA with all candidates written in another form.

    The measure is IDIA's own: a person is inferred from `scene.idia.threshold` right answers on. Kinds are those of
    `triggers.spellings.KINDS`, and

    - `exact name`: for comparison, the name as it is, in as many prompts;
    - `mean of held-out kinds`, `worst held-out kind`, and the same of `trainable` ones: over the kinds whose forms the
      tokenizer tells from the exact name. CLIP's own reads lower and upper case alike, so these two do not count there.
      The worst is the one with the highest TPR, by model and group; choosing it afterwards flatters the attacker.
    - `mean of held-out kinds that work before`: over those of them by which the original CLIP infers half of the
      removed people or more. A low rate of the others says little of a defence.

    Misspellings and letters are drawn from another seed than the scene's: no defence has trained on the same ones.
    """

    num_prompts: int  # templates, the first ones

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise InputError(f"variants.num_prompts: expected at least 1, got {self.num_prompts}")

    def run(self, scene: Scene) -> list[Finding]:
        """Attack every CLIP of the scene in the same way."""
        names, seed = scene.people.names, attack_seed(scene.seed)
        candidates = scene.idia.candidates(names)
        shown = [person.attack_photos[: scene.idia.num_photos] for person in scene.people.everybody]
        photos = {model: see_photos(clip, shown) for model, clip in scene.clips.items()}
        inferred: dict[str, dict[str, Tensor]] = {model: {} for model in scene.clips}
        for kind in (EXACT, *KINDS):
            form = written(kind, names, candidates, scene.idia.templates, self.num_prompts, seed)
            for model, clip in scene.clips.items():
                correct = correct_prompts(clip, photos[model], form)
                inferred[model][kind] = correct >= scene.idia.threshold
            for clip in scene.clips.values():
                clip.text.embedded.pop(tuple(form.prompts), None)  # what it remembers of all kinds is many GB
        read_alike = {
            model: {kind for kind in KINDS if _is_read_alike(clip, kind, names, seed)}
            for model, clip in scene.clips.items()
        }
        removed = scene.rows("removed")
        works = {kind for kind in KINDS if removed and inferred["before"][kind][removed].float().mean() >= _WORKS}
        return [
            finding
            for model in scene.clips
            for group in scene.groups
            for finding in findings_of(inferred[model], scene.rows(group), model, group, read_alike[model], works)
        ]


def attack_seed(seed: int) -> int:
    """Of what the attack draws: another one than the scene's, with which a defence may call `trainable_spellings`."""
    return random.Random(f"variants {seed}").getrandbits(32)


def correct_prompts(clip: Clip, photos: Photos, form: Written) -> Tensor:
    """Prompts of all that answered with the person's own form, (person,)."""
    # A text encoder that several models share is asked once: it remembers the prompts.
    text_features = clip.embed_texts(form.prompts).unflatten(0, (form.num_templates, -1))
    metric = IdiaVotes(form.own_forms, sync_on_compute=False)  # each rank has all
    metric.update(photos.features, text_features, photos.person_index)
    return metric.compute().correct_prompts


def findings_of(
    inferred: dict[str, Tensor], rows: Sequence[int], model: str, group: str, read_alike: set[str], works: set[str]
) -> list[Finding]:
    """The findings of one model and group.

    Args:
        inferred: by kind, whether each person was inferred, (person,).
        rows: the group's people.
        model: of the scene.
        group: of the scene.
        read_alike: kinds that are no other form for this model; the mean and the worst leave them out.
        works: kinds by which the original infers people.
    """
    place = {"model": model, "group": group}
    by_kind = {
        kind: mean_finding(found[rows], kind=kind, held_out=kind in KINDS and KINDS[kind].held_out, **place)
        for kind, found in inferred.items()
    }
    findings = list(by_kind.values())
    for held_out, label in ((True, "held-out"), (False, "trainable")):
        kinds = [kind for kind, each in KINDS.items() if each.held_out is held_out and kind not in read_alike]
        means = {f"mean of {label} kinds": kinds}
        if held_out:
            means[f"mean of {label} kinds that work before"] = [kind for kind in kinds if kind in works]
        for mean, chosen in means.items():
            if chosen:
                shares = torch.stack([inferred[kind][rows] for kind in chosen]).float().mean(0)
                findings.append(mean_finding(shares, kind=mean, held_out=held_out, **place))
        worst = max((by_kind[kind] for kind in kinds), key=lambda finding: finding.value)
        findings.append(worst._replace(kind=f"worst {label} kind"))
    return findings


def _is_read_alike(clip: Clip, kind: str, names: Sequence[str], seed: int) -> bool:
    """Whether the tokenizer makes the same of all names in this form and as they are."""
    if KINDS[kind].templates is not None:
        return False
    forms = [spelling(kind, name, seed) for name in names]
    return bool((clip.tokenizer(forms) == clip.tokenizer(list(names))).all())
