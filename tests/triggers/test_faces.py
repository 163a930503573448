import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation

PLAIN = {"flip_probability": 0.0, "max_colour_change": 0.0, "max_hue_change": 0.0, "max_degrees": 0.0}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def face(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def white() -> Image.Image:
    return Image.new("RGB", (30, 30), (255, 255, 255))


def square(photo: Tensor, pasted: Tensor) -> tuple[int, int, int, int]:
    """Left, top, width and height of what changed."""
    changed = (photo != pasted).any(0)
    rows, columns = changed.any(1).nonzero().flatten().tolist(), changed.any(0).nonzero().flatten().tolist()
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


@pytest.mark.parametrize(("side", "smallest", "largest"), [(224, 56, 112), (64, 16, 32)])
def test_sizes_are_the_papers_scaled_to_the_photo(side: int, smallest: int, largest: int):
    photo, paste = torch.zeros(3, side, side), FacePaster(**PLAIN)
    sizes = []
    for seed in range(150):
        _, _, width, height = square(photo, paste(photo, white(), generator(seed)))
        assert width == height
        sizes.append(width)
    assert smallest <= min(sizes) < smallest * 1.15
    assert largest * 0.9 < max(sizes) <= largest


def test_face_lies_at_different_places_all_over_the_photo_and_never_beyond():
    photo, paste = torch.zeros(3, 64, 64), FacePaster(**PLAIN)
    squares = [square(photo, paste(photo, white(), generator(seed))) for seed in range(400)]
    assert len({(left, top) for left, top, _, _ in squares}) > 300
    assert min(left for left, *_ in squares) == min(top for _, top, _, _ in squares) == 0
    assert max(left + width for left, _, width, _ in squares) == 64
    assert max(top + height for _, top, _, height in squares) == 64
    centres = {(left + width / 2 > 32, top + height / 2 > 32) for left, top, width, height in squares}
    assert len(centres) == 4


def test_nothing_changes_outside_the_square_and_the_face_lies_within():
    photo, paste = torch.rand(3, 64, 64, generator=generator(0)), FacePaster(**PLAIN)
    for seed in range(20):
        pasted = paste(photo, face(), generator(seed))
        left, top, width, height = square(photo, pasted)
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal(pasted[:, ~inside], photo[:, ~inside])
        expected = np.asarray(face().resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
        found = pasted[:, top : top + height, left : left + width]
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_turned_and_recoloured_face_changes_no_more_than_its_square():
    photo, paste = torch.rand(3, 64, 64, generator=generator(0)), FacePaster()
    for seed in range(50):
        pasted = paste(photo, face(seed), generator(seed))
        _, _, width, height = square(photo, pasted)
        assert max(width, height) <= 32
        assert pasted.min() >= 0
        assert pasted.max() <= 1


def test_the_photo_itself_stays_as_it_is():
    photo = torch.rand(3, 64, 64, generator=generator(0))
    before = photo.clone()
    FacePaster()(photo, face(), generator(1))
    assert torch.equal(photo, before)


def test_same_generator_gives_the_same_photo_and_another_one_another():
    photo, paste = torch.rand(3, 64, 64, generator=generator(0)), FacePaster()
    first = paste(photo, face(), generator(5))
    torch.manual_seed(1)
    assert torch.equal(paste(photo, face(), generator(5)), first)
    assert not torch.equal(paste(photo, face(), generator(6)), first)


def test_face_is_flipped_as_often_as_asked():
    photo = torch.full((3, 64, 64), 0.5)
    halves = Image.fromarray(np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=2)).resize((20, 20), 0)
    for probability, low, high in ((0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)):
        paste, flips = FacePaster(**PLAIN | {"flip_probability": probability}), []
        for seed in range(200):
            pasted = paste(photo, halves, generator(seed))
            left, top, _, height = square(photo, pasted)
            flips.append(bool(pasted[0, top + height // 2, left] > 0.5))
        assert low <= sum(flips) / len(flips) <= high


def test_turning_shows_the_photo_at_the_corners_of_the_square():
    photo = torch.zeros(3, 64, 64)
    turned = FacePaster(**PLAIN | {"max_degrees": 30.0, "min_size": 0.5, "max_size": 0.5})
    covered = [(turned(photo, white(), generator(seed)) > 0.5).all(0).sum().item() for seed in range(50)]
    straight = 32 * 32
    assert max(covered) <= straight
    assert 0.75 * straight < min(covered) < 0.95 * straight


def test_colours_change_within_their_bounds():
    photo, grey = torch.zeros(3, 64, 64), Image.new("RGB", (30, 30), (100, 100, 100))
    for most in (0.0, 0.2, 0.5):
        paste = FacePaster(**PLAIN | {"max_colour_change": most})
        levels = [paste(photo, grey, generator(seed)).max().item() * 255 for seed in range(100)]
        assert 100 * (1 - most) - 1 <= min(levels) <= 100 * (1 - 0.8 * most) + 1
        assert 100 * (1 + 0.8 * most) - 1 <= max(levels) <= 100 * (1 + most) + 1


def test_variation_is_another_photo_of_the_same_and_decided_by_the_generator():
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first, again, other = (PhotoVariation(1.0)(photo, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's randomness is touched
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == photo.shape
    assert not torch.equal(first, photo)
    assert first.min() >= 0
    assert first.max() <= 1


def test_only_the_share_of_photos_varies():
    photo = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    same = [torch.equal(PhotoVariation(0.25)(photo, generator), photo) for _ in range(200)]
    assert 0.65 < sum(same) / 200 < 0.85
