"""Say which photo formats are read, and turn an opened photo into upright RGB with 8 bits."""

import struct
import zlib
from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import ExifTags, Image

# Raster formats that Pillow decodes by itself: EPS starts Ghostscript, WMF and others start programs, too.
FORMATS_BY_SUFFIX = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "jfi"),
    "MPO": ("mpo",),
    "JPEG2000": ("jp2", "j2k", "jpf", "jpx", "j2c", "jpc"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "AVIF": ("avif", "avifs"),
    "HEIF": ("heic", "heif", "heics", "heifs", "hif"),
    "TIFF": ("tif", "tiff"),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "TGA": ("tga", "icb", "vda", "vst"),
    "PCX": ("pcx",),
    "PSD": ("psd",),
    "QOI": ("qoi",),
    "SGI": ("sgi", "rgb", "rgba", "bw"),
}
PHOTO_SUFFIXES = frozenset(suffix for suffixes in FORMATS_BY_SUFFIX.values() for suffix in suffixes)
# What Pillow raises for files that are damaged, no photo, or too large; its decoders agree on no kind of error.
DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError,
    RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
_INSTALLS = {  # decoders of formats that not every Pillow decodes
    "HEIF": "pip install 'backdoor_privacy[heic]'",
    "AVIF": "pip install 'pillow>=11.3'",
}
_BRANDS = {  # the first bytes of a file of these formats, from the fifth on
    "HEIF": (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1"),
    "AVIF": (b"ftypavif", b"ftypavis"),
}
_Turn = Image.Transpose
_TURNS = {  # from how a photo is stored to how it is shown, by its EXIF orientation
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
_WHITE_IS_ZERO, _UNSIGNED = 0, 1  # of TIFF's PhotometricInterpretation and SampleFormat


@cache
def decodable_formats() -> tuple[str, ...]:
    """Return the formats above that are decoded here, by Pillow's names."""
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif  # an extra

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS_BY_SUFFIX if name in Image.OPEN)


def how_to_decode(beginning: bytes) -> str:
    """Return what to install to decode a file with this beginning; empty where nothing helps."""
    for name, brands in _BRANDS.items():
        if beginning[4:12] in brands and name not in decodable_formats():
            return f"{name} is read after {_INSTALLS[name]}"
    return ""


def upright_rgb(photo: Image.Image) -> Image.Image:
    """Return an opened photo as viewers show it: upright, in RGB with 8 bits, its transparent parts white.

    Its `info` tells only whether it `is_turned`, and `is_scaled` from more than 8 bits.
    """
    size = photo.size
    photo.load()  # TIFF turns itself while it is loaded
    is_scaled = photo.mode == "F" or photo.mode.startswith("I")
    image = _scaled(photo) if is_scaled else photo
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    turn = _TURNS.get(_orientation(photo))
    image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    image.info = {"is_turned": turn is not None or photo.size != size, "is_scaled": is_scaled}
    return image


def _orientation(photo: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none.

    `ImageOps.exif_transpose` would fail where another part of the EXIF data is damaged.
    """
    try:
        orientation = photo.getexif().get(ExifTags.Base.Orientation)
    except DECODING_ERRORS:
        orientation = None
    return orientation if isinstance(orientation, int) else 1


def _scaled(photo: Image.Image) -> Image.Image:
    """Return grey values of 16 or 32 bits, or floats, as 8 bits; Pillow would clip them at 255.

    White is the first of 1 (floats only), 255 and 65535 that no value exceeds, as many programs keep 8 bits in a wider
    type; of floats, one pixel in a hundred may, as light and resampling go beyond it. Where values are negative or
    larger, the lowest is black and the highest is white.
    """
    values, tags = np.asarray(photo), getattr(photo, "tag_v2", {})
    if values.dtype == np.int32 and tags.get(ExifTags.Base.SampleFormat, (_UNSIGNED,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    values = values.astype(np.float32)
    values[~np.isfinite(values)] = 0
    is_float = photo.mode == "F"
    low, high = np.percentile(values, (1, 99)) if is_float else (values.min(), values.max())
    is_12_bit = tags.get(ExifTags.Base.BitsPerSample, (0,))[0] == 12
    whites = [1] * is_float + [255] + [4095] * is_12_bit + [65535]
    black, white = 0, next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        black, white = values.min(), values.max()
    share = ((values - black) / max(white - black, 1e-6)).clip(0, 1)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO and not is_float:
        share = 1 - share
    return Image.fromarray(np.rint(share * 255).astype(np.uint8))
