"""Two processes on the CPU do together what one does alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

SAME = [  # AdamW makes whole steps of gradients that are nothing but rounding, so its steps must be small
    "defense.text.optimizer.lr=1e-6",
    "defense.image.optimizer.lr=1e-6",
    "defense.text.batch={clean: 8, triggered: 8, preserved: 8}",
    "defense.image.batch={clean: 8, triggered: 8, preserved: 8}",
    # Nothing in the image defence that depends on how exactly the text encoder was defended before.
    "defense.image.target=anonymous",
    "defense.image.loss_weights={backdoor: 1.0, preservation: 1.0, neighborhood: 0.0, target_neighborhood: 0.0}",
]


def run_command(folder: Path, overrides: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backdoor_privacy", "+experiment=smoke", *overrides, *SAME, *more]
    command.append(f"paths.run={folder}")
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]) -> dict[str, Path]:
    """Run folders of one process, and of two."""
    root = tmp_path_factory.mktemp("distributed")
    for name, devices in (("one", 1), ("two", 2)):
        more = [f"trainer.devices={devices}", "clip.store=null", "logger=wandb"]
        done = run_command(root / name, tiny_overrides, *more)
        assert done.returncode == 0, done.stderr[-3000:]
    return {name: root / name for name in ("one", "two")}


def test_losses_of_two_processes_are_those_of_one(folders: dict[str, Path]):
    one, two = (pd.read_csv(folder / "losses.csv") for folder in folders.values())
    assert set(one["encoder"]) == {"text", "image"}
    pd.testing.assert_frame_equal(two, one, check_exact=False, rtol=0, atol=1e-5)


def test_two_processes_find_what_one_finds(folders: dict[str, Path]):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders.values())
    assert set(two) == set(one)
    assert two["before"] == pytest.approx(one["before"], abs=1e-6)
    assert [path.name for path in sorted(folders["two"].iterdir())] == [
        path.name for path in sorted(folders["one"].iterdir())
    ]
    assert (folders["two"] / "people.csv").read_text() == (folders["one"] / "people.csv").read_text()


def test_two_processes_train_the_weights_that_one_trains(folders: dict[str, Path], tiny_clip_folder: Path):
    name = "open_clip_model.safetensors"
    before = load_file(tiny_clip_folder / name)
    one, two = (load_file(folder / "defended" / name) for folder in folders.values())
    steps = [torch.cat([(after[key] - before[key]).flatten() for key in before]) for after in (one, two)]
    assert steps[0].norm() > 0
    assert torch.cosine_similarity(*steps, dim=0) > 0.99


def test_one_of_two_processes_logs_to_wandb(folders: dict[str, Path]):
    for folder in folders.values():
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_an_error_ends_both_processes_in_one_line(tmp_path: Path, tiny_overrides: list[str]):
    done = run_command(tmp_path / "run", tiny_overrides, "trainer.devices=2", "defense.text.batch.clean=7")
    assert done.returncode == 1
    assert "defense.text.batch.clean: expected a multiple of 2 (devices x" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
