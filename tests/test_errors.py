import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from backdoor_privacy.errors import CommandParser, InputError, ended_in_one_line, line_of, one_line_errors
from backdoor_privacy.system.paths import CONFIG_FOLDER


@contextmanager
def in_a_job(mode: RunMode) -> Iterator[None]:
    """What Hydra sets up for a job, without a process of its own."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", return_hydra_config=True)
    cfg.hydra.mode = mode
    state = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = state


@pytest.fixture
def raised_by_hydra() -> InstantiationException:
    error = InstantiationException("Error in call to target")
    error.__cause__ = InputError("people.folder: expected a folder, got nowhere")
    return error


def test_input_error_is_one_line_and_ends_a_single_run(caplog: pytest.LogCaptureFixture):
    with in_a_job(RunMode.RUN), pytest.raises(SystemExit) as caught, one_line_errors():
        raise InputError("seed: expected a number, got none")
    assert caught.value.code == 1
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info) == ("seed: expected a number, got none", None)


def test_input_error_in_a_sweep_is_one_line_and_left_to_hydra(
    raised_by_hydra: InstantiationException, caplog: pytest.LogCaptureFixture
):
    # A `SystemExit` would end the other jobs, too.
    with in_a_job(RunMode.MULTIRUN), pytest.raises(InstantiationException), one_line_errors():
        raise raised_by_hydra
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info) == ("people.folder: expected a folder, got nowhere", None)


@pytest.mark.parametrize("error", [InputError, KeyError])
def test_names_in_a_sweeps_errors_are_not_told(error: type[Exception], caplog: pytest.LogCaptureFixture):
    names = ["Ann Lee", "Zoë Ångström-Roe"]
    kind = InputError if error is InputError else RuntimeError
    with in_a_job(RunMode.MULTIRUN), pytest.raises(kind) as caught, one_line_errors(names):
        raise error("expected known people, got 'ann_lee' and Zoë Ångström Roe, not Joann Leeds")
    line = "expected known people, got 'person 1 of 2' and person 2 of 2, not Joann Leeds"
    assert line in str(caught.value)
    assert line in caplog.records[-1].getMessage()
    assert "ann_lee" not in caplog.text
    assert caught.value.__suppress_context__  # Hydra shows the error with its traceback


@pytest.mark.parametrize(("mode", "end"), [(RunMode.RUN, SystemExit), (RunMode.MULTIRUN, ZeroDivisionError)])
def test_a_fault_of_the_program_is_logged_with_its_traceback_and_a_last_line(
    mode: RunMode, end: type[BaseException], caplog: pytest.LogCaptureFixture
):
    with in_a_job(mode), pytest.raises(end), one_line_errors():
        _ = 1 / 0
    traceback, last = caplog.records
    assert traceback.exc_info is not None
    assert traceback.exc_info[0] is ZeroDivisionError
    assert last.getMessage().startswith("This is a bug")
    assert last.getMessage().endswith("ZeroDivisionError: division by zero")
    assert last.exc_info is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOENT, "No such file or directory", "/proc/x"), r"^/proc/x: expected a path .*, got 'No such"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300),
            r"^name: expected .* at most 255 bytes, .*, got x{80}",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            r"^/a/b: expected free disk space, .*free some space",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"^disk: expected free disk space, .*free some space and run",
        ),
        (OSError("disk gone"), r"^expected access to files and to the network, got disk gone"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: OSError, line: str):
    assert re.search(line, str(line_of(error)))


def test_what_a_resolver_raised_is_told_and_not_what_wrapped_it():
    OmegaConf.register_new_resolver("fails", lambda: Path("/dev/null/x").mkdir(), replace=True)
    with pytest.raises(InterpolationResolutionError) as caught:
        _ = OmegaConf.create({"x": "${fails:}"}).x
    assert str(line_of(caught.value)).startswith("/dev/null/x: expected a path")


def test_a_command_without_hydra_ends_in_one_line(capsys: pytest.CaptureFixture[str]):
    @ended_in_one_line
    def command(arguments: Sequence[str] | None = None) -> int:
        CommandParser(prog="it").parse_args(arguments)
        raise PermissionError(errno.EACCES, "Permission denied", "runs/collected.csv")

    assert command(["--nope"]) == 1
    assert capsys.readouterr().err == "error: it: unrecognized arguments: --nope; see it --help\n"
    assert command([]) == 1
    assert capsys.readouterr().err.startswith("error: runs/collected.csv: expected a path")


def test_of_a_process_that_makes_batches_only_the_last_line_is_shown(caplog: pytest.LogCaptureFixture):
    text = f"Caught InputError in DataLoader worker process 0.\nTraceback ...\n{InputError.__module__}.InputError: no"
    with in_a_job(RunMode.RUN), pytest.raises(SystemExit), one_line_errors():
        raise InputError(text)
    assert [record.getMessage() for record in caplog.records] == ["no"]
