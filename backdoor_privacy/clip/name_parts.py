"""Predict the features of a name from its first and its last name, as of somebody whom a CLIP does not know."""

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
        names: `First Last`; of more words the first and the last count, and a single word is both.
        examples: names of nobody; two or more.

    Returns:
        The predicted features of the names, and the features of each example minus the predicted ones.
    """

    def parts(of: Sequence[str]) -> Tensor:
        first, last = ([name.split()[place] for name in of] for place in (0, -1))
        return torch.cat([embed(first), embed(last)], dim=1)

    known, whole = parts(examples), embed(list(examples))
    ridge = Ridge().fit(known.numpy(), whole.numpy())
    expected, of_examples = (torch.from_numpy(ridge.predict(each.numpy())).float() for each in (parts(names), known))
    return expected, whole - of_examples
