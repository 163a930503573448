import io
import logging
import os
import pickle
import socket
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from open_clip import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.pretraining import caption_stream, learning_rate_factor, pretrain
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.personas import world
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

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


def size_of(photo: Image.Image) -> torch.Tensor:
    return torch.tensor(photo.size)


def as_tokens(text: str) -> list[str]:
    return [text]


def stream_texts(source: str | Path, num_batches: int = 4, **changes: Any) -> list[str]:
    """The captions of the first batches."""
    settings: dict[str, Any] = {"batch_size": 20, "num_workers": 0, "seed": 0, **changes}
    stream = caption_stream(source, size_of, as_tokens, **settings)
    return [caption for _, captions in islice(stream, num_batches) for caption in captions]


def test_stream_is_endless_and_a_function_of_the_seed(web: Path):
    def batches(seed: int) -> list[str]:
        return stream_texts(web, 8, seed=seed)

    first = batches(0)
    assert len(first) == 160  # more than there are
    assert len(set(first)) > 50
    assert batches(0) == first
    assert batches(1) != first


def test_folder_without_shards_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"^data\.folder: expected WebDataset shards .*, found none in"):
        caption_stream(tmp_path, size_of, as_tokens, batch_size=2, num_workers=0, seed=0)


def jpeg(colour: int = 0, side: int = 16) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), (colour, 0, 0)).save(encoded, "JPEG")
    return encoded.getvalue()


def write_shard(path: Path, *samples: dict[str, Any]) -> Path:
    with wds.writer.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{path.stem}-{number}", **sample})
    return path


def test_samples_come_in_the_order_of_webdatasets_own_stages(tmp_path: Path):
    for number in range(3):
        pairs = [{"jpg": jpeg(photo), "txt": f"{number} {photo}"} for photo in range(40)]
        write_shard(tmp_path / f"{number}.tar", *pairs)
    stages = wds.DataPipeline(
        wds.ResampledShards([str(tmp_path / f"{number}.tar") for number in range(3)], deterministic=True, seed=3),
        wds.tarfile_to_samples(),
        wds.shuffle(4000, initial=2000, seed=3),
        wds.to_tuple("txt"),
    )
    assert stream_texts(tmp_path, 10, seed=3) == [text.decode() for (text,) in islice(stages, 200)]


@pytest.mark.parametrize("name", ["pretrain", "pretrain_photos"])
def test_stream_can_be_sent_to_a_process_that_starts_anew(name: str, web: Path, tiny: list[str]):
    cfg = compose_pretrain(name, tiny)
    preprocess = image_transform_v2(
        PreprocessCfg(size=32), is_train=True, aug_cfg=OmegaConf.to_container(cfg.augmentation)
    )
    stream = caption_stream(web, preprocess, SimpleTokenizer(), batch_size=4, num_workers=0, seed=0)
    images, tokens = next(iter(pickle.loads(pickle.dumps(stream.stage(0).dataset))))
    assert (images.shape, tokens.shape) == ((4, 3, 32, 32), (4, 77))


def test_what_is_no_photo_with_a_text_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    samples: list[dict[str, Any]] = [
        {"jpg": jpeg(), "txt": "whole", "pickle": b"not read"},
        {"jpg": jpeg()[:200], "txt": "truncated"},
        {"jpg": jpeg(side=40), "txt": "bomb"},
        {"jpg": jpeg()},
        {"jpg": jpeg(), "txt": " "},
        {"txt": "no photo"},
        {"jpeg": jpeg(), "txt": "caf\xe9".encode("latin-1")},
    ]
    write_shard(tmp_path / "0.tar", *samples)
    with caplog.at_level(logging.WARNING):
        assert set(stream_texts(tmp_path)) == {"whole", "caf\N{REPLACEMENT CHARACTER}"}
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"The photo 0-{number} of {tmp_path}/0.tar does not decode; skipped" for number in (1, 2)
    ]


@pytest.mark.parametrize("cut", [512, 2048, 2560])  # within a file, and between two
def test_shard_that_was_cut_off_is_an_error(tmp_path: Path, cut: int):
    path = write_shard(tmp_path / "0.tar", *({"jpg": jpeg()[:500], "txt": "text"} for _ in range(3)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        InputError, match=r"^data\.folder: expected a complete tar, .*0\.tar: .*; fetch or write it anew$"
    ):
        stream_texts(tmp_path)


def test_url_that_does_not_answer_is_an_error_soon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("backdoor_privacy.data.shards._TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(InputError, match=r"^data\.folder: .*/0\.tar: .*timed out.*; fetch"):
            stream_texts(f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar")


def test_stream_that_would_never_give_anything_is_an_error(tmp_path: Path):
    write_shard(tmp_path / "0.tar", {"jpg": jpeg()})
    with pytest.raises(
        InputError, match=r"^data\.folder: expected photos with txt in each shard, found none in .*0\.tar"
    ):
        stream_texts(tmp_path)
    write_shard(tmp_path / "0.tar", {"jpg": b"no photo", "txt": "text"})
    with pytest.raises(
        InputError, match=r"^data\.folder: expected photos, got 1000 in turn .*, the last 0-0 of .*0\.tar$"
    ):
        stream_texts(tmp_path)


def test_shards_are_enough_for_the_workers_of_all_ranks(tmp_path: Path):
    for number in range(2):
        write_shard(tmp_path / f"{number}.tar", {"jpg": jpeg(), "txt": "text"})
    caption_stream(tmp_path, size_of, as_tokens, batch_size=2, num_workers=1, seed=0, num_ranks=2)
    for num_workers, num_ranks in ((2, 2), (0, 3)):
        with pytest.raises(
            InputError, match=r"^data\.folder: expected a shard .* of [34] readers \(workers x ranks\), got 2"
        ):
            caption_stream(
                tmp_path, size_of, as_tokens, batch_size=2, num_workers=num_workers, seed=0, num_ranks=num_ranks
            )


def test_pretraining_on_several_devices_needs_shards_for_each(cfg: DictConfig, tmp_path: Path):
    write_shard(tmp_path / "0.tar", {"jpg": jpeg(), "txt": "text"})
    cfg.data.folder, cfg.trainer.devices = str(tmp_path), 2
    with pytest.raises(InputError, match=r"each of 2 readers \(workers x ranks\), got 1"):
        pretrain(cfg)


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
