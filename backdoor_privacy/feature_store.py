"""Features on disk, so that a sweep does not ask the original CLIP the same again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from backdoor_privacy.distributed import as_the_first_says, is_first_process
from backdoor_privacy.files import write_bytes

Features = dict[str, Tensor]


class FeatureStore:
    """What one frozen encoder made of its inputs; a file for each set of inputs.

    Args:
        folder: of all stores.
        tensors: weights of the encoder.
        settings: all else that its features depend on.
    """

    def __init__(self, folder: str | Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        digest = weights_sha256(tensors)
        more = json.dumps({**settings, "torch": torch.__version__}, sort_keys=True, default=str)
        self.folder = Path(folder).expanduser() / hashlib.sha256(f"{digest}{more}".encode()).hexdigest()[:32]

    def get(self, inputs: Iterable[bytes], make: Callable[[], Features]) -> Features:
        """The features of these inputs, made where they are not there yet."""
        digest = hashlib.sha256()
        for content in inputs:
            digest.update(hashlib.sha256(content).digest())  # of each, so that where one ends tells them apart
        path = self.folder / f"{digest.hexdigest()}.safetensors"
        known = as_the_first_says(_read(path) if is_first_process() else None)
        if known is not None:
            return known
        made = make()
        if is_first_process():
            write_bytes(path, save({name: tensor.contiguous() for name, tensor in made.items()}))
        return made


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest over names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Features | None:
    try:
        return load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):  # not there, or damaged
        return None
