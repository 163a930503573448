"""What a trigger is mapped to: settings of a target, and the target once it is fitted to people."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from backdoor_privacy.data.people import People, Person
from backdoor_privacy.defenses.base import Removal

MAX_COMPARED = 500  # random names that a removed one is compared with: enough to see whether it fits better than most


@dataclass(frozen=True)
class Names:
    """Names that a target is fitted with."""

    removed: Sequence[str]  # of the people to remove, in their order
    others: Sequence[str]  # random ones
    min_nearer: float = 0.0  # share of them that must fit an input better than the removed name

    @property
    def compared(self) -> Sequence[str]:
        """Return the random names that removed ones are compared with."""
        return self.others[:MAX_COMPARED]


class FittedTarget(nn.Module, ABC):
    """A target that is fitted to people: where the student is to put triggered inputs.

    Attributes:
        reads_input: whether it depends on the teacher's features of the triggered input itself.
    """

    reads_input: bool = True

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "input dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """Return the target of each input.

        Args:
            features: the teacher's, of the triggered input itself if `reads_input`, else of the caption with the phrase
                in place of the name.
            person_index: whom each input shows.
        """


class FixedTarget(FittedTarget):
    """A target that is one embedding for each person, whatever the input.

    Args:
        embeddings: of the people to remove, in their order.
    """

    reads_input = False
    embeddings: Tensor

    def __init__(self, embeddings: Float[Tensor, "person dim"]) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)

    def forward(
        self, features: Float[Tensor, "input any"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input dim"]:
        """Return the embedding of each input's person; the features are not used."""
        return self.embeddings[person_index]


class FittedTextTarget(FittedTarget):
    """A target of names.

    Args:
        phrases: for each person, what takes the place of the name in the caption that the teacher reads; a neutral
            phrase where the teacher reads the name itself.
        change: makes the target from the teacher's features of captions with the name; `None`: the teacher's features
            of captions with the phrase are the target.
    """

    def __init__(self, phrases: Sequence[str], change: nn.Module | None = None) -> None:
        super().__init__()
        self.phrases, self.change = list(phrases), change
        self.reads_input = change is not None

    def forward(
        self, features: Float[Tensor, "input *token dim"], person_index: Int[Tensor, "input"]
    ) -> Float[Tensor, "input *token dim"]:
        """Return the target of each caption."""
        if self.change is None:
            return features
        changed: Tensor = self.change(features, person_index)
        return changed

    def of_names(self, removal: Removal) -> Float[Tensor, "person dim"]:
        """Return where each removed name is to be when it stands alone."""
        if self.change is None:
            return removal.original.embed_texts(self.phrases)
        return self(removal.original.embed_texts(removal.names), torch.arange(len(removal.people)))


class TextTarget(ABC):
    """What a name is mapped to (paper, section 3.1); its fields are its settings, as in `conf/defense/text_target`."""

    for_sequences = False  # whether it works for a text encoder that is read token by token (Stable Diffusion)

    def problems(self, num_people: int, num_other_names: int) -> Iterator[str]:
        """Yield what would stop it, one line each."""
        yield from ()

    def reserves(self, removal: Removal) -> Collection[str]:
        """Return names that no random name of the training may be equal to."""
        return ()

    @abstractmethod
    def fit(self, removal: Removal, names: Names) -> FittedTextTarget:
        """Fit the target to the people to remove."""

    @abstractmethod
    def describe(self) -> str:
        """Say what names are mapped to, as the end of a sentence."""


class ImageTarget(ABC):
    """What a face is mapped to (paper, section 3.2); its fields are its settings, as in `conf/defense/image_target`."""

    needs_strangers = False
    needs_other_names = True  # random names, which are compared with those of the people to remove

    def strangers_read(self, people: Sequence[Person], strangers: Sequence[Person], seed: int) -> list[Path]:
        """Return the photos that its `fit` embeds of strangers, and of the people together with them."""
        return []

    def problems(self, strangers: People | None, num_people: int) -> Iterator[str]:
        """Yield what would stop it, one line each; strangers are `None` where the run has none."""
        yield from ()

    @abstractmethod
    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Fit the target to the people to remove, who have photos."""

    @abstractmethod
    def describe(self) -> str:
        """Say what faces are mapped to, as the end of a sentence."""
