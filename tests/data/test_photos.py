import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.photos import check_readable, photo_loader, read_photo
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
    assert np.array_equal(np.asarray(read_photo(path, (8, 4, 32, 28))), expected)


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
