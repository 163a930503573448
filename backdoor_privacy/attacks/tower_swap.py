"""Tower swap: whoever has the original CLIP puts one of its encoders back beside a defended one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from backdoor_privacy.attacks.base import REMOVED, Attack, Headline
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.scores import Score, chance_scores, mean_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError

_NOT_SWAPPED = "nothing swapped"


@dataclass(frozen=True)
class TowerSwap(Attack):
    """IDIA on the defended text encoder with the original image encoder, and the reverse.

    It looks for the removed people, and for the never-seen ones as the null. Of the removed people it also tells how
    often a random name is inferred in place of theirs (group `random names`), and how their names rank among these.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline("worst tower swap (TPR)", REMOVED, "TPR", lambda kind: kind != _NOT_SWAPPED, model=None),
    )
    is_shared: ClassVar[bool] = True

    def run(self, context: AttackContext) -> list[Score]:
        """Attack the original CLIP, the defended one, and where both encoders were defended the two between them.

        Raises:
            InputError: if no removed person has photos.
        """
        if "removed" not in context.sought:
            raise InputError("tower_swap: expected removed people with photos, got none")
        original, defended = context.clips["before"], context.clips[context.fullest]
        swapped: dict[str, tuple[str, Clip]] = {
            "before": (_NOT_SWAPPED, original),
            context.fullest: (_NOT_SWAPPED, defended),
        }
        if context.fullest == "both":
            swapped["text"] = "original image encoder", original.with_encoders(text=defended.text)
            swapped["image"] = "original text encoder", original.with_encoders(image=defended.image)
        scores = []
        for model, (kind, clip) in swapped.items():
            scores += _found(context, clip, kind, model)
        return scores


def _found(context: AttackContext, clip: Clip, kind: str, model: str) -> list[Score]:
    people = [person for group in context.sought.values() for person in group]
    result = context.idia.run(clip, people, context.people.names)
    rows, inferred = context.sought_rows(result.num_photos), torch.tensor(list(result.inferred.values()))
    scores = [mean_score(inferred[chosen], kind=kind, model=model, group=group) for group, chosen in rows.items()]
    if result.evidence.chance is not None:
        scores += chance_scores(result.evidence.chance, rows.get("removed", ()), kind=kind, model=model)
    return scores
