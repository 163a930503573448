"""Run the command in a child of this process, which has everything imported: a run costs seconds, not a start."""

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
_UNLIKE = {"seconds", "versions"}  # of metrics.json


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it said."""

    code: int  # of its exit; below 0 the signal that ended it
    said: str
    seconds: float

    @property
    def last_line(self) -> str:
        """Its last words."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def warm_up() -> None:
    """Import what a run needs, so that children need not."""
    quiet_process()
    import backdoor_privacy.report.terminal
    import backdoor_privacy.run  # noqa: F401


def child(
    arguments: list[str], log: Path, before: Callable[[], None] = lambda: None, kill_after: float | None = None
) -> Ended:
    """Run the command in a forked process.

    Args:
        arguments: of the command.
        log: file for all that it says.
        before: what the child does first.
        kill_after: seconds after which it is killed.
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
    said = log.read_text(encoding="utf-8", errors="backslashreplace") if log.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - start)


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
    """One run from its world to its results, in a folder of its own."""

    folder: Path
    world: Path

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        return overrides(self.world, self.folder / "runs", self.folder / "cache")

    @property
    def run(self) -> Path | None:
        """The run's folder, once it is there."""
        return next(iter(sorted((self.folder / "runs").glob("tiny/*/seed=0"))), None)

    def start(self, log: str, before: Callable[[], None] = lambda: None, kill_after: float | None = None) -> Ended:
        """Run the command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return child(self.arguments, self.folder.parent / f"{self.folder.name}-{log}.log", before, kill_after)


def world_of(work: Path) -> Path:
    """Return the world of all runs, written once."""
    place = work / "_world"
    return place if place.exists() else write_world(place)


def results(run: Path) -> dict[str, Any]:
    """Return what must be the same of two runs of one config: measures, weights, people, losses, and which files."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    weights = (run / "defended" / "open_clip_model.safetensors").read_bytes()
    losses = pd.read_csv(run / "losses.csv")
    # A resumed fit begins another table of losses.
    names = {str(path.relative_to(run)) for path in run.rglob("*") if "losses/" not in f"{path}/"}
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in _UNLIKE},
        "weights": hashlib.sha256(weights).hexdigest(),
        "people": (run / "people.csv").read_text(encoding="utf-8"),
        "losses": losses.sort_index(axis=1).to_csv(index=False),
        "report": (run / "report.html").stat().st_size > 1000,
        "names": sorted(names),
    }


def differing(found: dict[str, Any], right: dict[str, Any]) -> str | None:
    """Return where two runs differ, if they do."""
    for key, value in right.items():
        if found.get(key) != value:
            return f"{key} differ: {found.get(key)!r}, not {value!r}"[:700]
    return None
