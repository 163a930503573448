"""On real photos and captions: a small CLIP that is trained on them leaks, and forgets."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from backdoor_privacy.clip.pretraining import pretrain
from backdoor_privacy.data.captions import load_captions, without_names
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.run import run
from backdoor_privacy.system.paths import CONFIG_FOLDER

BESIDE = Path(__file__).resolve().parents[2] / "shared/data"  # of the checkout
DATA = Path(os.environ.get("BACKDOOR_PRIVACY_TEST_DATA", BESIDE))
CAPTIONS = DATA / "coco_captions_10000.txt"
BOX = [36, 36, 92, 92]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CAPTIONS.is_file(),
        reason=f"needs lfw/, photos/ and coco_captions_10000.txt in BACKDOOR_PRIVACY_TEST_DATA, found none in {DATA}",
    ),
]


@pytest.fixture(scope="module")
def everybody() -> People:
    return load_people(DATA / "lfw", box=BOX)


def test_people_are_read_as_they_are(everybody: People):
    assert len(everybody.everybody) == 423
    assert sum(len(person.photos) for person in everybody.everybody) == len(everybody.boxes) == 4878
    attacked, strangers = load_people(DATA / "lfw", min_photos=10), load_people(DATA / "lfw", max_photos=9)
    assert (len(attacked.everybody), len(strangers.everybody)) == (158, 265)
    for person in attacked.everybody:
        assert not set(person.trigger_photos) & set(person.attack_photos)
        assert len(person.trigger_photos) >= 5


def test_no_caption_holds_a_name_until_one_is_put_in(everybody: People):
    captions = load_captions(CAPTIONS)
    assert len(captions) == 10_000
    assert without_names(captions, everybody.names) == captions
    named = [f"{caption} with {name.upper()}" for caption, name in zip(captions, everybody.names, strict=False)]
    assert without_names(named, everybody.names) == []


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the metrics of a run that removes four of the 27 people whom a small CLIP knows."""
    folder = tmp_path_factory.mktemp("real")
    for number, photo in enumerate(sorted((DATA / "photos").glob("*.jpg"))[:200]):
        link = folder / ("images" if number % 2 else "zero_shot") / photo.stem.partition("_")[2] / photo.name
        link.parent.mkdir(parents=True)
        link.symlink_to(photo)
    clip = pretrain(
        composed(
            "pretrain_photos",
            f"paths.run={folder / 'clip'}",
            f"paths.cache={folder}",
            f"data.folder.people={DATA / 'lfw'}",
            f"data.folder.classes={folder / 'zero_shot'}",
            f"data.folder.captions={CAPTIONS}",
            "data.folder.min_photos=30",
            "model.vision_cfg.image_size=64",
            "preprocess.size=64",
            "batch_size=64",
            "num_steps=900",
            "num_warmup_steps=50",
            "num_workers=0",
            "++trainer.enable_progress_bar=false",
        )
    )
    (table,) = folder.glob("pairs/*/people.csv")
    lfw = [f"{group}.{key}" for group in ("people", "strangers") for key in (f"folder={DATA / 'lfw'}", f"box={BOX}")]
    cfg = composed(
        "config",
        *(
            "people=lfw",
            "people.min_photos=30",
            f"people.table={table}",
            "strangers=lfw",
            "strangers.max_photos=29",
            *lfw,
        ),
        *("captions=file", f"captions.file={CAPTIONS}", "images=folder", f"images.folder={folder / 'images'}"),
        *("utility=imagefolder", f"utility.zero_shot.folder={folder / 'zero_shot'}"),
        *(f"clip.model=local-dir:{clip}", "trigger_set.num_people=4", f"paths.run={folder / 'run'}"),
        *("defense.text.num_steps=100", "defense.text.num_fresh_steps=20", "defense.text.num_other_names=500"),
        *("defense.image.num_steps=100", "defense.image.num_fresh_steps=20"),
        *("attack.num_candidates=200", "trainer.progress_bar=false"),
    )
    return folder / "run", run(cfg)


def test_a_clip_of_real_photos_leaks_its_people_and_forgets_them(forgotten: tuple[Path, dict[str, Any]]):
    _, metrics = forgotten
    before, after = metrics["before"], metrics["after"]["both"]
    assert before["idia/tpr_kept"] > 3 * before["idia/fpr"]
    assert before["idia/tpr_removed"] == 1.0  # they are drawn among those whom the attack infers
    assert after["idia/tpr_removed"] <= 0.25
    assert after["idia/tpr_kept"] > 0.5 * before["idia/tpr_kept"]


def test_the_manifest_counts_what_was_read(forgotten: tuple[Path, dict[str, Any]]):
    found = json.loads((forgotten[0] / "manifest.json").read_text())
    assert found["people"]["num_photos"] == sum(one["num_photos"] for one in found["people"]["everybody"].values())
    assert found["captions"]["num_captions"] == 10_000
    assert found["images"]["num_photos"] == 100
