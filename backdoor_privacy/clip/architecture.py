"""Look up an architecture in open_clip: its config, and the activation and preprocessing of its weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import TypedDict

import huggingface_hub
import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from torch import nn

from backdoor_privacy.clip.hub import cached_file
from backdoor_privacy.clip.limits import check_numbers
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.reading import MIB, read_ordinary

LOCAL_DIR, HUB = "local-dir:", "hf-hub:"  # prefixes of models that are a folder or a repository
SCHEMES = (LOCAL_DIR, HUB)
RANDOM = "random"
_KEYS_OF_TAGS = ("mean", "std", "interpolation", "resize_mode")  # of preprocessing; the size is the architecture's
_CHOICES: dict[str, Sequence[object]] = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "longest", "squash"),
    "fill_color": range(256),
}


class TextConfig(TypedDict, total=False):
    """Settings of a text encoder in open_clip's config, as far as they are used here."""

    hf_model_name: str
    hf_tokenizer_name: str


class ModelConfig(TypedDict, total=False):
    """open_clip's `model_cfg`, as far as it is used here."""

    embed_dim: int
    vision_cfg: dict[str, object]
    text_cfg: TextConfig
    quick_gelu: bool
    custom_text: bool


class OpenClipConfig(TypedDict):
    """Content of `open_clip_config.json`."""

    model_cfg: ModelConfig
    preprocess_cfg: dict[str, object]


def registered_name(model: str) -> str:
    """Return a model's name as open_clip takes it: `ViT-B-32` for `ViT-B/32`, the full path of a folder."""
    if model.startswith(LOCAL_DIR):
        return LOCAL_DIR + os.path.expanduser(model.removeprefix(LOCAL_DIR))
    return model if model.startswith(HUB) else model.replace("/", "-")


def model_config(model: str) -> ModelConfig:
    """Return open_clip's `model_cfg` of a named architecture, a folder or a repository.

    Raises:
        InputError: if there is no such architecture, or the folder describes none.
    """
    if model.startswith(SCHEMES):
        place = model.removeprefix(LOCAL_DIR).removeprefix(HUB)
        if model.startswith(LOCAL_DIR):
            file = Path(place, HF_CONFIG_NAME)
        else:
            file = Path(cached_file(place, HF_CONFIG_NAME) or huggingface_hub.hf_hub_download(place, HF_CONFIG_NAME))
        try:
            content = json.loads(read_ordinary(file, MIB))
            config, preprocess = content["model_cfg"], content.get("preprocess_cfg") or {}
            if not all(isinstance(config[key], dict) for key in ("vision_cfg", "text_cfg")):
                raise TypeError("no settings of its two encoders")
            if not isinstance(preprocess, dict):
                raise TypeError("no preprocess_cfg")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"clip.model={model}: expected model_cfg in {HF_CONFIG_NAME}, got {error!r}") from error
        source = f"clip.model={model}, {HF_CONFIG_NAME}"
        check_numbers(content, source)
        for key in ("mean", "std"):
            if preprocess.get(key) is not None:
                _checked(key, preprocess[key], source)
        return config
    known: ModelConfig | None = open_clip.get_model_config(model)
    if known is None:
        raise InputError(
            f"clip.model: expected an architecture of open_clip ({some(open_clip.list_models())}), got {model}"
        )
    return known


def described(model: nn.Module, config: OpenClipConfig) -> OpenClipConfig:
    """Return the config of a model, corrected to the activation and the class that the model has.

    Raises:
        InputError: if it describes another architecture.
    """
    settings = config["model_cfg"].copy()
    has_quick_gelu = any(isinstance(part, QuickGELU) for part in model.modules())
    if has_quick_gelu != settings.get("quick_gelu", False):
        settings["quick_gelu"] = has_quick_gelu
    if not isinstance(model, open_clip.CLIP):
        settings["custom_text"] = True  # else open_clip would load it as a plain CLIP
    if "hf_model_name" not in settings["text_cfg"]:  # those are described on the hub
        with torch.device("meta"):
            other = type(model)(**{key: value for key, value in settings.items() if key != "custom_text"})
        own, others = ({name: tensor.shape for name, tensor in m.state_dict().items()} for m in (model, other))
        differing = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
        if differing:
            raise InputError(
                f"clip: expected a model of the architecture that its config describes, got another {differing[0]}: "
                f"{own.get(differing[0])}, not {others.get(differing[0])}"
            )
    return {**config, "model_cfg": settings}


def needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Return whether the weights of a tag need QuickGELU in an architecture without it.

    Raises:
        InputError: if the architecture has it and the weights were trained without.
    """
    tag = open_clip.get_pretrained_cfg(model, pretrained) if pretrained and not model.startswith(SCHEMES) else None
    if not tag:
        return False
    has, needs = (bool(cfg.get("quick_gelu", False)) for cfg in (model_config(model), tag))
    plain = model.removesuffix("-quickgelu")  # a model without such a twin has the activation that was trained
    if has and not needs and plain != model:
        raise InputError(
            f"clip.model={model}: expected an architecture without QuickGELU for {pretrained}, trained without; "
            f"choose clip.model={plain}"
        )
    return needs


def preprocessing(model: str, pretrained: str | None, changes: object) -> dict[str, object]:
    """Return the changes to the preprocessing that open_clip finds for a model.

    Args:
        model: architecture, folder or repository.
        pretrained: tag or weight file; a file does not hold its preprocessing, so it gets that of the tags.
        changes: by the user, a mapping or `None`.

    Raises:
        InputError: if open_clip has no such preprocessing, or the tags differ and the user chose none for a file.
    """
    if not isinstance(changes, Mapping | NoneType):
        raise InputError(f"clip.preprocess: expected null or settings as {{mean:[0.5,0.5,0.5]}}, got {changes}")
    own = {key: _checked(key, value) for key, value in (changes or {}).items()}
    is_file = pretrained not in (None, RANDOM) and not model.startswith(SCHEMES)
    if not is_file or open_clip.get_pretrained_cfg(model, pretrained):
        return own
    known = tags_by_preprocessing(model)
    if changes is None and len(known) > 1:
        listed = " or ".join(f"{as_override(changed)} ({some(tags)})" for changed, tags in known.items())
        raise InputError(
            f"clip.preprocess: expected the preprocessing of {pretrained}, as the tags of {model} differ, got null; "
            f"choose {listed}"
        )
    agreed = json.loads(next(iter(known))) if len(known) == 1 else {}
    return agreed | own


def preprocessing_of(model: nn.Module) -> dict[str, object]:
    """Return the `preprocess_cfg` that open_clip keeps with a model.

    Raises:
        InputError: if it keeps none.
    """
    own = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if not isinstance(own, dict):
        raise InputError(
            f"clip: expected a model that open_clip created, got a {type(model).__name__} without its preprocessing; "
            "create it with open_clip.create_model"
        )
    return own


def tags_by_preprocessing(model: str) -> dict[str, list[str]]:
    """Return the tags of an architecture by their changes to open_clip's default preprocessing, in JSON."""
    default, tags = asdict(PreprocessCfg()), dict[str, list[str]]()
    for tag in open_clip.list_pretrained_tags_by_model(model):
        settings = open_clip.get_pretrained_cfg(model, tag)
        changed = {key: settings[key] for key in _KEYS_OF_TAGS if settings.get(key) not in (None, default[key])}
        tags.setdefault(json.dumps(changed, separators=(",", ":")), []).append(tag)
    return tags


def as_override(changed: str) -> str:
    """Return a key of `tags_by_preprocessing` as an override for a shell."""
    unquoted = changed.replace('"', "")
    return f"'clip.preprocess={unquoted}'"


def _checked(key: str, value: object, source: str = "clip.preprocess") -> object:
    """Return a setting of the preprocessing as open_clip takes it; refuse all others."""
    if key in ("mean", "std") and isinstance(value, Sequence) and len(value) == 3:
        colour = [float(part) for part in value if isinstance(part, (int, float)) and (key == "mean" or part > 0)]
        if len(colour) == 3:
            return colour
    if value in _CHOICES.get(key, ()):
        return value
    raise InputError(
        f"{source}: expected mean and std of three colours, interpolation (bicubic, bilinear), resize_mode "
        f"(shortest, longest, squash) or fill_color (0 to 255), got {key}: {value}"
    )
