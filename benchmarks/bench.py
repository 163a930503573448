"""Seconds and memory of whole runs: `make bench`. Writes `results.json` and prints a table.

The embedded world must be in the cache already (any run draws it). Experiments to time may be given as arguments.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

EXPERIMENTS = ("smoke", "names_64", "faces_64", "both_64", "faces_500")


def measure(experiment: str) -> dict[str, float]:
    """Run one experiment in a process of its own: wall seconds, largest process in MB, and the run's own stages."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"+experiment={experiment}", f"paths.runs={folder}", "trainer.progress_bar=false"]
        command = [sys.executable, "-m", "backdoor_privacy", *overrides]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        metrics = json.loads(next(Path(folder).rglob("metrics.json")).read_text())
    return {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), **metrics["seconds"]}


def main() -> None:
    """Time the experiments one after the other."""
    found = {experiment: measure(experiment) for experiment in sys.argv[1:] or EXPERIMENTS}
    machine = {"processor": platform.processor() or platform.machine(), "num_cores": os.cpu_count()}
    result = {"machine": machine, "python": platform.python_version(), "experiments": found}
    (Path(__file__).parent / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    table = Table(title=f"{os.cpu_count()} cores")
    for column in ("experiment", "seconds", "largest process so far, MB"):
        table.add_column(column, justify="left" if column == "experiment" else "right")
    for experiment, values in found.items():
        table.add_row(experiment, f"{values['seconds']:.0f}", f"{values['peak_mb']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
