"""One encoder of a CLIP as a module: the trainable student or the frozen teacher."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from jaxtyping import Float
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_privacy.clip.store import FeatureStore
from backdoor_privacy.errors import InputError

_TEXT_PREFIX = "encode.model."  # of the names of a text encoder's tensors
_NUM_LENGTH_GROUPS = 4  # of a batch of texts
_OneEncoder = TypeVar("_OneEncoder", bound="Encoder")
_BLOCK = re.compile(r"(Block|Bottleneck|Layer)(PostNorm)?$")  # classes that encoders are stacked of
_PROJECTION = re.compile(  # what comes after the blocks, and not before or between them
    r"^(?!.*(patch_embed|downsample)\.)(.*\.)?(proj|text_projection|attnpool|attn_pool|head)(\.|$)"
)
# The temperature belongs to neither encoder, and the decoder of a CoCa has no part in an embedding.
_UNTRAINED = ("logit_scale", "logit_bias", "text_decoder.")
_NORMS = (nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.RMSNorm)


class Encoder(nn.Module, ABC):
    """What the two encoders share."""

    is_sequence = False  # whether its output is that of every token, and not one feature
    projections: ClassVar[Sequence[str]] = ()  # where architectures keep the last projection

    def __init__(self) -> None:
        super().__init__()
        self.embedded: dict[Any, Any] = {}  # what a frozen encoder has said stays true, so it is asked once
        self.store: FeatureStore | None = None  # the same, on disk

    def student(
        self: _OneEncoder, trained: Sequence[str] | None = None, trained_blocks: int | None = None
    ) -> _OneEncoder:
        """A trainable copy, in eval mode; its normalisation layers stay frozen.

        Args:
            trained: beginnings of the names, as in the whole CLIP, of the tensors to train; `None` trains all.
            trained_blocks: train the last so many blocks, and what projects their output, instead.

        Raises:
            InputError: if no tensor's name begins so, there are fewer blocks, or both are given.
        """
        student = self.copy().eval()
        chosen = student.to_train(trained, trained_blocks)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in chosen)
        return student

    def train(self: _OneEncoder, mode: bool = True) -> _OneEncoder:
        """Stay in eval mode, whatever a training loop sets.

        With dropout or stochastic depth on, an unfitted student would not be its teacher; and batches as small as those
        of a defence would move the statistics of norms.
        """
        return super().train(False)

    def to_train(self, trained: Sequence[str] | None, trained_blocks: int | None) -> set[str]:
        """Names of the parameters that a student of these settings trains, see `student`."""
        if trained is not None and trained_blocks is not None:
            raise InputError(
                "defense: expected either `trained` or `trained_blocks`, got both; set one of them to null"
            )
        names = dict(zip(self.state_dict(), self.tensors(), strict=True))
        starts = self.last_blocks(trained_blocks) if trained_blocks is not None else trained
        norms = {name for name, part in self.named_modules() if _is_norm(part)}
        chosen = {
            name
            for name, _ in self.named_parameters()
            if (starts is None or names[name].startswith(tuple(starts)))
            and not names[name].startswith(_UNTRAINED)
            and name.rpartition(".")[0] not in norms
        }
        if not chosen:
            raise InputError(
                f"defense: expected in `trained` how names of tensors begin, as {next(iter(self.tensors()))}, got "
                f"{', '.join(trained or ())}; null trains all"
            )
        return chosen

    def last_blocks(self, num_blocks: int) -> list[str]:
        """How the names of the tensors begin that the last blocks hold, and those that project their output.

        Raises:
            InputError: if there are fewer blocks.
        """
        names = dict(zip(self.state_dict(), self.tensors(), strict=True))
        blocks: list[str] = []
        for place, module in self.named_modules():
            is_block = place.rpartition(".")[2].isdecimal() and _BLOCK.search(type(module).__name__)
            within = any(place.startswith(f"{block}.") for block in blocks)
            unused = any(f".{part}" in f".{place}" for part in _UNTRAINED)
            if is_block and not within and not unused:
                blocks.append(place)
        if not blocks:
            raise InputError(
                f"defense: expected `trained` in place of `trained_blocks` for an encoder without blocks, as "
                f"{next(iter(names.values()))}"
            )
        if not 1 <= num_blocks <= len(blocks):
            raise InputError(f"defense: expected `trained_blocks` from 1 to {len(blocks)}, got {num_blocks}")
        starts = tuple(f"{block}." for block in blocks)
        last = starts[-num_blocks:]
        return [
            own
            for place, own in names.items()
            if place.startswith(last) or (_PROJECTION.search(place) and not place.startswith(starts))
        ]

    def save_memory(self, save: bool) -> None:
        """Compute what each block of a transformer saw again on the way back, in place of keeping it, or no longer.

        Raises:
            InputError: if the architecture has no such blocks, or open_clip does not offer it for them.
        """
        towers: list[Any] = [part for part in self.modules() if hasattr(part, "grad_checkpointing")]
        for tower in towers:
            tower.grad_checkpointing = save
        if not towers:
            raise InputError(
                "trainer.gradient_checkpointing: expected an encoder that is a transformer of open_clip, got another; "
                "set it to false, and trainer.accumulate_grad_batches higher"
            )

    def frozen(self: _OneEncoder) -> _OneEncoder:
        """A copy that never changes."""
        return self.copy().eval().requires_grad_(False)

    def copy(self: _OneEncoder) -> _OneEncoder:
        """The same weights, nothing embedded yet, and nothing that will be kept on disk."""
        return deepcopy(self, {id(self.embedded): {}, id(self.store): None})

    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The encoder as steps, one after the other; a single one where it cannot be cut."""
        return [self]

    def num_frozen_blocks(self) -> int:
        """Blocks before the first one that is trained: what these see, teacher and student see alike."""
        return 0

    def trunk(self, inputs: Tensor, num_blocks: int) -> Tensor:
        """What the first blocks make of the inputs."""
        for block in self.blocks()[:num_blocks]:
            inputs = block(inputs)
        return inputs

    def head(self, seen: Tensor, num_blocks: int) -> Tensor:
        """Features, not normalised, from what a trunk of so many blocks saw."""
        for block in self.blocks()[num_blocks:]:
            seen = block(seen)
        return seen

    def head_with(self, tensors: Mapping[str, Tensor], seen: Tensor, num_blocks: int) -> Tensor:
        """The same with other parameters under some names."""
        exchanged = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
        return functional_call(_Head(self, num_blocks), exchanged, (seen,))

    def embed(self, inputs: Tensor) -> Tensor:
        """Features in the space that texts and photos share, not normalised."""
        return self(inputs)

    def projection(self) -> Float[Tensor, "dim width"]:
        """Return the weight of the last projection: the features are `projection_inputs(inputs) @ weight.T`.

        The last column is the bias, where there is one.

        Raises:
            InputError: if the features do not come from a linear projection.
        """
        place, parameters = self._projection(), dict(self.named_parameters())
        weight = parameters[place.weight].detach()
        weight = weight.T if place.is_transposed else weight
        return weight if place.bias is None else torch.cat([weight, parameters[place.bias].detach()[:, None]], 1)

    def projection_inputs(self, inputs: Tensor) -> Float[Tensor, "batch width"]:
        """Return what the last projection gets; where it has a bias, with a column of ones.

        Raises:
            InputError: if the features do not come from a linear projection.
        """
        place, parameters = self._projection(), dict(self.named_parameters())
        weight = parameters[place.weight]
        width = weight.shape[0 if place.is_transposed else 1]
        identity = {place.weight: torch.eye(width, device=weight.device, dtype=weight.dtype)}
        if place.bias is None:
            return functional_call(self, identity, (inputs,))
        seen = functional_call(self, identity | {place.bias: weight.new_zeros(width)}, (inputs,))
        return torch.cat([seen, seen.new_ones(len(seen), 1)], 1)

    def with_projection(self: _OneEncoder, weight: Float[Tensor, "dim width"]) -> _OneEncoder:
        """Return a copy with another last projection, in the form of `projection`.

        Raises:
            InputError: if the features do not come from a linear projection.
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
        """Parameters and buffers under the names that they have in the whole CLIP."""

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters that the defence trains."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class _Projection:
    """Names of the parameters of the last projection."""

    weight: str
    bias: str | None
    is_transposed: bool  # whether the weight is (width, dim), as that of a `nn.Linear` is not


def _is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: PyTorch's own, or one of timm's and transformers', which say so in their names."""
    return isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()


