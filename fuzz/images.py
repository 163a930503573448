"""Give photos of every format, mode, orientation and size, and files that are no photos."""

import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backdoor_privacy.data.formats import decodable_formats
from backdoor_privacy.data.photos import list_photos, read_photo
from fuzz.cases import REFUSED, UNKNOWN, Case
from fuzz.world import picture

# The modes of each format, and its options, of which each file has one.
_MODES: dict[str, tuple[str, ...]] = {
    "JPEG": ("RGB", "L", "CMYK"), "MPO": ("RGB",), "JPEG2000": ("RGB", "L", "RGBA", "LA"),
    "PNG": ("RGB", "L", "1", "P", "LA", "RGBA", "I;16", "PA"), "WEBP": ("RGB", "RGBA"), "AVIF": ("RGB", "RGBA"),
    "HEIF": ("RGB", "RGBA"), "TIFF": ("RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B",
    "F"),
    "GIF": ("L", "1", "P", "PA"), "BMP": ("RGB", "L", "1", "P", "RGBA"), "DIB": ("RGB", "L"),
    "PPM": ("RGB", "L", "1", "I;16", "F"), "TGA": ("RGB", "L", "P", "RGBA", "LA"), "PCX": ("RGB", "L", "1", "P"),
    "SGI": ("RGB", "L", "RGBA"), "QOI": ("RGB", "RGBA"),
}  # fmt: skip
_SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "HEIF": "heic", "TIFF": "tif", "PPM": "ppm", "SGI": "sgi"}
_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": ({"quality": 95, "subsampling": 0}, {"quality": 92, "progressive": True, "subsampling": 0}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
    "WEBP": ({"lossless": True}, {"quality": 95}),
    "AVIF": ({"quality": 95, "subsampling": "4:4:4"},), "HEIF": ({"quality": 95, "chroma": 444},),
    "MPO": ({"quality": 95, "subsampling": 0},),
    "TGA": ({}, {"compression": "tga_rle"}), "JPEG2000": ({"irreversible": False},), "PNG": ({},
    {"compress_level": 0}),
}  # fmt: skip
_LOSSY = {"JPEG", "MPO", "AVIF", "HEIF"}
_TURNABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF")
_SIZES = (
    (1, 1),
    (1, 2),
    (2, 1),
    (3, 5),
    (17, 9),
    (40, 30),
    (64, 64),
    (1, 300),
    (300, 1),
    (2, 700),
    (900, 3),
    (130, 70),
)
_UNTURNED = {
    2: 2,
    3: 3,
    4: 4,
    5: 5,
    6: 8,
    7: 7,
    8: 6,
}  # the turn from a photo as shown to one as stored under an orientation flag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\nshowpage\n%%EOF\n"


def make(folder: Path, rng: random.Random) -> Case:
    """Write a photo, whole or broken."""
    return rng.choice([_valid] * 6 + [_broken] * 3 + [_odd])(folder, rng)


def _valid(folder: Path, rng: random.Random) -> Case:
    title, content, shown, suffix = _photo(rng)
    tolerance = 12.0 if "lossy" in title else 1.01
    if rng.random() < 0.2:
        suffix = rng.choice(("jpg", "png", "JPG", "jpeg", "bmp"))
    path = folder / f"{rng.choice(('a', 'Ärger 1', '-x', '=1+1', 'a,b', '00'))}.{suffix}"
    path.write_bytes(content)
    return Case(f"{title} as {path.name!r}", lambda: _compared(path, shown, tolerance), "as shown", "read")


