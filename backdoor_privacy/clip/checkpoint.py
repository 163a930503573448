"""Read the tensors of a weight file, however training wrapped them, without running what the file holds."""

import contextlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backdoor_privacy.clip.limits import least_bytes
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system import checkpoints
from backdoor_privacy.system.reading import GIB, MIB, in_words, open_ordinary

Weights = dict[str, Tensor]

UNREADABLE = (*checkpoints.UNREADABLE, SafetensorError)
# What open_clip, timm, transformers and tokenizers raise for models that they cannot load, and for missing files.
UNUSABLE = (*UNREADABLE, ImportError, ArithmeticError, HfHubHTTPError)
_MAX_TEXT = 256 * MIB  # of a config, or of a tokenizer's words
_LFS, _WEB_PAGES = b"version https://git-lfs", (b"<!doctype", b"<html", b"<?xml")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys of the weights that were trained
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")  # of their moving average
_COMPILED = "_orig_mod."  # what torch.compile puts into names
_ANCHOR = "logit_scale"  # a tensor of every CLIP: its prefix is the prefix of all tensors of the CLIP
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers beside the weights in OpenAI's archives


def read_weights(file: Path, source: str) -> Weights:
    """Read a CLIP's tensors under open_clip's names.

    Weights may lie in the file itself or under the key of a training loop (`state_dict`, `model_state_dict`, `model`),
    and their names may begin as Lightning, DistributedDataParallel or torch.compile make them. A moving average is
    taken where there is nothing else.

    Args:
        file: safetensors, or PyTorch's.
        source: the settings of the file, with which errors begin.

    Raises:
        InputError: if it is no weight file, holds code, is damaged, or has several models.
    """
    check_is_weights(file, source)
    content = _content(file, source)
    tensors, key = _unwrapped(content)
    if not tensors:
        kind = f"only {some(content) or 'nothing'}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise InputError(f"{source}: expected weights of this architecture, got: {kind} in {file.name}, and no tensors")
    named = {name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items() if name not in _NO_WEIGHTS}
    return _without_prefix(named, f"{source}: expected weights of this architecture, got:", key)


def check_is_weights(file: Path, source: str) -> None:
    """Check by its first bytes that a file may hold weights.

    Raises:
        InputError: saying what it is instead.
    """
    expected = f"{source}: expected weights of this architecture, got:"
    try:
        with open_ordinary(file) as stream:
            head = stream.read(64)
    except OSError as error:
        raise InputError(f"{expected} {error.strerror} in {file.name}; copy or download it again") from error
    if not head:
        raise InputError(f"{expected} an empty file, {file.name}; copy or download it again")
    if head.startswith(_LFS):
        raise InputError(f"{expected} a Git LFS pointer in place of {file.name}; fetch the file itself: git lfs pull")
    if head.lstrip().lower().startswith(_WEB_PAGES):
        raise InputError(f"{expected} a web page in place of {file.name}; download the file itself")
    if _is_torchscript(file):
        raise InputError(
            f"{expected} a TorchScript archive, {file.name}, which holds code and is not opened; for OpenAI's weights "
            "choose clip.pretrained=openai, or save its state_dict() where you trust it"
        )


def check_ordinary(folder: Path, source: str) -> None:
    """Check that the folder of a model has only ordinary files: a library would wait for a pipe for ever.

    Raises:
        InputError: naming one that is not ordinary, or too large.
    """
    for path in folder.iterdir():
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{source}: expected ordinary files, got {path.name}, a pipe or a lost link; delete it")
        if path.suffix in (".json", ".txt", ".model") and path.is_file() and path.stat().st_size > _MAX_TEXT:
            raise InputError(f"{source}: expected {in_words(_MAX_TEXT)} of text at most, got more in {path.name}")


