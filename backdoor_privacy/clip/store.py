"""Features on disk, so that a sweep does not ask the original CLIP the same again."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backdoor_privacy.clip.finite import is_sound
from backdoor_privacy.system.distributed import broadcast, is_main_process
from backdoor_privacy.system.files import write_bytes
from backdoor_privacy.system.keys import keyed_place

log = logging.getLogger(__name__)

Features = dict[str, Tensor]
_FORMAT = 2  # to be counted up when encoders or photos are read in another way
_CHECKSUM = "sha256"  # of the tensors, in the file's own header
_PACKAGES = ("open_clip_torch", "pillow", "torch", "torchvision")  # that decode, resize and compute


class FeatureStore:
    """What one frozen encoder made of its inputs; a file for each set of inputs.

    Args:
        folder: of all stores.
        tensors: parameters and buffers of the encoder.
        settings: all else that its features depend on, but for the packages that compute them.
    """

    def __init__(self, folder: str | Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        packages = {package: version(package) for package in _PACKAGES}
        more = json.dumps([_FORMAT, settings, packages], sort_keys=True, default=str)
        digest = hashlib.sha256(f"{weights_sha256(tensors)}{more}".encode()).hexdigest()
        self._stores = Path(folder).expanduser()
        self.folder = self._stores / digest[:32]

    def get(self, kind: str, inputs: Iterable[bytes], make: Callable[[], Features]) -> Features:
        """The features of these inputs, made where they are not there yet.

        Args:
            kind: of features; others may be made of the same inputs.
            inputs: that they are made of.
            make: them; where they have `readable` and it is not true of all, they are not kept: a file may be mended.
        """
        path = self._place(kind, inputs) if is_main_process() else None
        known = broadcast(_read(path) if path else None)
        if known is not None:
            return known
        made = make()
        if path and bool(made.get("readable", torch.ones(1)).all()):
            _write(path, made)
        return made

    def _place(self, kind: str, inputs: Iterable[bytes]) -> Path | None:
        """Where the features of these inputs lie, if anywhere; its name must not tell of which names and photos."""
        try:
            return keyed_place(self.folder / f"{kind}-{_digest(inputs)}.safetensors", self._stores)
        except OSError as error:
            _warn(self.folder, error)
            return None


def _digest(inputs: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in inputs:
        digest.update(hashlib.sha256(content).digest())  # of each, so that where one ends tells them apart
    return digest.hexdigest()


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest over names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Features | None:
    """What a file holds; nothing where there is none, or one that is not what was written: it is then made anew."""
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(_CHECKSUM)
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s does not read (%s); its features are made anew", path, " ".join(str(error).split())[:100])
        return None
    if written is None:  # of an earlier version
        return None
    if written != weights_sha256(features):
        log.warning("%s is damaged; its features are made anew", path)
        return None
    return features if is_sound(features) else None


def _write(path: Path, features: Features) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in features.items()}
    try:
        write_bytes(path, save(tensors, {_CHECKSUM: weights_sha256(tensors)}), private=True)
    except OSError as error:  # a cache that is full or may not be written is no reason to end a run
        _warn(path.parent, error)


def _warn(folder: Path, error: OSError) -> None:
    log.warning("features are not kept in %s: %s", folder, error)
