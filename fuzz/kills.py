"""Kill a run at any moment, and run the same command again: it must end as if nothing had been."""

import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fuzz.cases import wrong_line
from fuzz.children import Line, differing, results, world_of

_WRITES = ("os.rename", "os.truncate", "os.mkdir", "os.remove", "os.rmdir")


class _Writes:
    """Count what a process writes; at one of these moments, do something."""

    def __init__(self, folder: Path, moment: int, act: Callable[[], None]) -> None:
        self.folder, self.moment, self.act, self.count = str(folder), moment, act, 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_open or event in _WRITES) and self.folder in str(arguments[:2]):
            self.count += 1
            if self.count == self.moment:
                self.act()


def uninterrupted(work: Path) -> tuple[dict[str, Any], int, float]:
    """Return the results of a run that nothing interrupts, how often it writes, and its seconds."""
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
        raise RuntimeError(f"a run that nothing interrupts ends with {ended.code}: {ended.said[-3000:]}")
    return results(line.run), int(counted.read_text()), ended.seconds


def try_kill(
    work: Path, number: int, rng: random.Random, whole: tuple[dict[str, Any], int, float]
) -> tuple[str, str | None]:
    """Kill a run at a random moment, half of them just before or within a write, up to twice; then let it end.

    Returns:
        When it was killed, and the effect, if there is one.
    """
    right, num_writes, seconds = whole
    line, told = Line(work / f"{number:04}", world_of(work)), []
    for round_ in range(rng.choice((1, 1, 2))):
        if number % 2 == 0:
            moment, delay = rng.randint(1, num_writes), rng.choice((0, 0, 1e-5, 1e-4, 1e-3, 0.01))
            told.append(f"{delay:g} s after it began write {moment} of {num_writes}")
            ended = line.start(f"killed-{round_}", partial(_kill_at, line.folder, moment, delay))
        else:
            delay = rng.uniform(0, seconds)
            told.append(f"after {delay:.2f} s of {seconds:.2f}")
            ended = line.start(f"killed-{round_}", kill_after=delay)
        if ended.code not in (0, -signal.SIGKILL, -signal.SIGALRM):
            return " and ".join(told), f"it ended with {ended.code}: {ended.said[-1500:]}"
    return " and ".join(told), finished_like(line, right)


def finished_like(line: Line, right: dict[str, Any]) -> str | None:
    """Run the command again, and return what is wrong with how it ends."""
    ended = line.start("again")
    if ended.code or line.run is None:
        return f"it can never be finished: exit code {ended.code}: {ended.said[-2000:]}"
    if "Traceback" in ended.said or wrong_line(ended.last_line):
        return f"it ends, but says {ended.said[-1000:]}"
    return differing(results(line.run), right)


def _kill_at(folder: Path, moment: int, delay: float) -> None:
    """Let this process die at a moment of writing, as the system would end it: no code of Python's runs."""

    def die() -> None:
        if not delay:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, delay)

    _Writes(folder, moment, die)
