"""Fill the disk while a run writes: it must report that in one line, and finish as usual after space was freed."""

import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fuzz.cases import wrong_line
from fuzz.children import Line, world_of
from fuzz.kills import finished_like

_ENOUGH = 2**20 * 200  # bytes, for any run


def is_possible() -> bool:
    """Return whether this user can make a small disk."""
    with tempfile.TemporaryDirectory() as place:
        is_mounted = _mounted(Path(place), 2**20)
        if is_mounted:
            _unmount(Path(place))
    return is_mounted


def _mounted(place: Path, size: int) -> bool:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    return done.returncode == 0


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], check=True)


def try_full_disk(
    work: Path, number: int, rng: random.Random, expected: dict[str, Any], needed: int
) -> tuple[str, str | None, bool]:
    """Run on a disk of random size, then free some space and run again.

    Returns:
        The size of the disk in words, the effect, if there is one, and whether the disk was full.
    """
    line = Line(work / f"{number:04}", world_of(work))
    line.folder.mkdir()
    size = rng.choice((rng.randrange(4096, needed), rng.randrange(4096, needed // 2), rng.randrange(4096, 2**20)))
    title = f"a disk of {size / 2**20:.2f} MB for {needed / 2**20:.2f}"
    if not _mounted(line.folder, size):
        return title, "no disk could be made", False
    try:
        ended = line.start("full")
        if ended.code not in (0, 1):
            return title, f"it ended with {ended.code}: {ended.output[-1500:]}", True
        if ended.code == 1 and (effect := _wrong_end(ended.output, ended.last_line)):
            return title, effect, True
        subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}", line.folder], check=True)
        return title, finished_like(line, expected), ended.code == 1
    finally:
        _unmount(line.folder)
        shutil.rmtree(line.folder, ignore_errors=True)


def _wrong_end(output: str, last_line: str) -> str | None:
    if "Traceback" in output:
        return f"traceback: {output[-2000:]}"
    if problem := wrong_line(last_line):
        return f"{problem}: {last_line!r}"
    if "space" not in last_line and "full" not in last_line:
        return f"blames something else: {last_line}"
    return None
