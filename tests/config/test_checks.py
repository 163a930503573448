from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from backdoor_privacy.config.checks import check
from backdoor_privacy.errors import InputError


def test_what_an_experiment_says_is_fine(compose_cfg):
    check(compose_cfg())
    check(compose_cfg("defense=both_published"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("defense.text.num_steps=0", r"defense\.text\.num_steps: expected 1 or more, got 0"),
        ("defense.text.relearning_radius=-1", r"defense\.text\.relearning_radius: expected 0 or more, got -1.0"),
        ("defense.image.num_fresh_steps=0", r"defense\.image\.num_fresh_steps: expected 1 or more, got 0"),
        ("defense.image.batch.triggered=0", r"defense\.image\.batch\.triggered: expected 1 or more, got 0"),
        ("defense.image.num_other_names=0", r"defense\.image\.num_other_names: expected 1 or more, got 0"),
        ("defense.text.num_other_names=0", r"defense\.text\.num_other_names: expected 1 or more, got 0"),
        ("defense.text.loss_weights.neighborhood=1", r"defense\.text\.num_anchors: expected 1 or more, got 0"),
        ("utility.similarity.num_captions=0", r"utility\.similarity\.num_captions: expected 1 or more, got 0"),
        ("attack.num_photos=0", r"attack\.num_photos: expected 1 or more, got 0"),
        ("defense.text.min_nearer_names=2", r"defense\.text\.min_nearer_names: expected a number from 0 to 1, got 2.0"),
        ("defense.image.kept_share=-0.1", r"defense\.image\.kept_share: expected a number from 0 to 1, got -0.1"),
        ("trainer.devices=0", r"trainer\.devices: expected 1 or more, or -1 for all GPUs, got 0"),
        ("trainer.devices=3", r"defense\.text\.batch\.clean: expected a multiple of 3 \(devices x .*\), got 8"),
        ("trainer.accumulate_grad_batches=0", r"trainer\.accumulate_grad_batches: expected 1 or more, got 0"),
    ],
)
def test_a_setting_that_cannot_work_is_found_before_anything_is_computed(override: str, message: str, compose_cfg):
    with pytest.raises(InputError, match=f"^{message}$"):
        check(compose_cfg(override))


@pytest.mark.parametrize("num_devices", [2, -1])
def test_several_devices_are_refused_in_a_sweep(num_devices: int, compose_cfg, monkeypatch: pytest.MonkeyPatch):
    cfg = compose_cfg(f"trainer.devices={num_devices}")
    check(cfg)  # by itself it is fine
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.MULTIRUN))
    with pytest.raises(
        InputError, match=rf"trainer\.devices: expected 1 for each job of a sweep, .*; got {num_devices};"
    ):
        check(cfg)


def test_a_setting_of_a_defence_that_is_not_made_does_not_matter(compose_cfg):
    check(compose_cfg("defense.text.num_steps=0", "defense.text=null", "utility.similarity.num_captions=0"))
