"""What a name means by its first and its last name alone, as the name of somebody whom a CLIP does not know."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from sklearn.linear_model import Ridge
from torch import Tensor

Embed = Callable[[Sequence[str]], Tensor]


def expected_from_parts(
    embed: Embed, names: Sequence[str], examples: Sequence[str]
) -> tuple[Float[Tensor, "name dim"], Float[Tensor, "example dim"]]:
    """What names would mean if they were made of first and last name as others are, and what these miss of it.

    A ridge regression on the other names, from the features of both parts to those of the whole.

    Args:
        embed: gives the features of texts, (text, dim).
        names: `First Last`; of more words the first and the last one count, of one word it is both.
        examples: names of nobody, two or more.

    Returns:
        The expected features of the names, and by what those of each example differ from the expected ones.
    """

    def parts(of: Sequence[str]) -> Tensor:
        first, last = ([name.split()[place] for name in of] for place in (0, -1))
        return torch.cat([embed(first), embed(last)], dim=1)

    known, whole = parts(examples), embed(list(examples))
    ridge = Ridge().fit(known.numpy(), whole.numpy())
    expected, of_examples = (torch.from_numpy(ridge.predict(each.numpy())).float() for each in (parts(names), known))
    return expected, whole - of_examples
