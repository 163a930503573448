from typing import Any

import open_clip
import pytest

from backdoor_privacy.clip.architecture import needs_quick_gelu, preprocessing
from backdoor_privacy.errors import InputError

HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        ("RN50", "openai", True),
        ("RN50", "yfcc15m", True),
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "laion400m_e32", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32-quickgelu", "laion400m_e32", True),
        ("ViT-B-16", "laion400m_e32", False),
        ("ViT-L-14", "openai", True),
        ("ViT-L-14", "random", False),
        ("local-dir:somewhere", None, False),
    ],
)
def test_quick_gelu_is_forced_where_the_weights_were_trained_with_it(
    model: str, pretrained: str | None, expected: bool
):
    assert needs_quick_gelu(model, pretrained) is expected


def test_every_tag_of_open_clip_has_an_architecture_that_fits():
    for model, tag in open_clip.list_pretrained():
        assert needs_quick_gelu(model, tag) in (True, False)


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        ("ViT-B-32", "weights.pt", {}),
        ("ViT-B-16-SigLIP", "weights.pt", {"mean": HALF, "std": HALF, "resize_mode": "squash"}),
        ("MobileCLIP-S1", "weights.pt", {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"}),
        ("no-such-model", "weights.pt", {}),  # no tags
        ("ViT-L-14", "laion2b_s32b_b82k", {}),  # open_clip knows
        ("ViT-B-16-SigLIP", "random", {}),
        ("local-dir:somewhere", None, {}),
    ],
)
def test_weight_file_gets_what_all_tags_say(model: str, pretrained: str | None, expected: dict[str, Any]):
    assert preprocessing(model, pretrained, None) == expected
    asked = {"interpolation": "bicubic", "mean": (0, 0.1, 0.2), "fill_color": 3}
    assert preprocessing(model, pretrained, asked) == expected | asked | {"mean": [0.0, 0.1, 0.2]}


def test_every_tag_gets_its_own_preprocessing_or_a_file_is_refused():
    for model in {model for model, _ in open_clip.list_pretrained()}:
        tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
        keys = ("mean", "std", "interpolation", "resize_mode")
        differ = len({str([tag.get(key) for key in keys]) for tag in tags}) > 1
        if differ:
            with pytest.raises(InputError, match="as the tags of"):
                preprocessing(model, "weights.pt", None)
        else:
            found = preprocessing(model, "weights.pt", None)
            assert all(list(tags[0][key]) == list(value) for key, value in found.items())


def test_weight_file_is_refused_with_what_the_tags_say():
    with pytest.raises(InputError) as caught:
        preprocessing("ViT-L-14", "weights.pt", None)
    assert str(caught.value) == (
        "clip.preprocess: expected the preprocessing of weights.pt, as the tags of ViT-L-14 differ, got null; choose "
        "'clip.preprocess={}' (openai, laion400m_e31, laion400m_e32, datacomp_xl_s13b_b90k, "
        "commonpool_xl_clip_s13b_b90k and 6 more) or "
        "'clip.preprocess={mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5]}' (laion2b_s32b_b82k)"
    )
    assert preprocessing("ViT-L-14", "weights.pt", {}) == {}


@pytest.mark.parametrize(
    "asked",
    [
        5,
        "squash",
        {"size": 336},
        {"mean": 0.5},
        {"mean": [0.5, 0.5]},
        {"mean": ["a", "b", "c"]},
        {"std": [0.5, 0.5, 0]},
        {"resize_mode": "crop"},
        {"interpolation": None},
        {"fill_color": [0, 0, 0]},
    ],
)
def test_preprocessing_that_open_clip_has_not_is_an_error(asked: Any):
    with pytest.raises(InputError, match=r"^clip\.preprocess: expected (null|mean and std) .*got ") as caught:
        preprocessing("ViT-B-32", "openai", asked)
    assert "\n" not in str(caught.value)
