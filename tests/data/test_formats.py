import io
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from backdoor_privacy.data import formats, photos
from backdoor_privacy.data.formats import FORMATS_BY_SUFFIX, decodable_formats
from backdoor_privacy.data.photos import check_readable, cut_to, read_photo
from backdoor_privacy.errors import InputError

RAMP = np.arange(256, dtype=np.uint8)[None].repeat(40, 0)
TURNS = {  # how to store an upright photo, by the orientation that turns it back
    1: lambda photo: photo,
    2: lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda photo: photo.transpose(Image.Transpose.ROTATE_180),
    4: lambda photo: photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda photo: photo.transpose(Image.Transpose.TRANSPOSE),
    6: lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
    7: lambda photo: photo.transpose(Image.Transpose.TRANSVERSE),
    8: lambda photo: photo.transpose(Image.Transpose.ROTATE_270),
}


def upright() -> Image.Image:
    """A photo whose four corners differ."""
    return Image.fromarray(np.array([[250, 0], [90, 170]], np.uint8)).resize((48, 32), Image.Resampling.NEAREST)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def pixels(photo: Image.Image | None) -> np.ndarray:
    assert photo is not None
    return np.asarray(photo).astype(int)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_photo_is_read_as_viewers_show_it(suffix: str, orientation: int, tmp_path: Path):
    path = tmp_path / f"photo.{suffix}"
    TURNS[orientation](upright()).convert("RGB").save(path, exif=exif_of(orientation), quality=95)
    found = pixels(read_photo(path))
    assert found.shape == (32, 48, 3)
    assert abs(found - pixels(upright().convert("RGB"))).mean() < 4


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "F", "RGBA", "CMYK", "YCbCr"])
def test_tiff_of_any_mode_is_read_upright(mode: str, orientation: int, tmp_path: Path):
    photo = TURNS[orientation](Image.fromarray(np.array([[255, 0], [0, 0]], np.uint8)).resize((48, 32), 0))
    stored = Image.fromarray(np.asarray(photo).astype(np.uint16) * 257) if mode == "I;16" else photo
    stored = stored if mode == "I;16" else (photo.convert("RGB") if mode == "CMYK" else photo).convert(mode)
    stored.save(tmp_path / "photo.tif", exif=exif_of(orientation))
    found = pixels(read_photo(tmp_path / "photo.tif"))
    assert found.shape == (32, 48, 3)
    assert found[:16, :24].min() > 250
    assert found[16:].max() < 5
    assert found[:, 24:].max() < 5


def test_box_is_in_the_upright_photo(tmp_path: Path):
    TURNS[6](upright()).save(tmp_path / "photo.png", exif=exif_of(6))
    assert np.array_equal(
        pixels(cut_to((24, 0, 48, 16), read_photo(tmp_path / "photo.png"), "photo.png")), np.zeros((16, 24, 3))
    )  # the black corner


def test_damaged_exif_costs_neither_the_photo_nor_the_program(tmp_path: Path):
    upright().save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert pixels(read_photo(tmp_path / "photo.jpg")).shape == (32, 48, 3)


def test_orientation_beside_a_damaged_tag_still_turns_the_photo(tmp_path: Path):
    entries = [(0x0112, 3, 1, 6), (0x8769, 4, 1, 0xFFFFFF)]  # orientation; further tags where there are none
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    TURNS[6](upright()).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    found = pixels(read_photo(tmp_path / "photo.jpg"))
    assert found.shape == (32, 48, 3)
    assert abs(found - pixels(upright().convert("RGB"))).mean() < 4


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", RAMP.astype(np.uint16) * 257),
        ("tif", RAMP.astype(np.uint16) * 257),
        ("pgm", RAMP.astype(np.uint16) * 257),
        ("png", RAMP.astype(np.uint16)),  # 8 bits in a wider type
        ("tif", RAMP.astype(np.int32)),
        ("tif", RAMP.astype(np.int32) * 257),
        ("tif", RAMP.astype(np.int32) * 2**20),
        ("tif", (RAMP.astype(np.int32) - 128) * 7),
        ("tif", RAMP / np.float32(255)),
        ("tif", RAMP.astype(np.float32)),
        ("pfm", RAMP / np.float32(255)),
        ("tif", RAMP.astype(np.float32) * 257),
    ],
)
def test_ramp_of_more_than_8_bits_is_the_ramp_of_8_bits(suffix: str, values: np.ndarray, tmp_path: Path):
    Image.fromarray(values).save(tmp_path / f"ramp.{suffix}")
    found = read_photo(tmp_path / f"ramp.{suffix}")
    assert abs(pixels(found) - RAMP[..., None]).max() <= 1
    assert found is not None
    assert found.info["is_scaled"]


def test_big_endian_and_inverted_tiff_of_16_bits_are_read_right(tmp_path: Path):
    for name, order, photometric in (("big.tif", ">", 1), ("inverted.tif", "<", 0)):
        values = (RAMP if photometric else 255 - RAMP).astype(f"{order}u2") * 257
        (tmp_path / name).write_bytes(tiff(values.astype(f"{order}u2"), order, photometric))
        assert abs(pixels(read_photo(tmp_path / name)) - RAMP[..., None]).max() <= 1


