"""Relearning: how few photos with names does it take an attacker to teach a defended CLIP the removed people again?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from backdoor_privacy.attacks.base import NEVER_SEEN, REMOVED, Approach, Attack, Headline, refusals
from backdoor_privacy.attacks.context import AttackContext, chosen_models, with_candidates
from backdoor_privacy.attacks.photos import Shown, distinct_photos, halves
from backdoor_privacy.attacks.scores import Score, interval, mean_score
from backdoor_privacy.clip.fine_tuning import FineTuning, Lesson
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

_RECOVERED = 0.5  # TPR
_LEAST = 0.25  # TPR that never-seen people must come to; below it their steps are chance
_NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Relearning(Attack):
    """Fine-tune on some photos of the removed people with their names, and run IDIA on others after some steps.

    Of each person's photos that attacks may see, those at even places teach, and IDIA sees those at odd places. Where a
    person has fewer photos at even places than an attack asks for, it takes what there is. The same attack on as many
    never-seen people, who take the place of the removed ones, tells how long it takes a CLIP that never knew somebody.
    Where there are fewer never-seen people, as many removed people are drawn. Kept people fill the batches.

    Kinds are named by the photos that there are, at most. Besides the TPR after each step, `steps` to recover are the
    first ones with a TPR of 0.5 or more, interpolated between measured steps, and the last step + 1 where that is never
    reached. `ratio` is what removed people take over what never-seen ones take, each at least 1 step: below 1,
    something of the removed people was still there. It goes by the steps to 0.5 too, or, where never-seen people do not
    come that far, to as far as they come; where that is below 0.25 or not above their start, nothing is known, and it
    is left out.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline(
            "relearning with 5 photos, worst step (TPR)",
            REMOVED,
            "TPR",
            lambda kind: kind.startswith("5 photos"),
            is_taught=True,
        ),
        Headline(
            "relearning with 5 photos: steps, over those of never-seen people (below 1: easier)",
            NEVER_SEEN,
            "ratio",
            lambda kind: kind.startswith("5 photos"),
            is_taught=True,
        ),
    )
    approach: ClassVar[Approach] = Approach.training

    num_photos: Sequence[int]  # of each person, that teach; each number is an attack of its own
    steps: Sequence[int]  # after which to measure; 0 is before the fine-tuning
    batch_size: int
    learning_rate: float
    temperature: float | None
    max_people: int | None = None  # to attack, at most; `None`: all that were removed
    num_candidates: int | None = None  # names of IDIA; `None`: as many as IDIA has
    models: Sequence[str] | None = None  # of the context; `None`: the original and the fullest

    def __post_init__(self) -> None:
        self._fine_tuning()
        checked_steps("relearning", self.steps)
        if not self.num_photos or min(self.num_photos) < 1:
            raise InputError(f"relearning.num_photos: expected numbers of 1 or more, got {list(self.num_photos)}")
        if self.max_people is not None and self.max_people < 1:
            raise InputError(f"relearning.max_people: expected 1 or more, got {self.max_people}")

    def problems(self, context: AttackContext, models: Sequence[str]) -> Iterator[str]:
        """Yield that there is no such model, one person alone to teach, or more attacked people than candidates."""
        yield from refusals(
            lambda: chosen_models("relearning", self.models, models),
            lambda: self._check(context, self.people(context)),
        )

    def run(self, context: AttackContext) -> list[Score]:
        """Attack the chosen models.

        Raises:
            InputError: as of `problems`.
        """
        models = chosen_models("relearning", self.models, context.clips)
        steps = checked_steps("relearning", self.steps)
        groups = self.people(context)
        self._check(context, groups)
        most = max([len(halves(person)[0]) for people in groups.values() for person in people], default=0)
        numbers = sorted({min(asked, most) for asked in self.num_photos})
        scores = []
        for model in models:
            curves = {
                group: self._curves(context, context.clips[model], people, steps, numbers)
                for group, people in groups.items()
            }
            for num_photos in numbers if groups else ():
                inferred = {group: by_photos[num_photos] for group, by_photos in curves.items()}
                scores += curve_scores(inferred, steps, f"{num_photos} photos", model)
        return scores

    def _check(self, context: AttackContext, groups: Mapping[str, Sequence[Person]]) -> None:
        """Check that people can be taught and attacked.

        Raises:
            InputError: if they cannot.
        """
        alone = [group for group, people in groups.items() if len(people) == 1]
        if alone and not any(whole_lesson(person).photos for person in context.groups.get("kept", ())):
            raise InputError(
                "relearning: expected kept people with photos, or two people or more to teach, since a pair is learnt "
                f"by telling it from others, got one {alone[0]} person alone; add people, or leave relearning out"
            )
        for people in groups.values():
            with_candidates(context.idia, "relearning", self.num_candidates, len(people))

    def people(self, context: AttackContext) -> dict[str, list[Person]]:
        """Draw who is taught: removed people and as many never-seen ones, each with two photos or more."""
        groups = {
            group: [person for person in context.groups.get(group, ()) if len(distinct_photos(person)) > 1]
            for group in ("removed", "never seen")
        }
        groups = {group: people for group, people in groups.items() if people}
        num_people = min([len(people) for people in groups.values()], default=0)
        if self.max_people is not None:
            num_people = min(num_people, self.max_people)
        return {
            group: random.Random(f"{context.seed} relearning {group}").sample(people, num_people)
            for group, people in groups.items()
        }

    def _fine_tuning(self) -> FineTuning:
        return FineTuning(self.batch_size, self.learning_rate, self.temperature)

    def _curves(
        self, context: AttackContext, clip: Clip, people: Sequence[Person], steps: Sequence[int], numbers: Sequence[int]
    ) -> dict[int, Bool[Tensor, "step person"]]:
        """Return who is inferred after each step, for each number of photos."""
        idia = with_candidates(context.idia, "relearning", self.num_candidates, len(people))
        settings = self._fine_tuning()
        teaching = {person.name: halves(person)[0] for person in people}
        shown = [Shown(person.name, person.photos, person.member, shown=halves(person)[1]) for person in people]
        others = [lesson for person in context.groups.get("kept", ()) if (lesson := whole_lesson(person)).photos]

        def inferred(model: Clip) -> Tensor:
            return torch.tensor(list(idia.run(model, shown).inferred.values()))

        start = [inferred(clip)] if steps[0] == 0 else []
        curves: dict[int, Tensor] = {}
        for num_photos in numbers:
            taught = [Lesson(name, photos[:num_photos]) for name, photos in teaching.items()]
            tuned = settings.run(clip, taught, others, [step for step in steps if step], context.seed)
            curves[num_photos] = torch.stack([*start, *(inferred(model) for _, model in tuned)])
        return curves


