"""What a name is mapped to (paper, section 3.1). All targets but `Phrase` and `Pseudonym` are ours."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts
from backdoor_privacy.config.build import AtLeastOne
from backdoor_privacy.data.names import random_names
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget, Names, TextTarget
from backdoor_privacy.defenses.backdoor.targets.erasure import NameEraser, name_features
from backdoor_privacy.defenses.base import Removal

NEUTRAL_PHRASE = "a person"  # for measures of similarity, where no phrase takes the place of a name
_MAX_EXAMPLES = 3000  # random names from which to learn what the parts of a name mean


@dataclass(frozen=True)
class Phrase(TextTarget):
    """Map every name to one neutral phrase (paper, section 3.1).

    Args:
        phrase: as `a person`.
    """

    phrase: str
    for_sequences = True

    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Return the phrase for everybody."""
        return FittedTextTarget([self.phrase] * len(names.removed))

    def describe(self) -> str:
        """Name the phrase."""
        return f"each name is to mean: {self.phrase}"


@dataclass(frozen=True)
class Fitting(TextTarget):
    """Map each name to the one of several phrases that fits it best, as `a man` or `a woman`.

    How well a phrase fits a name is how much closer it is to it than to random names. So a phrase that a CLIP finds
    near to all names is not preferred.

    Args:
        phrases: to choose from.
    """

    phrases: list[str]
    for_sequences = True

    def problems(self, num_people: int, num_other_names: int) -> Iterator[str]:
        """Yield that there are no phrases to choose from, or no names to compare with."""
        if not self.phrases or not num_other_names:
            yield (
                "defense.text.target: expected phrases to choose from, and random names to compare with, got "
                f"phrases={list(self.phrases)} and num_other_names={num_other_names}"
            )

    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Return for each name the phrase that fits it best."""
        clip = removal.original
        phrases = clip.embed_texts(self.phrases)
        usual = (name_features(clip, names.compared) @ phrases.T).mean(0)
        best = (name_features(clip, names.removed) @ phrases.T - usual).argmax(-1)
        return FittedTextTarget([self.phrases[number] for number in best.tolist()])

    def describe(self) -> str:
        """Name the phrases."""
        return f"each name is to mean the one of these phrases that fits it best: {', '.join(self.phrases)}"


@dataclass(frozen=True)
class Pseudonym(TextTarget):
    """Map each name to a fictional name, which neither the data nor the attack's candidates contain.

    Of several fictional names, the nearest to the name in the CLIP is taken: the smaller the move, the less everything
    else moves with it.

    Args:
        choice: the number of fictional names to choose from, for each person.
    """

    choice: AtLeastOne = 1
    for_sequences = True

    def reserves(self, removal: Removal) -> Collection[str]:
        """Return the pseudonyms: no random name of the training may be one."""
        return self._drawn(removal)

    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Return the pseudonym of each name."""
        return FittedTextTarget(self._drawn(removal))

    def _drawn(self, removal: Removal) -> list[str]:
        clip, names = removal.original, removal.names
        drawn = random_names(self.choice * len(names), removal.seed + 1, {*removal.reserved_names, *names})
        if self.choice == 1:
            return drawn
        features = name_features(clip, drawn).unflatten(0, (len(names), self.choice))
        nearest = (features @ name_features(clip, names).unsqueeze(-1)).squeeze(-1).argmax(-1)
        return [drawn[row * self.choice + place] for row, place in enumerate(nearest.tolist())]

    def describe(self) -> str:
        """Say that names become fictional ones."""
        return "each name is to mean one fictional name (pseudonym)"


@dataclass(frozen=True)
class Nameless(TextTarget):
    """Map each caption to the teacher's feature of it, without the name."""

    def problems(self, num_people: int, num_other_names: int) -> Iterator[str]:
        """Yield that there are no names to compare with."""
        if num_other_names < 1:
            yield f"defense.text.num_other_names: expected 1 or more for this target, got {num_other_names}"

    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Return the target that takes the name out of each caption."""
        own, others = (name_features(removal.original, each) for each in (names.removed, names.compared))
        eraser = NameEraser(own[None], others[None], names.min_nearer)
        return FittedTextTarget([NEUTRAL_PHRASE] * len(names.removed), eraser)

    def describe(self) -> str:
        """Say that captions lose the name."""
        return "each caption is to keep its meaning, except for the name in it (nameless)"


@dataclass(frozen=True)
class Composed(TextTarget):
    """Map each name to what its first and last name mean for somebody unknown (a compositional name)."""

    def problems(self, num_people: int, num_other_names: int) -> Iterator[str]:
        """Yield that there are too few names to tell what the parts of a name mean."""
        least = max(2, num_people)
        if num_other_names < least:
            yield (
                f"defense.text.num_other_names: expected {least} or more for this target, one for each name, got "
                f"{num_other_names}"
            )

    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Return the target that gives each name the meaning of its parts."""
        clip = removal.original
        own, others = (name_features(clip, each) for each in (names.removed, names.compared))
        eraser = NameEraser(own[None], others[None], names.min_nearer)
        composed = composed_names(clip, names.removed, names.others[:_MAX_EXAMPLES])
        return FittedTextTarget([NEUTRAL_PHRASE] * len(names.removed), NameComposer(own, composed, eraser))

    def describe(self) -> str:
        """Say that names mean their parts."""
        return "each name is to mean what its parts mean for somebody unknown (composed)"


class NameComposer(nn.Module):
    """A change of features that lets a name mean what its parts do, as if the CLIP had never known the person.

    A name of somebody unknown means about what its first and last name mean in other names. No name means exactly that,
    so each one also gets the deviation of a random name. Thus removed names look like others, and move less than to a
    pseudonym. What the parts still say about the person is then erased.

    Args:
        names: features of the names to forget, (person, dim).
        composed: features of what they are to mean instead, (person, dim).
        eraser: takes the names, in this order, out of a feature.
    """

    shifts: Tensor

    def __init__(
        self, names: Float[Tensor, "person dim"], composed: Float[Tensor, "person dim"], eraser: NameEraser
    ) -> None:
        super().__init__()
        self.register_buffer("shifts", composed - names, persistent=False)
        self.eraser = eraser

    def forward(
        self, features: Float[Tensor, "input dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """Return the teacher's features of captions with what the name is to mean, of unit length."""
        moved = F.normalize(F.normalize(features, dim=-1) + self.shifts[person_index], dim=-1)
        erased: Tensor = self.eraser(moved, person_index)
        return erased


def composed_names(clip: Clip, names: Sequence[str], examples: Sequence[str]) -> Float[Tensor, "person dim"]:
    """Return what names would mean to a CLIP that knows nobody of that name.

    Each is the sum of what its parts mean and of the deviation of one of the examples from its own parts.
    """
    expected, missed = expected_from_parts(partial(name_features, clip), names, examples)
    return expected + missed[: len(names)]
