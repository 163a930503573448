import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.budget import Evaluation, pareto_front
from backdoor_privacy.defenses.base import Defended
from backdoor_privacy.errors import InputError
from backdoor_privacy.run import run

NUM_STEPS = 12


def budget(encoder: str, **changes: float) -> list[str]:
    settings = {"min_similarity": -1.0, "every": 2, "patience": 2, "num_batches": 2, **changes}
    return [f"defense.{encoder}.budget.{key}={value}" for key, value in settings.items()]


@pytest.fixture
def fit(fit_encoder: Any, tiny_clip: Clip, people: People, compose_cfg):
    def fit_it(encoder: str, *overrides: str, loggers: Any = ()) -> Any:
        cfg = compose_cfg(f"defense.{encoder}.num_steps={NUM_STEPS}", *overrides)
        return fit_encoder(
            encoder, cfg, tiny_clip, people, people.everybody[:2], set(people.names), loggers=list(loggers)
        )

    return fit_it


def evaluations(defended: Defended) -> list[Evaluation]:
    table = defended.tables["budget"].drop(columns="encoder")
    return [Evaluation(*row) for row in table.itertuples(index=False)]


def test_front_holds_those_that_nothing_beats_in_both():
    best, cheap, strong, beaten = (
        Evaluation(*one) for one in ((1, 0.9, 0.5), (2, 0.95, 0.4), (3, 0.8, 0.6), (4, 0.8, 0.5))
    )
    assert pareto_front([best, cheap, strong, beaten]) == [best, cheap, strong]
    assert pareto_front([best, best._replace(step=9)]) == [best, best._replace(step=9)]


@pytest.mark.parametrize("encoder", ["text", "image"])
def test_within_the_budget_the_student_with_most_removal_is_kept(encoder: str, fit):
    fitted = fit(encoder, *budget(encoder))
    assert [one.step for one in evaluations(fitted)] == list(range(2, NUM_STEPS + 1, 2))
    (kept,) = (one for one in evaluations(fitted) if one.kept)
    assert kept.removal == max(one.removal for one in evaluations(fitted))
    assert kept.on_front
    assert all(-1 <= value <= 1 for one in evaluations(fitted) for value in (one.utility, one.removal))


def test_least_utility_bounds_what_is_kept(fit, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    seen = evaluations(fit("text", *budget("text"), f"paths.run={tmp_path}/free"))
    utilities = sorted(one.utility for one in seen)
    least = (utilities[-2] + utilities[-1]) / 2  # one of them is within
    with caplog.at_level(logging.WARNING):
        fitted = fit("text", *budget("text", min_similarity=least, patience=99), f"paths.run={tmp_path}/bound")
    assert [one[:3] for one in evaluations(fitted)] == [one[:3] for one in seen]
    (kept,) = (one for one in evaluations(fitted) if one.kept)
    assert kept.utility == utilities[-1]
    assert "budget" not in caplog.text


def test_fit_that_stays_out_of_the_budget_stops_and_says_so(fit, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        fitted = fit("text", *budget("text", min_similarity=1.5, patience=3))
    assert [one.step for one in evaluations(fitted)] == [2, 4, 6]
    assert "out of its utility budget" in caplog.text
    assert "step 6 of 12" in caplog.text
    assert "lower defense.text.budget.min_similarity" in caplog.text
    (kept,) = (one for one in evaluations(fitted) if one.kept)
    assert kept.utility == max(one.utility for one in evaluations(fitted))


def test_kept_student_is_the_one_of_its_step(fit, tmp_path: Path):
    """A fit that ends there is the same one."""
    schedule = ["defense.image.optimizer.schedule=step"]
    whole = fit("image", *schedule, *budget("image", min_similarity=1.5, patience=99), f"paths.run={tmp_path}/whole")
    (kept,) = (one for one in evaluations(whole) if one.kept)
    assert kept.step < NUM_STEPS
    shorter = [f"defense.image.num_steps={kept.step}", *budget("image", every=kept.step)]
    ended = fit("image", *schedule, *shorter, f"paths.run={tmp_path}/ended")
    assert [one.step for one in evaluations(ended)] == [kept.step]
    for name, tensor in ended.encoders["image"].tensors().items():
        assert tensor.equal(whole.encoders["image"].tensors()[name]), name


class PowerCut(CSVLogger):
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step == 7:
            raise RuntimeError("power cut")


def test_resumed_fit_remembers_what_it_saw(fit, tmp_path: Path):
    overrides = [*budget("text", min_similarity=1.5, patience=99), "trainer.checkpoint_every_steps=3"]
    expected = fit("text", *overrides, f"paths.run={tmp_path}/whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit("text", *overrides, f"paths.run={tmp_path}/cut", loggers=[PowerCut(tmp_path)])
    resumed = fit("text", *overrides, f"paths.run={tmp_path}/cut")
    assert evaluations(resumed) == evaluations(expected)
    tensors = expected.encoders["text"].tensors()
    assert all(tensor.equal(tensors[name]) for name, tensor in resumed.encoders["text"].tensors().items())


def test_fit_that_was_stopped_does_not_go_on_when_it_is_resumed(fit, tmp_path: Path):
    overrides = [*budget("text", min_similarity=1.5), "trainer.checkpoint_every_steps=2", f"paths.run={tmp_path}/run"]
    stopped = fit("text", *overrides)
    assert [one.step for one in evaluations(stopped)] == [2, 4]
    assert (tmp_path / "run/checkpoints/text/last.ckpt").is_file()
    again = fit("text", *overrides)
    assert evaluations(again) == evaluations(stopped)
    tensors = stopped.encoders["text"].tensors()
    assert all(tensor.equal(tensors[name]) for name, tensor in again.encoders["text"].tensors().items())


@pytest.mark.parametrize("name", ["every", "patience", "num_batches"])
def test_numbers_below_one_are_refused(name: str, compose_cfg):
    with pytest.raises(InputError, match=rf"^defense\.text\.budget\.{name}: expected 1 or more, got 0"):
        run(compose_cfg(*budget("text", **{name: 0})))


def test_run_writes_what_was_seen(compose_cfg, tmp_path: Path):
    cfg = compose_cfg("defense.text.num_steps=4", "defense.image.num_steps=2", *budget("text"))
    run(cfg)
    table = pd.read_csv(tmp_path / "run/budget.csv")
    assert list(table) == ["encoder", "step", "utility", "removal", "on_front", "kept"]
    assert table["encoder"].tolist() == ["text", "text"]
    assert table["step"].tolist() == [2, 4]
    assert table["kept"].sum() == 1
    assert "within the utility budget of -1" in (tmp_path / "run/report.html").read_text()
