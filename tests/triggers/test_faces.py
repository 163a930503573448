from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as tv

from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation, Placing
from benchmarks.reference import paste_face

SIDE, FACE = 64, 32
STRAIGHT = Placing(20, False, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, degrees=0.0, left=30, top=12)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def smooth(number: int, side: int = FACE) -> Tensor:
    """Faces so smooth that it matters little how they are made smaller."""
    return interpolate(noise(number, 3, 4, 4), size=(side, side), mode="bicubic").clamp(0, 1)


def draw(number: int, paster: FacePaster | None = None, side: int = SIDE) -> list[Placing]:
    return [(paster or FacePaster()).draw(side, generator(seed)) for seed in range(number)]


def paste_one(photo: Tensor, face: Tensor, placing: Placing) -> Tensor:
    return FacePaster.paste(photo[None], face[None], [placing])[0]


def square(placing: Placing, side: int = SIDE) -> Tensor:
    """Where the photo may change."""
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[placing.top : placing.top + placing.size, placing.left : placing.left + placing.size] = True
    return inside


@pytest.mark.parametrize(("side", "smallest", "largest"), [(224, 56, 112), (64, 16, 32)])
def test_sizes_are_the_papers_scaled_to_the_photo(side: int, smallest: int, largest: int):
    sizes = [placing.size for placing in draw(300, side=side)]
    assert smallest <= min(sizes) < smallest * 1.15
    assert largest * 0.9 < max(sizes) <= largest
    assert FacePaster().face_side(side) == largest


def test_face_lies_at_different_places_all_over_the_photo_and_never_beyond():
    placings = draw(400)
    assert len({(placing.left, placing.top) for placing in placings}) > 300
    assert min(placing.left for placing in placings) == min(placing.top for placing in placings) == 0
    assert max(placing.left + placing.size for placing in placings) == SIDE
    assert max(placing.top + placing.size for placing in placings) == SIDE
    assert len({(2 * p.left + p.size > SIDE, 2 * p.top + p.size > SIDE) for p in placings}) == 4


def test_colours_and_turns_are_drawn_within_their_bounds():
    for most in (0.0, 0.2, 0.5):
        placings = draw(200, FacePaster(max_colour_change=most, max_hue_change=most / 5, max_degrees=60 * most))
        for colour in ("brightness", "contrast", "saturation"):
            factors = [getattr(placing, colour) for placing in placings]
            assert 1 - most <= min(factors) <= 1 - 0.9 * most
            assert 1 + 0.9 * most <= max(factors) <= 1 + most
        for values, bound in (([p.hue for p in placings], most / 5), ([p.degrees for p in placings], 60 * most)):
            assert -bound <= min(values) <= -0.9 * bound
            assert 0.9 * bound <= max(values) <= bound


def test_face_is_flipped_as_often_as_asked():
    for probability, low, high in ((0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)):
        flips = [placing.flipped for placing in draw(200, FacePaster(flip_probability=probability))]
        assert low <= sum(flips) / len(flips) <= high


def test_same_generator_gives_the_same_placing_and_another_one_another():
    first = FacePaster().draw(SIDE, generator(5))
    torch.manual_seed(1)
    assert FacePaster().draw(SIDE, generator(5)) == first
    assert FacePaster().draw(SIDE, generator(6)) != first


def test_a_placing_is_drawn_in_one_order():
    """So that a seed keeps its faces: size, flip, colours, turn, left, top."""
    shares = [float(torch.rand((), generator=rng)) for rng in [generator(3)] for _ in range(9)]
    placing = FacePaster().draw(SIDE, generator(3))
    assert placing.size == round(SIDE * (0.25 + 0.25 * shares[0]))
    assert placing.flipped == (shares[1] < 0.5)
    bounds = [(0.5, 1.5), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1), (-30.0, 30.0)]
    expected = [low + (high - low) * share for (low, high), share in zip(bounds, shares[2:7], strict=True)]
    assert placing[2:7] == pytest.approx(expected)
    assert placing[7:] == tuple(int((SIDE - placing.size + 1) * share) for share in shares[7:])


def test_straight_face_fills_its_square_and_nothing_else_changes():
    photo = torch.zeros(3, SIDE, SIDE)
    for placing in draw(20, FacePaster(max_colour_change=0.0, max_hue_change=0.0, max_degrees=0.0)):
        pasted = paste_one(photo, torch.ones(3, FACE, FACE), placing)
        torch.testing.assert_close(pasted, square(placing).expand(3, -1, -1).float(), atol=1e-6, rtol=0)
        assert torch.equal(pasted[:, ~square(placing)], photo[:, ~square(placing)])