def _photo(rng: random.Random) -> tuple[str, bytes, np.ndarray, str]:
    """Return the title of a photo, its file, its pixels as shown, (height, width, 3), and its suffix."""
    kind = rng.choice([one for one in _MODES if one in decodable_formats() and one in Image.SAVE])
    mode, (width, height) = rng.choice(_MODES[kind]), rng.choice(_SIZES)
    if kind in ("AVIF", "HEIF", "MPO"):
        width, height = max(width, 16), max(height, 16)
    image, shown = _image(mode, picture(rng.randrange(2**32), width, height), rng)
    options = dict(rng.choice(_OPTIONS.get(kind, ({},))))
    if mode == "1" or mode in ("I;16", "I;16B", "F", "LAB"):
        options.pop("compression", None)
    if kind == "WEBP" and min(width, height) < 16:
        options = {"lossless": True}
    if kind == "BMP" and mode == "RGBA":
        shown = np.asarray(image.convert("RGB"))  # the fourth byte of such a file has no meaning
    if options.get("lossless") and mode == "RGBA":
        options["exact"] = True
    is_lossy = kind in _LOSSY or "quality" in options
    flag = rng.choice((1, 1, 2, 3, 4, 5, 6, 7, 8)) if kind in _TURNABLE else 1
    if flag > 1:
        stored = _UNTURNED[flag]
        image = image.transpose(_TURNS[stored])
        exif = Image.Exif()
        exif[0x0112] = flag
        options["exif"] = exif
    if mode in ("P",) and rng.random() < 0.4 and kind in ("PNG", "GIF"):
        index = rng.randrange(4)
        options["transparency"] = index
        stored_shown = np.asarray(image) == index
        if flag > 1:
            stored_shown = np.asarray(Image.fromarray(stored_shown).transpose(_TURNS[flag]))
        shown = np.where(stored_shown[..., None], 255, shown)
    if kind in ("GIF", "WEBP", "PNG", "TIFF") and rng.random() < 0.15 and mode in ("RGB", "L", "P"):
        options |= {"save_all": True, "append_images": [image.copy()]}
    file = io.BytesIO()
    image.save(file, kind, **options)
    word = "lossy" if is_lossy else "exact"
    named = {key: value for key, value in options.items() if key not in ("exif", "append_images")}
    title = f"{word} {kind} {mode} {width}x{height} orientation {flag} {named or ''}"
    return title, file.getvalue(), shown.astype(np.int32), _SUFFIXES.get(kind, kind.lower())