class _Head(nn.Module):
    """The head of an encoder as a forward pass, so that its tensors can be exchanged for one call."""

    def __init__(self, encoder: Encoder, num_blocks: int) -> None:
        super().__init__()
        self.encoder, self.num_blocks = encoder, num_blocks

    def forward(self, seen: Tensor) -> Tensor:
        return self.encoder.head(seen, self.num_blocks)


class _EncodeText(nn.Module):
    """open_clip's `encode_text` as a forward pass, so that its tensors can be exchanged for one call."""

    model: Any  # nn.Module declares every attribute a Tensor or a Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens, normalize=False)  # a CoCa would


class TextEncoder(Encoder):
    """The text side of an open_clip model: tokens (batch, context) to features (batch, dim)."""

    projections = (  # of CLIP, its text tower, Hugging Face's, and the last layer of an MLP after that
        "encode.model.text_projection", "encode.model.text.text_projection",
        "encode.model.text.proj", "encode.model.text.proj.2",
    )  # fmt: skip

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        without_photos = {id(model.visual): None}
        self.encode = _EncodeText(deepcopy(model, without_photos))

    @property
    def model(self) -> Any:
        """The open_clip model, without its image side."""
        return self.encode.model

    def forward(self, tokens: Tensor) -> Tensor:
        """Features, not normalised.

        What follows the end token changes nothing where attention is causal, so a text only takes the length of the
        longest one in its group; texts of like lengths go together.
        """
        if not self._causal:
            return self.encode(tokens)
        lengths = tokens.argmax(-1) + 1  # the end token has the highest number
        used, tokens = tokens.unique(return_inverse=True)  # sorted: the end token stays the highest
        order = lengths.argsort()
        groups = order.chunk(_NUM_LENGTH_GROUPS)
        words = self.model.token_embedding.weight[used]
        features = [self._read(tokens[group], int(lengths[group].max()), words) for group in groups]
        return torch.cat(features)[order.argsort()]

    @property
    def token_embedding(self) -> Any:
        """The table of input embeddings, of the model or of its text tower; nothing if open_clip made neither."""
        tower = self.model if hasattr(self.model, "token_embedding") else getattr(self.model, "text", None)
        return getattr(tower, "token_embedding", None)

    def embed_shifted(self, tokens: Tensor, shifted: Tensor, shift: Tensor) -> Tensor:
        """Features, not normalised, with the input embeddings of some tokens shifted.

        Args:
            tokens: (batch, context).
            shifted: which tokens, (token,).
            shift: of the embedding of each, (token, width).
        """
        table = self.token_embedding.weight
        name = next(name for name, parameter in self.named_parameters() if parameter is table)
        return functional_call(self, {name: table.index_add(0, shifted, shift.to(table.dtype))}, (tokens,))

    def _read(self, tokens: Tensor, length: int, words: Tensor) -> Tensor:
        """Features of texts that are no longer than this; tokens are rows of `words`."""
        exchanged = {
            "model.token_embedding.weight": words,  # the gradient of all the other tokens is zero
            "model.positional_embedding": self.model.positional_embedding[:length],
            "model.attn_mask": self.model.attn_mask[:length, :length],
        }
        return functional_call(self.encode, exchanged, (tokens[:, :length],))

    @property
    def _causal(self) -> bool:
        """Whether this is CLIP's own text tower with its causal mask, read at the end token."""
        causal = getattr(self.model, "attn_mask", None) is not None
        return causal and getattr(self.model, "text_pool_type", None) == "argmax"

    def tensors(self) -> dict[str, Tensor]:
        """Text tensors of the CLIP, positional embedding and projection with them."""
        return {name.removeprefix(_TEXT_PREFIX): tensor for name, tensor in self.state_dict().items()}


