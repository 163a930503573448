"""Fast against plain, and seconds and memory of whole runs: `make bench`. Writes `results.json` and `README.md` here.

The embedded world must be in the cache already (any run draws it). Parts (`steps`, `idia`, `people`, `compile`) and
experiments to time may be given as arguments; what is known of the others on this machine stays, each with its commit.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from machine import processor
from page import page, ratios

from backdoor_privacy.system.versions import versions

PARTS = ("steps", "idia", "people", "compile")  # of speed.py
EXPERIMENTS = ("smoke", "names_64", "faces_64", "both_64", "faces_500")
FOLDER = Path(__file__).parent


def used_mb(process: psutil.Process) -> float:
    """Memory of a process and all its children now; what they share counts once (Linux)."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            memory = each.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
        total += getattr(memory, "pss", memory.uss)
    return total / 2**20


def measure(experiment: str) -> dict[str, Any]:
    """Run one experiment in a process of its own: wall seconds, peak memory in MB and its stages."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"+experiment={experiment}", f"paths.runs={folder}", "trainer.progress_bar=false"]
        overrides.append("clip.store=null")  # what earlier runs have left behind makes it faster
        start = time.perf_counter()
        with psutil.Popen(
            [sys.executable, "-m", "backdoor_privacy", *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            peak_mb = 0.0
            while run.poll() is None:
                peak_mb = max(peak_mb, used_mb(run))
                time.sleep(0.5)
        seconds = time.perf_counter() - start
        if run.returncode:
            sys.exit(f"bench: {experiment} ended with exit code {run.returncode}; run it alone to see why")
        metrics = json.loads(next(Path(folder).rglob("metrics.json")).read_text())
    stages = {stage: round(spent, 1) for stage, spent in metrics["seconds"].items()}
    commit = metrics["versions"]["commit"]
    return {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), "stages": stages, "commit": commit}


def measure_part(part: str) -> dict[str, Any]:
    """One part of `speed.py`, in a process of its own."""
    done = subprocess.run([sys.executable, FOLDER / "speed.py", part], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {part} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure one after the other, and write after each."""
    machine = {"processor": processor(), "num_cores": os.cpu_count(), "memory_mb": psutil.virtual_memory().total >> 20}
    used = versions()
    commit = used.pop("commit")
    results = FOLDER / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    if (known.get("machine"), known.get("versions")) != (machine, used):
        known = {}
    for asked in sys.argv[1:] or (*PARTS, *EXPERIMENTS):
        if asked in PARTS:
            known.setdefault("speed", {})[asked] = {**measure_part(asked), "commit": commit}
        else:
            known.setdefault("experiments", {})[asked] = measure(asked)
        result = {
            "machine": machine,
            "versions": used,
            "commit": commit,
            "ratios": ratios(known.get("speed", {})),
            "speed": known.get("speed", {}),
            "experiments": known.get("experiments", {}),
        }
        results.write_text(json.dumps(result, indent=2) + "\n")
        (FOLDER / "README.md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
