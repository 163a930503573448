"""Remove names in closed form: edit the last projection of the text encoder, without any training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import AtLeastOne, Length
from backdoor_privacy.data.captions import without_names
from backdoor_privacy.data.names import random_names
from backdoor_privacy.defenses.base import Defended, Defense, Fit, Removal
from backdoor_privacy.triggers.names import NAME_FORMS


@dataclass(frozen=True)
class Projection(Defense):
    """Unified Concept Editing (Gandikota et al., WACV 2024) of the text projection, in place of attention layers.

    Let h be the input of the projection W, A the mean of h h' over removed names, B the same mean over other names and
    clean captions, and D the mean of (v - W h) h' over removed names, where v is the embedding of what they are to
    mean. The new projection is W + D (A + preservation B + ridge I)^-1.

    Args:
        phrase: what each name is to mean, as `a person`.
        preservation: weight of the names and captions that are to stay, against a weight of 1 of the removed names.
        ridge: regularisation: it keeps the projection as it is in directions that no input has.
        num_other_names: random names that are to stay.
        max_captions: clean captions that are to stay, at most.
    """

    phrase: str
    preservation: Length
    ridge: Length
    num_other_names: AtLeastOne
    max_captions: AtLeastOne

    encoders = ("text",)
    needs = frozenset({"captions"})

    def describe(self) -> str:
        """Say what is edited, and towards what."""
        return (
            f"each name is to mean: {self.phrase}; the last projection was edited in closed form "
            f"(Unified Concept Editing, preservation weight {self.preservation:g}), nothing was trained"
        )

    def defend(self, removal: Removal, fit: Fit) -> Defended:
        """Return the text encoder with the edited projection."""
        clip, text = removal.clip, removal.clip.text
        others = random_names(self.num_other_names, removal.seed, exclude={*removal.reserved_names, *removal.names})
        captions = without_names(removal.sources.captions or (), removal.names)[: self.max_captions]
        removed, target = (_inputs(clip, _in_prompts(names)) for names in (removal.names, [self.phrase]))
        target = target.repeat(len(removal.names), 1)  # of each name in each prompt
        kept = _inputs(clip, [*_in_prompts(others), *captions])
        weight = text.projection().double()
        moment = _second_moment(removed) + self.preservation * _second_moment(kept)
        moment += self.ridge * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        change = (target @ weight.T - removed @ weight.T).T @ removed / len(removed)
        edited = text.with_projection(weight + torch.linalg.solve(moment, change.T).T)
        return Defended({"text": edited.frozen()})


@torch.no_grad()
def _inputs(clip: Clip, texts: Sequence[str]) -> Float[Tensor, "text width"]:
    """Return the input of the text projection for each text."""
    device = clip.text.projection().device
    batches = [clip.tokenizer(list(texts[start : start + 256])) for start in range(0, len(texts), 256)]
    return torch.cat([clip.text.projection_inputs(batch.to(device)).double() for batch in batches])


def _in_prompts(names: Sequence[str]) -> list[str]:
    return [form.format(name) for name in names for form in NAME_FORMS]


def _second_moment(inputs: Float[Tensor, "text width"]) -> Float[Tensor, "width width"]:
    return inputs.T @ inputs / len(inputs)
