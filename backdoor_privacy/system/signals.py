"""Stop when a terminal, a scheduler or the system asks for it: in order, and with the exit code of the signal."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(BaseException):
    """This process was asked to stop, by Ctrl-C or SIGTERM; it is no error, and nothing that handles errors takes it.

    Args:
        number: of the signal.
        place: from where the same command goes on, as "step 100 of the text encoder"; unknown where it is empty.
    """

    def __init__(self, number: int, place: str = "") -> None:
        super().__init__(number, place)
        self.number, self.place = number, place
        self.is_told = False

    @property
    def exit_code(self) -> int:
        """As a shell tells it of a process that a signal ended: 130 or 143."""
        return 128 + self.number

    @property
    def line(self) -> str:
        """What happened and how to go on."""
        what = "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"
        how = f"it goes on from {self.place}" if self.place else "what is finished is kept"
        return f"{what}; run the same command again: {how}"


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Raise `Stopped` here on Ctrl-C and SIGTERM; a signal that is ignored or that somebody else handles stays so."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that was forked off this one stops as any other
            signal.signal(number, _USUAL[signal.Signals(number)])
            os.kill(os.getpid(), number)
            return
        raise Stopped(number)

    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number, usual in _USUAL.items() if is_main and signal.getsignal(number) is usual]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _USUAL[number])
