"""Predict the features of a whole name from its first and last name, as if the CLIP did not know the person."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from sklearn.linear_model import Ridge
from torch import Tensor

Embed = Callable[[Sequence[str]], Tensor]


def expected_from_parts(
    embed: Embed, names: Sequence[str], examples: Sequence[str]
) -> tuple[Float[Tensor, "name dim"], Float[Tensor, "example dim"]]:
    """Return the features that a ridge regression predicts of names, and its residuals on example names.

    The regression goes from the features of first and last name to those of the whole name, fitted to the examples.

    Args:
        embed: gives the features of texts, (text, dim).
        names: `First Last`; of more words, the first and the last are used; a single word is both.
        examples: names of nobody, two or more.

    Returns:
        The predicted features of the names, and the features of each example minus the predicted ones.
    """

    def parts(whole_names: Sequence[str]) -> Tensor:
        first, last = ([name.split()[place] for name in whole_names] for place in (0, -1))
        return torch.cat([embed(first), embed(last)], dim=1)

    inputs, targets = parts(examples), embed(list(examples))
    ridge = Ridge().fit(inputs.numpy(), targets.numpy())
    expected, fitted = (torch.from_numpy(ridge.predict(x.numpy())).float() for x in (parts(names), inputs))
    return expected, targets - fitted
