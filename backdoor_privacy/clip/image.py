"""Wrap the image encoder of a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from backdoor_privacy.clip.encoder import Encoder


class ImageEncoder(Encoder):
    """Image side of an open_clip model: normalised pixels (batch, 3, side, side) to features (batch, dim)."""

    modality = "image"
    projections = ("visual.proj", "visual.attnpool.c_proj", "visual.head.proj", "visual.head.mlp.fc2")
    visual: VisionTransformer | ModifiedResNet | TimmModel

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = deepcopy(model.visual)
        if isinstance(self.visual, ModifiedResNet):  # its convolutions are faster in this layout
            self.visual.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features, not normalised."""
        with _first_token_only(self.visual):
            return self.encode(pixels)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features by open_clip's own forward pass, the reference of `forward`."""
        is_resnet = isinstance(self.visual, ModifiedResNet)
        layout = torch.channels_last if is_resnet else torch.contiguous_format
        output = self.visual(pixels.contiguous(memory_format=layout))
        return output[0] if isinstance(output, tuple) else output  # a CoCa returns features of its patches, too

    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return the stem of a ResNet, two halves of each bottleneck, and the pooling; other encoders are whole."""
        if not isinstance(self.visual, ModifiedResNet):
            return [self]
        halves = [half for bottleneck in self._bottlenecks().values() for half in _halves(bottleneck)]
        return [self._stem, *halves, self._pool]

    def num_frozen_blocks(self) -> int:
        """Return the number of blocks before the first trained one; 0 in an architecture that is not divided."""
        if not isinstance(self.visual, ModifiedResNet):
            return 0
        trained = [name.removeprefix("visual.") for name, _ in self.trainable()]
        blocks: list[tuple[str, ...]] = []  # after the stem: prefixes of the names of each block's tensors
        for name in self._bottlenecks():
            blocks += [(f"{name}.conv1", f"{name}.conv2"), (f"{name}.conv3", f"{name}.downsample")]
        blocks.append(("attnpool",))
        numbers = [[n for n, block in enumerate(blocks, 1) if name.startswith(block)] for name in trained]
        return min(own[0] if own else 0 for own in numbers)

    def _bottlenecks(self) -> dict[str, Bottleneck]:
        parts = self.visual.named_modules()
        return {name: part for name, part in parts if isinstance(part, Bottleneck)}

    def _pool(self, hidden: Tensor) -> Tensor:
        """Return the output of open_clip's attention pooling, whose only query is the mean token.

        With a single query, keys and values need not be projected at every place, but once per photo:
        q (K t) = (q K) t, and sum_t w_t (V t) = V (sum_t w_t t).
        """
        pool = self.visual.attnpool
        places = hidden.flatten(2).transpose(1, 2)  # (batch, place, channel)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + pool.positional_embedding
        keys, values = (part.weight.unflatten(0, (pool.num_heads, -1)) for part in (pool.k_proj, pool.v_proj))
        query = pool.q_proj(places[:, 0]).unflatten(-1, (pool.num_heads, -1))  # (batch, head, own)
        key_query = (query.transpose(0, 1) @ keys).transpose(0, 1)  # (batch, head, channel)
        bias = (query * pool.k_proj.bias.view(pool.num_heads, -1)).sum(-1, keepdim=True)  # the same for every place
        scores = (key_query @ places.transpose(1, 2) + bias) * keys.shape[1] ** -0.5
        shares = scores.softmax(-1)  # (batch, head, place)
        pooled = (shares @ places).transpose(0, 1) @ values.transpose(1, 2)  # (head, batch, own)
        return pool.c_proj(pooled.transpose(0, 1).flatten(1) + pool.v_proj.bias)

    def _stem(self, pixels: Tensor) -> Tensor:
        return self.visual.stem(pixels.contiguous(memory_format=torch.channels_last))

    def tensors(self) -> dict[str, Tensor]:
        """Return the image tensors of the CLIP."""
        return dict(self.state_dict())


class _FirstTokenBlock(ResidualAttentionBlock):
    """Last block of a ViT that is pooled at its first token: the other tokens are only keys and values."""

    def forward(self, q_x: Tensor, *_: object, **__: object) -> Tensor:
        normed = self.ln_1(q_x)
        first = q_x[:, :1] + self.ls_1(self.attention(normed[:, :1], normed, normed))
        return first + self.ls_2(self.mlp(self.ln_2(first)))


@contextmanager
def _first_token_only(visual: nn.Module) -> Iterator[None]:
    """Skip the unused outputs of the last block of open_clip's plain ViT; other architectures stay as they are."""
    last: ResidualAttentionBlock | None = None
    if isinstance(visual, VisionTransformer) and not visual.output_tokens:
        transformer = visual.transformer
        reads_first_token = visual.pool_type == "tok" and visual.attn_pool is None and transformer.batch_first
        # Gradient checkpointing computes a block again by its own class.
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


def _halves(bottleneck: Bottleneck) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Divide open_clip's bottleneck before the last convolution, where the activations are smallest."""
    pool, *project = bottleneck.downsample or (nn.Identity(),)
    num_inner = bottleneck.conv3.in_channels

    def first(hidden: Tensor) -> Tensor:
        inner = bottleneck.act1(bottleneck.bn1(bottleneck.conv1(hidden)))
        inner = bottleneck.avgpool(bottleneck.act2(bottleneck.bn2(bottleneck.conv2(inner))))
        return torch.cat([inner, pool(hidden)], 1)

    def second(hidden: Tensor) -> Tensor:
        inner, shortcut = hidden[:, :num_inner], hidden[:, num_inner:]
        for part in project:
            shortcut = part(shortcut)
        return bottleneck.act3(bottleneck.bn3(bottleneck.conv3(inner)) + shortcut)

    return first, second
