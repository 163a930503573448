"""A model's config may be anybody's: what describes no model that can be built is one line, at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from backdoor_privacy.clip.limits import check_numbers, least_bytes
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.errors import InputError

HOSTILE: list[tuple[str, Any]] = [
    ("model_cfg", None),
    ("model_cfg", []),
    ("model_cfg.vision_cfg", None),
    ("model_cfg.vision_cfg", [1]),
    ("model_cfg.text_cfg", "x"),
    ("model_cfg.embed_dim", True),
    ("model_cfg.embed_dim", 10**9),
    ("model_cfg.embed_dim", float("nan")),
    ("model_cfg.embed_dim", [32]),
    ("model_cfg.vision_cfg.layers", 10**9),
    ("model_cfg.vision_cfg.layers", 999),
    ("model_cfg.vision_cfg.layers", [10**9, 1, 1, 1]),
    ("model_cfg.vision_cfg.layers", "2"),
    ("model_cfg.vision_cfg.layers", 0),
    ("model_cfg.vision_cfg.width", 10**400),
    ("model_cfg.vision_cfg.width", 65536),
    ("model_cfg.vision_cfg.image_size", 10_000),
    ("model_cfg.vision_cfg.image_size", -24),
    ("model_cfg.vision_cfg.patch_size", 0),
    ("model_cfg.vision_cfg.patch_size", 5.5),
    ("model_cfg.vision_cfg.mlp_ratio", 65536),
    ("model_cfg.vision_cfg.no_such_key", 1),
    ("model_cfg.text_cfg.context_length", 10**9),
    ("model_cfg.text_cfg.vocab_size", 2**22),
    ("model_cfg.text_cfg.heads", False),
    ("model_cfg.text_cfg.heads", 3),
    ("preprocess_cfg", [1]),
    ("preprocess_cfg.mean", "x"),
    ("preprocess_cfg.mean", [0.5, 0.5]),
    ("preprocess_cfg.std", [0, 1, 1]),
    ("preprocess_cfg.std", [float("inf"), 1, 1]),
    ("preprocess_cfg.size", 10**9),
    ("preprocess_cfg.mode", 1),
    ("preprocess_cfg.interpolation", "x"),
    ("preprocess_cfg.resize_mode", {"a": 1}),
]


@pytest.mark.parametrize(("place", "value"), HOSTILE)
def test_a_config_of_no_model_is_one_line(place: str, value: Any, tmp_path: Path, tiny_clip_folder: Path):
    content = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())
    *parents, last = place.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    node[last] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    (tmp_path / "open_clip_model.safetensors").symlink_to(tiny_clip_folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"^clip\.") as caught:
        load_clip(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "1", "null", "[]", '{"model_cfg": 1}', "\0", "9" * 5000])
def test_what_is_no_config_is_one_line(text: str, tmp_path: Path, tiny_clip_folder: Path):
    (tmp_path / "open_clip_config.json").write_text(text)
    (tmp_path / "open_clip_model.safetensors").symlink_to(tiny_clip_folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"expected model_cfg in open_clip_config\.json"):
        load_clip(f"local-dir:{tmp_path}")


def test_the_numbers_of_real_models_are_no_surprise():
    open_clip = pytest.importorskip("open_clip")
    for name in open_clip.list_models():
        check_numbers(open_clip.get_model_config(name), name)


def test_least_size_is_below_what_a_model_takes(tiny_clip_folder: Path, tiny_clip):
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    size = (tiny_clip_folder / "open_clip_model.safetensors").stat().st_size
    assert 0 < least_bytes(config) < size
    config["vision_cfg"]["layers"] = 900
    assert least_bytes(config) > size


def test_levels_end():
    content: Any = 1
    for _ in range(20):
        content = {"a": content}
    with pytest.raises(InputError, match="levels at most"):
        check_numbers(content, "clip.model")
