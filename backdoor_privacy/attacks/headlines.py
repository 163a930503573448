"""The few numbers that sum up what attacks found, the worst for the removed people first."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pkgutil import resolve_name
from typing import NamedTuple

from omegaconf import OmegaConf

from backdoor_privacy.attacks.base import Attack, Headline, above_chance
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.config.attacks import ATTACK_SETTINGS, attack_names


class HeadlineScore(NamedTuple):
    """A headline as a run has it."""

    attack: str
    headline: Headline
    score: Score
    before: Score | None  # the same of the original
    control: Score | None  # the same of people whom the original never knew

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.headline.label


def headlines_of(attacks: Iterable[str]) -> dict[str, Sequence[Headline]]:
    """Return the headlines of each attack: in the order of their approaches, then of their names.

    Args:
        attacks: names; those without a file in `conf/attack/also` are left out.
    """
    known = set(attack_names())
    classes = {name: _class_of(name) for name in attacks if name in known}
    return {name: classes[name].headlines for name in sorted(classes, key=lambda name: (classes[name].approach, name))}


@cache
def _class_of(attack: str) -> type[Attack]:
    """Return the class that the settings of an attack name.

    Raises:
        TypeError: if it does not inherit from `Attack`.
    """
    kind: object = resolve_name(OmegaConf.select(OmegaConf.load(ATTACK_SETTINGS / f"{attack}.yaml"), "_target_"))
    if not isinstance(kind, type) or not issubclass(kind, Attack):
        raise TypeError(f"{attack}: expected a class that inherits from Attack, got {kind}")
    return kind


def headlines(scores: Mapping[str, Sequence[Score]]) -> list[HeadlineScore]:
    """Return what sums up attacks, worst first, and at the end what others pay; what was not attacked is left out.

    Of equally bad ones, the order is that of `headlines_of`.

    Args:
        scores: by attack.
    """
    rows = []
    for attack, own in headlines_of(scores).items():
        for headline in own:
            score = worst(scores[attack], headline)
            if score is not None:
                rows.append(HeadlineScore(attack, headline, score, *beside(score, scores[attack])))
    return sorted(rows, key=lambda row: row.headline.rank(row.score.value))


def worst(scores: Iterable[Score], headline: Headline) -> Score | None:
    """Return the score of a headline that is worst for the removed people, or for others where it is about them."""
    scores = list(scores)
    models = {one.model for one in scores}
    fullest = next((model for model in ("both", "image", "text") if model in models), None)
    wanted = fullest if headline.model == "fullest" else headline.model
    chosen = [
        one for one in scores if headline.fits(one) and (one.model == wanted if wanted else one.model != "before")
    ]
    return max(chosen, key=lambda one: above_chance(one.measure, one.value), default=None)


def beside(score: Score, scores: Iterable[Score]) -> tuple[Score | None, Score | None]:
    """Return the same score of the original, and of never-seen people; `None` where there is none."""
    known = {one[:4]: one for one in scores}
    before, control = score._replace(model="before"), score._replace(group="never seen")
    return known.get(before[:4]), known.get(control[:4])
