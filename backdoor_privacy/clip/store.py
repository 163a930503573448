"""Store features on disk, so that the runs of a sweep embed the same inputs only once."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

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
_FORMAT = 2  # increase it when the same inputs get other features
_CHECKSUM = "sha256"  # of the tensors, in the file's own header
_PACKAGES = ("open_clip_torch", "pillow", "torch", "torchvision")  # that decode, resize and compute


class FeatureStore:
    """Store of the features of one frozen encoder; a file for each set of inputs.

    Args:
        folder: that holds all stores.
        tensors: parameters and buffers of the encoder.
        settings: everything else that its features depend on, except the packages.
    """

    def __init__(self, folder: str | Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> None:
        packages = {package: version(package) for package in _PACKAGES}
        context = json.dumps([_FORMAT, settings, packages], sort_keys=True, default=str)
        digest = hashlib.sha256(f"{weights_sha256(tensors)}{context}".encode()).hexdigest()
        self._stores = Path(folder).expanduser()
        self.folder = self._stores / digest[:32]

    def get(self, kind: str, inputs: Iterable[str], make: Callable[[], Features]) -> Features:
        """Return the features of these inputs; compute them if they are not stored.

        Args:
            kind: of the features; the same inputs may have features of several kinds.
            inputs: SHA-256 of each text or photo.
            make: computes them. If its `readable` is false for some, nothing is stored: the files may be repaired.
        """
        path = self._place(kind, inputs) if is_main_process() else None
        stored = broadcast(_read(path) if path else None)
        if stored is not None:
            return stored
        features = make()
        if path and bool(features.get("readable", torch.ones(1)).all()):
            _write(path, features)
        return features

    def _place(self, kind: str, inputs: Iterable[str]) -> Path | None:
        """Return the path of the features of these inputs, which does not reveal them; `None` if it cannot be made."""
        try:
            return keyed_place(self.folder / f"{kind}-{_digest(inputs)}.safetensors", self._stores)
        except OSError as error:
            _warn(self.folder, error)
            return None


def _digest(inputs: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for sha256 in inputs:
        digest.update(bytes.fromhex(sha256))
    return digest.hexdigest()


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the names, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Features | None:
    """Return the features in a file; `None` if there is no file, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(_CHECKSUM)
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("cannot read %s (%s); its features are computed again", path, " ".join(str(error).split())[:100])
        return None
    if written is None:  # of an earlier version
        return None
    if written != weights_sha256(features):
        log.warning("%s is damaged; its features are computed again", path)
        return None
    return features if is_sound(features) else None


def _write(path: Path, features: Features) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in features.items()}
    try:
        write_bytes(path, save(tensors, {_CHECKSUM: weights_sha256(tensors)}), private=True)
    except OSError as error:  # a full or read-only cache does not end a run
        _warn(path.parent, error)


def _warn(folder: Path, error: OSError) -> None:
    log.warning("cannot store features in %s: %s", folder, error)
