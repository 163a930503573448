"""Stop a training in order, and say from where it resumes."""

import signal
import threading
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from backdoor_privacy.system.checkpoints import UNREADABLE
from backdoor_privacy.system.signals import Handler


class KeepSignals(Callback):
    """Keep the handler of SIGTERM: Lightning's own would end the training, and the command with exit code 0."""

    def __init__(self) -> None:
        self._before: Handler = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Note the handler."""
        self._before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Restore the handler."""
        if self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)


def place_of(last: Path | None, what: str) -> str:
    """Return from where a stopped training resumes, as "step 100 of the text encoder".

    Args:
        last: the checkpoint to resume from; without one, the training starts again.
        what: the part that is trained.

    Returns:
        The place; empty if the checkpoint cannot be read, which the next start reports.
    """
    step = 0
    if last is not None and last.is_file():
        try:
            step = int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        except UNREADABLE:
            return ""
    return f"step {step} of {what}"
