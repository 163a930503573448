"""A run that is killed again and again ends as one that was left alone."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

SLOW_STEPS = ["defense.text.num_steps=600", "defense.image.num_steps=600", "trainer.checkpoint_every_steps=20"]


def command(folder: Path, overrides: list[str]) -> list[str]:
    run = [sys.executable, "-m", "backdoor_privacy", "+experiment=smoke", *overrides, *SLOW_STEPS]
    return [*run, f"paths.run={folder}", "clip.store=null"]


def figures(folder: Path) -> dict[str, object]:
    """Everything in `metrics.json` but times."""
    return {key: value for key, value in json.loads((folder / "metrics.json").read_text()).items() if key != "seconds"}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_bitwise_as_one_that_was_not(tmp_path: Path, tiny_overrides: list[str]):
    start = time.perf_counter()
    subprocess.run(command(tmp_path / "whole", tiny_overrides), check=True, capture_output=True)
    whole_seconds = time.perf_counter() - start
    rng, num_kills = random.Random(0), 0
    for _ in range(12):
        with subprocess.Popen(
            command(tmp_path / "killed", tiny_overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(whole_seconds * rng.uniform(0.3, 0.6))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                num_kills += 1
    done = subprocess.run(command(tmp_path / "killed", tiny_overrides), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert num_kills >= 2
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")  # digests of the weights among them
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "losses.csv") for name in ("killed", "whole")))
    assert (tmp_path / "killed/people.csv").read_bytes() == (tmp_path / "whole/people.csv").read_bytes()
