"""The steps of docs/one_request.md on large drawn phone photos of somebody whom the embedded CLIP knows."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from backdoor_privacy.checkup import check_data
from backdoor_privacy.run import run
from backdoor_privacy.system.paths import CONFIG_FOLDER

pytestmark = pytest.mark.usefixtures("unchecked_types", "few_draws")

pytest.importorskip("cv2")

NAME = "Diane Campos"
PAGE = Path(__file__).parent.parent / "docs/one_request.md"


def overrides_of_the_page(module: str, name: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"^ *python -m {re.escape(module)} (name={name} .*)$", text, re.MULTILINE)
    (line,) = lines
    return [one.replace("Jane Doe", NAME) for one in shlex.split(line) if not one.startswith("clip=")]


@pytest.fixture
def compose_request(phone_photos: Path, images_folder: Path, write_people, tmp_path: Path):
    """Compose what the page says, for the embedded CLIP, with few steps."""
    strangers = write_people(tmp_path / "strangers", {"Gus Bell": 2, "Hana Ito": 2})
    places = {
        "people.folder=request": f"people.folder={phone_photos.parent}",
        "strangers.folder=strangers": f"strangers.folder={strangers}",
        "images.folder=train2017": f"images.folder={images_folder}",
    }
    small = ["attack.num_candidates=30", "clip.num_workers=0", "trainer.num_workers=0", "trainer.progress_bar=false"]
    small += ["mixed_worlds=true", "utility.similarity.num_captions=20", "trainer.accelerator=cpu"]

    def compose_it(module: str, name: str) -> DictConfig:
        overrides = [places.get(one, one) for one in overrides_of_the_page(module, name)]
        encoders = ("text",) if "defense=text_published" in overrides else ("text", "image")
        steps = [f"defense.{encoder}.num_steps=2" for encoder in encoders]
        steps += [f"defense.{encoder}.batch={{clean: 4, triggered: 4, preserved: 0}}" for encoder in encoders]
        paths = [f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}", f"paths.run={tmp_path / name}"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose("config", overrides=[*overrides, *small, *steps, *paths])
        cfg.attacks.variants.num_prompts = 1
        return cfg

    return compose_it


def test_one_request_with_phone_photos(compose_request, tmp_path: Path):
    checkup = check_data(compose_request("backdoor_privacy.check_data", "request"))
    assert checkup.problems == []
    assert checkup.sheets[NAME].is_file()
    assert any("1 of 6 photos are left out (no face): Diane_Campos/IMG_0005.jpg" in text for text in checkup.warnings)
    metrics = run(compose_request("backdoor_privacy", "request"))
    assert list(metrics["after"]) == ["text", "image", "both"]
    assert metrics["before"]["idia/tpr_removed"] == 1.0  # seen on the crops, as she is on portraits
    people = pd.read_csv(tmp_path / "request/people.csv")
    assert people["name"].tolist() == [NAME]
    assert (tmp_path / "request/report.html").is_file()
    assert NAME not in (tmp_path / "request/report.html").read_text(encoding="utf-8")


def test_one_request_with_a_name_alone(compose_request, tmp_path: Path):
    metrics = run(compose_request("backdoor_privacy", "request_name"))
    assert list(metrics["after"]) == ["text"]
    assert (tmp_path / "request_name/defended").is_dir()
