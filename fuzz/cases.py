"""Give the package one input at a time, and check what it makes of it."""

import contextlib
import faulthandler
import logging
import os
import random
import shutil
import signal
import sys
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backdoor_privacy.config.command import line_of_hydra
from backdoor_privacy.errors import line_of
from backdoor_privacy.system.visible import visible

UNKNOWN: Any = object()  # the expected value of an input that nobody can predict, as after a flipped byte
REFUSED: Any = object()  # what a reader returns that refuses without an error, as for a photo that does not decode
_MAX_SECONDS = 20.0
_MAX_LINE = 2000  # characters
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class"}
_WRITES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.remove": 0, "os.rmdir": 0}

ran: list[str] = []  # what hostile inputs ran


def canary(*words: object, **more: object) -> str:
    """Record that an input ran code; hostile inputs call this function."""
    ran.append(f"canary{words}{more or ''}")
    return "canary"


@dataclass(frozen=True)
class Case:
    """One input, how the package reads it, and the expected result.

    Args:
        title: description of the input in one line.
        read: passes it to the package.
        expected: the value that must be read; `UNKNOWN` if nobody can predict it.
        answer: whether it is valid (`read`), must be refused, or may be refused but never misread (`either`).
        blames: keys and files that may be wrong; an error must name one of them.
    """

    title: str
    read: Callable[[], Any]
    expected: Any = UNKNOWN
    answer: Literal["read", "refused", "either"] = "either"
    blames: Sequence[str] = ()


MakeCase = Callable[[Path, random.Random], Case]  # writes an input into an empty folder


@dataclass
class Tally:
    """The results of the inputs of a kind."""

    counts: Counter[str] = field(default_factory=Counter)  # inputs, valid, read, refused
    effects: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add the results of another part."""
        self.counts += other.counts
        self.effects += other.effects


class Hang(BaseException):
    """Raised when an input takes too long; no `except Exception` catches it."""


class _Watch:
    """A watch on what an input does in Python: the programs that it starts and the files that it writes."""

    def __init__(self) -> None:
        self.folder: Path | None = None  # where an input may write; `None` switches the watch off
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _STARTS and not _is_expected(event, arguments):
            self.seen.append(f"{event} {arguments[:2]}"[:200])
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            self._look(arguments[0])
        elif event in _WRITES and arguments[-1] == -1:  # else the name is relative to an open folder, as in rmtree
            self._look(arguments[_WRITES[event]])

    def _look(self, path: Any) -> None:
        if isinstance(path, (str, bytes, Path)):
            place = os.path.abspath(os.fsdecode(path))
            if self.folder and not place.startswith((f"{self.folder}{os.sep}", "/dev/")) and "__pycache__" not in place:
                self.seen.append(f"wrote outside of its folder: {place!r}"[:200])


def _is_expected(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether the package itself does this: it asks Git for the commit, and torch rebuilds tensors."""
    if event == "pickle.find_class":
        return str(arguments[0]).partition(".")[0] in ("torch", "collections", "_codecs", "numpy")
    return event == "subprocess.Popen" and "git" in str(arguments[1])


_watch: _Watch | None = None


def try_case(make: MakeCase, rng: random.Random, folder: Path) -> tuple[str, str | None, Case]:
    """Make an input in an empty folder and let the package read it; `out` in the folder takes what the package writes.

    Returns:
        `read` or `refused`; the effect, if there is one; and the case.
    """
    global _watch
    _watch = _watch or _Watch()
    ran.clear()
    _watch.seen = []
    case = make(folder, rng)
    before = {path: _state(path) for path in _inputs(folder)}
    _watch.folder = folder
    try:
        with _no_longer_than(_MAX_SECONDS):
            value = case.read()
        answer, effect = _of_value(case, value)
    except Hang:
        answer, effect = "read", f"hang: no answer within {_MAX_SECONDS:g} s"
    except (Exception, SystemExit, KeyboardInterrupt, RecursionError) as error:
        answer, effect = "refused", _of_error(case, error)
    finally:
        _watch.folder = None
    changed = [path for path, state in before.items() if _state(path) != state]
    extra = set(_inputs(folder)) - {*before}
    if ran or _watch.seen:
        effect = f"it ran or wrote: {ran} {_watch.seen}"
    elif changed or extra:
        effect = f"it changed its input: {[str(path) for path in (*changed, *extra)]}"
    return answer, effect, case


