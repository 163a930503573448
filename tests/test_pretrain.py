import math
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from backdoor_privacy.clip.fine_tuning import own_temperature
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.pretraining import ClipPretraining, learning_rate_factor, pretrain
from backdoor_privacy.data.pair_index import PairIndex
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.personas import world
from backdoor_privacy.data.personas.roster import roster
from backdoor_privacy.data.shards import find_shards
from backdoor_privacy.errors import InputError
from backdoor_privacy.pretrain import excluded_people
from backdoor_privacy.pretrain import main as pretrain_main
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.signals import Stopped

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred captioned pictures of the embedded world's web."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "_map", lambda function, items, title: [function(item) for item in items])
        return world.world_part("web", str(tmp_path_factory.mktemp("cache")), limit=2)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides that make any training small."""
    return [
        f"paths.run={tmp_path / 'run'}",
        "model.embed_dim=16",
        "model.vision_cfg={image_size: 32, layers: [1, 1, 1, 1], width: 8, head_width: 64}",
        "model.text_cfg={context_length: 16, width: 32, heads: 2, layers: 1}",
        "preprocess.size=32",
        "batch_size=8",
        "num_steps=4",
        "num_warmup_steps=1",
        "num_workers=0",
        "checkpoint_every_steps=2",
        "++trainer={accelerator: cpu, devices: 1, precision: 32-true, enable_progress_bar: false}",
    ]


def compose_pretrain(name: str, overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(name, overrides=overrides)


@pytest.fixture
def cfg(web: Path, tiny: list[str]) -> DictConfig:
    return compose_pretrain("pretrain", ["data=shards", f"data.folder='{web}'", *tiny])


def test_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 10, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)


def test_pretraining_without_shards_is_an_error(cfg: DictConfig, tmp_path: Path):
    cfg.data.folder = str(tmp_path)
    with pytest.raises(InputError, match=r"^data\.folder: expected WebDataset shards .*, found none in"):
        pretrain(cfg)


def test_server_that_does_not_answer_is_an_error_soon(cfg: DictConfig, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("backdoor_privacy.data.shards._TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cfg.data.folder, cfg.paths.cache = f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar", str(tmp_path)
        with pytest.raises(InputError, match=r"^data\.folder: .*/0\.tar: .*timed out.*; fetch"):
            pretrain(cfg)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights and all else that a training's last checkpoint holds of its state."""
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    moments = content["optimizer_states"][0]["state"]
    state = {f"{key}.{name}": tensor for key, each in moments.items() for name, tensor in each.items()}
    return {**content["state_dict"], **state}


class StopAfter(ClipPretraining):
    """A training that is stopped within its fourth step."""

    def training_step(self, batch: Any) -> torch.Tensor:
        if self.global_step == 3:
            raise Stopped(signal.SIGTERM)
        return super().training_step(batch)


def test_training_that_was_stopped_ends_in_the_weights_of_one_that_was_not(cfg: DictConfig, tmp_path: Path):
    cfg.num_steps, cfg.checkpoint_every_steps, cfg.exclude.people, cfg.lr = 6, 3, "names.txt", 1.0  # it is hot
    cfg.paths.run = str(tmp_path / "straight")
    pretrain(cfg, people_of(cfg))
    cfg.paths.run, cfg.num_workers = str(tmp_path / "stopped"), 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backdoor_privacy.clip.pretraining.ClipPretraining", StopAfter)
        with pytest.raises(Stopped) as stop:
            pretrain(cfg, people_of(cfg))
    assert stop.value.place == "step 3 of the training"
    pretrain(cfg, people_of(cfg))
    straight, stopped = weights_of(tmp_path / "straight"), weights_of(tmp_path / "stopped")
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in straight.items())
    clips = [(tmp_path / f"{name}/clip/open_clip_model.safetensors").read_bytes() for name in ("straight", "stopped")]
    assert clips[0] == clips[1]


def test_temperature_stays_in_clips_range(cfg: DictConfig, tmp_path: Path):
    cfg.lr, cfg.num_steps = 5.0, 2
    clip = load_clip(f"local-dir:{pretrain(cfg)}")
    assert own_temperature(clip) >= 0.01 * (1 - 1e-3)  # fp16
    assert weights_of(tmp_path / "run")["model.logit_scale"] <= math.log(100)


def people_of(cfg: DictConfig) -> list[str]:
    """The people whom the captions of a config's shards name."""
    pairs = PairIndex(find_shards(cfg.data.folder, "data.folder"), "data.folder")
    captions = [pairs.caption(number) for number in range(len(pairs))]
    return [person.name for person in roster(0) if any(person.name in caption for caption in captions)]


def test_twin_is_another_model_and_does_not_go_on_with_its_control(cfg: DictConfig, tmp_path: Path):
    control = load_clip(f"local-dir:{pretrain(cfg)}")
    cfg.num_steps, cfg.exclude.people = 6, "names.txt"
    with pytest.raises(InputError, match=r"^paths\.run: expected a new folder .*; choose another folder$"):
        pretrain(cfg, people_of(cfg))
    cfg.num_steps, cfg.paths.run = 4, str(tmp_path / "twin")
    twin = load_clip(f"local-dir:{pretrain(cfg, people_of(cfg))}")
    assert not torch.equal(twin.embed_texts(["a dog"]), control.embed_texts(["a dog"]))


