import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode

from backdoor_privacy.errors import InputError, one_line_errors
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


@pytest.mark.parametrize("mode", list(RunMode))
def test_any_other_error_is_logged_with_its_traceback_and_goes_on(mode: RunMode, caplog: pytest.LogCaptureFixture):
    with in_a_job(mode), pytest.raises(ZeroDivisionError), one_line_errors():
        _ = 1 / 0
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_of_a_process_that_makes_batches_only_the_last_line_is_shown(caplog: pytest.LogCaptureFixture):
    text = f"Caught InputError in DataLoader worker process 0.\nTraceback ...\n{InputError.__module__}.InputError: no"
    with in_a_job(RunMode.RUN), pytest.raises(SystemExit), one_line_errors():
        raise InputError(text)
    assert [record.getMessage() for record in caplog.records] == ["no"]
