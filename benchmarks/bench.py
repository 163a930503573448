"""Seconds and memory of whole runs: `make bench`. Writes `results.json` and the table in `README.md` beside it.

The embedded world must be in the cache already (any run draws it). Experiments to time may be given as arguments; what
is known of the others on this machine stays, each with its commit.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

EXPERIMENTS = ("smoke", "names_64", "faces_64", "both_64", "faces_500")
LIMITS = {"smoke": 30, "both_64": 240, "faces_500": 480}  # seconds on two cores that the project aims at
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


def measure(experiment: str) -> tuple[dict, dict]:
    """Run one experiment in a process of its own: wall seconds, peak memory in MB and its stages; and its versions."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"+experiment={experiment}", f"paths.runs={folder}", "trainer.progress_bar=false"]
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
    commit = metrics["versions"].pop("commit")
    found = {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), "stages": stages, "commit": commit}
    return found, metrics["versions"]


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def readme(result: dict) -> str:
    """The results as a page."""
    machine, runs = result["machine"], result["experiments"]
    versions = result["versions"]
    rows = [
        f"| `{name}` | {run['seconds']:.0f} | {LIMITS.get(name, '')} | {sum(run['stages'].values()):.0f} "
        f"| {run['peak_mb']} | {run['commit'][:7]} |"
        for name, run in runs.items()
    ]
    return "\n".join(
        [
            "# Seconds and memory of whole runs",
            "",
            f"`make bench` wrote this page and `results.json`: one run each, the embedded world in the cache. "
            f"{machine['processor']}, {machine['num_cores']} cores; Python {versions['python']}, torch "
            f"{versions['torch']}.",
            "",
            "| experiment | seconds | aimed at, at most | in its stages | peak memory of all processes, MB | commit |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "The rest of the seconds is start-up: imports, the world's lists, the model.",
            "",
            "[Architectures in their true size](architectures.md): `make bench-architectures`.",
            "",
        ]
    )


def main() -> None:
    """Time the experiments one after the other."""
    machine = {"processor": processor(), "num_cores": os.cpu_count(), "memory_mb": psutil.virtual_memory().total >> 20}
    found, versions = {}, {}
    for experiment in sys.argv[1:] or EXPERIMENTS:
        found[experiment], versions = measure(experiment)
    results = FOLDER / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    if (known.get("machine"), known.get("versions")) == (machine, versions):
        found = known["experiments"] | found
    result = {"machine": machine, "versions": versions, "experiments": found}
    results.write_text(json.dumps(result, indent=2) + "\n")
    (FOLDER / "README.md").write_text(readme(result))
    print(readme(result))


if __name__ == "__main__":
    main()
