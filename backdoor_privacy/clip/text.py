"""Wrap the text encoder of a CLIP."""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy
from functools import partial

import torch
from jaxtyping import Float, Int
from open_clip import CLIP, CustomTextCLIP
from open_clip.coca_model import CoCa
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.errors import InputError

_PREFIX = "encode.model."  # of the names of the encoder's tensors
_NUM_LENGTH_GROUPS = 4  # of a batch of texts


class TextEncoder(Encoder):
    """Text encoder of any library: tokens (batch, context) to features."""

    modality = "text"

    @property
    @abstractmethod
    def token_embedding(self) -> nn.Embedding | None:
        """The table of input embeddings; `None` where these cannot be exchanged."""

    def table(self) -> nn.Embedding:
        """Return the table of input embeddings.

        Raises:
            InputError: if these cannot be exchanged.
        """
        if self.token_embedding is None:
            raise InputError("clip: expected a text encoder of open_clip, got one of Hugging Face; choose another CLIP")
        return self.token_embedding

    def embed_shifted(
        self, tokens: Int[Tensor, "batch context"], shifted: Int[Tensor, " token"], shift: Float[Tensor, "token width"]
    ) -> Tensor:
        """Return features, not normalised, with a shift added to the input embeddings of some tokens.

        Args:
            tokens: of the texts.
            shifted: the tokens whose embeddings change.
            shift: added to the embedding of each of these tokens.

        Raises:
            InputError: if input embeddings cannot be exchanged.
        """
        table = self.table().weight
        name = next(name for name, parameter in self.named_parameters() if parameter is table)
        return functional_call(self, {name: table.index_add(0, shifted, shift.to(table.dtype))}, (tokens,))


class OpenClipTextEncoder(TextEncoder):
    """Text side of an open_clip model: tokens (batch, context) to features (batch, dim)."""

    projections = (  # of CLIP, its text tower, Hugging Face's, and the last layer of an MLP after that
        "encode.model.text_projection", "encode.model.text.text_projection",
        "encode.model.text.proj", "encode.model.text.proj.2",
    )  # fmt: skip

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        without_photos = {id(model.visual): None}
        self.encode = _EncodeText(deepcopy(model, without_photos))

    @property
    def model(self) -> CLIP | CustomTextCLIP | CoCa:
        """The open_clip model, without its image side."""
        return self.encode.model

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features, not normalised.

        With causal attention, tokens after the end token have no effect. So texts of similar lengths form a group, and
        are cut to the longest of the group.
        """
        if not self._is_causal:
            return self.encode(tokens)
        lengths = tokens.argmax(-1) + 1  # the end token has the highest number
        used, tokens = tokens.unique(return_inverse=True)  # sorted: the end token stays the highest
        order = lengths.argsort()
        groups = order.chunk(_NUM_LENGTH_GROUPS)
        table = self.model.token_embedding.weight[used]  # the gradient of all other tokens is zero
        features = [self._encode_cut(tokens[group], int(lengths[group].max()), table) for group in groups]
        return torch.cat(features)[order.argsort()]

    @property
    def token_embedding(self) -> nn.Embedding | None:
        """The table of input embeddings, of the model or its text tower; `None` if Hugging Face made the tower."""
        tower = self.model if hasattr(self.model, "token_embedding") else getattr(self.model, "text", None)
        table = getattr(tower, "token_embedding", None)
        return table if isinstance(table, nn.Embedding) else None

    def embed_soft(
        self,
        tokens: Int[Tensor, " context"],
        places: Int[Tensor, " free"],
        embeddings: Float[Tensor, "batch free width"],
    ) -> Float[Tensor, "batch dim"]:
        """Return features, not normalised, of one text with other input embeddings at some of its places."""
        exchanged = {}
        if self._is_causal:  # as in `forward`
            length = int(tokens.argmax()) + 1
            tokens, exchanged = tokens[:length], self._cut_to(length)
        replace = partial(_with_embeddings, places=places, embeddings=embeddings)
        with self.table().register_forward_hook(replace):
            return functional_call(self.encode, exchanged, (tokens.expand(len(embeddings), -1),))

    def _encode_cut(self, tokens: Tensor, length: int, table: Tensor) -> Tensor:
        """Return features of texts up to this length; tokens are rows of the table."""
        exchanged = {"model.token_embedding.weight": table, **self._cut_to(length)}
        return functional_call(self.encode, exchanged, (tokens[:, :length],))

    def _cut_to(self, length: int) -> dict[str, Tensor]:
        """Return the tensors of an encoder whose context has this length."""
        return {
            "model.positional_embedding": self.model.positional_embedding[:length],
            "model.attn_mask": self.model.attn_mask[:length, :length],
        }

    @property
    def _is_causal(self) -> bool:
        """Whether this is CLIP's own text tower, with a causal mask and pooling at the end token."""
        has_mask = getattr(self.model, "attn_mask", None) is not None
        return has_mask and getattr(self.model, "text_pool_type", None) == "argmax"

    def tensors(self) -> dict[str, Tensor]:
        """Return the text tensors of the CLIP, with positional embedding and projection."""
        return {name.removeprefix(_PREFIX): tensor for name, tensor in self.state_dict().items()}


class _EncodeText(nn.Module):
    """open_clip's `encode_text` as a forward pass, so that its tensors can be exchanged for one call."""

    model: CLIP | CustomTextCLIP | CoCa

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens, normalize=False)  # a CoCa normalises by default


def _with_embeddings(_: nn.Module, __: object, output: Tensor, places: Tensor, embeddings: Tensor) -> Tensor:
    return output.index_copy(1, places, embeddings)
