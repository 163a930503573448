from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.utility.base import Label, Measure, build_measures, clean_photos, labels_of
from backdoor_privacy.utility.retrieval import Retrieval
from backdoor_privacy.utility.zero_shot import ZeroShot


@dataclass(frozen=True)
class NormOfTexts(Measure):
    """A measure of the kind that a user adds: without photos."""

    name: ClassVar[str] = "norm"
    text: str

    def measure(self, clip: Clip) -> dict[str, float]:
        return {"norm/of_text": clip.embed_texts([self.text]).norm().item(), "norm/num_texts": 1.0}

    def digest(self) -> dict[str, int | str]:
        return {"num_texts": 1, "sha256": self.text}


OWN = {"_target_": f"{__name__}.NormOfTexts", "text": "a dog"}
LABEL = {"_target_": "backdoor_privacy.utility.base.Label", "title": "no measure"}


@pytest.fixture
def captioned(tmp_path: Path, write_photo) -> Path:
    for number, name in enumerate(("boat", "dog")):
        write_photo(tmp_path / f"{name}.png", number)
        (tmp_path / f"{name}.txt").write_text(f"a {name}\nthe {name}\n")
    return tmp_path


def test_measure_of_the_users_own_is_built_beside_the_shipped_ones(compose_cfg: Callable[..., DictConfig], tiny_clip):
    cfg = compose_cfg(f"+utility.norm={{_target_: {OWN['_target_']}, text: a dog}}")
    measures = build_measures(cfg.utility)
    assert list(measures) == ["zero_shot", "norm"]
    measured = measures["norm"].measure(tiny_clip)
    assert measured["norm/of_text"] == pytest.approx(1.0)
    assert clean_photos(measures) == measures["zero_shot"].photos()
    assert labels_of({"norm": measures["norm"]}, measured) == {
        "norm/of_text": {"title": "norm/of_text", "note": "", "column": ""}
    }
    assert measures["norm"].contents() is None


@pytest.mark.parametrize(
    ("utility", "error"),
    [
        ({"zero_shots": "x"}, r"^utility\.zero_shots: expected null or a measure with its _target_, got x; choose"),
        ({"norm": {**OWN, "length": 3}}, r"^utility\.norm\.length: expected one of the settings text"),
        ({"a": OWN, "b": OWN}, r"^utility\.b: expected a measure of another kind than utility\.a, got .*norm/"),
        ({"a": LABEL}, r"^utility\.a\._target_: expected a Measure, got backdoor_privacy\.utility\.base\.Label"),
    ],
)
def test_what_is_no_measure_is_an_error(utility: dict[str, object], error: str):
    with pytest.raises(InputError, match=error):
        build_measures(OmegaConf.create(utility))


def test_fewer_photos_than_one_are_an_error(captioned: Path):
    node = {"_target_": "backdoor_privacy.utility.retrieval.Retrieval", "folder": str(captioned), "cache": "unused"}
    with pytest.raises(InputError, match=r"^utility\.retrieval\.max_photos: expected 1 or more, got 0$"):
        build_measures(OmegaConf.create({"retrieval": {**node, "max_photos": 0}}))


def test_measures_say_what_reports_call_their_numbers():
    counts = {"zero_shot/num_photos": 1200.0, "zero_shot/num_classes": 24.0}
    assert ZeroShot.labels(counts) == {
        "zero_shot/top1": Label("Zero-shot top-1 accuracy", "of 1,200 photos in 24 classes", "zero_shot_top1"),
        "zero_shot/top5": Label("Zero-shot top-5 accuracy", "of 1,200 photos in 24 classes"),
    }
    labels = Retrieval.labels({"retrieval/num_photos": 2.0, "retrieval/num_captions": 4.0})
    assert labels["retrieval/image_to_text_r1"] == Label(
        "Photos that find their caption (recall at 1)", "of 2 photos and 4 captions", "image_to_text_r1"
    )


def test_photos_are_shown_with_their_classes_and_captions(captioned: Path, write_photo):
    write_photo(captioned / "classes" / "big_dog" / "0.png", 0)
    (captioned / "classes" / "big_dog" / "notes.md").write_text("")
    shown = ZeroShot(captioned / "classes").contents()
    assert (shown.title, shown.summary, shown.left_out) == ("zero-shot photos", "1, of 1 classes", {".md": 1})
    assert list(shown.texts.values()) == ["big dog"]
    (captioned / "classes" / "big_dog" / "0.png").unlink()
    shown = Retrieval(captioned, captioned / "cache").contents()
    assert (shown.title, shown.summary) == ("retrieval photos", "2, with 4 captions")
    assert {photo.name: text for photo, text in shown.texts.items()} == {"boat.png": "a boat", "dog.png": "a dog"}
