"""Find the weights of a model, load them, and check that they fit."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.model import convert_to_custom_text_state_dict
from torch import nn

from backdoor_privacy.clip.architecture import (
    HUB,
    LOCAL_DIR,
    RANDOM,
    SCHEMES,
    as_override,
    model_config,
    tags_by_preprocessing,
)
from backdoor_privacy.clip.checkpoint import (
    UNREADABLE,
    Weights,
    check_is_weights,
    check_ordinary,
    check_size,
    read_weights,
)
from backdoor_privacy.clip.hub import cached_file, reachable
from backdoor_privacy.errors import InputError, some

# A buffer of a Hugging Face text tower that only some versions of transformers keep.
_POSITION_IDS = "text.transformer.embeddings.position_ids"


def check_source(model: str, pretrained: str | None) -> None:
    """Check that the folder, tag or weight file of a model exists.

    Raises:
        InputError: if it does not, or the settings do not fit together.
    """
    if model.startswith(SCHEMES):
        folder = Path(model.removeprefix(LOCAL_DIR))
        if model.startswith(LOCAL_DIR) and not (folder / HF_CONFIG_NAME).is_file():
            raise InputError(
                f"clip.model={model}: expected a folder with {HF_CONFIG_NAME}, found none; give an open_clip local-dir"
            )
        if model.startswith(LOCAL_DIR):
            check_ordinary(folder, f"clip.model={model}")
        if pretrained not in (None, RANDOM):
            raise InputError(
                f"clip.pretrained: expected null for {model}, which holds its own weights, got {pretrained}"
            )
        return
    model_config(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise InputError(f"clip.pretrained: expected a tag or a weight file for {model}, got null; tags: {some(tags)}")
    if pretrained != RANDOM and pretrained not in tags and Path(pretrained).is_dir():
        raise InputError(
            f"clip.pretrained: expected a tag of {model} ({some(tags)}) or a weight file, got the folder {pretrained}; "
            f"give a file in it, or for one with {HF_CONFIG_NAME} clip.model={LOCAL_DIR}{pretrained} "
            "clip.pretrained=null"
        )
    if pretrained != RANDOM and pretrained not in tags and not Path(pretrained).is_file():
        raise InputError(
            f"clip.pretrained: expected a tag of {model} ({some(tags)}) or a weight file, got {pretrained}, which is "
            "neither"
        )


def needed_files(model: str, pretrained: str | None) -> tuple[list[tuple[str, list[str]]], str]:
    """Return the files of the hub that a model and its tokenizer need, by repository, and advice if one is missing."""
    needed: list[tuple[str, list[str]]] = []
    if model.startswith(HUB):
        repo = model.removeprefix(HUB)
        needed = [(repo, [HF_CONFIG_NAME]), (repo, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME])]
        if not cached_file(repo, HF_CONFIG_NAME):
            return needed, ""
    text = model_config(model).get("text_cfg", {})
    if text.get("hf_tokenizer_name") and not model.startswith(LOCAL_DIR):  # a folder has its own
        needed.append((text["hf_tokenizer_name"], ["tokenizer_config.json", "tokenizer.json"]))
    if text.get("hf_model_name"):
        needed.append((text["hf_model_name"], ["config.json"]))
    is_tag = pretrained is not None and not model.startswith(SCHEMES)
    tag = open_clip.get_pretrained_cfg(model, pretrained) if is_tag else None
    if not tag:
        return needed, ""
    repo, _, name = tag["hf_hub"].rpartition("/")
    if not repo:  # open_clip fetches it by itself
        file = Path("~/.cache/clip").expanduser() / tag["url"].rpartition("/")[2]
        if not file.is_file() and not reachable(tag["url"]):
            raise InputError(
                f"clip.pretrained={pretrained}: expected {file} or a network to fetch it from, found neither"
            )
        return needed, ""
    names = [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME] if not name else [f"{name.rpartition('.')[0]}.safetensors", name]
    preprocessings = tags_by_preprocessing(model)
    overrides = ["clip.quick_gelu=true"] if tag.get("quick_gelu") else []
    if len(preprocessings) > 1:  # else a file gets the preprocessing of all tags
        overrides += [as_override(changed) for changed, tags in preprocessings.items() if pretrained in tags]
    advice = ", or give a weight file of your own as clip.pretrained"
    advice += f" with {' '.join(overrides)}" if overrides else ""
    return [*needed, (repo, names)], advice


def weight_file(model: str, pretrained: str | None) -> Path | None:
    """Return the weight file that open_clip would load; `None` for random weights and those of a tag.

    Raises:
        InputError: if a folder holds none.
    """
    file: str | None = None
    if pretrained == RANDOM:
        return None
    if model.startswith(LOCAL_DIR):
        file = _find_checkpoint_in_dir(Path(model.removeprefix(LOCAL_DIR)))
    elif model.startswith(HUB):
        files = (cached_file(model.removeprefix(HUB), name) for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
        file = next(filter(None, files), None)
    elif pretrained is not None and not open_clip.get_pretrained_cfg(model, pretrained):
        file = pretrained
    if file is None and model.startswith(SCHEMES):
        raise InputError(f"clip.model={model}: expected weights in it ({HF_SAFE_WEIGHTS_NAME}), found none; add them")
    return None if file is None else Path(file)


def load_weights(model: nn.Module, file: Path, source: str) -> None:
    """Load a weight file into a model as open_clip does, but do not resize tensors of another shape.

    Args:
        model: of `open_clip.create_model`.
        file: safetensors, PyTorch's, or big_vision's.
        source: the settings of the file, with which errors begin.

    Raises:
        InputError: if the file has weights of another architecture, or none that can be read safely.
    """
    check_is_weights(file, source)
    check_size(file, sum(tensor.nbytes for tensor in model.state_dict().values()), source)
    if file.suffix in (".npz", ".npy"):
        try:
            load_big_vision_weights(model, str(file))
        except UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{source}: expected weights of this architecture, got: {reason}") from error
        return
    state = _as_open_clip(model, read_weights(file, source))
    _check_fits(model, state, source)
    model.load_state_dict(state)


def _as_open_clip(model: nn.Module, state: Weights) -> Weights:
    """Rename tensors that other programs, or earlier versions of open_clip, wrote to open_clip's names of today."""
    try:
        state = convert_state_dict(model, state)
    except (LookupError, AttributeError) as error:  # the file has only some tensors of another program
        raise InputError(f"clip.model: expected weights of this architecture, got others, without {error}") from error
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own and state[name].numel() == own[name].numel():
            state[name] = state[name].reshape(own[name].shape)  # a scalar in some versions, of one dimension in others
    if "logit_bias" in own and "logit_bias" not in state and "logit_scale" in state:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    return {name: tensor for name, tensor in state.items() if name != _POSITION_IDS or name in own}