def _of_value(case: Case, value: Any) -> tuple[str, str | None]:
    if value is REFUSED:
        return "refused", "refused, though it is valid" if case.answer == "read" else None
    if case.answer == "refused":
        return "read", f"read, though it must be refused: {value!r}"[:600]
    if case.expected is not UNKNOWN and value != case.expected:
        return "read", f"wrong value: {value!r}, not {case.expected!r}"[:900]
    return "read", None


def _of_error(case: Case, error: BaseException) -> str | None:
    line = (line_of_hydra(error) or line_of(error)) if isinstance(error, Exception) else None
    if line is None:
        return "traceback: " + "".join(traceback.format_exception(error))[-2500:]
    if problem := wrong_line(visible(line)):  # as commands print it
        return f"{problem}: {line!r}"
    if case.answer == "read":
        return f"refused, though it is valid: {line}"
    if case.blames and not any(word in line for word in case.blames):
        return f"blames none of {list(case.blames)}: {line}"
    return None


def wrong_line(line: str) -> str | None:
    """Return what is wrong with the line of an error, if anything is."""
    if not line.strip() or len(line.splitlines()) != 1 or "\n" in line:
        return "not one line"
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in _BIDI for sign in line):
        return "control characters"
    return "a line too long to be read" if len(line) > _MAX_LINE else None


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 30, exit=True)  # in case the alarm is not delivered, as within C code
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def _inputs(folder: Path) -> Iterator[Path]:
    """Yield everything in the folder of an input, except what readers may write."""
    for place, folders, names in os.walk(folder):
        if Path(place) == folder and "out" in folders:
            folders.remove("out")
        yield from (Path(place, name) for name in (*folders, *names))


def _state(path: Path) -> object:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mode, status.st_size if path.is_file() else 0, status.st_mtime_ns if path.is_file() else 0


def try_cases(kind: str, make: MakeCase, numbers: range, seed: int, work: Path, kept: Path) -> Tally:
    """Try the inputs with these numbers; each depends only on the seed, its kind and its number.

    Args:
        kind: of the inputs.
        make: makes an input.
        numbers: of the inputs.
        seed: of all inputs.
        work: folder for the inputs.
        kept: folder for the inputs with an effect.
    """
    tally, log = Tally(), logging.getLogger("backdoor_privacy")
    level = log.level
    log.setLevel(logging.CRITICAL)  # its messages would fill the terminal
    try:
        for number in numbers:
            folder = work / f"{number:04}"
            folder.mkdir(parents=True)
            answer, effect, case = try_case(make, random.Random(f"{seed} {kind} {number}"), folder)
            tally.counts.update(["inputs", answer, *(["valid"] if case.answer == "read" else [])])
            if effect is not None:
                tally.effects.append(f"{kind} {number}: {case.title}: {effect}")
                _keep(folder, kept / f"{kind}-{number:04}", f"{case.title}\n\n{effect}\n")
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        log.setLevel(level)
    return tally


def _keep(folder: Path, place: Path, text: str) -> None:
    """Keep the files of an input that can be copied: a pipe cannot."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)

    def copy(source: str, target: str) -> None:
        if os.path.islink(source) or (os.path.isfile(source) and os.path.getsize(source) < 2**26):
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(folder, place / "input", symlinks=True, copy_function=copy, dirs_exist_ok=True)
    (place / "effect.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
