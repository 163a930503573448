"""Finish a run even when nobody reads its output."""

import io
import os
import sys
from typing import TextIO


class _LastingOutput(io.TextIOWrapper):
    """Standard output or error that discards text once its reader has gone (`| head -1`)."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            _to_nowhere(self.fileno())
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            _to_nowhere(self.fileno())
            super().flush()


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:  # a free number is the one that was given
        os.dup2(nowhere, number)
        os.close(nowhere)


def make_output_last() -> None:
    """Let a command print and log as before when its output is closed, from the start (`>&-`) or on the way."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # else the next opened file would get its number and receive the output
            if not _is_open(number):
                _to_nowhere(number)
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115 (open until the process ends)
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lasting(stream))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _lasting(stream: io.TextIOWrapper) -> TextIO:
    stream.flush()
    return _LastingOutput(
        stream.buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