def whole_lesson(person: Person) -> Lesson:
    """Return all photos of a person that attacks may see, to teach them."""
    return Lesson(person.name, distinct_photos(person))


def checked_steps(attack: str, steps: Sequence[int]) -> list[int]:
    """Return the steps after which to measure, ascending, each once.

    Raises:
        InputError: if there are none, or one is negative.
    """
    if not steps or min(steps) < 0:
        raise InputError(f"{attack}.steps: expected numbers of 0 or more, got {list(steps)}")
    return sorted(set(steps))


def curve_scores(
    inferred: dict[str, Bool[Tensor, "step person"]], steps: Sequence[int], kind: str, model: str
) -> list[Score]:
    """Return the TPR after each step, the steps to recover, and the ratio of the two groups' steps."""
    scores = []
    for group, curve in inferred.items():
        scores += [
            mean_score(row, kind=f"{kind}, {step} steps", model=model, group=group)
            for step, row in zip(steps, curve, strict=True)
        ]
    kind = f"{kind}, steps to recover"
    rates, resampled = {}, {}
    for number, (group, curve) in enumerate(inferred.items()):
        num_people, generator = curve.shape[1], torch.Generator().manual_seed(number)
        drawn = torch.randint(num_people, (_NUM_RESAMPLES, num_people), generator=generator)
        rates[group], resampled[group] = curve.double().mean(1), curve[:, drawn].double().mean(-1).T
        low, high = interval(torch.tensor([steps_to_recover(steps, row) for row in resampled[group]]))
        value = steps_to_recover(steps, rates[group])
        scores.append(Score(kind, model, group, "steps", value, low, high, num_people))
    if set(inferred) == {"removed", "never seen"}:
        ratio = ratio_of_steps(steps, rates["removed"], rates["never seen"])
        if ratio is not None:
            pairs = zip(resampled["removed"], resampled["never seen"], strict=True)
            known = [one for pair in pairs if (one := ratio_of_steps(steps, *pair)) is not None]
            low, high = interval(torch.tensor(known))
            num_people = sum(curve.shape[1] for curve in inferred.values())
            scores.append(Score(kind, model, "removed / never seen", "ratio", ratio, low, high, num_people))
    return scores


def ratio_of_steps(
    steps: Sequence[int], removed: Float[Tensor, "step"], never_seen: Float[Tensor, "step"]
) -> float | None:
    """Return the steps that removed people take over those that never-seen ones take, each at least 1.

    Args:
        steps: ascending.
        removed: rates after each step.
        never_seen: rates after each step.

    Returns:
        `None` where never-seen people are not learnt within the steps.

    Example:
        >>> ratio_of_steps([0, 10, 20], torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.0, 0.5]))
        0.5
    """
    wanted = min(_RECOVERED, never_seen.max().item())
    if wanted < _RECOVERED and (wanted < _LEAST or wanted <= never_seen[0].item()):
        return None
    return max(1.0, steps_to_recover(steps, removed, wanted)) / max(1.0, steps_to_recover(steps, never_seen, wanted))


def steps_to_recover(steps: Sequence[int], rates: Float[Tensor, "step"], wanted: float = _RECOVERED) -> float:
    """Return the first step with a wanted rate, on straight lines between the measured steps.

    Args:
        steps: ascending.
        rates: in [0, 1].
        wanted: this or more.

    Returns:
        The first measured step where its rate is that high already, and the last one + 1 where no rate is.

    Example:
        >>> steps_to_recover([0, 10, 20], torch.tensor([0.0, 0.25, 0.75]))
        15.0
    """
    for number, (step, rate) in enumerate(zip(steps, rates.tolist(), strict=True)):
        if rate >= wanted:
            if number == 0:
                return float(step)
            last, below = steps[number - 1], rates[number - 1].item()
            return last + (step - last) * (wanted - below) / (rate - below)
    return float(steps[-1] + 1)
