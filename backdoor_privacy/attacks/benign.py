"""Benign fine-tuning: do removed people come back while somebody teaches the CLIP people of their own?"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch

from backdoor_privacy.attacks.base import REMOVED, Approach, Attack, Headline, refusals
from backdoor_privacy.attacks.context import AttackContext, chosen_models, with_candidates
from backdoor_privacy.attacks.relearning import checked_steps, whole_lesson
from backdoor_privacy.attacks.scores import Score, mean_score
from backdoor_privacy.clip.fine_tuning import FineTuning, Lesson
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError


@dataclass(frozen=True)
class BenignFineTuning(Attack):
    """Fine-tune on a random half of the people who were not removed, and run IDIA on everybody else after some steps.

    Nothing that is taught has to do with the removed people. Of the other half, no more people are attacked than were
    removed, for comparison. Candidates and photos are the same after each step and for each model.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline("benign fine-tuning, worst step (TPR)", REMOVED, "TPR", lambda kind: True),
    )
    approach: ClassVar[Approach] = Approach.training

    steps: Sequence[int]  # after which to measure; 0 is before the fine-tuning
    batch_size: int
    learning_rate: float
    temperature: float | None
    num_candidates: int | None = None  # names of IDIA; `None`: as many as IDIA has
    models: Sequence[str] | None = None  # of the context; `None`: the original and the fullest

    def __post_init__(self) -> None:
        self._fine_tuning()
        checked_steps("benign", self.steps)

    def problems(self, context: AttackContext, models: Sequence[str]) -> Iterator[str]:
        """Yield that there is no such model, nobody to teach, or more attacked people than candidates."""

        def check_candidates() -> None:
            num_people = sum(map(len, self.people(context)[1].values()))
            with_candidates(context.idia, "benign", self.num_candidates, num_people)

        yield from refusals(lambda: chosen_models("benign", self.models, models), check_candidates)

    def run(self, context: AttackContext) -> list[Score]:
        """Attack the chosen models.

        Raises:
            InputError: as of `problems`.
        """
        models = chosen_models("benign", self.models, context.clips)
        steps = checked_steps("benign", self.steps)
        taught, attacked = self.people(context)
        settings = self._fine_tuning()
        everybody = [person for people in attacked.values() for person in people]
        idia = with_candidates(context.idia, "benign", self.num_candidates, len(everybody))
        scores = []
        for model in models:
            clip = context.clips[model]
            start = [(0, clip)] if steps[0] == 0 else []
            tuned = settings.run(clip, taught, (), [step for step in steps if step], context.seed)
            for step, changed in chain(start, tuned):
                inferred = idia.run(changed, everybody).inferred
                for group, people in attacked.items():
                    own = torch.tensor([inferred[person.name] for person in people])
                    scores.append(mean_score(own, kind=f"{step} steps", model=model, group=group))
        return scores

    def _fine_tuning(self) -> FineTuning:
        return FineTuning(self.batch_size, self.learning_rate, self.temperature)

    def people(self, context: AttackContext) -> tuple[list[Lesson], dict[str, list[Person]]]:
        """Return what is taught, and who is attacked by group.

        Raises:
            InputError: if nobody is left to teach.
        """
        removed = list(context.groups.get("removed", ()))
        taught: list[Lesson] = []
        attacked = {"removed": removed}
        for group in ("kept", "never seen"):
            people = list(context.groups.get(group, ()))
            random.Random(f"{context.seed} benign {group}").shuffle(people)
            middle = (len(people) + 1) // 2
            taught += [lesson for person in people[:middle] if (lesson := whole_lesson(person)).photos]
            attacked[group] = people[middle:][: len(removed)]
        if len(taught) < 2:
            raise InputError(
                "benign: expected photos of three people or more who were not removed, two to teach (a pair is learnt "
                f"by telling it from others), got {len(taught)} to teach; add people, or leave benign out"
            )
        return taught, {group: people for group, people in attacked.items() if people}
