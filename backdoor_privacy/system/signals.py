"""Stop in order on a signal of a terminal, a scheduler or the system, with the exit code of the signal."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None  # of a signal
_USUAL: dict[signal.Signals, Handler] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(BaseException):
    """Ctrl-C or SIGTERM asked this process to stop; this is not an error, and no handler of errors catches it.

    Args:
        number: of the signal.
        place: from where the same command resumes, as "step 100 of the text encoder"; empty if unknown.
    """

    def __init__(self, number: int, place: str = "") -> None:
        super().__init__(number, place)
        self.number, self.place = number, place
        self.is_reported = False

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports for the signal: 130 or 143."""
        return 128 + self.number

    @property
    def line(self) -> str:
        """One line that says what happened and how to resume."""
        what = "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"
        how = f"it resumes from {self.place}" if self.place else "finished work is kept"
        return f"{what}; run the same command again: {how}"


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Raise `Stopped` here on Ctrl-C and SIGTERM; leave ignored signals and other handlers alone."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process stops as usual
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
