"""What went wrong, for people."""

import io
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger("backdoor_privacy")
_MAX_SHOWN = 5


class InputError(ValueError):
    """Something that the user can mend; said in one line: the key, what was expected, what came, what to do."""


def some(items: Iterable[object]) -> str:
    """The first few, and how many there are besides."""
    texts = [str(item) for item in items]
    rest = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def cause_of(error: Exception) -> BaseException | None:
    """What went wrong where Hydra made something, which wraps it; any other error is its own cause."""
    from hydra.errors import InstantiationException  # here, as not everybody who raises an error has a command

    return error.__cause__ if isinstance(error, InstantiationException) else error


def _print_anything() -> None:
    """Let what a terminal cannot show be printed as its code: a file's name can hold any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a Hydra command with exit code 1 and one line for what the user can mend; log a traceback of all else."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    _print_anything()
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if not isinstance(cause, InputError):
            log.exception("The run failed")
            raise
        # An error of a process that makes batches comes with that process's traceback in front.
        log.error("%s", str(cause).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: "))
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs of a sweep; it would end with an exit
        sys.exit(1)
