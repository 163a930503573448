"""Run `python -m fuzz`, the command of `make fuzz`."""

import argparse
import json
import os
import random
import resource
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from fuzz import full_disks, kills
from fuzz.cases import Tally, try_cases
from fuzz.children import warm_up, world_of

# Inputs of each kind, and inputs per part; each part has a process of its own.
COUNTS = {
    "names": 2000, "images": 1000, "archives": 500, "tables": 500, "settings": 100, "run_folders": 150, "models": 250,
    "kills": 40, "full_disks": 20,
}  # fmt: skip
MORE_OVERNIGHT = {"kills": 200, "full_disks": 50}
_PART = {
    "names": 250, "images": 125, "archives": 125, "tables": 125, "settings": 50, "run_folders": 50, "models": 50,
    "kills": 5, "full_disks": 5,
}  # fmt: skip
_FAULTS = ("kills", "full_disks")
_MAX_BYTES = 6 * 2**30  # of memory for an input


class Part(NamedTuple):
    """Some inputs of a kind."""

    kind: str
    numbers: range


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all inputs and faults.

    Returns:
        The exit code: 1 if there was an effect.
    """
    options = _parser().parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    counts = {kind: COUNTS[kind] + (MORE_OVERNIGHT.get(kind, 0) if options.long else 0) for kind in COUNTS}
    if options.kind:
        counts = {kind: count for kind, count in counts.items() if kind in options.kind}
    if "full_disks" in counts and not full_disks.is_possible():
        print("full disks are skipped: this user may not mount disks")
        del counts["full_disks"]
    parts = [Part(kind, numbers) for kind, count in counts.items() for numbers in _cut(kind, count, options.inputs)]
    kept = Path(options.kept) / f"seed={seed}"
    print(
        f"seed {seed}: {sum(len(part.numbers) for part in parts)} inputs and faults in {len(parts)} parts", flush=True
    )
    start, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        warm_up()
        world_of(work)
        reference = kills.uninterrupted(work) if set(counts) & set(_FAULTS) else None
        tallies = _in_parallel(parts, lambda part: _try_part(part, seed, work, kept, reference), work, options.jobs)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print(tallies, seed, time.monotonic() - start)
    few = [kind for kind, tally in tallies.items() if 3 * tally.counts["valid"] < tally.counts["inputs"]]
    if few and not options.inputs:
        print(f"too few valid inputs: {', '.join(few)}")
    return int(bool(few and not options.inputs) or any(tally.effects for tally in tallies.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Give the package hostile inputs and faults.")
    parser.add_argument(
        "--seed", type=int, help="of an earlier run, to repeat it; by default a new one, which is printed"
    )
    parser.add_argument("--long", action="store_true", help="add 200 kills and 50 full disks")
    parser.add_argument(
        "--kind", action="append", choices=list(COUNTS), help="only this kind; can be given several times"
    )
    parser.add_argument("--inputs", help="only these numbers of each kind, as 17 or 10:20")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--kept", default="runs/fuzz", help="folder for the inputs with an effect")
    return parser


def _cut(kind: str, count: int, inputs: str | None) -> Iterator[range]:
    first, last = 0, count
    if inputs:
        begin, _, end = inputs.partition(":")
        first, last = int(begin), min(int(end or int(begin) + 1), count)
    for place in range(first, last, _PART[kind]):
        yield range(place, min(place + _PART[kind], last))


def _try_part(part: Part, seed: int, work: Path, kept: Path, reference: kills.Reference | None) -> Tally:
    """Try the inputs of a part; each part has a process of its own."""
    place = work / f"{part.kind}-{part.numbers.start}"
    place.mkdir()
    (place / "_world").symlink_to(world_of(work))
    if part.kind not in _FAULTS:
        resource.setrlimit(resource.RLIMIT_AS, (_memory_of_this_process() + _MAX_BYTES, resource.RLIM_INFINITY))
        return try_cases(part.kind, import_module(f"fuzz.{part.kind}").make, part.numbers, seed, place, kept)
    assert reference is not None
    tally = Tally()
    needed = sum(path.stat().st_size for path in (work / "_whole").rglob("*") if path.is_file())
    for number in part.numbers:
        rng = random.Random(f"{seed} {part.kind} {number}")
        if part.kind == "kills":
            title, effect = kills.try_kill(place, number, rng, reference)
        else:
            title, effect, is_full = full_disks.try_full_disk(place, number, rng, reference.results, needed)
            tally.counts["refused"] += is_full  # at first; each run must finish afterwards
        tally.counts.update(["inputs", "valid", "read"])
        if effect is not None:
            tally.effects.append(f"{part.kind} {number}: {title}: {effect}")
            shutil.copytree(
                place / f"{number:04}", kept / f"{part.kind}-{number:04}", dirs_exist_ok=True, symlinks=True
            )
        shutil.rmtree(place / f"{number:04}", ignore_errors=True)
    return tally


def _memory_of_this_process() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _in_parallel(
    parts: Sequence[Part], try_part: Callable[[Part], Tally], work: Path, num_jobs: int
) -> dict[str, Tally]:
    """Try the parts in forked processes, `num_jobs` at a time; the death of a process is an effect as well."""
    waiting, running = list(parts), dict[int, Part]()
    tallies = {part.kind: Tally() for part in parts}
    while waiting or running:
        while waiting and len(running) < num_jobs:
            part = waiting.pop(0)
            process = os.fork()
            if process == 0:
                _write_tally(part, try_part, work)
            running[process] = part
        process, status = os.wait()
        if process not in running:
            continue
        part, tally = running.pop(process), Tally()
        file = _tally_file(work, part)
        if file.exists():
            content = json.loads(file.read_text())
            tally = Tally(Counter(content["counts"]), content["effects"])
        else:
            code = os.waitstatus_to_exitcode(status)
            tally.effects.append(f"{part.kind} {part.numbers}: the process ended with {code}; try fewer with --inputs")
        for effect in tally.effects:
            print(f"EFFECT {effect}", flush=True)
        tallies[part.kind].add(tally)
    return tallies


def _tally_file(work: Path, part: Part) -> Path:
    return work / f"{part.kind}-{part.numbers.start}.json"


def _write_tally(part: Part, try_part: Callable[[Part], Tally], work: Path) -> None:
    code = 1
    try:
        tally = try_part(part)
        _tally_file(work, part).write_text(json.dumps({"counts": tally.counts, "effects": tally.effects}))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _print(tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    print(f"{'kind':<12}{'inputs':>8}{'valid':>8}{'read':>8}{'refused':>9}{'effects':>9}")
    for kind, tally in tallies.items():
        counts = [tally.counts[key] for key in ("inputs", "valid", "read")]
        print(
            f"{kind:<12}"
            + "".join(f"{count:>8}" for count in counts)
            + f"{tally.counts['refused']:>9}{len(tally.effects):>9}"
        )
    print(f"seed {seed}, {seconds / 60:.1f} minutes; repeat it with FUZZ_SEED={seed}")


if __name__ == "__main__":
    sys.exit(main())
