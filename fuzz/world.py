"""Make the smallest data for a whole run: a random CLIP, drawn people, captions and photos."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from backdoor_privacy.clip.export import write_local_dir

PEOPLE = ("Ann Lee", "Bob Ray", "Cleo Diaz", "Zoë O'Hara")
STRANGERS = ("Gus Bell", "Hana Ito", "Ivo Kral")
NUM_PHOTOS = 4
_VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
_TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
_PREPROCESS = {"size": 16, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


def picture(number: int, width: int = 24, height: int = 20) -> np.ndarray:
    """Draw smooth colours from a seed, as (height, width, 3) bytes."""
    tiles = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(tiles).resize((width, height), Image.Resampling.BICUBIC))


def write_picture(path: Path, number: int) -> Path:
    """Write a picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).save(path, "PNG")
    return path


def write_people(folder: Path, names: tuple[str, ...], first: int = 0) -> Path:
    """Write a folder with pictures for each person."""
    for person, name in enumerate(names):
        for photo in range(NUM_PHOTOS):
            number = first + person * NUM_PHOTOS + photo
            write_picture(folder / name.replace(" ", "_") / f"{photo:02}.png", number)
    return folder


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write a random CLIP as an open_clip local-dir of 4 MB."""
    config: dict[str, Any] = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": dict(_VISION), "text_cfg": dict(_TEXT)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    write_local_dir(folder, model, {"model_cfg": config, "preprocess_cfg": dict(_PREPROCESS)})
    return folder


def write_world(folder: Path) -> Path:
    """Write everything that a run reads."""
    write_clip(folder / "clip")
    write_people(folder / "people", PEOPLE)
    write_people(folder / "strangers", STRANGERS, first=100)
    for number in range(8):
        write_picture(folder / "images" / f"{number}.png", 200 + number)
    nouns = ("dog", "tram", "lamp", "boat", "tree", "door", "cup", "hill")
    lines = (f"a {one} beside a {other}\n" for one in nouns for other in nouns if one != other)
    (folder / "captions.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def overrides(world: Path, runs: Path, cache: Path, **changes: Any) -> list[str]:
    """Return the command line of a run on that world: two steps of each fit, nothing but IDIA after it."""
    own: Mapping[str, Any] = {
        "name": "tiny", "mixed_worlds": "true", "quiet": "true", "attack": "idia", "utility.zero_shot": "null",
        "clip.model": f"local-dir:{world / 'clip'}", "clip.num_workers": 0, "clip.precision": "fp32",
        "people": "folder", "people.folder": world / "people",
        "strangers": "folder", "strangers.folder": world / "strangers",
        "captions": "file", "captions.file": world / "captions.txt",
        "images": "folder", "images.folder": world / "images",
        "paths.runs": runs, "paths.cache": cache,
        "utility.similarity.num_captions": 8,
        "attack.num_candidates": 12, "attack.num_photos": 2,
        "trigger_set.num_people": 1, "trigger_set.require_inferred": "false",
        "defense.text.num_steps": 3, "defense.text.num_other_names": 8,
        "defense.text.batch": "{clean:4,triggered:4,preserved:4}",
        "defense.image.num_steps": 3, "defense.image.num_other_names": 8, "defense.image.num_anchors": 8,
        "defense.image.batch": "{clean:4,triggered:4,preserved:4}", "defense.image.trained": "[visual.transformer]",
        "trainer.checkpoint_every_steps": 1, "trainer.num_workers": 0, "trainer.accelerator": "cpu",
        "trainer.precision": "32-true", "trainer.progress_bar": "false",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in {**own, **changes}.items()]


def quiet_process() -> None:
    """Restrict a process and its children to one core, and keep them off the network."""
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    torch.set_num_threads(1)
