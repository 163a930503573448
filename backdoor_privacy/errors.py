"""End each command that fails in one line that says what went wrong."""

import argparse
import errno
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import NoReturn

from backdoor_privacy.system.output import make_output_last
from backdoor_privacy.system.signals import Stopped, stopping_in_order
from backdoor_privacy.system.visible import visible

log = logging.getLogger("backdoor_privacy")
_MAX_SHOWN = 5
_OF_A_WORKER = "Caught InputError in "  # PyTorch's text for an error in a process that makes batches
_MAX_LINE = 1000  # characters; more of a path helps nobody


class InputError(ValueError):
    """An error that the user can correct, in one line: the key, what was expected, what came, what to do.

    Names and paths in the text can hold any characters. Control characters are shown as codes, so that it stays one
    line.
    """

    def __init__(self, text: str = "") -> None:
        if text.startswith(_OF_A_WORKER):  # its traceback ends in the line
            text = text.strip().rpartition("\n")[2].removeprefix(f"{__name__}.InputError: ")
        super().__init__(visible(text))


def some(items: Iterable[object]) -> str:
    """Return the first few items, and how many more there are."""
    texts = [str(item) for item in items]
    rest = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def cause_of(error: BaseException) -> BaseException | None:
    """Return the error that Hydra or OmegaConf wrapped; any other error as it is."""
    # Imported here, because most modules that raise errors do not need Hydra.
    from hydra.errors import ConfigCompositionException, InstantiationException
    from omegaconf.errors import InterpolationResolutionError

    if isinstance(error, InstantiationException):
        return error.__cause__
    inner: BaseException | None = error
    while isinstance(inner, ConfigCompositionException | InterpolationResolutionError):
        inner = inner.__cause__ or inner.__context__
    return inner if isinstance(inner, InputError | OSError) else error


def line_of(error: BaseException) -> str | None:
    """Return one line for an error that the user can correct; `None` for a bug."""
    cause = cause_of(error)
    if isinstance(cause, InputError):
        return str(cause)[:_MAX_LINE] or type(cause).__name__
    return visible(_system_line(cause)) if isinstance(cause, OSError) else None


def fault_of(error: BaseException) -> str:
    """Return the last line about a bug; its traceback stands above."""
    cause = cause_of(error) or error
    text = f"This is a bug; please report it with its traceback: {type(cause).__name__}: {cause}"
    return visible(text[:_MAX_LINE].replace("\n", " "))


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:_MAX_LINE]


def _system_line(error: OSError) -> str:
    """Return a line about an error of the operating system, with the file that caused it."""
    if error.errno == errno.ENAMETOOLONG:
        return (
            f"name: expected names of folders and files of at most 255 bytes, the limit of the file system, got "
            f"{str(error.filename)[:80]}...; choose a shorter name=..."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error.filename or 'disk'}: expected free disk space, got {error.strerror!r}; free some space and run "
            "the same command again: finished work is kept"
        )[:_MAX_LINE]
    if error.filename is None or error.strerror is None:
        return f"expected access to files and to the network, got {_last_line(error)}; correct that and try again"
    return (
        f"{error.filename}: expected a path that can be read and written, got {error.strerror!r}; correct that, or "
        "choose another path: paths.runs or paths.run for runs, paths.cache for the cache, or the key that names it"
    )[:_MAX_LINE]


def show_anything() -> None:
    """Print and log characters that a terminal cannot show, or would obey, as codes: a name can hold any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        if _make_visible not in handler.filters:
            handler.addFilter(_make_visible)


def _make_visible(record: logging.LogRecord) -> bool:
    """Replace control characters in a record; a record of this package stays one line."""
    is_ours = record.name.startswith(log.name)
    record.msg, record.args = visible(record.getMessage(), keep="" if is_ours else "\n\t"), ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = traceback_of(record.exc_info[1])
    return True


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error without control characters."""
    return visible("".join(traceback.format_exception(error)).rstrip("\n"), keep="\n\t")


def without_names(text: str, names: Sequence[str]) -> str:
    """Replace the first of three names by `person 1 of 3`, and so on, in any case and however its words are joined."""
    for number, name in enumerate(names, 1):
        words = re.findall(r"[^\W_]+", name)
        if words:
            pattern = r"(?<![^\W_])" + r"[\W_]*".join(map(re.escape, words)) + r"(?![^\W_])"
            text = re.sub(pattern, f"person {number} of {len(names)}", text, flags=re.IGNORECASE)
    return text


@contextmanager
def one_line_errors(names: Sequence[str] = ()) -> Iterator[None]:
    """End a Hydra command with exit code 1 and one line if it fails; print the traceback of a bug before it.

    Args:
        names: of people; they are replaced in the output.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    show_anything()
    logging.raiseExceptions = False  # if a log cannot be written, report the error of the command, not that of the log
    try:
        with stopping_in_order():  # also in a process that runs jobs of a sweep
            yield
    except Stopped as stop:
        log.warning("%s", stop.line)
        stop.is_reported = True
        raise
    except Exception as error:
        line = line_of(error)
        shown = without_names(line or fault_of(error), names)
        if line is None and names:
            log.error("The run failed\n%s", without_names(traceback.format_exc().rstrip(), names))
        elif line is None:
            log.exception("The run failed")
        log.error("%s", shown)
        if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            if names:
                raise (InputError if line else RuntimeError)(shown) from None
            raise  # then Hydra runs the other jobs of the sweep; an exit would end them all
        sys.exit(1)


class CommandParser(argparse.ArgumentParser):
    """A parser of arguments that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message of argparse as an `InputError`."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def ended_in_one_line(main: Callable[..., int]) -> Callable[..., int]:
    """Make a command without Hydra print one line and return exit code 1 if it fails, and stop in order on a signal."""

    @wraps(main)
    def command(arguments: Sequence[str] | None = None) -> int:
        make_output_last()
        try:
            with stopping_in_order():
                return main(arguments)
        except Stopped as stop:
            print(stop.line, file=sys.stderr)
            return stop.exit_code
        except Exception as error:
            known = line_of(error)
            if known is None:
                print(traceback_of(error), file=sys.stderr)
            line = known or fault_of(error)
        print(f"error: {line}", file=sys.stderr)
        return 1

    return command
