from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from backdoor_privacy.config.checks import check, check_pretrain
from backdoor_privacy.config.command import line_of_hydra
from backdoor_privacy.errors import InputError
from backdoor_privacy.run import check_run
from backdoor_privacy.system.paths import CONFIG_FOLDER


def test_what_an_experiment_says_is_fine(compose_cfg):
    check_run(compose_cfg())
    check_run(compose_cfg("defense=both_published"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("defense.text.num_steps=0", r"defense\.text\.num_steps: expected 1 or more, got 0"),
        (
            "defense.text.terms.relearning.radius=-1",
            r"defense\.text\.terms\.relearning\.radius: expected 0 or more, got -1.0",
        ),
        ("defense.image.num_fresh_steps=0", r"defense\.image\.num_fresh_steps: expected 1 or more, got 0"),
        ("defense.image.batch.triggered=0", r"defense\.image\.batch\.triggered: expected 1 or more, got 0"),
        (
            "defense.image.num_other_names=0",
            r"defense\.image\.num_other_names: expected 1 or more for .*, got 0",
        ),
        (
            "defense.text.num_other_names=0",
            r"defense\.text\.num_other_names: expected 1 or more for .*, got 0",
        ),
        (
            "defense.text.terms.neighborhood.weight=1",
            r"defense\.text\.num_anchors: expected 1 or more for the term .*",
        ),
        ("utility.similarity.num_captions=0", r"utility\.similarity\.num_captions: expected 1 or more, got 0"),
        ("attack.num_photos=0", r"attack\.num_photos: expected 1 or more, got 0"),
        ("defense.text.min_nearer_names=2", r"defense\.text\.min_nearer_names: expected a number from 0 to 1, got 2.0"),
        ("defense.image.kept_share=-0.1", r"defense\.image\.kept_share: expected a number from 0 to 1, got -0.1"),
        ("seed=-1", r"seed: expected a number from 0 to 4294967295, got -1"),
        ("seed=99999999999", r"seed: expected a number from 0 to 4294967295, got 99999999999"),
        ("attack.seed=-1", r"attack\.seed: expected a number from 0 to 4294967295, got -1"),
        ("clip.num_workers=-1", r"clip\.num_workers: expected 0 or more, got -1"),
        ("trainer.num_workers=-2", r"trainer\.num_workers: expected 0 or more, got -2"),
        ("defense.text.optimizer.lr=-1", r"defense\.text\.optimizer\.lr: expected 0 or more, got -1.0"),
        ("defense.text.optimizer.lr=nan", r"defense\.text\.optimizer\.lr: expected 0 or more, got nan"),
        ("defense.image.optimizer.lr=inf", r"defense\.image\.optimizer\.lr: expected 0 or more, got inf"),
        ("trainer.precision=evil", r"trainer\.precision: expected one of auto, .*, got evil"),
        ("trainer.accelerator=evil", r"trainer\.accelerator: expected one of auto, .*, got evil"),
        ("paths.cache=/proc/nothing", r"paths\.cache: expected a folder .*, got /proc/nothing \(No such file.*"),
        ("paths.cache=/dev/null", r"paths\.cache: expected a folder .*, got /dev/null \(File exists\).*"),
        ("trainer.devices=0", r"trainer\.devices: expected 1 or more, or -1 for all GPUs, got 0"),
        ("trainer.devices=3", r"defense\.text\.batch\.clean: expected a multiple of 3 \(devices x .*\), got 8"),
        ("trainer.accumulate_grad_batches=0", r"trainer\.accumulate_grad_batches: expected 1 or more, got 0"),
    ],
)
def test_a_setting_that_cannot_work_is_found_before_anything_is_computed(override: str, message: str, compose_cfg):
    with pytest.raises(InputError, match=f"^{message}$"):
        check_run(compose_cfg(override))


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


@pytest.mark.parametrize("other", ["seed", "defense.image.optimizer"])
def test_reference_in_place_of_several_settings_is_an_error(other: str, compose_cfg):
    key = "report"
    with pytest.raises(InputError, match=rf"^{key}: expected settings of several keys, got \$\{{{other}\}}; change "):
        check(compose_cfg(f"{key}=${{{other}}}"))