def _check_fits(model: nn.Module, state: Weights, source: str) -> None:
    """Check that a file has exactly the tensors of a model, with their shapes and kinds of numbers.

    Raises:
        InputError: with the names of some that differ.
    """
    whole = model.state_dict()
    own = {name: tuple(tensor.shape) for name, tensor in whole.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    other = [name for name in own.keys() & given.keys() if own[name] != given[name]]
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    for name in other:
        if "positional_embedding" in name and not missing and not unknown and len(other) == 1:
            raise InputError(
                f"{source}: expected {name} of shape {own[name]}, got {given[name]}: the weights are for photos or "
                "texts of another size; choose their architecture"
            )
    floats = {name for name in own.keys() & given.keys() if whole[name].is_floating_point()}
    odd = sorted(name for name in floats if not state[name].is_floating_point())
    shapes = some(f"{name} of shape {given[name]} in place of {own[name]}" for name in sorted(other)[:2])
    parts = {
        f"without {len(missing)} of {len(own)} tensors ({_few(missing)})": missing,
        f"with {len(unknown)} others ({_few(unknown)})": unknown,
        f"with {len(other)} of another shape ({shapes})": other,
        # PyTorch would load the codes of quantised weights as weights, and drop imaginary parts.
        f"with {len(odd)} of whole or complex numbers ({_few([f'{name}: {state[name].dtype}' for name in odd])})": odd,
    }
    wrong = [text for text, names in parts.items() if names]
    if wrong:
        raise InputError(
            f"{source}: expected weights of this architecture, got: a file {', and '.join(wrong)}; choose the "
            "architecture that was trained"
        )


def _few(names: Sequence[str]) -> str:
    return some(names[:3]) + (", ..." if len(names) > 3 else "")
