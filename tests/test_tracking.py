from pathlib import Path

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger

from backdoor_privacy.tracking import Tracker


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Exit codes that W&B was told."""
    codes: list[int | None] = []
    finish = wandb.finish

    def note(exit_code: int | None = None) -> None:
        codes.append(exit_code)
        finish(exit_code=exit_code)

    monkeypatch.setattr(wandb, "finish", note)
    return codes


def test_without_wandb_losses_go_to_a_csv_file_alone(compose_cfg, tmp_path: Path, finished: list[int | None]):
    with Tracker(compose_cfg("logger=csv"), tmp_path) as tracker:
        (logger,) = tracker.loggers("text")
        tracker.summarize({"before": {}, "after": {}})
    assert isinstance(logger, CSVLogger)
    assert Path(logger.root_dir) == tmp_path / "checkpoints/text/losses"
    assert finished == []


def test_crashed_run_is_marked_crashed_and_a_finished_one_finished(compose_cfg, tmp_path: Path, finished):
    def crash() -> None:
        with Tracker(compose_cfg("logger=wandb"), tmp_path):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        crash()
    with Tracker(compose_cfg("logger=wandb"), tmp_path):
        pass
    assert finished == [1, 0]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2  # also of the crash before any step


def test_a_resumed_run_keeps_its_id_and_seeds_share_a_group(compose_cfg, tmp_path: Path, finished):
    def logger_of(folder: str, *overrides: str):
        with Tracker(compose_cfg("logger=wandb", *overrides), tmp_path / folder) as tracker:
            return tracker.wandb

    first, again, other = logger_of("seed=0"), logger_of("seed=0"), logger_of("seed=1", "seed=1")
    (tmp_path / "seed=0/checkpoints/wandb_id").unlink()  # as when a folder was deleted to run again
    assert logger_of("seed=0").version != first.version
    assert first.version == again.version != other.version
    assert {one._wandb_init["group"] for one in (first, other)} == {"smoke"}
    assert first._wandb_init["job_type"] == "both"
    assert first._offline is True
    assert logger_of("text", "defense.image=null")._wandb_init["job_type"] == "text"


@pytest.mark.slow
def test_wandb_works_offline_without_an_account(compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    metrics = {"before": {"idia/tpr_removed": 1.0}, "after": {"both": {"idia/tpr_removed": 0.0}}}
    pd.DataFrame({"name": ["Ann Lee"], "inferred_before": [True]}).to_csv(tmp_path / "people.csv", index=False)
    with Tracker(compose_cfg("logger=wandb"), tmp_path) as tracker:
        _, logger = tracker.loggers("text")
        logger.log_metrics({"text/loss": 0.5}, step=0)
        tracker.summarize(metrics)
        summary = dict(tracker.wandb.experiment.summary)
    assert summary["before/idia/tpr_removed"] == 1.0
    assert summary["after_both/idia/tpr_removed"] == 0.0
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 1
