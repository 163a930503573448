"""Two processes on the CPU do together what one does alone.

One run is started as the command starts it; else the two processes are forked off, as they need import nothing then.
"""

import json
import multiprocessing
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from backdoor_privacy.__main__ import main
from backdoor_privacy.attacks.record import read_scores
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor import optimizer
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import protect
from backdoor_privacy.system import distributed, paths

pytestmark = pytest.mark.usefixtures("unchecked_types")

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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]) -> dict[str, Path]:
    """Run folders of one process, and of two."""
    root = tmp_path_factory.mktemp("distributed")
    for name, devices in (("one", 1), ("two", 2)):
        more = [f"trainer.devices={devices}", "clip.store=null", "logger=wandb", f"paths.run={root / name}"]
        assert exit_code_of_main([*tiny_overrides, *SAME, *more]) == 0
    return {name: root / name for name in ("one", "two")}


def exit_code_of_main(overrides: list[str]) -> int:
    """Call the command in this process; with several devices it starts others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(paths.__file__).parents[2]))
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", ["backdoor_privacy", "+experiment=smoke", *overrides])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> list[int | None]:
    """Call a function in two processes that know each other, as torchrun starts them, and return their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_call_as, args=(rank, port, function, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    return [process.exitcode for process in processes]


def _call_as(rank: int, port: int, function: Callable[..., Any], arguments: Any) -> None:
    warnings.simplefilter("ignore")
    with pytest.MonkeyPatch.context() as patch:
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        for name, value in {**place, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "test"}.items():
            patch.setenv(name, str(value))
        function(*arguments)


def test_losses_of_two_processes_are_those_of_one(folders: dict[str, Path]):
    one, two = (pd.read_csv(folder / "losses.csv") for folder in folders.values())
    assert set(one["encoder"]) == {"text", "image"}
    pd.testing.assert_frame_equal(two, one, check_exact=False, rtol=0, atol=1e-5)


def test_two_processes_find_what_one_finds(folders: dict[str, Path]):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders.values())
    assert set(two) == set(one)
    assert two["before"] == pytest.approx(one["before"], abs=1e-6)
    assert {path.name for path in folders["two"].iterdir()} == {path.name for path in folders["one"].iterdir()}
    for attack in ("tower_swap", "variants"):
        found, expected = (read_scores(folders[name] / f"attacks/{attack}.json")[1] for name in ("two", "one"))
        assert [one[:4] for one in found] == [one[:4] for one in expected]
        assert [one.value for one in found] == pytest.approx([one.value for one in expected], abs=1e-6)
    assert (folders["two"] / "people.csv").read_text() == (folders["one"] / "people.csv").read_text()


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fits take steps of SGD: AdamW does not notice the scale of gradients."""
    monkeypatch.setattr(optimizer, "AdamW", lambda parameters, lr, **_: torch.optim.SGD(parameters, lr))


def test_two_processes_train_the_weights_that_one_trains(
    plain_steps: None, fit_encoder: Any, compose_cfg: Any, tiny_clip: Clip, people: People, tmp_path: Path
):
    cfg = compose_cfg(
        *("defense.text.num_steps=4", "defense.text.optimizer.lr=0.01", "defense.text.optimizer.schedule=step"),
        "defense.text.batch={clean: 6, triggered: 6, preserved: 6}",
    )

    def fit(name: str) -> None:
        cfg.paths.run = str(tmp_path / name)
        with distributed.process_group("cpu"):
            fitted = fit_encoder("text", cfg, tiny_clip, people, people.everybody[:3])
            if distributed.is_main_process():
                torch.save(fitted.encoders["text"].tensors(), tmp_path / f"{name}.pt")

    fit("one")
    assert in_two_processes(fit, "two") == [0, 0]
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert max((one[name] - tensor).abs().max() for name, tensor in tiny_clip.text.tensors().items()) > 1e-3
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)


def test_one_of_two_processes_logs_to_wandb(folders: dict[str, Path]):
    for folder in folders.values():
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_mistake_in_the_settings_ends_the_command_before_others_are_started(
    tmp_path: Path, tiny_overrides: list[str], capfd, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(distributed, "launch", lambda *_: pytest.fail("launched"))
    more = ["trainer.devices=2", "defense.text.batch.clean=7", f"paths.run={tmp_path}/run"]
    assert exit_code_of_main([*tiny_overrides, *SAME, *more]) == 1
    told = "".join(capfd.readouterr())
    assert told.count("defense.text.batch.clean: expected a multiple of 2 (devices x") == 1
    assert "Traceback" not in told


def test_error_on_the_way_ends_both_processes(tmp_path: Path, tiny_overrides: list[str], capfd):
    more = ["trainer.devices=2", "trigger_set.num_people=13", f"paths.run={tmp_path}/run"]
    assert in_two_processes(lambda: sys.exit(exit_code_of_main([*tiny_overrides, *SAME, *more]))) == [1, 1]
    told = "".join(capfd.readouterr())
    assert "trigger_set.num_people: expected at most 12" in told
    assert "Traceback" not in told


def test_all_gpus_of_a_machine_with_one_are_this_process(
    fit_encoder: Any, compose_cfg: Any, tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        assert distributed.exit_code_of_launch(-1) is None
    cfg = compose_cfg("defense.text.num_steps=1", "trainer.devices=-1")
    assert len(fit_encoder("text", cfg, tiny_clip, people, people.everybody[:1]).targets["text"]) == 1


def test_a_script_must_connect_the_processes_that_torchrun_started(
    tiny_clip: Clip, people: People, captions_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    sources = Sources(people, captions_file.read_text().splitlines())
    with pytest.raises(InputError, match=r"process_group\(\)"):
        protect(tiny_clip, sources, ["Ann Lee"], "text_published")
