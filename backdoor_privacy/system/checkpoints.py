"""Checkpoints of a training that survive a kill, a full disk and a loss of power."""

import errno
import io
import logging
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from backdoor_privacy.system.files import replaced_file

log = logging.getLogger(__name__)
# What torch.load raises of a file that is damaged; the unpickler's own errors come with those of its parts.
UNREADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, OSError, EOFError, RuntimeError, ValueError, LookupError,
    TypeError, AttributeError, AssertionError,
)  # fmt: skip
LAST, BEFORE = "last.ckpt", "before.ckpt"
_PARTS = {"state_dict", "optimizer_states", "loops", "global_step"}  # without which Lightning cannot go on


class DurableCheckpoints(CheckpointIO):
    """Lightning's checkpoints, written beside the last one and renamed; the one before it is kept.

    Lightning's own are written into the system's temporary folder and copied over the last one, which a kill cuts off.
    They are read as tensors and plain values: no code in them runs.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole or not at all."""
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # in memory: of a full disk it would raise an error of its own
        with replaced_file(path, private=True) as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # the last good one moves only now
            if path.is_file():
                os.replace(path, path.with_name(BEFORE))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, onto the CPU if nothing else is said; whatever is asked for, no code in it runs."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read, and delete newer ones; `None` where training begins anew.

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
            "%s does not read (%s); the training goes on from the one before it, or else begins anew", path, damage
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
            raise  # what may not be read now is no damage, and not to be deleted
        return " ".join(str(error).split())[:100] or type(error).__name__
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        return "no checkpoint of Lightning"
    return None