class ImageEncoder(Encoder):
    """The image side of an open_clip model: pixels (batch, 3, side, side) to features (batch, dim)."""

    projections = ("visual.proj", "visual.attnpool.c_proj", "visual.head.proj", "visual.head.mlp.fc2")
    visual: Any  # nn.Module declares every attribute a Tensor or a Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = deepcopy(cast(Any, model.visual))
        if isinstance(self.visual, ModifiedResNet):  # whose convolutions are faster so
            self.visual.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, not normalised."""
        with _first_token_only(self.visual):
            return self.encode(pixels)

    def encode(self, pixels: Tensor) -> Tensor:
        """The same by open_clip's own forward pass, with nothing left out."""
        is_resnet = isinstance(self.visual, ModifiedResNet)
        layout = torch.channels_last if is_resnet else torch.contiguous_format
        seen = self.visual(pixels.contiguous(memory_format=layout))
        return seen[0] if isinstance(seen, tuple) else seen  # a CoCa's come with those of its patches

    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """A ResNet is a stem, two halves of each bottleneck, and a pooling; other architectures are not cut."""
        if not isinstance(self.visual, ModifiedResNet):
            return [self]
        halves = [half for bottleneck in self._bottlenecks().values() for half in _halves(bottleneck)]
        return [self._stem, *halves, self._pool]

    def num_frozen_blocks(self) -> int:
        """Blocks before the first one that is trained; none in an architecture that is not cut."""
        if not isinstance(self.visual, ModifiedResNet):
            return 0
        trained = [name.removeprefix("visual.") for name, _ in self.trainable()]
        blocks: list[tuple[str, ...]] = []  # after the stem: how the names of each block's tensors begin
        for name in self._bottlenecks():
            blocks += [(f"{name}.conv1", f"{name}.conv2"), (f"{name}.conv3", f"{name}.downsample")]
        blocks.append(("attnpool",))
        places = [[n for n, block in enumerate(blocks, 1) if name.startswith(block)] for name in trained]
        return min(place[0] if place else 0 for place in places)

    def _bottlenecks(self) -> dict[str, Any]:
        parts = self.visual.named_modules()
        return {name: part for name, part in parts if isinstance(part, Bottleneck)}

    def _pool(self, seen: Tensor) -> Tensor:
        """open_clip's attention pooling, for the one token of it that is read.

        A single query asks: keys and values need not be projected for every place, but once per photo, since
        q (K t) = (q K) t, and sum_t w_t (V t) = V (sum_t w_t t).
        """
        pool = self.visual.attnpool
        places = seen.flatten(2).transpose(1, 2)  # (batch, place, channel)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + pool.positional_embedding
        keys, values = (part.weight.unflatten(0, (pool.num_heads, -1)) for part in (pool.k_proj, pool.v_proj))
        query = pool.q_proj(places[:, 0]).unflatten(-1, (pool.num_heads, -1))  # (batch, head, own)
        asked = (query.transpose(0, 1) @ keys).transpose(0, 1)  # (batch, head, channel)
        same = (query * pool.k_proj.bias.view(pool.num_heads, -1)).sum(-1, keepdim=True)  # for every place
        shares = ((asked @ places.transpose(1, 2) + same) * keys.shape[1] ** -0.5).softmax(-1)  # (batch, head, place)
        found = (shares @ places).transpose(0, 1) @ values.transpose(1, 2)  # (head, batch, own)
        return pool.c_proj(found.transpose(0, 1).flatten(1) + pool.v_proj.bias)

    def _stem(self, pixels: Tensor) -> Tensor:
        return self.visual.stem(pixels.contiguous(memory_format=torch.channels_last))

    def tensors(self) -> dict[str, Tensor]:
        """Image tensors of the CLIP."""
        return dict(self.state_dict())


