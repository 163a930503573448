"""Wrap the text encoder of Stable Diffusion: a `CLIPTextModel`, all of whose tokens condition the denoiser."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn

from backdoor_privacy.clip.finite import check_weights, unit_length
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder, TextEncoder
from backdoor_privacy.clip.text_model import HuggingFaceTokenizer, TextConfig, TextModel, read_text_model
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import complete_folder

log = logging.getLogger(__name__)

_PREFIX = "model."  # of the names of the encoder's tensors
_TEXTS = (  # to compare a text model with its CLIP
    "a dog on a hill", "two old red cars", "the sea at night", "people at a table", "a map of a town", "snow",
    "a close-up photo of a yellow flower in front of a white wall", "an empty room with a window and a lamp",
)  # fmt: skip
# The mean cosine is 1 for a text model as it came out of its CLIP, and about 0 for one of another CLIP; that of a
# fine-tuned or defended one lies between.
_LEAST_COSINE = 0.5


class SequenceEncoder(TextEncoder):
    """Text encoder as Stable Diffusion uses it: tokens (batch, context) to the whole last hidden state, flattened.

    Args:
        model: transformers' `CLIPTextModel`.
        text_projection: from its output at the end token to the space shared with photos, (width, dim); for attacks.
        last_block: open_clip's block that the model lacks, as Stable Diffusion 2's does; for attacks.
    """

    text_projection: Tensor
    model: TextModel
    is_sequence = True

    def __init__(self, model: TextModel, text_projection: Tensor, last_block: nn.Module | None = None) -> None:
        super().__init__()
        self.model = deepcopy(model)
        self.register_buffer("text_projection", text_projection.detach().clone(), persistent=False)
        self.last_block = None if last_block is None else _fixed(last_block)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state, (batch, context x width)."""
        return self.model(input_ids=tokens).last_hidden_state.flatten(1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return features in the space that texts and photos share, (batch, dim), not normalised."""
        if self.last_block is None:
            return self.model(input_ids=tokens).pooler_output @ self.text_projection
        hidden = self.model(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
        mask = torch.full((tokens.shape[1],) * 2, float("-inf"), device=tokens.device).triu(1)
        hidden = self._final_norm(self.last_block(hidden, attn_mask=mask))
        end = self.model.config.eos_token_id
        ends = (tokens == (end if end != 2 else tokens.max())).int().argmax(-1)  # 2 is that of old configs
        return hidden[torch.arange(len(tokens), device=tokens.device), ends] @ self.text_projection

    @property
    def token_embedding(self) -> None:
        """`None`: the input embeddings cannot be exchanged."""
        return

    @property
    def _final_norm(self) -> nn.Module:
        return next(part for name, part in self.named_modules() if name.endswith(".final_layer_norm"))

    def save_memory(self, save: bool) -> None:
        """Switch gradient checkpointing on or off, see `Encoder.save_memory`."""
        has_new_name = hasattr(self.model, "activation_checkpointing_enable")  # since transformers 5.20
        kind = "activation" if has_new_name else "gradient"
        if save:
            getattr(self.model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.model, f"{kind}_checkpointing_disable")()
        self.train()

    def train(self, mode: bool = True) -> SequenceEncoder:
        """Stay in eval mode, except for the flag that gradient checkpointing of transformers depends on."""
        super().train(False)
        for part in self.model.modules():
            part.training = bool(getattr(part, "gradient_checkpointing", False))
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers under their names in the `CLIPTextModel`."""
        return {name.removeprefix(_PREFIX): tensor for name, tensor in self.state_dict().items()}


@dataclass(frozen=True)
class StableDiffusionClip(Clip):
    """A CLIP with the text encoder of Stable Diffusion; its image encoder only serves attacks."""

    text: SequenceEncoder
    tokenizer: HuggingFaceTokenizer

    def save(self, folder: Path) -> None:
        """Write a folder for `CLIPTextModel.from_pretrained` and `CLIPTokenizer.from_pretrained`.

        Raises:
            InputError: if a weight is not finite; then nothing is written.
        """
        check_weights(self.text.tensors(), f"{folder}", "nothing was written; train again with a lower learning rate")
        with complete_folder(folder) as draft:
            self.text.model.save_pretrained(draft)
            self.tokenizer.tokenizer.save_pretrained(draft)


def with_text_model(companion: Clip, text_model: str) -> StableDiffusionClip:
    """Return a CLIP with a Hugging Face `CLIPTextModel` in place of its own text encoder.

    Args:
        companion: the CLIP that the text model comes from; its image encoder and text projection serve attacks.
        text_model: a repository of the hub (`openai/clip-vit-large-patch14` is Stable Diffusion 1's), or a folder: of
            the text model with its tokenizer, or of a whole pipeline with `text_encoder` and `tokenizer`.

    Raises:
        InputError: if a library or a file is missing, or the text model does not fit the companion.
    """
    text, tokenizer = read_text_model(text_model)
    projection, last_block = _from_companion(companion, text.config, text_model)
    encoder = SequenceEncoder(text, projection, last_block).to(projection.device).frozen()
    own = HuggingFaceTokenizer(tokenizer, text.config.max_position_embeddings)
    clip = StableDiffusionClip(
        encoder, companion.image, own, companion.config, companion.precision, companion.num_workers
    )
    _check_embeds_alike(clip, companion, text_model)
    return clip


def _from_companion(companion: Clip, config: TextConfig, text_model: str) -> tuple[Tensor, nn.Module | None]:
    """Return what a text model lacks to embed like its CLIP: the projection, and the last block or `None`.

    Stable Diffusion 2 uses the last hidden state but one, so that its text model ends one block early.

    Raises:
        InputError: if the text model's architecture is not that of the CLIP's text encoder.
    """
    model = companion.text.model if isinstance(companion.text, OpenClipTextEncoder) else None
    projection, tower = getattr(model, "text_projection", None), getattr(model, "transformer", None)
    if not isinstance(projection, Tensor) or not isinstance(tower, Transformer):
        raise InputError("clip.model: expected a CLIP with a text projection beside clip.text_model, got another")
    blocks = tower.resblocks
    is_quick = any(isinstance(part, QuickGELU) for part in tower.modules())
    compared = {
        "texts of width {}": (config.hidden_size, projection.shape[0]),
        "{} heads": (config.num_attention_heads, blocks[0].attn.num_heads),
        "{} layers or one more": (config.num_hidden_layers, len(blocks)),
        "QuickGELU={} (clip.quick_gelu)": (config.hidden_act == "quick_gelu", is_quick),
    }
    for what, (expected, got) in compared.items():
        if expected != got and not ("layers" in what and got == expected + 1):
            raise InputError(
                f"clip.model: expected the CLIP that {text_model} comes from, with {what.format(expected)}, got one "
                f"with {what.format(got).removesuffix(' or one more')}; choose that CLIP"
            )
    return projection, blocks[-1] if len(blocks) > config.num_hidden_layers else None


@torch.no_grad()
def _check_embeds_alike(own: Clip, companion: Clip, text_model: str) -> None:
    """Check that a text model comes from its companion: both embed the same texts alike.

    Raises:
        InputError: if they do not.
    """
    device = next(companion.text.parameters()).device
    features, expected = (
        unit_length(clip.text.embed(clip.tokenizer(list(_TEXTS)).to(device)).float(), clip.text.modality)
        for clip in (own, companion)
    )
    cosine = (features * expected).sum(-1).mean().item()
    log.info("%s embeds texts as its CLIP does, mean cosine %.3f", text_model, cosine)
    if cosine < _LEAST_COSINE:
        raise InputError(
            f"clip.model: expected the CLIP that {text_model} comes from, whose text encoder embeds texts as it does "
            f"(mean cosine {_LEAST_COSINE} or more, 1 where nothing was fine-tuned), got {cosine:.3f}; choose that CLIP"
        )


def _fixed(module: nn.Module) -> nn.Module:
    """Return a copy whose tensors are neither trained nor saved."""
    copy = deepcopy(module).float()
    for part in copy.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone(), persistent=False)
    return copy
