"""Stop a fit in order, and tell from where it goes on."""

import signal
import threading
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from backdoor_privacy.system.checkpoints import UNREADABLE


class KeepSignals(Callback):
    """Leave SIGTERM to who handles it: Lightning would end the fit on it, and the whole command with exit code 0."""

    def __init__(self) -> None:
        self._before: Any = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Note who handles it."""
        self._before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Give it back."""
        if self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)


def place_of(last: Path | None, what: str) -> str:
    """Return from where a fit that was stopped goes on, as "step 100 of the text encoder".

    Args:
        last: the checkpoint that it goes on from; without one, it starts again.
        what: was fitted.

    Returns:
        The place, or nothing where the checkpoint does not tell; the next start says what is wrong with it.
    """
    step = 0
    if last is not None and last.is_file():
        try:
            step = int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        except UNREADABLE:
            return ""
    return f"step {step} of {what}"
