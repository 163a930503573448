"""Run the command in forked children of this process, which has imported everything, so that a run takes seconds."""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fuzz.world import overrides, quiet_process, write_world

_MAX_SECONDS = 300.0
_UNLIKE = {"seconds", "versions"}  # keys of metrics.json that may differ


@dataclass(frozen=True)
class Ended:
    """The end of a child, and its output."""

    code: int  # of its exit; a negative one is the signal that ended it
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line of the output."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def warm_up() -> None:
    """Import what a run needs, so that children need not do so."""
    quiet_process()
    import backdoor_privacy.report.terminal
    import backdoor_privacy.run  # noqa: F401


def child(
    arguments: list[str], log: Path, before: Callable[[], None] = lambda: None, kill_after: float | None = None
) -> Ended:
    """Run the command in a forked process.

    Args:
        arguments: of the command.
        log: file for its output.
        before: called in the child before the command.
        kill_after: seconds after which the child is killed.
    """
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        _become_command(arguments, log, before)
    deadline = start + (_MAX_SECONDS if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(0.01)
    output = log.read_text(encoding="utf-8", errors="backslashreplace") if log.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), output, time.monotonic() - start)


def _become_command(arguments: list[str], log: Path, before: Callable[[], None]) -> None:
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["backdoor_privacy", *arguments]
        from backdoor_privacy.__main__ import main

        before()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Line:
    """One run with its command line and a folder of its own."""

    folder: Path
    world: Path

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        return overrides(self.world, self.folder / "runs", self.folder / "cache")

    @property
    def run(self) -> Path | None:
        """The folder of the run; `None` before it exists."""
        return next(iter(sorted((self.folder / "runs").glob("tiny/*/seed=0"))), None)

    def start(self, log: str, before: Callable[[], None] = lambda: None, kill_after: float | None = None) -> Ended:
        """Run the command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return child(self.arguments, self.folder.parent / f"{self.folder.name}-{log}.log", before, kill_after)


def world_of(work: Path) -> Path:
    """Return the data of all runs; write it if it is missing."""
    place = work / "_world"
    return place if place.exists() else write_world(place)


def results(run: Path) -> dict[str, Any]:
    """Return what two runs of one config must have in common: measures, weights, people, losses and names of files."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    weights = (run / "defended" / "open_clip_model.safetensors").read_bytes()
    losses = pd.read_csv(run / "losses.csv")
    # A resumed training starts another table of losses.
    names = {str(path.relative_to(run)) for path in run.rglob("*") if "losses/" not in f"{path}/"}
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in _UNLIKE},
        "weights": hashlib.sha256(weights).hexdigest(),
        "people": (run / "people.csv").read_text(encoding="utf-8"),
        "losses": losses.sort_index(axis=1).to_csv(index=False),
        "report": (run / "report.html").stat().st_size > 1000,
        "names": sorted(names),
    }


def differing(actual: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Return the first difference between the results of two runs, if there is one."""
    for key, value in expected.items():
        if actual.get(key) != value:
            return f"{key} differ: {actual.get(key)!r}, not {value!r}"[:700]
    return None