def test_a_setting_of_a_defence_that_is_not_made_does_not_matter(compose_cfg):
    check_run(compose_cfg("defense.text.num_steps=0", "defense.text=null"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"logger.tags=[ok,{'x' * 65}]", r"logger\.tags: expected tags of 1 to 64 characters, got 'x{65}'"),
        ("logger.tags=['']", r"logger\.tags: expected tags of 1 to 64 characters, got ''"),
        ("logger.project='a/b'", r"logger\.project: expected 1 to 128 characters and none of .*, got 'a/b'"),
        ("logger.project=''", r"logger\.project: expected 1 to 128 characters and none of .*, got ''"),
        ("logger.mode=evil", r"logger\.mode: expected offline or online, got evil"),
    ],
)
def test_what_wandb_would_refuse_is_found_where_it_is_asked_for(override: str, message: str, compose_cfg):
    check(compose_cfg(override))
    with pytest.raises(InputError, match=f"^{message}$"):
        check(compose_cfg("logger=wandb", override))


def test_a_gpu_that_is_not_there_is_missed_before_the_audit(compose_cfg, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for overrides in (["trainer.accelerator=gpu"], ["trainer=ddp", "trainer.accelerator=gpu"]):
        with pytest.raises(InputError, match=r"^trainer\.accelerator=gpu: expected a GPU .* found none; choose"):
            check(compose_cfg(*overrides))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check(compose_cfg("trainer.accelerator=gpu", "trainer.devices=2"))
    with pytest.raises(InputError, match=r"^trainer\.devices: expected at most 2, .* got 4"):
        check(compose_cfg("trainer.accelerator=gpu", "trainer.devices=4"))


def test_settings_of_pretraining_are_looked_over(compose_cfg):
    def pretrain(*overrides: str):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("pretrain", overrides=["paths.run=run", *overrides])

    check_pretrain(pretrain())
    for override, key in (("seed=-1", "seed"), ("num_workers=-1", "num_workers"), ("lr=-1", "lr")):
        with pytest.raises(InputError, match=f"^{key}: expected"):
            check_pretrain(pretrain(override))
    with pytest.raises(InputError, match=r"data\.folder=<value>"):
        check_pretrain(pretrain("data=shards"))
    with pytest.raises(InputError, match=r"^exclude: expected either people or run, got both"):
        check_pretrain(pretrain("exclude.people=names.txt", "exclude.run=runs/both_64"))


def test_settings_of_a_method_that_was_not_chosen_are_an_error(compose_cfg):
    with pytest.raises(InputError, match=r"^defense\.text: expected a method .* \(num_steps, .*defense\.text=null$"):
        check(compose_cfg("defense=projection", "~defense.image"))
    check(compose_cfg("defense=projection", "defense.text=null", "defense.image=null"))


@pytest.mark.parametrize("key", ["name", "paths.run", "paths.runs", "paths.cache"])
def test_an_empty_name_is_not_the_current_folder(key: str, compose_cfg):
    with pytest.raises(InputError, match=rf"^{key}: expected a name, got nothing"):
        check(compose_cfg(f"{key}="))


@pytest.mark.parametrize(
    ("override", "now"),
    [
        ("defense.text.target=phrase", "write defense/text_target=phrase"),
        ("defense.image.target=shared", "write defense/image_target=shared"),
        ("defense.text.loss_weights.preservation=4", "is now defense.text.terms, as defense.text.terms."),
        ("defense.text={loss_weights: {weight: 1}}", "is now defense.text.terms, as"),
        ("defense.text.phrase=human", "is now defense.text.target.phrase, with defense/text_target=phrase"),
        ("defense.image.group_size=2", "is now defense.image.target.group_size, with defense/image_target=shared"),
        ("defense.text.spellings_share=0.3", "is removed, since training on spellings did not help"),
        ("defense.image.num_decoys=3", "is removed, since decoys hide little"),
    ],
)
def test_setting_of_an_earlier_version_ends_in_what_to_write_now(override: str, now: str, compose_cfg, capsys):
    try:
        with pytest.raises(InputError) as caught:
            check_run(compose_cfg(override))
        told = str(caught.value)
    except ConfigCompositionException as error:  # Hydra's, of a key that is not there
        told = line_of_hydra(error) or ""
    assert now in told
    assert "\n" not in told