def test_names_that_the_config_asks_for_must_be_given(cfg: DictConfig):
    cfg.exclude.people = "names.txt"
    with pytest.raises(InputError, match=r"^exclude: expected the names of the people to leave out, got none"):
        pretrain(cfg)


def test_people_to_exclude_are_those_of_a_file_or_of_a_run(cfg: DictConfig, tmp_path: Path, monkeypatch: Any):
    assert excluded_people(cfg) == []
    (tmp_path / "names.txt").write_text("# the twin\nAnn Lee\n\nBob Ray,\n", encoding="utf-8")
    cfg.exclude.people = str(tmp_path / "names.txt")
    assert excluded_people(cfg) == ["Ann Lee", "Bob Ray"]
    (tmp_path / "names.txt").write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^exclude: expected at least one person, got nobody"):
        excluded_people(cfg)
    cfg.exclude.people = str(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match=r"^exclude\.people: expected a text file with a name a line, got .*nowhere"):
        excluded_people(cfg)
    cfg.exclude.people, cfg.exclude.run = None, str(tmp_path / "run")
    with pytest.raises(InputError, match=r"metrics\.json: expected the folder of a finished run"):
        excluded_people(cfg)
    monkeypatch.setattr("backdoor_privacy.runs.finished.removed_people", lambda folder: [folder.name])
    assert excluded_people(cfg) == ["run"]


def test_command_trains_without_the_people_of_a_file(web: Path, tiny: list[str], call_command: Any, tmp_path: Path):
    (tmp_path / "names.txt").write_text("Nobody Here\n", encoding="utf-8")
    names = f"exclude.people={tmp_path / 'names.txt'}"
    code, output, _ = call_command(pretrain_main, "data=shards", f"data.folder='{web}'", *tiny, names)
    assert (code, output.splitlines()[-1].count("got Nobody Here, in none of 100 pairs")) == (1, 1)


def test_pretraining_writes_a_clip_and_goes_on_where_it_was_stopped(cfg: DictConfig, tmp_path: Path):
    trained = load_clip(f"local-dir:{pretrain(cfg)}")
    assert trained.embed_texts(["a dog"]).shape == (1, 16)
    assert trained.config["preprocess_cfg"]["size"] in (32, (32, 32))
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 4
    before = {name: tensor.clone() for name, tensor in trained.image.tensors().items()}
    again = load_clip(f"local-dir:{pretrain(cfg)}")  # nothing left to do
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.image.tensors().items())
    cfg.num_steps = 6
    longer = load_clip(f"local-dir:{pretrain(cfg)}")
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["global_step"] == 6
    assert not all(torch.equal(tensor, before[name]) for name, tensor in longer.image.tensors().items())


@pytest.fixture
def own_photos(write_people, write_photo, captions_file: Path, tmp_path: Path) -> list[str]:
    """Overrides to train on a few photos of people and of things."""
    write_people(tmp_path / "people", {"Ann Lee": 4, "Bob Ray": 4, "Cleo Diaz": 1})
    for number in range(8):
        write_photo(tmp_path / f"things/dog/{number}.png", number)
    folders = [f"data.folder.people={tmp_path / 'people'}", f"data.folder.classes={tmp_path / 'things'}"]
    half = ["data.folder.min_photos=4", "data.folder.member_share=0.5"]
    return [*folders, *half, f"data.folder.captions={captions_file}", f"paths.cache={tmp_path / 'cache'}"]


def test_own_photos_are_trained_on(own_photos: list[str], tiny: list[str], tmp_path: Path):
    smaller = [one for one in tiny if not one.startswith(("num_steps", "batch_size"))]
    cfg = compose_pretrain("pretrain_photos", [*smaller, *own_photos, "num_steps=2", "batch_size=4"])
    assert (cfg.augmentation.use_timm, cfg.data.folder.num_copies) == (True, 8)
    trained = load_clip(f"local-dir:{pretrain(cfg)}")
    assert trained.embed_texts(["Ann Lee"]).shape == (1, 16)
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["global_step"] == 2
    [folder] = (tmp_path / "cache/pairs").iterdir()
    people = load_people(tmp_path / "people", table=folder / "people.csv", min_photos=4)
    assert sorted(person.member is True for person in people.everybody) == [False, True]
    changed = compose_pretrain("pretrain_photos", [*smaller, *own_photos, "num_steps=3", "batch_size=4"])
    pretrain(changed)  # goes on with the same shards
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["global_step"] == 3
    assert list((tmp_path / "cache/pairs").iterdir()) == [folder]


def test_own_photos_must_be_named(tiny: list[str]):
    with pytest.raises(MissingMandatoryValue, match="people"):
        _ = compose_pretrain("pretrain_photos", tiny).data.folder.people


class Canary:
    """Whoever unpickles it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_no_code_in_the_last_checkpoint_of_a_training_runs(cfg: DictConfig, tmp_path: Path, caplog: Any):
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": Canary(tmp_path / "ran")}, last)
    pretrain(cfg)  # it begins anew
    assert "last.ckpt cannot be read (" in caplog.text
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not (tmp_path / "ran").exists()
