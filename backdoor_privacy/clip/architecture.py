"""What open_clip says of an architecture: its config, and the activation and preprocessing of its weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

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

LOCAL_DIR, HUB = "local-dir:", "hf-hub:"  # how the names of models begin that are no architectures
SCHEMES = (LOCAL_DIR, HUB)
RANDOM = "random"
_SAID_BY_TAGS = ("mean", "std", "interpolation", "resize_mode")  # of the preprocessing; the size is the architecture's
_CHOICES: dict[str, Sequence[Any]] = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "longest", "squash"),
    "fill_color": range(256),
}


def registered_name(model: str) -> str:
    """The name of an architecture as open_clip lists it, where people write `ViT-B/32`; that of a folder in full."""
    if model.startswith(LOCAL_DIR):
        return LOCAL_DIR + os.path.expanduser(model.removeprefix(LOCAL_DIR))
    return model if model.startswith(HUB) else model.replace("/", "-")


def model_config(model: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of an architecture by name, of a folder or of a repository.

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
    named: dict[str, Any] | None = open_clip.get_model_config(model)
    if named is None:
        raise InputError(
            f"clip.model: expected an architecture of open_clip ({some(open_clip.list_models())}), got {model}"
        )
    return named


def described(model: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a model, with the activation that it really has.

    Raises:
        InputError: if it describes another architecture.
    """
    settings = dict(config["model_cfg"])
    has_quick_gelu = any(isinstance(part, QuickGELU) for part in model.modules())
    if has_quick_gelu != settings.get("quick_gelu", False):
        settings["quick_gelu"] = has_quick_gelu
    if not isinstance(model, open_clip.CLIP):
        settings["custom_text"] = True  # else open_clip would load it as a plain CLIP
    if "hf_model_name" not in settings["text_cfg"]:  # those are described on the hub
        with torch.device("meta"):
            other = type(model)(**{key: value for key, value in settings.items() if key != "custom_text"})
        own, others = ({name: each.shape for name, each in one.state_dict().items()} for one in (model, other))
        differing = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
        if differing:
            raise InputError(
                f"clip: expected a model of the architecture that its config describes, got another {differing[0]}: "
                f"{own.get(differing[0])}, not {others.get(differing[0])}"
            )
    return {**config, "model_cfg": settings}


def needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Whether QuickGELU must be forced upon an architecture for the weights of a tag.

    Raises:
        InputError: if the architecture has it and the weights were trained without.
    """
    tag = open_clip.get_pretrained_cfg(model, pretrained) if pretrained and not model.startswith(SCHEMES) else None
    if not tag:
        return False
    has, wants = (bool(cfg.get("quick_gelu", False)) for cfg in (model_config(model), tag))
    plain = model.removesuffix("-quickgelu")  # where there is only one architecture, it is what was trained
    if has and not wants and plain != model:
        raise InputError(
            f"clip.model={model}: expected an architecture without QuickGELU for {pretrained}, trained without; "
            f"choose clip.model={plain}"
        )
    return wants


def preprocessing(model: str, pretrained: str | None, asked: Any) -> dict[str, Any]:
    """What to change of the preprocessing that open_clip finds for a model.

    Args:
        model: architecture, folder or repository.
        pretrained: tag or weight file; a file does not say how it was trained, so it gets what all tags agree on.
        asked: what the user wants to be changed, a mapping or nothing.

    Raises:
        InputError: if open_clip has no such preprocessing, or a file comes without where tags differ.
    """
    if not isinstance(asked, (Mapping, NoneType)):
        raise InputError(f"clip.preprocess: expected null or settings as {{mean:[0.5,0.5,0.5]}}, got {asked}")
    own = {key: _checked(key, value) for key, value in (asked or {}).items()}
    is_file = pretrained not in (None, RANDOM) and not model.startswith(SCHEMES)
    if not is_file or open_clip.get_pretrained_cfg(model, pretrained):
        return own
    said = tags_by_preprocessing(model)
    if asked is None and len(said) > 1:
        listed = " or ".join(f"{as_override(changed)} ({some(tags)})" for changed, tags in said.items())
        raise InputError(
            f"clip.preprocess: expected how {pretrained} was trained, as the tags of {model} differ, got null; choose "
            f"{listed}"
        )
    agreed = json.loads(next(iter(said))) if len(said) == 1 else {}
    return agreed | own


def tags_by_preprocessing(model: str) -> dict[str, list[str]]:
    """Tags of an architecture, by what each changes of open_clip's preprocessing, in JSON."""
    default, found = asdict(PreprocessCfg()), dict[str, list[str]]()
    for tag in open_clip.list_pretrained_tags_by_model(model):
        said = open_clip.get_pretrained_cfg(model, tag)
        changed = {key: said[key] for key in _SAID_BY_TAGS if said.get(key) not in (None, default[key])}
        found.setdefault(json.dumps(changed, separators=(",", ":")), []).append(tag)
    return found


def as_override(changed: str) -> str:
    """What `tags_by_preprocessing` gives, to be typed into a shell."""
    unquoted = changed.replace('"', "")
    return f"'clip.preprocess={unquoted}'"


def _checked(key: str, value: Any, source: str = "clip.preprocess") -> Any:
    """A setting of the preprocessing as open_clip takes it."""
    if key in ("mean", "std") and isinstance(value, Sequence) and len(value) == 3:
        colour = [float(each) for each in value if isinstance(each, (int, float)) and (key == "mean" or each > 0)]
        if len(colour) == 3:
            return colour
    if value in _CHOICES.get(key, ()):
        return value
    raise InputError(
        f"{source}: expected mean and std of three colours, interpolation (bicubic, bilinear), resize_mode "
        f"(shortest, longest, squash) or fill_color (0 to 255), got {key}: {value}"
    )