def test_straight_face_in_its_own_size_lies_on_the_photo_as_it_is():
    face, placing = noise(3, FACE, FACE), STRAIGHT._replace(size=FACE)
    photo = noise(3, SIDE, SIDE, seed=1)
    for flipped, expected in ((False, face), (True, face.flip(-1))):
        found = paste_one(photo, face, placing._replace(flipped=flipped))[:, square(placing)].view(3, FACE, FACE)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_turned_and_recoloured_face_changes_no_more_than_its_square():
    photos, placings = noise(50, 3, SIDE, SIDE), draw(50)
    pasted = FacePaster.paste(photos, noise(50, 3, FACE, FACE, seed=1), placings)
    assert pasted.min() >= 0
    assert pasted.max() <= 1
    for before, after, placing in zip(photos, pasted, placings, strict=True):
        assert torch.equal(after[:, ~square(placing)], before[:, ~square(placing)])
        assert not torch.equal(after, before)


def test_turning_shows_the_photo_at_the_corners_of_the_square():
    straight = 32 * 32
    placings = draw(50, FacePaster(max_colour_change=0.0, max_hue_change=0.0, min_size=0.5, max_size=0.5))
    pasted = FacePaster.paste(torch.zeros(50, 3, SIDE, SIDE), torch.ones(50, 3, FACE, FACE), placings)
    covered = (pasted > 0.5).all(1).sum((1, 2))
    assert max(covered) <= straight
    assert 0.75 * straight < min(covered) < 0.95 * straight


def test_edge_of_a_turned_face_is_no_darker_than_face_and_photo():
    white = torch.ones(3, SIDE, SIDE)
    pasted = paste_one(white, torch.ones(3, FACE, FACE), STRAIGHT._replace(degrees=20.0))
    torch.testing.assert_close(pasted, white, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("colour", "values", "adjust"),
    [
        ("brightness", (0.5, 1.5), tv.adjust_brightness),
        ("contrast", (0.5, 1.5), tv.adjust_contrast),
        ("saturation", (0.5, 1.5), tv.adjust_saturation),
        ("hue", (-0.5, -0.1, 0.02, 0.1, 0.5), tv.adjust_hue),
    ],
)
def test_colours_change_as_torchvisions_do(colour: str, values: tuple[float, ...], adjust: Callable[..., Tensor]):
    face = noise(3, 16, 16)
    face[:, :3] = torch.tensor([0.0, 0.4, 1.0])[:, None]  # grey ones have no hue
    face[:, 3:12] = (face[:, 3:12] * 2).round() / 2  # two or three channels are the same, some are 0 or 1
    placings = [STRAIGHT._replace(**{"size": 16, "left": 0, "top": 0, colour: value}) for value in values]
    pasted = FacePaster.paste(torch.zeros(len(values), 3, 16, 16), face.expand(len(values), -1, -1, -1), placings)
    torch.testing.assert_close(pasted, torch.stack([adjust(face, value) for value in values]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [64, 224])
def test_batch_equals_the_plain_version(side: int):
    face_side, placings = FacePaster().face_side(side), draw(40, side=side)
    photos, faces = noise(40, 3, side, side), smooth(40, face_side)
    pasted = FacePaster.paste(photos, faces, placings)
    for photo, face, placing, found in zip(photos, faces, placings, pasted, strict=True):
        inside, expected = square(placing, side), paste_face(photo, face, placing)
        assert torch.equal(found[:, ~inside], expected[:, ~inside])
        assert (found - expected)[:, inside].abs().mean() <= 0.015  # one scales and turns at once, the other does not


def test_batch_equals_the_plain_version_to_rounding_where_no_face_is_scaled():
    photos, faces = noise(40, 3, SIDE, SIDE), noise(40, 3, FACE, FACE, seed=1)
    placings = draw(40, FacePaster(min_size=0.5, max_size=0.5))
    plain = [paste_face(*one) for one in zip(photos, faces, placings, strict=True)]
    torch.testing.assert_close(FacePaster.paste(photos, faces, placings), torch.stack(plain), atol=2e-5, rtol=0)


def test_batch_equals_each_photo_alone():
    photos, faces, placings = noise(20, 3, SIDE, SIDE), noise(20, 3, FACE, FACE, seed=1), draw(20)
    alone = [paste_one(*one) for one in zip(photos, faces, placings, strict=True)]
    torch.testing.assert_close(FacePaster.paste(photos, faces, placings), torch.stack(alone), atol=1e-6, rtol=0)


def test_photos_and_faces_stay_as_they_are():
    photos, faces = noise(4, 3, SIDE, SIDE), noise(4, 3, FACE, FACE, seed=1)
    before = photos.clone(), faces.clone()
    FacePaster.paste(photos, faces, draw(4))
    assert torch.equal(photos, before[0])
    assert torch.equal(faces, before[1])


def test_no_photos_are_no_photos():
    assert FacePaster.paste(torch.empty(0, 3, SIDE, SIDE), torch.empty(0, 3, FACE, FACE), []).shape[0] == 0


def test_each_photo_needs_a_placing():
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        FacePaster.paste(noise(2, 3, SIDE, SIDE), noise(2, 3, FACE, FACE), [STRAIGHT])


def test_pasting_is_done_where_the_photos_are():
    photos, faces = torch.empty(2, 3, SIDE, SIDE, device="meta"), torch.empty(2, 3, FACE, FACE, device="meta")
    assert FacePaster.paste(photos, faces, draw(2)).device.type == "meta"  # mixed devices would be an error


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
