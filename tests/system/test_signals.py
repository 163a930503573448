"""A process that is asked to stop says how to go on, and ends with the exit code of the signal."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.command import run_command
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import ended_in_one_line, one_line_errors
from backdoor_privacy.system.signals import Stopped, stopping_in_order
from backdoor_privacy.system.stopping import place_of

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")]


@pytest.fixture(autouse=True)
def usual_handlers():
    """Whoever runs the tests may ignore Ctrl-C, as a shell does for what runs in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code", "what"), SIGNALS)
def test_a_signal_is_raised_and_its_handler_given_back(number: signal.Signals, code: int, what: str):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, stopping_in_order():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert caught.value.exit_code == code
    assert caught.value.line == f"{what}; run the same command again: finished work is kept"
    same = pickle.loads(pickle.dumps(caught.value))  # a worker of a sweep hands it to the process that started it
    assert (same.number, same.line) == (number, caught.value.line)


def test_a_signal_that_is_ignored_or_handled_by_others_stays_so():
    came: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with stopping_in_order():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGTERM]


def test_a_process_that_is_forked_off_ends_as_any_other():
    with stopping_in_order():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize(("number", "code", "what"), SIGNALS)
def test_a_command_without_hydra_ends_with_one_line(
    number: signal.Signals, code: int, what: str, capsys: pytest.CaptureFixture[str]
):
    @ended_in_one_line
    def command(arguments: Any = None) -> int:
        signal.raise_signal(number)
        return 0

    assert command() == code
    assert capsys.readouterr().err == f"{what}; run the same command again: finished work is kept\n"


@pytest.mark.parametrize(("number", "code", "what"), SIGNALS)
@pytest.mark.parametrize("arguments", [["seed=0"], ["--multirun", "seed=0,1"]])
def test_a_hydra_command_and_a_sweep_end_at_once_with_one_line(
    number: signal.Signals, code: int, what: str, arguments: list[str], tmp_path: Path, monkeypatch, capfd
):
    seeds = []

    def task(cfg: DictConfig) -> None:
        seeds.append(cfg.seed)
        with one_line_errors():
            try:
                signal.raise_signal(number)
            except Stopped as stop:
                stop.place = "step 7 of the text encoder"
                raise

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_command(task, "config")
    assert caught.value.code == code
    assert seeds == [0]
    out, err = capfd.readouterr()
    last = f"{what}; run the same command again: it resumes from step 7 of the text encoder"
    assert (out + err).rstrip().endswith(last)
    assert (out + err).count(last) == 1
    assert "Traceback" not in out + err


class StoppingAt(CSVLogger):
    """Losses, and SIGTERM at a step, as a scheduler sends it when the time is over."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="losses")
        self.step = step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)
        super().log_metrics(metrics, step)


@pytest.mark.parametrize(("stop_at", "goes_on"), [(1, 0), (5, 4)])
def test_a_fit_that_is_stopped_says_its_step(
    stop_at: int, goes_on: int, fit_encoder: Any, tiny_clip: Clip, people: People, compose_cfg, tmp_path: Path
):
    cfg = compose_cfg("defense.text.num_steps=9", "trainer.checkpoint_every_steps=4")
    with pytest.raises(Stopped) as caught, stopping_in_order():
        fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], loggers=[StoppingAt(tmp_path, stop_at)])
    assert caught.value.line.endswith(f"it resumes from step {goes_on} of the text encoder")


def test_a_checkpoint_that_does_not_read_has_no_step(tmp_path: Path):
    (tmp_path / "last.ckpt").write_bytes(b"cut off")
    assert place_of(tmp_path / "last.ckpt", "the text encoder") == ""
    assert place_of(tmp_path / "none.ckpt", "the text encoder") == "step 0 of the text encoder"


def test_a_real_signal_ends_a_real_command(tmp_path: Path):
    code = (
        "import os, signal; from backdoor_privacy.errors import ended_in_one_line\n"
        "command = ended_in_one_line(lambda arguments: os.kill(os.getpid(), signal.SIGTERM))\n"
        "raise SystemExit(command())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 143
    assert done.stderr == "stopped by SIGTERM; run the same command again: finished work is kept\n"
