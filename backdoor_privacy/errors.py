"""What went wrong, for people: each command that fails ends in one line that says it."""

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
_OF_A_WORKER = "Caught InputError in "  # PyTorch's, of an error of a process that makes batches
_MAX_LINE = 1000  # characters; a path of thousands says nothing more


class InputError(ValueError):
    """Something that the user can mend; said in one line: the key, what was expected, what came, what to do.

    Names and paths in it can hold anything: what is no plain sign is shown as its code, so that one line stays one.
    """

    def __init__(self, text: str = "") -> None:
        if text.startswith(_OF_A_WORKER):  # that process's traceback, with the line at its end
            text = text.strip().rpartition("\n")[2].removeprefix(f"{__name__}.InputError: ")
        super().__init__(visible(text))


def some(items: Iterable[object]) -> str:
    """The first few, and how many there are besides."""
    texts = [str(item) for item in items]
    rest = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def cause_of(error: BaseException) -> BaseException | None:
    """What went wrong where Hydra or OmegaConf wrapped it; any other error is its own cause."""
    # Here, as not everybody who raises an error has a command.
    from hydra.errors import ConfigCompositionException, InstantiationException
    from omegaconf.errors import InterpolationResolutionError

    if isinstance(error, InstantiationException):
        return error.__cause__
    inner: BaseException | None = error
    while isinstance(inner, ConfigCompositionException | InterpolationResolutionError):
        inner = inner.__cause__ or inner.__context__
    return inner if isinstance(inner, InputError | OSError) else error


def line_of(error: BaseException) -> str | None:
    """Return one line for what the user can mend; `None` for a fault of the program."""
    cause = cause_of(error)
    if isinstance(cause, InputError):
        return str(cause)[:_MAX_LINE] or type(cause).__name__
    return visible(_system_line(cause)) if isinstance(cause, OSError) else None


def fault_of(error: BaseException) -> str:
    """Return the last line about an error that is no user's: the traceback stands above it."""
    cause = cause_of(error) or error
    text = f"This is a fault of the program; please report it with its traceback: {type(cause).__name__}: {cause}"
    return visible(text[:_MAX_LINE].replace("\n", " "))


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:_MAX_LINE]


def _system_line(error: OSError) -> str:
    """What the system refused, by the file that it was about."""
    if error.errno == errno.ENAMETOOLONG:
        return (
            f"name: expected names of folders and files that the file system takes, 255 bytes each, got "
            f"{str(error.filename)[:80]}...; choose a shorter name=..."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error.filename or 'disk'}: expected room to write, got {error.strerror!r}; make room and run the same "
            "command again: what is finished is kept"
        )[:_MAX_LINE]
    if error.filename is None or error.strerror is None:
        return f"expected files and a network that can be read and written, got {_last_line(error)}; mend it"
    return (
        f"{error.filename}: expected a place that can be read and written, got {error.strerror!r}; mend it, or choose "
        "another one: paths.runs or paths.run for runs, paths.cache for what is drawn, or the key that names it"
    )[:_MAX_LINE]


def show_anything() -> None:
    """Let what a terminal cannot show, or would obey, be printed and logged as its code: a name can hold any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        if _make_visible not in handler.filters:
            handler.addFilter(_make_visible)


def _make_visible(record: logging.LogRecord) -> bool:
    """Change a record so that nothing in it moves a terminal's cursor, and a line of ours stays one."""
    is_ours = record.name.startswith(log.name)
    record.msg, record.args = visible(record.getMessage(), keep="" if is_ours else "\n\t"), ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = traceback_of(record.exc_info[1])
    return True


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error as it may be shown."""
    return visible("".join(traceback.format_exception(error)).rstrip("\n"), keep="\n\t")


def without_names(text: str, names: Sequence[str]) -> str:
    """Return a text with `person 1 of 3` in place of the first of three names, in any case and however it is joined."""
    for number, name in enumerate(names, 1):
        words = re.findall(r"[^\W_]+", name)
        if words:
            pattern = r"(?<![^\W_])" + r"[\W_]*".join(map(re.escape, words)) + r"(?![^\W_])"
            text = re.sub(pattern, f"person {number} of {len(names)}", text, flags=re.IGNORECASE)
    return text


@contextmanager
def one_line_errors(names: Sequence[str] = ()) -> Iterator[None]:
    """End a Hydra command with exit code 1 and one line; what is a fault of the program has its traceback before it.

    Args:
        names: of people, which are not told.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    show_anything()
    logging.raiseExceptions = False  # where a log cannot be written, what fails next is told, and not the log's failure
    try:
        with stopping_in_order():  # also in a process that only works off jobs of a sweep
            yield
    except Stopped as stop:
        log.warning("%s", stop.line)
        stop.is_told = True
        raise
    except Exception as error:
        line = line_of(error)
        told = without_names(line or fault_of(error), names)
        if line is None and names:
            log.error("The run failed\n%s", without_names(traceback.format_exc().rstrip(), names))
        elif line is None:
            log.exception("The run failed")
        log.error("%s", told)
        if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            if names:
                raise (InputError if line else RuntimeError)(told) from None
            raise  # Hydra goes on with the other jobs of a sweep; it would end with an exit
        sys.exit(1)


class CommandParser(argparse.ArgumentParser):
    """argparse, but a mistake in the arguments is one line."""

    def error(self, message: str) -> NoReturn:
        """Tell what argparse expected."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def ended_in_one_line(main: Callable[..., int]) -> Callable[..., int]:
    """Make a command without Hydra return exit code 1 after one last line where it fails, and stop in order."""

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
            said = line_of(error)
            if said is None:
                print(traceback_of(error), file=sys.stderr)
            line = said or fault_of(error)
        print(f"error: {line}", file=sys.stderr)
        return 1

    return command
