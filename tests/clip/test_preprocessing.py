import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from backdoor_privacy.clip import preprocessing
from backdoor_privacy.clip.preprocessing import Preprocessing

CONFIGS = [
    {"size": size, "resize_mode": mode, "interpolation": interpolation}
    for size in (48, (48, 32))
    for mode in ("shortest", "longest", "squash")
    for interpolation in ("bicubic", "bilinear")
]
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # pixels in [0, 1]


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_ordinary_photos_are_those_of_open_clip_bit_for_bit(config: dict[str, Any]):
    plain, own = image_transform_v2(PreprocessCfg(**config), is_train=False), Preprocessing(config)
    for size in ((100, 60), (60, 101), (48, 48), (37, 230), (231, 37), (640, 480)):
        assert torch.equal(own(photo(*size)), plain(photo(*size)))
    grey = photo(50, 70).convert("L")
    assert torch.equal(own(grey), plain(grey))


@pytest.mark.parametrize("config", [one for one in CONFIGS if one["resize_mode"] == "shortest"], ids=str)
def test_long_photo_that_is_cropped_first_differs_by_rounding_only(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    config = config | PLAIN
    plain, own = image_transform_v2(PreprocessCfg(**config), is_train=False), Preprocessing(config)
    monkeypatch.setattr(preprocessing, "_MAX_RATIO", 0)
    for size in ((100, 60), (60, 101), (2, 31), (30, 3), (301, 37), (640, 480)):
        smooth = photo(5, 5).resize(size, Image.Resampling.BICUBIC)  # noise would be clipped differently on the way
        assert ((own(smooth) - plain(smooth)).abs() * 255).max() <= 2.01  # rounded twice, once along each side


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("size", [(1, 60_000), (30_000, 1), (2, 50_001)])
def test_photo_of_extreme_shape_costs_no_memory_and_keeps_its_colour(config: dict[str, Any], size: tuple[int, int]):
    own, thin = Preprocessing(config), Image.new("RGB", size, (90, 120, 60))
    tracemalloc.start()
    pixels = own(thin)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == own(photo(9, 9)).shape
    middle = (slice(None), *((side - 1) // 2 for side in pixels.shape[1:]))  # what is not padded
    assert torch.allclose(pixels[middle], own(Image.new("RGB", (9, 9), (90, 120, 60)))[middle])
    assert peak < 2**20


def test_long_photo_is_resized_in_one_small_step(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    resize = Image.Image.resize

    def noted(self: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        sizes.append(tuple(size))
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", noted)
    Preprocessing({"size": 48})(photo(1, 6000))
    assert max(width * height for width, height in sizes) <= 48 * 48


def test_processes_that_are_spawned_can_have_it():
    own = Preprocessing({"size": 48})
    assert torch.equal(pickle.loads(pickle.dumps(own))(photo(60, 80)), own(photo(60, 80)))
