"""Keep checkpoints that survive a kill, a full disk and a power failure."""

import errno
import io
import logging
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch.serialization import MAP_LOCATION

from backdoor_privacy.system.files import replaced_file

log = logging.getLogger(__name__)
# What torch.load and its unpickler raise for a damaged file.
UNREADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, OSError, EOFError, RuntimeError, ValueError, LookupError,
    TypeError, AttributeError, AssertionError,
)  # fmt: skip
LAST, BEFORE = "last.ckpt", "before.ckpt"
_PARTS = {"state_dict", "optimizer_states", "loops", "global_step"}  # that Lightning needs to resume


class DurableCheckpoints(CheckpointIO):
    """Write Lightning's checkpoints beside the last one and rename them; keep the one before it.

    Lightning itself copies a temporary file over the last checkpoint, and a kill would cut the copy off. Checkpoints
    are read as tensors and plain values: no code in them runs.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint, complete or not at all."""
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # in memory first: on a full disk, torch raises an error that does not say so
        with replaced_file(path, private=True) as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # only then may the last good one move
            if path.is_file():
                os.replace(path, path.with_name(BEFORE))

    def load_checkpoint(
        self, path: str | Path, map_location: MAP_LOCATION = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        """Read a checkpoint, by default onto the CPU; no code in it runs, whatever `weights_only` says."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest readable checkpoint, and delete damaged newer ones; `None` if there is none.

    Raises:
        OSError: if the system does not let one be read.
    """
    for path in (folder / LAST, folder / BEFORE):
        if not path.is_file():
            continue
        damage = _damage(path)
        if damage is None:
            return path
        log.warning(
            "%s cannot be read (%s); resuming from the checkpoint before it, or else from the start", path, damage
        )
        path.unlink()
    return None


def _damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load does not look at the checksums
            if (part := parts.testzip()) is not None:
                return f"{part} is damaged"
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, zlib.error) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a file that cannot be read now may be whole, so it is kept
        return " ".join(str(error).split())[:100] or type(error).__name__
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        return "not a checkpoint of Lightning"
    return None
