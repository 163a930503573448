"""Kill a run at any moment and run the same command again: the result must be that of an uninterrupted run."""

import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fuzz.cases import wrong_line
from fuzz.children import Line, differing, results, world_of

_WRITES = ("os.rename", "os.truncate", "os.mkdir", "os.remove", "os.rmdir")


class Reference(NamedTuple):
    """A run that was not interrupted."""

    results: dict[str, Any]
    num_writes: int
    seconds: float


class _Writes:
    """Count the writes of a process into a folder, and call a function at one of them."""

    def __init__(self, folder: Path, moment: int, act: Callable[[], None]) -> None:
        self.folder, self.moment, self.act, self.count = str(folder), moment, act, 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_open or event in _WRITES) and self.folder in str(arguments[:2]):
            self.count += 1
            if self.count == self.moment:
                self.act()


def uninterrupted(work: Path) -> Reference:
    """Execute a run without an interruption."""
    line, counted = Line(work / "_whole", world_of(work)), work / "_whole_writes"

    def count() -> None:
        writes = _Writes(line.folder, 0, lambda: None)
        original = os._exit

        def leave(code: int) -> None:
            counted.write_text(str(writes.count))
            original(code)

        os._exit = leave  # type: ignore[assignment]

    ended = line.start("whole", count)
    if ended.code or line.run is None:
        raise RuntimeError(f"an uninterrupted run ends with {ended.code}: {ended.output[-3000:]}")
    return Reference(results(line.run), int(counted.read_text()), ended.seconds)


def try_kill(work: Path, number: int, rng: random.Random, reference: Reference) -> tuple[str, str | None]:
    """Kill a run once or twice, then let it finish; every second run is killed at a write, the others at any moment.

    Returns:
        The moments of the kills, and the effect, if there is one.
    """
    line, moments = Line(work / f"{number:04}", world_of(work)), []
    for round_ in range(rng.choice((1, 1, 2))):
        if number % 2 == 0:
            moment, delay = rng.randint(1, reference.num_writes), rng.choice((0, 0, 1e-5, 1e-4, 1e-3, 0.01))
            moments.append(f"{delay:g} s after the start of write {moment} of {reference.num_writes}")
            ended = line.start(f"killed-{round_}", partial(_kill_at, line.folder, moment, delay))
        else:
            delay = rng.uniform(0, reference.seconds)
            moments.append(f"after {delay:.2f} s of {reference.seconds:.2f}")
            ended = line.start(f"killed-{round_}", kill_after=delay)
        if ended.code not in (0, -signal.SIGKILL, -signal.SIGALRM):
            return " and ".join(moments), f"it ended with {ended.code}: {ended.output[-1500:]}"
    return " and ".join(moments), finished_like(line, reference.results)


def finished_like(line: Line, expected: dict[str, Any]) -> str | None:
    """Run the command again, and return what is wrong with its results or its output, if anything is."""
    ended = line.start("again")
    if ended.code or line.run is None:
        return f"it cannot be finished: exit code {ended.code}: {ended.output[-2000:]}"
    if "Traceback" in ended.output or wrong_line(ended.last_line):
        return f"it finishes, but prints {ended.output[-1000:]}"
    return differing(results(line.run), expected)


def _kill_at(folder: Path, moment: int, delay: float) -> None:
    """Kill this process at a write, as the system would: no Python code runs any more."""

    def die() -> None:
        if not delay:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, delay)

    _Writes(folder, moment, die)
