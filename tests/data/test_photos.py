import logging
import random
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.photos import check_readable, cut_to, photo_loader, read_photo
from backdoor_privacy.errors import InputError


def broken_photo(path: Path, kind: str) -> Path:
    if kind == "truncated":
        Image.fromarray(np.zeros((64, 64, 3), np.uint8) + np.arange(64, dtype=np.uint8)[:, None]).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("not a photo")
    elif kind == "empty":
        path.touch()
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "missing"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photo_that_does_not_decode_is_none(tmp_path: Path, kind: str, suffix: str):
    assert read_photo(broken_photo(tmp_path / f"photo.{suffix}", kind)) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_photo_is_rgb_whatever_its_file_holds(tmp_path: Path, mode: str):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.new("RGB", (8, 6), (204, 204, 204)).convert(mode).save(path)
    photo = read_photo(path)
    assert (photo.mode, photo.size) == ("RGB", (8, 6))
    assert np.allclose(np.asarray(photo), 204, atol=3)


def test_photo_is_cut_to_its_box(write_photo, tmp_path: Path):
    path = write_photo(tmp_path / "photo.png", 0)
    expected = np.asarray(read_photo(path))[4:28, 8:32]
    assert np.array_equal(np.asarray(cut_to((8, 4, 32, 28), read_photo(path), path)), expected)


def test_box_that_is_partly_outside_is_cut_at_the_edge(write_photo, tmp_path: Path):
    path = write_photo(tmp_path / "photo.png", 0)
    expected = np.asarray(read_photo(path))[:28, 8:]
    assert np.array_equal(np.asarray(cut_to((8, -5, 90, 28), read_photo(path), path)), expected)


@pytest.mark.parametrize("box", [(40, 0, 50, 10), (0, 32, 10, 90), (-9, 0, 0, 10)])
def test_box_outside_the_photo_is_an_error_that_names_it(write_photo, tmp_path: Path, box: tuple[int, ...]):
    path = write_photo(tmp_path / "photo.png", 0)
    with pytest.raises(InputError, match=r"photo\.png: expected a face box within 40 x 32 pixels, got .* = -?\d+, "):
        cut_to(box, read_photo(path), path)


@pytest.mark.parametrize("max_pixels", [1000, 100])  # a photo of 40 x 32: pillow warns, and pillow errs
def test_image_bomb_counts_as_unreadable_and_is_never_decoded(
    write_photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int
):
    path = write_photo(tmp_path / "photo.png", 0)
    assert read_photo(path) is not None
    decoded = []
    monkeypatch.setattr(Image.Image, "convert", lambda *_: decoded.append(True))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a user's process: the tests' own setting makes errors of warnings
        assert read_photo(path) is None
    assert not decoded


@pytest.mark.parametrize("error", [struct.error, IndexError, RuntimeError, zlib.error, MemoryError])
def test_whatever_pillow_raises_the_photo_is_none(write_photo, tmp_path: Path, monkeypatch, error: type[Exception]):
    def fail(*_: object) -> None:
        raise error

    path = write_photo(tmp_path / "photo.png", 0)
    monkeypatch.setattr(Image.Image, "convert", fail)
    assert read_photo(path) is None


def test_photo_that_pillow_only_warns_of_is_read(tmp_path: Path):
    photo = Image.new("P", (8, 6), 1)
    photo.putpalette([0, 0, 0, 204, 204, 204])
    photo.save(tmp_path / "photo.png", transparency=bytes([255, 100]))
    with Image.open(tmp_path / "photo.png") as again, pytest.warns(UserWarning, match="Transparency"):
        again.convert("RGB")
    on_white = round(204 * 100 / 255 + 255 * 155 / 255)
    assert read_photo(tmp_path / "photo.png").getpixel((0, 0)) == (on_white,) * 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_no_damage_makes_reading_raise(write_photo, tmp_path: Path, suffix: str):
    path = write_photo(tmp_path / f"photo.{suffix}", 0)
    content, rng = path.read_bytes(), random.Random(0)
    unreadable = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.sample(range(2, len(content)), 8):
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        unreadable += read_photo(path) is None
    assert unreadable or suffix == "bmp"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_photos_are_skipped_and_the_others_keep_their_places(write_photo, tmp_path: Path, num_workers: int):
    paths = [write_photo(tmp_path / f"{number}.png", number) for number in range(7)]
    for place in (0, 3, 4):
        paths[place].write_text("not a photo")

    loader = photo_loader(paths, to_tensor, batch_size=2, num_workers=num_workers)
    found = {place: pixels for batch in loader for pixels, place in zip(*batch, strict=True)}
    assert [int(place) for place in found] == [1, 2, 5, 6]
    for place, pixels in found.items():
        assert torch.equal(pixels, to_tensor(read_photo(paths[int(place)])))


def to_tensor(photo: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(photo).copy())


def test_unreadable_photo_is_named_and_counted(caplog: pytest.LogCaptureFixture):
    readable, paths = torch.ones(100, dtype=torch.bool), [Path(f"photos/{number}.jpg") for number in range(100)]
    readable[7] = False
    with caplog.at_level(logging.WARNING):
        check_readable(readable, paths)
    assert "1 of 100 photos do not decode: photos/7.jpg; skipped" in caplog.text


def test_more_than_one_percent_unreadable_is_an_error_that_names_them():
    readable, paths = torch.ones(100, dtype=torch.bool), [Path(f"photos/{number}.jpg") for number in range(100)]
    readable[[7, 42]] = False
    with pytest.raises(InputError, match=r"2 of 100 photos do not decode: photos/7\.jpg, photos/42\.jpg; at most 1%"):
        check_readable(readable, paths)


def test_all_readable_says_nothing(caplog: pytest.LogCaptureFixture):
    check_readable(torch.ones(3, dtype=torch.bool), [Path("a"), Path("b"), Path("c")])
    assert not caplog.records


def test_clip_embeds_the_readable_photos_and_marks_the_others(tiny_clip: Clip, write_photo, tmp_path: Path):
    paths = [write_photo(tmp_path / f"{number:03}.png", number % 3) for number in range(101)]
    paths[50].write_text("not a photo")
    features, readable = tiny_clip.embed_photos(paths)
    assert [place for place, ok in enumerate(readable.tolist()) if not ok] == [50]
    assert (features[50] == 0).all()
    torch.testing.assert_close(features[readable].norm(dim=-1), torch.ones(100))
    torch.testing.assert_close(features[0], features[3])
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    paths[51].write_text("not a photo")
    with pytest.raises(InputError, match=r"2 of 101 photos do not decode: .*050\.png, .*051\.png"):
        replace(tiny_clip, image=tiny_clip.image.copy(), decoded={}).embed_photos(paths)
