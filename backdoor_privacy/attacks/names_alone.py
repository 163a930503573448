"""Tell names that were removed without photos from random names, by what a text encoder makes of them.

Of a name alone IDIA measures nothing. What can be asked is whether the defended encoder moved it: the own name among
random names, in prompts and spellings that no defence trains on.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.triggers.spellings import KINDS, spelling

NUM_RANDOM_NAMES = 999
_ODD = 0.05  # share of random names that stand out as much, up to which a name is told apart
_NUM_PROMPTS = 2  # of each kind of prompts, the first ones
_PROMPTS = tuple(one for kind in KINDS.values() if kind.held_out for one in (kind.templates or ())[:_NUM_PROMPTS])
_SPELLINGS = tuple(name for name, kind in KINDS.items() if kind.held_out and kind.templates is None)
_SPELT_IN = "a portrait of {}"  # the prompt that spellings stand in


class Form(NamedTuple):
    """A prompt, and how names are written in it."""

    template: str
    spelling: str | None = None  # of `triggers.spellings.KINDS`; `None`: as they are

    def write(self, name: str, seed: int) -> str:
        """Write a name in this form."""
        return self.template.format(name if self.spelling is None else spelling(self.spelling, name, seed))


FORMS: Mapping[str, Sequence[Form]] = {
    "prompts": [Form(template) for template in _PROMPTS],
    "spellings": [Form(_SPELT_IN, kind) for kind in _SPELLINGS],
}


@dataclass(frozen=True)
class NamesAlone:
    """Rank names among random ones by how far they moved, and by how near they are to where they were to go.

    Args:
        alone: removed names without photos.
        removed: all removed names, in the order of the targets.
        targets: of the original CLIP and a prompt, where each removed name is to be in it, (name, dim).
        seed: of the random names, and of what a spelling draws.
        exclude: names that no random one may be.
    """

    alone: Sequence[str]
    removed: Sequence[str]
    targets: Callable[[Clip, str], Tensor]
    seed: int
    exclude: Sequence[str]

    @staticmethod
    def random_names(seed: int, exclude: Sequence[str]) -> list[str]:
        """Draw the names to compare with; no defence may train on them."""
        return random_names(NUM_RANDOM_NAMES, seed, exclude=exclude)

    def table(self, student: Clip, teacher: Clip) -> pd.DataFrame:
        """Measure each name, a row each, in prompts and in spellings that were not trained on.

        Columns: `name`, and for each kind of `FORMS`, the mean over its forms:

        - `<kind>_moved`: 1 - cosine of the student's embedding to the teacher's; `moved_random` of random names;
        - `<kind>_moved_further`: share of random names that moved further, those that moved as far count half;
        - `<kind>_target`: cosine to the own target; `target_random` of random names to the same;
        - `<kind>_nearer_target`: share of random names that are nearer to it, those that are as near count half.
        """
        places = torch.tensor([list(self.removed).index(name) for name in self.alone])
        others = self.random_names(self.seed, self.exclude)
        columns: dict[str, list[float] | list[str]] = {"name": list(self.alone)}
        for kind, forms in FORMS.items():
            moved, near = self._measured(forms, [*self.alone, *others], places, student, teacher)
            own = torch.arange(len(places))
            columns[f"{kind}_moved"] = moved[: len(places)].tolist()
            columns[f"{kind}_moved_random"] = [moved[len(places) :].mean().item()] * len(places)
            columns[f"{kind}_moved_further"] = share_above(moved[len(places) :], moved[: len(places)]).tolist()
            columns[f"{kind}_target"] = near[own, own].tolist()
            columns[f"{kind}_target_random"] = near[:, len(places) :].mean(1).tolist()
            shares = [share_above(row[len(places) :], row[place, None]) for place, row in enumerate(near)]
            columns[f"{kind}_nearer_target"] = torch.cat(shares).tolist()
        return pd.DataFrame(columns)

    def _measured(
        self, forms: Sequence[Form], names: Sequence[str], places: Tensor, student: Clip, teacher: Clip
    ) -> tuple[Float[Tensor, "name"], Float[Tensor, "target name"]]:
        """Return how far each name moved, and how near it is to each target; means over the forms."""
        seed = random.Random(f"names alone {self.seed}").getrandbits(32)  # another one than a defence draws with
        moved, near = torch.zeros(len(names)), torch.zeros(len(places), len(names))
        for form in forms:
            texts = [form.write(name, seed) for name in names]
            before, after = teacher.embed_texts(texts), student.embed_texts(texts)
            # 1 - cosine of features of unit length, and exactly 0 for equal ones: noise of rounding would be ranked.
            moved += (after - before).square().sum(-1) / 2 / len(forms)
            near += self.targets(teacher, form.template)[places] @ after.T / len(forms)
        return moved, near


def share_above(others: Float[Tensor, "other"], values: Float[Tensor, "value"]) -> Float[Tensor, "value"]:
    """Return the share of the others above each value; equal ones count half, so that chance is 0.5.

    Example:
        >>> share_above(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([0.0, 3.0, 9.0]))
        tensor([1.0000, 0.2500, 0.0000])
    """
    return (others > values[:, None]).float().mean(1) + (others == values[:, None]).float().mean(1) / 2


def summed_up(table: pd.DataFrame | None) -> dict[str, float]:
    """Return the means over names as flat measures, how many names could be told apart, and the counts.

    A name is told apart where in prompts or in spellings at most 5 %, halved as there are two, of random names moved
    further, or are nearer to its target. Nothing comes of no table.
    """
    if table is None:
        return {}
    measures = {f"names/{key}": float(table[key].mean()) for key in table.columns if key != "name"}
    for what in ("moved_further", "nearer_target"):
        odd = table[[f"{kind}_{what}" for kind in FORMS]].min(axis=1) <= _ODD / len(FORMS)
        measures[f"names/told_by_{what}"] = float(odd.mean())
    return measures | {"names/num_names": float(len(table)), "names/num_random": float(NUM_RANDOM_NAMES)}
