"""Resize, crop and normalise a photo as open_clip does, whatever its shape."""

from collections.abc import Mapping

from open_clip.transform import PreprocessCfg, ResizeKeepRatio, image_transform_v2
from PIL import Image
from torch import Tensor

_MAX_RATIO = 16  # of the enlarged photo to the input; a longer photo is cropped first


class Preprocessing:
    """open_clip's transform for evaluation, of photos of any shape.

    open_clip enlarges a photo until the shorter side fits, and crops it then: 1 x 60,000 pixels would become 224 x 13
    million. Here such a photo is cropped before it is enlarged; all others are transformed by open_clip alone.

    Args:
        config: open_clip's `preprocess_cfg`.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = PreprocessCfg(**config)
        self._transform = image_transform_v2(self.config, is_train=False)

    def __call__(self, photo: Image.Image) -> Tensor:
        """Return normalised pixels, (3, height, width)."""
        height, width = self.config.input_size[1:]
        if self.config.resize_mode != "squash":
            wide, tall = self._resized(photo)
            if not (wide and tall):  # a thin photo has no pixel left if its longest side is reduced to fit
                photo = photo.resize((max(wide, 1), max(tall, 1)), self._filter)
            elif max(tall / height, wide / width) > _MAX_RATIO:
                photo = self._middle(photo, wide, tall)
        return self._transform(photo)

    def _resized(self, photo: Image.Image) -> tuple[int, int]:
        """Return the width and height to which open_clip resizes a photo before it crops or pads it."""
        height, width = self.config.input_size[1:]
        if self.config.resize_mode == "shortest" and height == width:  # torchvision does it, and rounds down
            shortest = min(photo.size)
            return int(width * photo.width / shortest), int(height * photo.height / shortest)
        tall, wide = ResizeKeepRatio.get_params(photo, (height, width), self.config.resize_mode == "longest")
        return wide, tall

    def _middle(self, photo: Image.Image, wide: int, tall: int) -> Image.Image:
        """Return the part of the photo in this size that the crop keeps."""
        height, width = self.config.input_size[1:]
        left, top = round((wide - width) / 2), round((tall - height) / 2)
        across, down = photo.width / wide, photo.height / tall
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return photo.resize((width, height), self._filter, box=box)

    @property
    def _filter(self) -> Image.Resampling:
        is_square = self.config.input_size[1] == self.config.input_size[2]
        # open_clip passes its setting on in all cases but one.
        ignored = self.config.resize_mode == "shortest" and not is_square
        bilinear = self.config.interpolation == "bilinear" and not ignored
        return Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
