from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

from backdoor_privacy.clip import Clip, load_clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.utility.zero_shot import ZeroShot

CLASSES = ["apple", "boat", "red car", "dog", "empty road", "fox", "goose"]
TEMPLATES: Sequence[str] = ("a photo of {}", "{}", "two of {}, drawn")


@pytest.fixture(scope="module")
def photos(write_photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot")
    for number, classname in enumerate(CLASSES):
        for photo in range(4):
            write_photo(folder / classname / f"{photo}.png", 10 * number + photo)
    return folder


@pytest.mark.parametrize("templates", [TEMPLATES, open_clip.SIMPLE_IMAGENET_TEMPLATES])
def test_classifier_is_that_of_the_whole_model(tiny_clip: Clip, tiny_clip_folder: Path, templates: Sequence):
    model = open_clip.create_model(f"local-dir:{tiny_clip_folder}").eval()
    expected = open_clip.build_zero_shot_classifier(model, tiny_clip.tokenizer, CLASSES, templates)
    found = ZeroShot("unused", templates).classifier(tiny_clip, CLASSES)
    torch.testing.assert_close(found, expected)


def test_classifier_is_the_mean_of_normalised_prompts_normalised_again(tiny_clip: Clip):
    found = ZeroShot("unused", TEMPLATES).classifier(tiny_clip, CLASSES).numpy()
    for column, classname in enumerate(CLASSES):
        rows = tiny_clip.embed_texts([template.format(classname) for template in TEMPLATES]).numpy()
        mean = rows.mean(0)
        np.testing.assert_allclose(found[:, column], mean / np.linalg.norm(mean), atol=1e-5)


def test_eighty_templates_are_the_default():
    assert len(ZeroShot("unused").templates) == 80


def test_accuracies_are_scikit_learns(tiny_clip: Clip, tiny_clip_folder: Path, photos: Path):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip_folder}")
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(model, tiny_clip.tokenizer, sorted(CLASSES), TEMPLATES)
    scores, labels = [], []
    for label, classname in enumerate(sorted(CLASSES)):
        for path in sorted((photos / classname).iterdir()):
            with Image.open(path) as photo, torch.no_grad():
                scores.append((model.encode_image(preprocess(photo)[None]) @ classifier)[0].numpy())
            labels.append(label)
    measured = ZeroShot(photos, TEMPLATES).measure(tiny_clip)
    assert measured == pytest.approx(
        {
            "zero_shot/top1": top_k_accuracy_score(labels, np.stack(scores), k=1),
            "zero_shot/top5": top_k_accuracy_score(labels, np.stack(scores), k=5),
            "zero_shot/num_photos": 28,
            "zero_shot/num_classes": 7,
        }
    )
    assert 0 < measured["zero_shot/top5"] < 1


def test_top_5_of_fewer_classes_counts_them_all(tiny_clip: Clip, write_photo, tmp_path: Path):
    for number, classname in enumerate(CLASSES[:3]):
        write_photo(tmp_path / classname / "0.png", number)
    assert ZeroShot(tmp_path, TEMPLATES).measure(tiny_clip)["zero_shot/top5"] == 1.0


def test_another_text_encoder_gets_its_own_classifier(tiny_clip: Clip, write_clip, tmp_path: Path):
    zero_shot = ZeroShot("unused", TEMPLATES)
    other = load_clip(f"local-dir:{write_clip(tmp_path / 'other', seed=1)}")
    first = zero_shot.classifier(tiny_clip, CLASSES)
    assert not torch.allclose(zero_shot.classifier(tiny_clip.with_encoders(text=other.text), CLASSES), first, atol=0.1)
    assert torch.equal(zero_shot.classifier(tiny_clip.with_encoders(image=other.image), CLASSES), first)


def test_folder_without_classes_is_an_error(tmp_path: Path, tiny_clip: Clip):
    with pytest.raises(InputError, match=r"utility\.zero_shot\.folder: expected one folder of photos per class"):
        ZeroShot(tmp_path).measure(tiny_clip)
