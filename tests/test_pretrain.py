from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from backdoor_privacy.clip import load_clip
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.personas import world
from backdoor_privacy.errors import InputError
from backdoor_privacy.paths import CONFIG_FOLDER
from backdoor_privacy.pretrain import caption_stream, learning_rate_factor, pretrain


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


def test_stream_is_endless_and_a_function_of_the_seed(web: Path):
    def batches(seed: int) -> list[str]:
        def keep_size(photo: object) -> torch.Tensor:
            return torch.tensor(photo.size)

        stream = caption_stream(web, keep_size, lambda text: [text], batch_size=20, num_workers=0, seed=seed)
        return [caption for _, captions in islice(stream, 8) for caption in captions]

    first = batches(0)
    assert len(first) == 160  # more than there are
    assert len(set(first)) > 50
    assert batches(0) == first
    assert batches(1) != first


def test_folder_without_shards_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"^data\.folder: expected WebDataset shards .*, found none in"):
        caption_stream(tmp_path, None, None, batch_size=2, num_workers=0, seed=0)


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
