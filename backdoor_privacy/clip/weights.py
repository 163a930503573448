"""Where a model's weights are: at hand, to be fetched, or missing; and whether they fit."""

from pathlib import Path

import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import _find_checkpoint_in_dir
from safetensors import safe_open
from torch import Tensor, nn

from backdoor_privacy.clip.architecture import (
    HUB,
    LOCAL_DIR,
    RANDOM,
    SCHEMES,
    as_override,
    model_config,
    tags_by_preprocessing,
)
from backdoor_privacy.clip.hub import cached_file, reachable
from backdoor_privacy.errors import InputError, some


def check_source(model: str, pretrained: str | None) -> None:
    """Find what cannot be loaded without trying."""
    if model.startswith(SCHEMES):
        folder = Path(model.removeprefix(LOCAL_DIR))
        if model.startswith(LOCAL_DIR) and not (folder / HF_CONFIG_NAME).is_file():
            raise InputError(
                f"clip.model={model}: expected a folder with {HF_CONFIG_NAME}, found none; give an open_clip local-dir"
            )
        if pretrained not in (None, RANDOM):
            raise InputError(
                f"clip.pretrained: expected null for {model}, which holds its own weights, got {pretrained}"
            )
        return
    model_config(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise InputError(f"clip.pretrained: expected a tag or a weight file for {model}, got null; tags: {some(tags)}")
    if pretrained != RANDOM and pretrained not in tags and not Path(pretrained).is_file():
        raise InputError(
            f"clip.pretrained: expected a tag of {model} ({some(tags)}) or a weight file, got {pretrained}, which is "
            "neither"
        )


def needed_files(model: str, pretrained: str | None) -> tuple[list[tuple[str, list[str]]], str]:
    """The files of the hub, by repository, that a model and its tokenizer are made of, and what to do without them."""
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
    said = tags_by_preprocessing(model)
    told = ["clip.quick_gelu=true"] if tag.get("quick_gelu") else []
    if len(said) > 1:  # else a file gets what all tags say
        told += [as_override(changed) for changed, tags in said.items() if pretrained in tags]
    advice = ", or give a weight file of your own as clip.pretrained" + (" with " + " ".join(told) if told else "")
    return [*needed, (repo, names)], advice


def weight_file(model: str, pretrained: str | None) -> Path | None:
    """The file that open_clip has just loaded; that of a tag, which fits its architecture, is not told."""
    file: str | None = None
    if pretrained == RANDOM:
        return None
    if model.startswith(LOCAL_DIR):
        file = _find_checkpoint_in_dir(Path(model.removeprefix(LOCAL_DIR)))
    elif model.startswith(HUB):
        found = (cached_file(model.removeprefix(HUB), name) for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
        file = next(filter(None, found), None)
    elif pretrained is not None and not open_clip.get_pretrained_cfg(model, pretrained):
        file = pretrained
    return None if file is None else Path(file)


def check_shapes(model: nn.Module, file: Path, source: str) -> None:
    """open_clip stretches positional embeddings of another size, and says nothing."""
    if file.suffix in (".npz", ".npy"):
        return
    shapes = {name.removeprefix("module."): shape for name, shape in _shapes(file).items()}
    for name, tensor in model.state_dict().items():
        own = tuple(tensor.shape)
        found = shapes.get(name, shapes.get(name.removeprefix("text."), own))  # old files have no separate text tower
        if "positional_embedding" in name and found != own:
            raise InputError(
                f"{source}: expected {name} of shape {own}, got {found}: the weights are for photos or texts of "
                "another size; choose their architecture"
            )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors in a weight file, by name."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    content = torch.load(file, map_location="meta", weights_only=True)
    weights = content.get("state_dict", content)
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if isinstance(tensor, Tensor)}