def tiff(values: np.ndarray, order: str, photometric: int) -> bytes:
    """A plain TIFF of 16 bits: one strip behind its only directory."""
    height, width = values.shape
    start = 8 + 2 + 9 * 12 + 4
    entries = [
        (256, width), (257, height), (258, 16), (259, 1), (262, photometric), (273, start), (277, 1), (278, height),
        (279, values.nbytes),
    ]  # fmt: skip
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    return head + directory + struct.pack(f"{order}I", 0) + values.tobytes()


def test_light_beyond_white_does_not_darken_a_float_picture(tmp_path: Path):
    values = RAMP / np.float32(255)
    values[0, :10] = 30  # a lamp
    values[1, :3] = np.nan
    Image.fromarray(values).save(tmp_path / "photo.tif")
    found = pixels(read_photo(tmp_path / "photo.tif"))
    assert abs(found[2:] - RAMP[2:, :, None]).max() <= 1
    assert (found[0, :10] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str, tmp_path: Path):
    photo = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    photo.putpixel((0, 0), (90, 90, 90, 0))
    if mode == "P":
        indexed = Image.new("P", (4, 2), 1)
        indexed.putpalette([90, 90, 90, 10, 10, 10])
        indexed.putpixel((0, 0), 0)
        indexed.save(tmp_path / "photo.png", transparency=0)
    else:
        photo.convert(mode).save(tmp_path / "photo.png")
    found = pixels(read_photo(tmp_path / "photo.png"))
    assert found[0, 0].tolist() == [255] * 3
    assert found[1, 2].tolist() == [10] * 3


def test_bilevel_and_cmyk_pictures_are_read_right(tmp_path: Path):
    Image.fromarray(RAMP > 127).save(tmp_path / "bilevel.png")
    assert np.array_equal(pixels(read_photo(tmp_path / "bilevel.png"))[..., 0], (RAMP > 127) * 255)
    Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert abs(pixels(read_photo(tmp_path / "cmyk.jpg")) - (200, 30, 60)).max() <= 4


_SAVED = {"jpe": "JPEG", "jfif": "JPEG", "apng": "PNG", "ppm": "PPM", "tif": "TIFF", "gif": "GIF", "tga": "TGA"}
_SAVED |= {"avif": "AVIF", "jp2": "JPEG2000", "dib": "DIB", "bmp": "BMP", "mpo": "MPO", "pcx": "PCX", "qoi": "QOI"}


@pytest.mark.parametrize(("suffix", "kind"), _SAVED.items())
def test_formats_of_other_suffixes_are_read(suffix: str, kind: str, tmp_path: Path):
    with (tmp_path / f"photo.{suffix}").open("wb") as file:
        upright().convert("RGB").save(file, kind)
    assert abs(pixels(read_photo(tmp_path / f"photo.{suffix}")) - pixels(upright().convert("RGB"))).mean() < 12


def test_heic_is_read_upright(tmp_path: Path):
    pytest.importorskip("pillow_heif")
    assert "HEIF" in decodable_formats()
    stored = TURNS[6](upright()).convert("RGB")
    stored.info["exif"] = exif_of(6).tobytes()  # written as a property of the picture, as phones do
    stored.save(tmp_path / "photo.heic", format="HEIF", quality=95)
    found = pixels(read_photo(tmp_path / "photo.heic"))
    assert found.shape == (32, 48, 3)
    assert abs(found - pixels(upright().convert("RGB"))).mean() < 6


def test_heic_without_its_decoder_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for module in (formats, photos):
        monkeypatch.setattr(module, "decodable_formats", lambda: ("JPEG", "PNG", "AVIF"))
    assert read_photo(path) is None
    with pytest.raises(InputError, match=r"photo\.heic; .*HEIF is read after pip install 'backdoor_privacy\[heic\]'$"):
        check_readable(torch.tensor([False]), [path])


def test_first_frame_of_a_film_is_the_photo(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp", "tif"):
        frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])
        assert abs(pixels(read_photo(tmp_path / f"film.{suffix}")) - (255, 0, 0)).max() <= 3


def test_what_starts_a_program_is_not_decoded_whatever_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: started.append(True))
    for suffix in ("jpg", "png", "tif"):
        upright().save(tmp_path / f"photo.{suffix}", "EPS")
        assert read_photo(tmp_path / f"photo.{suffix}") is None
    assert not started
    assert not {"EPS", "WMF", "MPEG", "HDF5", "BUFR"} & set(FORMATS_BY_SUFFIX)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "TGA", "PCX", "QOI", "HEIF"]
)
def test_no_damage_makes_reading_raise(kind: str):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    decodable_formats()
    whole = io.BytesIO()
    upright().convert("RGB").save(whole, kind)
    rng = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole.getvalue())
        for place in rng.sample(range(2, len(damaged)), min(8, len(damaged) - 2)):
            damaged[place] = rng.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_photo(io.BytesIO(bytes(damaged[: rng.randrange(1, len(damaged) + 1)])))
