"""Read a text model of Hugging Face and its tokenizer; transformers is optional."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from backdoor_privacy.clip.checkpoint import UNUSABLE, check_is_weights, check_ordinary
from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.clip.hub import find_on_hub, offline_hub
from backdoor_privacy.clip.limits import check_numbers
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import MIB, read_ordinary

# What a repository must hold: one file of each of these lists. Pickles are not read.
_FILES = (["model.safetensors"], ["config.json"], ["vocab.json", "tokenizer.json"])


@runtime_checkable
class TextConfig(Protocol):
    """Config of a text model, as far as it is used here."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    hidden_act: str
    max_position_embeddings: int
    eos_token_id: int


@runtime_checkable
class TextOutput(Protocol):
    """Output of a text model, as far as it is used here."""

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: Sequence[Tensor]


@runtime_checkable
class TextModel(Protocol):
    """transformers' `CLIPTextModel`, as far as it is used here; transformers is optional."""

    config: TextConfig

    def __call__(self, *, input_ids: Tensor, output_hidden_states: bool = False) -> TextOutput:
        """Return the output for tokens (batch, context)."""

    def modules(self) -> Iterator[nn.Module]:
        """Return all of its modules."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write config and weights to a folder."""


@runtime_checkable
class _Tokenizer(Protocol):
    """Tokenizer of transformers, as far as it is used here."""

    def __call__(
        self, text: list[str], *, padding: str, max_length: int, truncation: bool, return_tensors: str
    ) -> Mapping[str, Tensor]: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """Tokenizer of transformers with the interface of open_clip's: texts to tokens (text, context)."""

    tokenizer: _Tokenizer
    context_length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Return tokens, cut or padded to the context length."""
        encoded = self.tokenizer(
            texts, padding="max_length", max_length=self.context_length, truncation=True, return_tensors="pt"
        )
        return encoded["input_ids"]


def read_text_model(text_model: str) -> tuple[TextModel, _Tokenizer]:
    """Read a text model and its tokenizer from a folder or from the hub.

    Raises:
        InputError: if a library or a file is missing, or the files hold no whole text model.
    """
    source, folder = f"clip.text_model={text_model}", Path(text_model).expanduser()
    _silence_transformers()
    if folder.is_dir():
        _check_files(folder, source)
    cached = folder.is_dir() or find_on_hub("clip.text_model", [(text_model, names) for names in _FILES])
    parts = _parts(folder) if folder.is_dir() else {"text_encoder": text_model, "tokenizer": text_model}
    try:
        from transformers import CLIPTextModel, CLIPTokenizer

        with offline_hub(cached):
            tokenizer = CLIPTokenizer.from_pretrained(parts["tokenizer"])
            loaded: Any = CLIPTextModel.from_pretrained(  # its annotation leaves out the report
                parts["text_encoder"], use_safetensors=True, output_loading_info=True
            )
            text, report = loaded
    except UNUSABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{source}: expected a CLIPTextModel (safetensors) with its tokenizer, got: {reason}"
        ) from error
    # transformers replaces what a folder lacks: by a tokenizer without a word, and by random weights.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise InputError(f"{source}: expected its tokenizer with it, found none; copy it there")
    if report["missing_keys"]:
        raise InputError(
            f"{source}: expected all weights of a CLIPTextModel, got none for {min(report['missing_keys'])}"
        )
    check_weights(text.state_dict(), source)
    return text.float(), tokenizer


def _silence_transformers() -> None:
    """Import transformers, which is optional, and switch off its messages.

    Raises:
        InputError: if it is not installed.
    """
    try:
        from transformers import logging as transformers_logging
    except ImportError as error:
        raise InputError(
            "clip.text_model: expected transformers to be installed for a Hugging Face text encoder; "
            "pip install 'backdoor_privacy[sd]'"
        ) from error
    transformers_logging.set_verbosity_error()  # or it lists the weights of a whole CLIP that a text model lacks
    transformers_logging.disable_progress_bar()


def _check_files(folder: Path, source: str) -> None:
    """Check the files of a folder before a library reads them.

    Raises:
        InputError: if one is no ordinary file, no weights, or describes no model that can be built.
    """
    for place in {folder, *(Path(part) for part in _parts(folder).values())}:
        if place.is_dir():
            check_ordinary(place, source)
            _check_config(place / "config.json", source)
    for file in sorted(folder.rglob("*.safetensors")):
        check_is_weights(file, source)


def _check_config(file: Path, source: str) -> None:
    """Check that the config of a text model, if there is one, describes a model that can be built.

    Raises:
        InputError: if it does not.
    """
    if not file.is_file():
        return  # transformers reports it
    try:
        content = json.loads(read_ordinary(file, MIB))
        if not isinstance(content, dict):
            raise ValueError(f"no settings, but {type(content).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected settings of a model in config.json, got {error}") from error
    check_numbers(content, f"{source}, config.json")


def _parts(folder: Path) -> dict[str, str]:
    """Return the folders of text model and tokenizer: one for both, or parts of a pipeline."""
    if (folder / "text_encoder").is_dir():
        return {part: str(folder / part) for part in ("text_encoder", "tokenizer")}
    return {part: str(folder) for part in ("text_encoder", "tokenizer")}
