"""Two processes on the CPU do together what one does alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from backdoor_privacy.attacks.record import read_findings
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.training import processes
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import protect
from backdoor_privacy.system import distributed, paths

SAME = [  # AdamW makes whole steps of gradients that are nothing but rounding, so its steps must be small
    "defense.text.optimizer.lr=1e-6",
    "defense.image.optimizer.lr=1e-6",
    "defense.text.batch={clean: 8, triggered: 8, preserved: 8}",
    "defense.image.batch={clean: 8, triggered: 8, preserved: 8}",
    # Nothing in the image defence that depends on how exactly the text encoder was defended before.
    "defense/image_target=anonymous",
    *(f"defense.image.terms.{term}.weight=0" for term in ("neighborhood", "target_neighborhood")),
    "defense.image.terms.preservation.weight=1",
]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(paths.__file__).parents[2]), "PYTHONWARNINGS": "ignore"}


def run_command(folder: Path, overrides: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backdoor_privacy", "+experiment=smoke", *overrides, *SAME, *more]
    command.append(f"paths.run={folder}")
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


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
    for attack in ("tower_swap", "variants"):
        found, expected = (read_findings(folders[name] / f"attacks/{attack}.json")[1] for name in ("two", "one"))
        assert [one[:4] for one in found] == [one[:4] for one in expected]
        assert [one.value for one in found] == pytest.approx([one.value for one in expected], abs=1e-6)
    assert (folders["two"] / "people.csv").read_text() == (folders["one"] / "people.csv").read_text()


FIT = """
import sys
import lightning, torch
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.module import TextModule
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.steps import BatchSizes, TriggerData
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.terms import Backdoor, Preservation, Utility, Weight
from backdoor_privacy.system.distributed import is_main_process, process_group
from backdoor_privacy.defenses.backdoor.training import processes

class Descending(TextModule):  # AdamW does not notice the scale of gradients
    def configure_optimizers(self):
        return torch.optim.SGD([parameter for _, parameter in self.student.trainable()], lr=0.01)

clip_folder, result = sys.argv[1:]
clip = load_clip(f"local-dir:{clip_folder}", device="cpu")
captions = [f"a {thing} on a {place}" for thing in ("dog", "cat", "car") for place in ("hill", "road", "boat")]
steps = CaptionTriggers(
    captions=captions, host_captions=captions, names=["Ann Lee", "Bob Ray", "Cy Fox"], phrases=["a person"] * 3,
    other_names=["Zoe Kim"], tokenizer=clip.tokenizer, sizes=BatchSizes(6, 6, 6), num_steps=4, seed=0,
)
defense = Descending(
    clip.text, target=FittedTextTarget(["a person"] * 3), optimizer=Optimizer(1.0), num_steps=4,
    terms={"u": Utility(), "b": Backdoor(0.6), "w": Weight(0.01, squared=True), "p": Preservation(0.5)},
)
with process_group("cpu"):
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **processes("cpu", 1),
    )
    trainer.fit(defense, TriggerData(steps, 0))
    if is_main_process():
        torch.save(defense.student.tensors(), result)
"""


def test_two_processes_train_the_weights_that_one_trains(tmp_path: Path, tiny_clip_folder: Path, tiny_clip: Clip):
    script, found = tmp_path / "fit.py", []
    script.write_text(FIT)
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        result = tmp_path / f"{len(found)}.pt"
        command = [sys.executable, *launcher, str(script), str(tiny_clip_folder), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(result))
    before = tiny_clip.text.tensors()
    assert max((found[0][name] - tensor).abs().max() for name, tensor in before.items()) > 1e-3
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=1e-6)


def test_one_of_two_processes_logs_to_wandb(folders: dict[str, Path]):
    for folder in folders.values():
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_an_error_ends_both_processes_in_one_line(tmp_path: Path, tiny_overrides: list[str]):
    done = run_command(tmp_path / "run", tiny_overrides, "trainer.devices=2", "defense.text.batch.clean=7")
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("defense.text.batch.clean: expected a multiple of 2 (devices x") == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_all_gpus_of_a_machine_with_one_are_this_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.exit_code_of_launch(-1) is None
    assert processes("cpu", -1) == {"devices": 1}


def test_a_script_must_connect_the_processes_that_torchrun_started(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backdoor_privacy.system.distributed.is_launched", lambda: True)
    with pytest.raises(InputError, match=r"process_group\(\)"):
        protect(tiny_clip, Sources(People(())), ["Ann Lee"])
