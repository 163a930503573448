"""Load a CLIP with open_clip, or wrap a loaded one."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import open_clip
from torch import nn

from backdoor_privacy.clip.architecture import (
    LOCAL_DIR,
    RANDOM,
    SCHEMES,
    OpenClipConfig,
    described,
    model_config,
    needs_quick_gelu,
    preprocessing,
    preprocessing_of,
    registered_name,
)
from backdoor_privacy.clip.checkpoint import UNUSABLE, check_describes, check_is_weights
from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.clip.hub import find_on_hub, offline_hub
from backdoor_privacy.clip.hugging_face import with_text_model
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.preprocessing import Preprocessing
from backdoor_privacy.clip.text import OpenClipTextEncoder
from backdoor_privacy.clip.weights import check_source, load_weights, needed_files, weight_file
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import chosen_device, computes_in_bf16
from backdoor_privacy.system.paths import ASSETS_FOLDER
from backdoor_privacy.triggers.names import Tokenizer


def embedded_clip() -> str:
    """Return the name of the small CLIP in this package, for `load_clip`."""
    return f"{LOCAL_DIR}{ASSETS_FOLDER / 'embedded_clip'}"


def load_clip(
    model: str,
    pretrained: str | None = None,
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    num_workers: int = 0,
    quick_gelu: bool | None = None,
    text_model: str | None = None,
    preprocess: object = None,
    device: str = "auto",
    store: str | None = None,
) -> Clip:
    """Load a CLIP with open_clip.

    Args:
        model: an architecture of open_clip (`ViT-B-32`), `local-dir:<folder>` or `hf-hub:<repository>`.
        pretrained: open_clip's tag, a weight file, or `random` for untrained weights; `None` for a folder or a
            repository, which hold their own.
        precision: of embedding; `auto` is bf16 where the processor computes in it, else fp32. Weights stay fp32.
        num_workers: processes that decode photos.
        quick_gelu: whether the weights were trained with QuickGELU; `None` follows the tag or the architecture.
        text_model: a Hugging Face text encoder in place of the CLIP's own, see `hugging_face.with_text_model`.
        preprocess: changes to the preprocessing, a dict of `mean`, `std`, `interpolation`, `resize_mode` and
            `fill_color`. A weight file does not hold its preprocessing, so it needs this if the tags of its
            architecture differ.
        device: of embedding (`cpu`, `cuda`, `cuda:1`); `auto` is the GPU if there is one.
        store: folder that keeps the features of texts and photos for other runs; `None` keeps none.

    Raises:
        InputError: if the weights are missing, of another architecture or not finite, or their file may hold code.
    """
    model, pretrained = registered_name(model), os.path.expanduser(pretrained) if pretrained else pretrained
    torch_device = chosen_device(device)
    check_source(model, pretrained)
    force_quick_gelu = needs_quick_gelu(model, pretrained) if quick_gelu is None else quick_gelu
    opened = _open(model, pretrained, force_quick_gelu, preprocessing(model, pretrained, preprocess))
    if quick_gelu is False and opened.config["model_cfg"].get("quick_gelu"):
        raise InputError(
            f"clip.quick_gelu: expected true or null for {model}, an architecture with QuickGELU, got false; "
            "leave it null"
        )
    if precision == "auto":
        precision = "bf16" if computes_in_bf16(torch_device) else "fp32"
    clip = wrap_clip(opened.model, opened.config, opened.tokenizer, precision, num_workers)
    if text_model is not None:
        clip = with_text_model(clip, text_model)
    clip.text.to(torch_device)
    clip.image.to(torch_device)
    if store is not None:
        clip.keep_features(store)
    return clip


@dataclass(frozen=True)
class _Opened:
    """A model of open_clip with its config and tokenizer."""

    model: nn.Module
    config: OpenClipConfig
    tokenizer: Tokenizer


def _open(model: str, pretrained: str | None, quick_gelu: bool, preprocess: Mapping[str, object]) -> _Opened:
    """Build a model and load its weights.

    Raises:
        InputError: if the weights are missing or of another architecture, or their file may hold code.
    """
    source = f"clip.model={model}, clip.pretrained={pretrained}"
    cached = find_on_hub("clip.pretrained", *needed_files(model, pretrained))
    file = weight_file(model, pretrained) if model.startswith(LOCAL_DIR) else None
    if file is not None:  # check it before the model is built
        check_is_weights(file, source)
        check_describes(model_config(model), file, source)
    try:
        with offline_hub(cached), _without_warning():
            opened = _create(model, pretrained, quick_gelu, preprocess)
    except UNUSABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: expected weights of this architecture, got: {reason}") from error
    file = file or weight_file(model, pretrained)
    if file is not None:
        load_weights(opened.model, file, source)
    return opened


def _create(model: str, pretrained: str | None, quick_gelu: bool, preprocess: Mapping[str, object]) -> _Opened:
    """Create a model with open_clip, which loads the weights of a tag, but not those of a file."""
    is_random = pretrained == RANDOM
    is_tag = not is_random and not model.startswith(SCHEMES) and open_clip.get_pretrained_cfg(model, pretrained)
    created: nn.Module = open_clip.create_model(
        model,
        pretrained=None if is_random else pretrained,
        load_weights=bool(is_tag),
        require_pretrained=bool(is_tag),
        force_quick_gelu=quick_gelu,
        force_preprocess_cfg=preprocess,
        pretrained_text=False,
    )
    tokenizer, architecture = open_clip.get_tokenizer(model), model_config(model)
    preprocess_cfg = preprocessing_of(created)
    Preprocessing(preprocess_cfg)  # raises an error if it is wrong
    return _Opened(created, {"model_cfg": architecture, "preprocess_cfg": preprocess_cfg}, tokenizer)


def wrap_clip(
    model: nn.Module,
    config: OpenClipConfig | str,
    tokenizer: Tokenizer | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    num_workers: int = 0,
) -> Clip:
    """Wrap a CLIP that the caller loaded with open_clip; it stays on its device, its weights become fp32.

    Args:
        model: of `open_clip.create_model_and_transforms`.
        config: the name of its architecture (`ViT-B-32`), or the content of its `open_clip_config.json`.
        tokenizer: of the model; not needed with the name of an architecture.
        precision: of embedding.
        num_workers: processes that decode photos.

    Raises:
        InputError: if the model has another architecture, a weight is not finite, or the tokenizer is missing.
    """
    if isinstance(config, str):
        architecture = registered_name(config)
        tokenizer = tokenizer or open_clip.get_tokenizer(architecture)
        config = {"model_cfg": model_config(architecture), "preprocess_cfg": preprocessing_of(model)}
    if tokenizer is None:
        raise InputError(
            "wrap_clip: expected the tokenizer of a model whose architecture is not named, got none; pass it"
        )
    config = described(model, config)
    check_weights(model.state_dict(), "clip.model")
    text, image = OpenClipTextEncoder(model).frozen().float(), ImageEncoder(model).frozen().float()
    return Clip(text, image, tokenizer, config, precision, num_workers)


def tokenizer_at_hand(model: str) -> Tokenizer | None:
    """Return the tokenizer of a CLIP without its weights and a network; `None` if this machine does not have it."""
    model = registered_name(model)
    try:
        with offline_hub(True):
            model_config(model)  # open_clip gives an unknown model the tokenizer of another
            return open_clip.get_tokenizer(model)
    except UNUSABLE:
        return None


@contextmanager
def _without_warning() -> Iterator[None]:
    """Suppress open_clip's warning of random weights, which are loaded afterwards."""
    root = logging.getLogger()

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No pretrained weights loaded")

    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
