"""Where a model's weights are: at hand, to be fetched, or missing; found out before anything waits for a network."""

import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from safetensors import safe_open
from torch import Tensor, nn

from backdoor_privacy.errors import InputError

LOCAL_DIR, HUB = "local-dir:", "hf-hub:"  # how the names of models begin that are no architectures
RANDOM = "random"
_SCHEMES = (LOCAL_DIR, HUB)
_TIMEOUT_S = 5  # of a host that does not answer


def find_on_hub(key: str, needed: Sequence[tuple[str, Sequence[str]]], advice: str = "") -> bool:
    """See that files of the Hugging Face hub are in its cache, or that the hub answers.

    Args:
        key: of the setting, for errors.
        needed: repositories, each with files any one of which will do.
        advice: what else can be done without them.

    Returns:
        Whether all of them are in the cache, so that the network need not be asked.

    Raises:
        InputError: at once, if a file is not in the cache and the hub does not answer.
    """
    for repo, _ in needed:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise InputError(
                f"{key}: expected a folder that is there or a repository owner/name, got {repo}"
            ) from error
    missing = [(repo, names[0]) for repo, names in needed if not any(_cached(repo, name) for name in names)]
    if missing and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)):
        repo, name = missing[0]
        raise InputError(
            f"{key}: expected {name} of {repo} in {constants.HF_HUB_CACHE}, or a network, found neither; copy that "
            f"folder from a machine where `hf download {repo}` was run{advice}"
        )
    return not missing


def _cached(repo: str, name: str) -> str | None:
    try:
        found = huggingface_hub.try_to_load_from_cache(repo, name)
    except HFValidationError:
        return None
    return found if isinstance(found, str) else None


@contextmanager
def offline_hub(offline: bool) -> Iterator[None]:
    """Do not let the libraries ask the hub whether there is something newer: without a network they wait for long."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reachable(url: str) -> bool:
    """Whether somebody listens at a URL, or at the proxy that leads there."""
    address = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy is not None and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), _TIMEOUT_S).close()
    except OSError:
        return False
    return True


def registered_name(model: str) -> str:
    """The name of an architecture as open_clip lists it, where people write `ViT-B/32`; others stay as they are."""
    return model if model.startswith(_SCHEMES) else model.replace("/", "-")


def check_source(model: str, pretrained: str | None) -> None:
    """Find what cannot be loaded without trying."""
    if model.startswith(_SCHEMES):
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
        raise InputError(f"clip.pretrained: expected a tag or a weight file for {model}, got null; tags: {_some(tags)}")
    if pretrained != RANDOM and pretrained not in tags and not Path(pretrained).is_file():
        raise InputError(
            f"clip.pretrained: expected a tag of {model} ({_some(tags)}) or a weight file, got {pretrained}, which is "
            "neither"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Whether QuickGELU must be forced upon an architecture for the weights of a tag.

    Raises:
        InputError: if the architecture has it and the weights were trained without.
    """
    tag = open_clip.get_pretrained_cfg(model, pretrained) if pretrained and not model.startswith(_SCHEMES) else None
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


def needed_files(model: str, pretrained: str | None) -> tuple[list[tuple[str, list[str]]], str]:
    """The files of the hub, by repository, that a model and its tokenizer are made of, and what to do without them."""
    needed: list[tuple[str, list[str]]] = []
    if model.startswith(HUB):
        repo = model.removeprefix(HUB)
        needed = [(repo, [HF_CONFIG_NAME]), (repo, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME])]
        if not _cached(repo, HF_CONFIG_NAME):
            return needed, ""
    text = model_config(model).get("text_cfg", {})
    if text.get("hf_tokenizer_name") and not model.startswith(LOCAL_DIR):  # a folder has its own
        needed.append((text["hf_tokenizer_name"], ["tokenizer_config.json", "tokenizer.json"]))
    if text.get("hf_model_name"):
        needed.append((text["hf_model_name"], ["config.json"]))
    is_tag = pretrained is not None and not model.startswith(_SCHEMES)
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
    advice = ", or give a weight file of your own as clip.pretrained"
    return [*needed, (repo, names)], advice + (" with clip.quick_gelu=true" if tag.get("quick_gelu") else "")


def weight_file(model: str, pretrained: str | None) -> Path | None:
    """The file that somebody put together with an architecture; those of tags and repositories fit theirs."""
    if pretrained == RANDOM:
        return None
    files = [Path(pretrained or "")]
    if model.startswith(LOCAL_DIR):
        files = [Path(model.removeprefix(LOCAL_DIR), name) for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)]
    return next((file for file in files if file.is_file()), None)


def check_shapes(model: nn.Module, file: Path, source: str) -> None:
    """open_clip stretches positional embeddings of another size, and says nothing."""
    if file.suffix in (".npz", ".npy"):
        return
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    else:
        content = torch.load(file, map_location="meta", weights_only=True)
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in content.get("state_dict", content).items()
            if isinstance(tensor, Tensor)
        }
    shapes = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    for name, tensor in model.state_dict().items():
        own = tuple(tensor.shape)
        found = shapes.get(name, shapes.get(name.removeprefix("text."), own))  # old files have no separate text tower
        if "positional_embedding" in name and found != own:
            raise InputError(
                f"{source}: expected {name} of shape {own}, got {found}: the weights are for photos or texts of "
                "another size; choose their architecture"
            )


def model_config(model: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of an architecture by name, of a folder or of a repository.

    Raises:
        InputError: if there is no such architecture, or the folder describes none.
    """
    if model.startswith(_SCHEMES):
        place = model.removeprefix(LOCAL_DIR).removeprefix(HUB)
        if model.startswith(LOCAL_DIR):
            file = Path(place, HF_CONFIG_NAME)
        else:
            file = Path(_cached(place, HF_CONFIG_NAME) or huggingface_hub.hf_hub_download(place, HF_CONFIG_NAME))
        try:
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"clip.model={model}: expected model_cfg in {HF_CONFIG_NAME}, got {error!r}") from error
        return config
    named: dict[str, Any] | None = open_clip.get_model_config(model)
    if named is None:
        raise InputError(
            f"clip.model: expected an architecture of open_clip ({_some(open_clip.list_models())}), got {model}"
        )
    return named
