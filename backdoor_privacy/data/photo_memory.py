"""Keep photos that a training shows again and again in memory, decoded once."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks, usable_workers

_MAX_BYTES = 128 * 2**20  # in each process that makes batches
# One photo as a training shows it, whole or its face: each (3, height, width).
Views = tuple[UInt8[Tensor, "3 _ _"], ...]
Decode = Callable[[Path], Views | None]  # `None` if the photo does not decode


class PhotoMemory:
    """Memory of decoded photos, as bytes; those beyond its room are decoded each time."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._known: dict[Path, Views | None] = {}

    def get(self, path: Path, decode: Decode) -> Views | None:
        """Return the views of a photo, decoded only if they are not in memory."""
        if path in self._known:
            return self._known[path]
        views = decode(path)
        self._keep(path, views)
        return views

    def fill(self, paths: Sequence[Path], decode: Decode, num_workers: int) -> set[Path]:
        """Decode photos before they are asked for, in several processes; return those that decode."""
        release_free_memory()
        loader = DataLoader(
            _Views(paths, decode),
            batch_size=None,
            num_workers=usable_workers(num_workers),
            worker_init_fn=return_large_blocks,
        )
        readable = set()
        tracked = track(loader, "Decoding photos", transient=True, disable=not sys.stdout.isatty())
        for path, views in zip(paths, tracked, strict=True):
            # Copies, since each tensor of another process holds a file open.
            self._keep(path, views and tuple(view.clone() for view in views))
            if views is not None:
                readable.add(path)
        return readable

    def _keep(self, path: Path, views: Views | None) -> None:
        num_bytes = sum(view.nbytes for view in views or ())
        if self._num_bytes + num_bytes <= _MAX_BYTES:
            self._known[path] = views
            self._num_bytes += num_bytes


class _Views(Dataset):
    def __init__(self, paths: Sequence[Path], decode: Decode) -> None:
        self.paths, self.decode = paths, decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Views | None:
        return self.decode(self.paths[place])
