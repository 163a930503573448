import io
import logging
from pathlib import Path

import pytest
import torch
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.images import load_images
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER


@pytest.fixture
def shards(images_folder: Path, tmp_path: Path) -> Path:
    """The images folder as two shards, in the same order."""
    folder = tmp_path / "shards"
    folder.mkdir()
    paths = sorted(images_folder.iterdir())
    for number, part in enumerate((paths[:7], paths[7:])):
        write_shard(folder / f"{number:05}.tar", {path.stem: path.read_bytes() for path in part})
    return folder


def write_shard(path: Path, photos: dict[str, bytes]) -> None:
    with wds.writer.TarWriter(str(path)) as writer:
        for key, content in photos.items():
            writer.write({"__key__": key, "png": content, "txt": "a caption"})


def test_folder_and_shards_give_the_same_photos(images_folder: Path, shards: Path, tiny_clip: Clip):
    from_folder = load_images(images_folder, tiny_clip.geometry, 100)
    from_shards = load_images(shards, tiny_clip.geometry, 100)
    assert from_folder.shape == (12, 3, 24, 24)
    assert torch.equal(from_folder, from_shards)


def test_photos_are_bytes_of_the_clips_own_geometry(images_folder: Path, tiny_clip: Clip):
    images = load_images(images_folder, tiny_clip.geometry, 100)
    for path, image in zip(sorted(images_folder.iterdir()), images, strict=True):
        with Image.open(path) as photo:
            expected = tiny_clip.preprocess(photo)
        torch.testing.assert_close(tiny_clip.normalize(image.float() / 255), expected, rtol=0, atol=0.5 / 255 / 0.25)


def test_no_more_photos_are_read_than_asked_for(images_folder: Path, shards: Path, tiny_clip: Clip):
    everything = load_images(images_folder, tiny_clip.geometry, 12)
    for folder in (images_folder, shards):
        assert torch.equal(load_images(folder, tiny_clip.geometry, 9), everything[:9])


def test_one_shard_or_a_pattern_of_them_is_read(images_folder: Path, shards: Path, tiny_clip: Clip):
    everything = load_images(images_folder, tiny_clip.geometry, 100)
    assert torch.equal(load_images(f"{shards}/{{00000..00001}}.tar", tiny_clip.geometry, 100), everything)
    assert torch.equal(load_images(shards / "00001.tar", tiny_clip.geometry, 100), everything[7:])


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp"])
def test_shards_hold_photos_of_any_kind(suffix: str, images_folder: Path, tmp_path: Path, tiny_clip: Clip):
    photo = io.BytesIO()
    with Image.open(images_folder / "00.png") as opened:
        opened.save(photo, {"jpg": "jpeg"}.get(suffix, suffix.lower()))
    with wds.writer.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        writer.write({"__key__": "a/0", suffix: photo.getvalue(), "json": b"{}", "txt": b"a caption"})
    assert load_images(tmp_path, tiny_clip.geometry, 10).shape == (1, 3, 24, 24)


@pytest.mark.parametrize("group", ["folder", "webdataset"])
def test_configs_load_photos(group: str, images_folder: Path, shards: Path, tiny_clip: Clip):
    source = {"folder": images_folder, "webdataset": shards}[group]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", [f"images={group}", f"images.folder={source}", "images.max_images=9"])
    images = load_images(instantiate(cfg.images).folder, tiny_clip.geometry, cfg.images.max_images)
    assert torch.equal(images, load_images(images_folder, tiny_clip.geometry, 9))


def test_photos_lie_in_any_depth(write_photo, tmp_path: Path, tiny_clip: Clip):
    for number, path in enumerate(("a.png", "b/c.png", "b/d/e.png")):
        write_photo(tmp_path / path, number)
    (tmp_path / "b/notes.txt").write_text("no photo")
    for hidden in ("b/._c.png", ".cache/f.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("what programs leave behind")
    assert len(load_images(tmp_path, tiny_clip.geometry, 100)) == 3


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_broken_photo_is_named_and_skipped_and_too_many_are_an_error(
    kind: str, write_photo, tmp_path: Path, tiny_clip: Clip, caplog: pytest.LogCaptureFixture
):
    def write(num_broken: int) -> Path:
        photos = tmp_path / f"photos-{num_broken}"
        content = {}
        for number in range(100):
            path = write_photo(photos / f"{number:03}.png", number)
            if number < num_broken:
                path.write_bytes(path.read_bytes()[:60])
            content[path.stem] = path.read_bytes()
        if kind == "folder":
            return photos
        shards = tmp_path / f"shards-{num_broken}"
        shards.mkdir()
        write_shard(shards / "00000.tar", content)
        return shards

    with caplog.at_level(logging.WARNING):
        assert len(load_images(write(1), tiny_clip.geometry, 1000)) == 99
    assert "1 of 100 photos do not decode" in caplog.text
    assert "000.png" in caplog.text
    with pytest.raises(InputError, match=r"2 of 100 photos do not decode: .*000\.png, .*001\.png; at most 1%"):
        load_images(write(2), tiny_clip.geometry, 1000)


def test_folder_without_photos_is_an_error(tmp_path: Path, tiny_clip: Clip):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"images\.folder: expected WebDataset shards .* found none"):
            load_images(folder, tiny_clip.geometry, 10)


def test_incomplete_or_missing_shards_are_an_error(shards: Path, tiny_clip: Clip):
    content = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"^images\.folder: expected a complete tar, .*00001\.tar: .*"):
        load_images(shards, tiny_clip.geometry, 100)
    with pytest.raises(InputError, match=r"^images\.folder: expected all 3 shards of .*, found no .*00002\.tar$"):
        load_images(f"{shards}/{{00000..00002}}.tar", tiny_clip.geometry, 100)