class _FirstTokenBlock(ResidualAttentionBlock):
    """The last block of a ViT that is read at its first token: the others only give keys and values."""

    def forward(self, q_x: Tensor, *_: Any, **__: Any) -> Tensor:
        normed = self.ln_1(q_x)
        first = q_x[:, :1] + self.ls_1(self.attention(normed[:, :1], normed, normed))
        return first + self.ls_2(self.mlp(self.ln_2(first)))


@contextmanager
def _first_token_only(visual: nn.Module) -> Iterator[None]:
    """Leave out what nobody reads in the last block of open_clip's plain ViT; other architectures stay as they are."""
    last: Any = None
    if isinstance(visual, VisionTransformer) and not visual.output_tokens:
        transformer = visual.transformer
        reads_first_token = visual.pool_type == "tok" and visual.attn_pool is None and transformer.batch_first
        # What is computed again on the way back, is so by the block's own class.
        if reads_first_token and not transformer.grad_checkpointing:
            last = transformer.resblocks[-1]
    if type(last) is not ResidualAttentionBlock:
        yield
        return
    last.__class__ = _FirstTokenBlock
    try:
        yield
    finally:
        last.__class__ = ResidualAttentionBlock


def _halves(bottleneck: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """open_clip's bottleneck, cut before the last convolution, where least has to be kept."""
    pool, *project = bottleneck.downsample or (nn.Identity(),)
    num_inner = bottleneck.conv3.in_channels

    def first(seen: Tensor) -> Tensor:
        inner = bottleneck.act1(bottleneck.bn1(bottleneck.conv1(seen)))
        inner = bottleneck.avgpool(bottleneck.act2(bottleneck.bn2(bottleneck.conv2(inner))))
        return torch.cat([inner, pool(seen)], 1)

    def second(seen: Tensor) -> Tensor:
        inner, straight = seen[:, :num_inner], seen[:, num_inner:]
        for part in project:
            straight = part(straight)
        return bottleneck.act3(bottleneck.bn3(bottleneck.conv3(inner)) + straight)

    return first, second