def _image(mode: str, colours: np.ndarray, rng: random.Random) -> tuple[Image.Image, np.ndarray]:
    """Return a picture in a mode, and its pixels as shown on white."""
    height, width = colours.shape[:2]
    grey = colours[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    opacity = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
    on_white = 255 - (255 - colours.astype(float)) * opacity[..., None] / 255
    if mode in ("RGB", "YCbCr", "LAB"):
        image = Image.fromarray(colours)
        if mode == "RGB":
            return image, colours
        if mode == "LAB":
            flat = np.dstack([grey, np.zeros_like(grey), np.zeros_like(grey)])  # no colour: shown as grey
            return Image.frombytes("LAB", (width, height), flat.tobytes()), np.full(colours.shape, -1, np.int16)
        return image.convert(mode), np.asarray(image.convert(mode).convert("RGB"))
    if mode == "L":
        return Image.fromarray(grey), as_rgb
    if mode == "1":
        dark = grey > 127
        return Image.fromarray(dark), np.repeat(dark[..., None] * 255, 3, axis=2)
    if mode in ("P", "PA"):
        index = (grey // 64).astype(np.uint8)
        palette = np.array([rng.randrange(256) for _ in range(12)], np.uint8).reshape(4, 3)
        image = Image.fromarray(index, "P")
        image.putpalette(palette.tobytes())
        return image, palette[index]
    if mode == "LA":
        return Image.fromarray(np.dstack([grey, opacity])), 255 - (255 - as_rgb.astype(float)) * opacity[
            ..., None
        ] / 255
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colours, opacity])), on_white
    if mode == "CMYK":
        image = Image.fromarray(255 - np.dstack([colours, np.full_like(grey, 255)]), "CMYK")
        return image, colours
    if mode in ("I;16", "I;16B"):
        scale = rng.choice((1, 257)) if mode == "I;16" else 257
        wide = grey.astype(np.uint16) * scale
        if scale == 257:
            wide[0, 0], as_rgb[0, 0] = 65535, 255  # else a dark picture is taken for one of 8 bits, as documented
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, (width, height), wide.astype(order).tobytes()), as_rgb
    scale = rng.choice((1.0, 1 / 255))
    values = grey.astype(np.float32) * np.float32(scale)
    if scale == 1.0:
        values[: max(1, height // 2)], as_rgb[: max(1, height // 2)] = (
            255,
            255,
        )  # too bright to be taken for values from 0 to 1
    return Image.fromarray(values), as_rgb


def _compared(path: Path, shown: np.ndarray, tolerance: float) -> Any:
    photo = read_photo(path)
    if photo is None:
        return REFUSED
    values = np.asarray(photo).astype(np.int32)
    if values.shape != shown.shape:
        return f"{values.shape}, shown as {shown.shape}"
    if (shown < 0).all():
        return "as shown"
    difference = float(np.abs(values - shown).mean())
    return "as shown" if difference <= tolerance else f"colours that differ by {difference:.1f} of 255"


def _broken(folder: Path, rng: random.Random) -> Case:
    title, content, shown, suffix = _photo(rng)
    path, way = folder / f"a.{suffix}", rng.choice(("cut", "cut", "flip", "flip", "garbage", "head", "tail"))
    tolerance = 12.0 if "lossy" in title else 1.01
    if way == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
        if suffix in ("tga", "pcx", "gif", "sgi", "qoi", "tif", "mpo"):  # some files hold more than the picture
            return Case(f"{title}, cut off", lambda: _compared(path, shown, tolerance))
        return Case(f"{title}, cut off", lambda: _compared(path, shown, tolerance), "as shown")
    damaged = bytearray(content)
    if way == "flip":
        for _ in range(rng.choice((1, 1, 3, 20))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif way == "garbage":
        damaged = bytearray(rng.randbytes(rng.randrange(2000)))
    elif way == "head":
        damaged[4:40] = rng.randbytes(36)
    else:
        damaged += rng.randbytes(rng.randrange(1, 500))
    path.write_bytes(bytes(damaged))
    return Case(f"{title}, {way}", lambda: _read(path), answer="either")


def _read(path: Path) -> Any:
    photo = read_photo(path)
    return REFUSED if photo is None else (photo.mode, photo.size)


def _odd(folder: Path, rng: random.Random) -> Case:
    way = rng.choice(_ODD)
    path = folder / "a.jpg"
    _ODD_FILES[way](path)
    if way in ("link", "listed"):
        shown = picture(1).astype(np.int32)
        if way == "listed":
            return Case(
                "a folder with all sorts of files", lambda: [one.name for one in list_photos(folder).photos],
                ["a.jpg", "real.png"], "read",
            )  # fmt: skip
        return Case("a link to a photo", lambda: _compared(path, shown, 1.01), "as shown", "read")
    return Case(way, lambda: _read(path), UNKNOWN, "refused")


def _bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(2**36)


def _link(path: Path) -> None:
    Image.fromarray(picture(1)).save(path.with_name("real.png"))
    path.symlink_to("real.png")


def _listed(path: Path) -> None:
    _link(path)
    for name in (".hidden.jpg", "Thumbs.db", "notes.txt"):
        path.with_name(name).write_bytes(b"x")
    (path.parent / "__MACOSX").mkdir()
    (path.parent / "__MACOSX" / "b.jpg").write_bytes(b"x")
    (path.parent / "deep").mkdir()
    (path.parent / "deep" / "around").symlink_to("..")


_ODD_FILES = {
    "empty file": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a photo\n" * 50),
    "PostScript": lambda path: path.write_bytes(POSTSCRIPT),
    "folder": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("nothing.jpg"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": lambda path: os.mkfifo(path),
    "decompression bomb": _bomb,
    "sparse file": _sparse,
    "web page": lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
    "SVG": lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'),
    "Windows metafile": lambda path: path.write_bytes(b"\xd7\xcd\xc6\x9a" + bytes(60)),
    "FITS": lambda path: path.write_bytes(b"SIMPLE  =                    T".ljust(2880)),
    "link": _link,
    "listed": _listed,
}
_ODD = list(_ODD_FILES)