def check_size(file: Path, num_bytes: int, source: str) -> None:
    """Check that a weight file is not far larger than its model: a sparse or compressed one may fill the memory.

    Args:
        file: of weights.
        num_bytes: of the model's tensors; with an optimizer, a moving average and in fp64, a file may hold ten times.
        source: the settings of the file, with which errors begin.

    Raises:
        InputError: if it is.
    """
    size, most = file.stat().st_size, 10 * num_bytes + GIB
    if zipfile.is_zipfile(file):
        with contextlib.suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(file) as archive:
            size = max(size, sum(part.file_size for part in archive.infolist()))
    if size > most:
        raise InputError(
            f"{source}: expected weights of this architecture, {in_words(num_bytes)}, got: a file of {in_words(size)}, "
            f"{file.name}; choose its architecture, or save the weights alone"
        )


def check_describes(model_cfg: Mapping[str, object], file: Path, source: str) -> None:
    """Check, before an architecture is built, that it is not larger than its weights.

    Raises:
        InputError: if it is.
    """
    least, size = least_bytes(model_cfg), file.stat().st_size
    if least > size:
        raise InputError(
            f"{source}: expected weights of the architecture that the config says, {in_words(least)} or more, got: "
            f"{in_words(size)} in {file.name}; copy or download the folder again"
        )


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):  # no archive, or a damaged one
        return False


def _content(file: Path, source: str) -> object:
    with file.open("rb") as stream:
        is_safetensors = file.suffix == ".safetensors" or stream.read(9)[8:] == b"{"
    try:
        return load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{source}: expected weights and nothing else, got a pickle that is damaged or holds code; it is not "
            "opened: convert it to safetensors where you trust it"
        ) from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{source}: expected weights of this architecture, got: a file that is damaged or cut off, {file.name} "
            f"({reason}); copy or download it again"
        ) from error


def _unwrapped(content: object) -> tuple[Weights, str | None]:
    """Return the tensors of a checkpoint and their key; those of a moving average only if there are no others."""
    own = _tensors(content)
    if any(name.endswith(_ANCHOR) for name in own):
        return own, None
    for key in (*_WRAPPERS, *_AVERAGED):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            tensors, inner_key = _unwrapped(content[key])
            if tensors:
                return tensors, inner_key or key
    return own, None


def _tensors(content: object) -> Weights:
    items = content.items() if isinstance(content, Mapping) else ()
    return {name: tensor for name, tensor in items if isinstance(tensor, Tensor)}


def _without_prefix(tensors: Weights, expected: str, key: str | None) -> Weights:
    """Return the tensors of the one CLIP among them, under its own names.

    Raises:
        InputError: if there are several CLIPs, or other tensors that may belong to it.
    """
    prefixes = {name.removesuffix(_ANCHOR) for name in tensors if name.endswith(_ANCHOR)}
    trained = {prefix for prefix in prefixes if not _is_averaged(prefix)} or prefixes
    place = f" under {key}" if key else ""
    if len(trained) > 1:
        raise InputError(
            f"{expected} {len(trained)} models{place}, whose names begin {some(sorted(trained))}; keep one of them"
        )
    if not trained:
        return tensors  # loading will name what is missing
    prefix = trained.pop()
    averaged = tuple(prefixes - {prefix})
    strange = _strange(tensors, prefix, averaged)
    if strange:
        raise InputError(
            f"{expected} besides the names that begin with {prefix}{place} {len(strange)} other tensors, "
            f"{some(strange)}; save the CLIP's own alone"
        )
    own = {
        name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and not name.startswith(averaged)
    }
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}


def _strange(tensors: Weights, prefix: str, averaged: tuple[str, ...]) -> list[str]:
    """Return the names of tensors that belong neither to the CLIP nor to a moving average, and are no counters."""
    others = (name for name in tensors if not name.startswith((prefix, *averaged)))
    return [name for name in others if tensors[name].numel() > 1 or tensors[name].is_floating_point()]


def _is_averaged(prefix: str) -> bool:
    return any("ema" in part.split("_") or part == "averaged" for part in prefix.split("."))
