"""Wrap one encoder of a CLIP as a module: the trainable student or the frozen teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from open_clip.transformer import Transformer, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_privacy.clip.store import FeatureStore
from backdoor_privacy.clip.trained import trained_parameters
from backdoor_privacy.errors import InputError

_OneEncoder = TypeVar("_OneEncoder", bound="Encoder")


class Encoder(nn.Module, ABC):
    """An encoder of any architecture and modality."""

    modality: ClassVar[str]  # of its inputs, for errors
    is_sequence = False  # whether it returns features of each token, in place of one for the text
    projections: ClassVar[Sequence[str]] = ()  # where architectures keep the last projection

    def __init__(self) -> None:
        super().__init__()
        self.embedded: dict[Hashable, Tensor] = {}  # features that a frozen encoder has already computed
        self.store: FeatureStore | None = None  # features on disk

    def student(
        self: _OneEncoder, trained: Sequence[str] | None = None, trained_blocks: int | None = None
    ) -> _OneEncoder:
        """Return a trainable copy, in eval mode; its normalisation layers stay frozen.

        Args:
            trained: prefixes of the names, in the whole CLIP, of the tensors to train; `None` trains all.
            trained_blocks: train this number of last blocks and the projection after them instead.

        Raises:
            InputError: if no tensor's name has such a prefix, there are fewer blocks, or both are given.
        """
        student = self.copy().eval()
        chosen = student.to_train(trained, trained_blocks)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in chosen)
        return student

    def train(self: _OneEncoder, mode: bool = True) -> _OneEncoder:
        """Stay in eval mode, whatever a training loop sets.

        With dropout or stochastic depth on, a student would differ from its teacher before the first step; and the
        small batches of a defence would move the statistics of norms.
        """
        return super().train(False)

    def to_train(self, trained: Sequence[str] | None, trained_blocks: int | None) -> set[str]:
        """Return the names of the parameters that a student with these settings trains, see `student`."""
        names = dict(zip(self.state_dict(), self.tensors(), strict=True))
        return trained_parameters(self, names, trained, trained_blocks)

    def save_memory(self, save: bool) -> None:
        """Switch gradient checkpointing on or off: recompute the activations of each block in the backward pass.

        Raises:
            InputError: if the architecture has no such blocks, or open_clip does not offer it for them.
        """
        towers: list[Transformer | VisionTransformer] = [
            part for part in self.modules() if hasattr(part, "grad_checkpointing")
        ]
        for tower in towers:
            tower.grad_checkpointing = save
        if not towers:
            raise InputError(
                "trainer.gradient_checkpointing: expected an encoder that is a transformer of open_clip, got another; "
                "set it to false, and trainer.accumulate_grad_batches higher"
            )

    def frozen(self: _OneEncoder) -> _OneEncoder:
        """Return a copy that is never trained."""
        return self.copy().eval().requires_grad_(False)

    def copy(self: _OneEncoder) -> _OneEncoder:
        """Return a copy of the weights; it has embedded nothing yet, and stores nothing on disk."""
        return deepcopy(self, {id(self.embedded): {}, id(self.store): None})

    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return the encoder as consecutive functions; a single one if it cannot be divided."""
        return [self]

    def num_frozen_blocks(self) -> int:
        """Return the number of blocks before the first trained one; teacher and student agree up to there."""
        return 0

    def trunk(self, inputs: Tensor, num_blocks: int) -> Tensor:
        """Return the output of the first blocks."""
        for block in self.blocks()[:num_blocks]:
            inputs = block(inputs)
        return inputs

    def head(self, hidden: Tensor, num_blocks: int) -> Tensor:
        """Return features, not normalised, from the output of a trunk of this number of blocks."""
        for block in self.blocks()[num_blocks:]:
            hidden = block(hidden)
        return hidden

    def head_with(self, tensors: Mapping[str, Tensor], hidden: Tensor, num_blocks: int) -> Tensor:
        """Return the output of `head` with other parameters under some names."""
        exchanged = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
        return functional_call(_Head(self, num_blocks), exchanged, (hidden,))

    def embed(self, inputs: Tensor) -> Tensor:
        """Return features in the space that texts and photos share, not normalised."""
        return self(inputs)

    def projection(self) -> Float[Tensor, "dim width"]:
        """Return the weight of the last projection: the features are `projection_inputs(inputs) @ weight.T`.

        The last column is the bias, if there is one.

        Raises:
            InputError: if the last layer is not a linear projection.
        """
        place, parameters = self._projection(), dict(self.named_parameters())
        weight = parameters[place.weight].detach()
        weight = weight.T if place.is_transposed else weight
        return weight if place.bias is None else torch.cat([weight, parameters[place.bias].detach()[:, None]], 1)

    def projection_inputs(self, inputs: Tensor) -> Float[Tensor, "batch width"]:
        """Return the inputs of the last projection; if it has a bias, with a last column of ones.

        Raises:
            InputError: if the last layer is not a linear projection.
        """
        place, parameters = self._projection(), dict(self.named_parameters())
        weight = parameters[place.weight]
        width = weight.shape[0 if place.is_transposed else 1]
        identity = {place.weight: torch.eye(width, device=weight.device, dtype=weight.dtype)}
        if place.bias is None:
            return functional_call(self, identity, (inputs,))
        hidden = functional_call(self, identity | {place.bias: weight.new_zeros(width)}, (inputs,))
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)

    def with_projection(self: _OneEncoder, weight: Float[Tensor, "dim width"]) -> _OneEncoder:
        """Return a copy with another last projection, in the form of `projection`.

        Raises:
            InputError: if the last layer is not a linear projection.
        """
        place, copy = self._projection(), self.copy()
        if place.bias is not None:
            weight, bias = weight[:, :-1], weight[:, -1]
            copy.get_parameter(place.bias).data.copy_(bias)
        copy.get_parameter(place.weight).data.copy_(weight.T if place.is_transposed else weight)
        return copy

    def _projection(self) -> _Projection:
        names = {name for name, _ in self.named_parameters()}
        for place in self.projections:
            if place in names:
                return _Projection(place, None, is_transposed=True)
            if f"{place}.weight" in names:
                bias = f"{place}.bias"
                return _Projection(f"{place}.weight", bias if bias in names else None, is_transposed=False)
        raise InputError(
            "defense: expected an encoder whose last layer is a linear projection, got one of another architecture; "
            "choose another defence"
        )

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers under their names in the whole CLIP."""

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the named parameters that the defence trains."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class _Projection:
    """Names of the parameters of the last projection."""

    weight: str
    bias: str | None
    is_transposed: bool  # whether the weight is (width, dim); that of a `nn.Linear` is (dim, width)


class _Head(nn.Module):
    """The head of an encoder as a forward pass, so that its tensors can be exchanged for one call."""

    def __init__(self, encoder: Encoder, num_blocks: int) -> None:
        super().__init__()
        self.encoder, self.num_blocks = encoder, num_blocks

    def forward(self, hidden: Tensor) -> Tensor:
        return self.encoder.head(hidden, self.num_blocks)
