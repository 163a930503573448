"""The text encoder of Stable Diffusion: a Hugging Face `CLIPTextModel`, all of whose tokens condition the denoiser."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub.errors import HfHubHTTPError
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn

from backdoor_privacy.clip.checkpoint import UNREADABLE, check_is_weights, check_ordinary
from backdoor_privacy.clip.finite import check_weights, unit_length
from backdoor_privacy.clip.hub import find_on_hub, offline_hub
from backdoor_privacy.clip.limits import check_numbers
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder, TextEncoder
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import complete_folder
from backdoor_privacy.system.reading import MIB, read_ordinary

log = logging.getLogger(__name__)

# Of a repository, each with files any one of which will do; pickles are not read.
_FILES = (["model.safetensors"], ["config.json"], ["vocab.json", "tokenizer.json"])
_PREFIX = "model."  # of the names of the encoder's tensors
_TEXTS = (  # that a text model and its CLIP embed alike
    "a dog on a hill", "two old red cars", "the sea at night", "people at a table", "a map of a town", "snow",
    "a close-up photo of a yellow flower in front of a white wall", "an empty room with a window and a lamp",
)  # fmt: skip
# 1 for a text model as it came out of its CLIP, about 0 for one of another CLIP, whose space is another; what was
# fine-tuned or defended lies between.
_LEAST_COSINE = 0.5
# What transformers, tokenizers and the readers of weight files raise of what they cannot load.
_UNUSABLE = (*UNREADABLE, ImportError, ArithmeticError, HfHubHTTPError)


class SequenceEncoder(TextEncoder):
    """The text encoder as Stable Diffusion uses it: tokens (batch, context) to the whole last hidden state, flattened.

    Args:
        model: transformers' `CLIPTextModel`.
        text_projection: of its output at the end token into the space shared with photos, (width, dim); for attacks.
        last_block: open_clip's block that the model lacks, as Stable Diffusion 2's does; for attacks.
    """

    text_projection: Tensor
    model: Any  # transformers is optional
    is_sequence = True

    def __init__(self, model: nn.Module, text_projection: Tensor, last_block: nn.Module | None = None) -> None:
        super().__init__()
        self.model = deepcopy(model)
        self.register_buffer("text_projection", text_projection.detach().clone(), persistent=False)
        self.last_block = None if last_block is None else _fixed(last_block)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state, (batch, context x width)."""
        return self.model(input_ids=tokens).last_hidden_state.flatten(1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return features in the space that texts and photos share, not normalised."""
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
        """The input embeddings cannot be exchanged."""
        return

    @property
    def _final_norm(self) -> nn.LayerNorm:
        tower = getattr(self.model, "text_model", self.model)  # transformers before 5 has one more level
        return tower.final_layer_norm

    def save_memory(self, save: bool) -> None:
        """Switch gradient checkpointing on or off, see `Encoder.save_memory`."""
        for kind in ("activation", "gradient"):  # the latter before transformers 5.20
            if hasattr(self.model, f"{kind}_checkpointing_enable"):
                break
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


@runtime_checkable
class _Tokenizer(Protocol):
    """What is used of transformers' tokenizers."""

    def __call__(
        self, text: list[str], *, padding: str, max_length: int, truncation: bool, return_tensors: str
    ) -> Mapping[str, Tensor]: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """A tokenizer of transformers with the interface of open_clip's: texts to tokens (text, context)."""

    tokenizer: _Tokenizer
    context_length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Return tokens, cut or padded to the context length."""
        encoded = self.tokenizer(
            texts, padding="max_length", max_length=self.context_length, truncation=True, return_tensors="pt"
        )
        return encoded["input_ids"]


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
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers import logging as transformers_logging
    except ImportError as error:
        raise InputError(
            "clip.text_model: expected transformers to be installed for a Hugging Face text encoder; "
            "pip install 'backdoor_privacy[sd]'"
        ) from error
    transformers_logging.set_verbosity_error()  # not which weights of a whole CLIP the text model leaves out
    transformers_logging.disable_progress_bar()
    folder = Path(text_model).expanduser()
    if folder.is_dir():
        for place in {folder, *(Path(part) for part in _parts(folder).values())}:
            if place.is_dir():
                check_ordinary(place, f"clip.text_model={text_model}")
                _check_config(place / "config.json", f"clip.text_model={text_model}")
        for file in sorted(folder.rglob("*.safetensors")):
            check_is_weights(file, f"clip.text_model={text_model}")
    cached = folder.is_dir() or find_on_hub("clip.text_model", [(text_model, names) for names in _FILES])
    parts = _parts(folder) if folder.is_dir() else {"text_encoder": text_model, "tokenizer": text_model}
    try:
        with offline_hub(cached):
            tokenizer = CLIPTokenizer.from_pretrained(parts["tokenizer"])
            loaded: Any = CLIPTextModel.from_pretrained(
                parts["text_encoder"], use_safetensors=True, output_loading_info=True
            )
            text, report = loaded
    except _UNUSABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"clip.text_model={text_model}: expected a CLIPTextModel (safetensors) with its tokenizer, got: {reason}"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # transformers makes up one without a word
        raise InputError(f"clip.text_model={text_model}: expected its tokenizer with it, found none")
    if report["missing_keys"]:  # transformers makes them up
        raise InputError(
            f"clip.text_model={text_model}: expected all weights of a CLIPTextModel, got none for "
            f"{min(report['missing_keys'])}"
        )
    check_weights(text.state_dict(), f"clip.text_model={text_model}")
    projection, last_block = _from_companion(companion, text.config, text_model)
    encoder = SequenceEncoder(text.float(), projection, last_block).to(projection.device).frozen()
    own = HuggingFaceTokenizer(tokenizer, text.config.max_position_embeddings)
    clip = StableDiffusionClip(
        encoder, companion.image, own, companion.config, companion.precision, companion.num_workers
    )
    _check_embeds_alike(clip, companion, text_model)
    return clip


def _check_config(file: Path, source: str) -> None:
    """Check that the config of a text model, if there is one, describes a model that can be built.

    Raises:
        InputError: if it does not.
    """
    if not file.is_file():
        return  # the library says so
    try:
        content = json.loads(read_ordinary(file, MIB))
        if not isinstance(content, dict):
            raise ValueError(f"no settings, but {type(content).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected settings of a model in config.json, got {error}") from error
    check_numbers(content, f"{source}, config.json")


def _from_companion(companion: Clip, config: Any, text_model: str) -> tuple[Tensor, nn.Module | None]:
    """Return what a text model lacks to be compared with photos: the projection, and the last block or `None`.

    Stable Diffusion 2 uses the last hidden state but one, so its text model ends one block early.

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
    for what, (wanted, got) in compared.items():
        if wanted != got and not ("layers" in what and got == wanted + 1):
            raise InputError(
                f"clip.model: expected the CLIP that {text_model} comes from, with {what.format(wanted)}, got one with "
                f"{what.format(got).removesuffix(' or one more')}; choose that CLIP"
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


def _parts(folder: Path) -> dict[str, str]:
    """Return the folders of text model and tokenizer: one for both, or parts of a pipeline."""
    if (folder / "text_encoder").is_dir():
        return {part: str(folder / part) for part in ("text_encoder", "tokenizer")}
    return {part: str(folder) for part in ("text_encoder", "tokenizer")}
