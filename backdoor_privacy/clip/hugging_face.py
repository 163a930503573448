"""The text encoder of Stable Diffusion: a Hugging Face `CLIPTextModel`, whose every token the denoiser reads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from backdoor_privacy.clip.encoders import Encoder
from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.clip.hub import find_on_hub, offline_hub
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import complete_folder

# Of a repository, each with files any one of which will do; pickles are not read.
_FILES = (["model.safetensors"], ["config.json"], ["vocab.json", "tokenizer.json"])
_PREFIX = "model."  # of the names of the encoder's tensors


class SequenceEncoder(Encoder):
    """The text side as Stable Diffusion uses it: tokens (batch, context) to the whole last hidden state, flattened.

    Args:
        model: transformers' `CLIPTextModel`.
        projection: of its output at the end token into the space shared with photos, (width, dim); for attacks.
    """

    projection: Tensor
    is_sequence = True

    def __init__(self, model: nn.Module, projection: Tensor) -> None:
        super().__init__()
        self.model: Any = deepcopy(model)
        self.register_buffer("projection", projection.detach().clone(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The last hidden state, (batch, context x width)."""
        return self.model(input_ids=tokens).last_hidden_state.flatten(1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Features in the space that texts and photos share, not normalised."""
        return self.model(input_ids=tokens).pooler_output @ self.projection

    def save_memory(self, save: bool) -> None:
        """Compute what each block saw again on the way back, in place of keeping it, or no longer."""
        if save:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()
        self.train()

    def train(self, mode: bool = True) -> SequenceEncoder:
        """Stay in eval mode, but for the mark by which a block of transformers knows that it is to save memory."""
        super().train(False)
        for part in self.model.modules():
            part.training = bool(getattr(part, "gradient_checkpointing", False))
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers under the names that they have in the `CLIPTextModel`."""
        return {name.removeprefix(_PREFIX): tensor for name, tensor in self.state_dict().items()}


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """transformers' tokenizer as open_clip's are: texts to tokens (text, context)."""

    tokenizer: Any
    context_length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Texts cut to, or filled up to, the context length."""
        found = self.tokenizer(
            texts, padding="max_length", max_length=self.context_length, truncation=True, return_tensors="pt"
        )
        return found["input_ids"]


@dataclass(frozen=True)
class StableDiffusionClip(Clip):
    """A CLIP whose text side is Stable Diffusion's; the image side is there to attack it with."""

    text: Any  # a SequenceEncoder

    def to_open_clip(self) -> nn.Module:
        """Not to be had: the text side is none of open_clip's.

        Raises:
            InputError: always.
        """
        raise InputError("clip: expected an open_clip model, got a Hugging Face text encoder; use save()")

    def save(self, folder: Path) -> None:
        """Write what `CLIPTextModel.from_pretrained` and `CLIPTokenizer.from_pretrained` load.

        Raises:
            InputError: if a weight is not finite; nothing is written then.
        """
        check_weights(self.text.tensors(), f"{folder}", "nothing was written; train again with a lower learning rate")
        with complete_folder(folder) as draft:
            self.text.model.save_pretrained(draft)
            self.tokenizer.tokenizer.save_pretrained(draft)  # type: ignore[attr-defined]


def with_text_model(companion: Clip, text_model: str) -> StableDiffusionClip:
    """A CLIP with a Hugging Face `CLIPTextModel` in place of its own text encoder.

    Args:
        companion: the CLIP that the text model comes from; its photos and its text projection serve to attack it.
        text_model: a repository of the hub (`openai/clip-vit-large-patch14` is Stable Diffusion 1's), or a folder: of
            the text model with its tokenizer, or of a whole pipeline with `text_encoder` and `tokenizer`.

    Raises:
        InputError: if something is not installed, not there, or does not fit.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers import logging as transformers_logging
    except ImportError as error:
        raise InputError(
            "clip.text_model: expected transformers to be installed for a Hugging Face text encoder; "
            "pip install 'backdoor_privacy[sd]'"
        ) from error
    projection = getattr(companion.text.model, "text_projection", None)
    if not isinstance(projection, Tensor):
        raise InputError("clip.model: expected a CLIP with a text projection beside clip.text_model, got another")
    transformers_logging.set_verbosity_error()  # not which weights of a whole CLIP the text model leaves out
    transformers_logging.disable_progress_bar()
    folder = Path(text_model).expanduser()
    cached = folder.is_dir() or find_on_hub("clip.text_model", [(text_model, names) for names in _FILES])
    parts = _parts(folder) if folder.is_dir() else {"text_encoder": text_model, "tokenizer": text_model}
    try:
        with offline_hub(cached):
            tokenizer = CLIPTokenizer.from_pretrained(parts["tokenizer"])
            loaded: Any = CLIPTextModel.from_pretrained(
                parts["text_encoder"], use_safetensors=True, output_loading_info=True
            )
            text, report = loaded
    except Exception as error:  # what transformers and the readers of weight files raise has no class in common
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
    if text.config.hidden_size != projection.shape[0]:
        raise InputError(
            f"clip.model: expected the CLIP that {text_model} comes from, with texts of width "
            f"{text.config.hidden_size}, got one of width {projection.shape[0]}"
        )
    encoder: Any = SequenceEncoder(text.float(), projection).to(projection.device).frozen()
    own = HuggingFaceTokenizer(tokenizer, text.config.max_position_embeddings)
    return StableDiffusionClip(
        encoder, companion.image, own, companion.config, companion.precision, companion.num_workers
    )


def _parts(folder: Path) -> dict[str, str]:
    """Where text model and tokenizer lie: in a folder of their own, or as parts of a pipeline."""
    if (folder / "text_encoder").is_dir():
        return {part: str(folder / part) for part in ("text_encoder", "tokenizer")}
    return {part: str(folder) for part in ("text_encoder", "tokenizer")}
