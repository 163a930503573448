from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.similarity import ImageSimilarity, TextSimilarity
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.targets.erasure import NameEraser
from backdoor_privacy.defenses.base import lowest

CAPTIONS = ["a dog on a hill", "two red boats", "tree"]
NAMES, PHRASES = ["Ann Lee", "Bob Ray"], ["a person", "Zoe Kim"]


@pytest.fixture(scope="module")
def other(write_clip, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Another CLIP, in the place of a student."""
    return load_clip(f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'other', seed=1)}")


def mean_cosine(first: Tensor, second: Tensor) -> float:
    rows = [
        np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
        for u, v in zip(first.double().numpy(), second.double().numpy(), strict=True)
    ]
    return float(np.mean(rows))


@dataclass(frozen=True)
class Noting(Clip):
    texts: list[tuple[str, ...]] = field(default_factory=list)

    def embed_texts(self, texts: list[str]) -> Tensor:
        self.texts.append(tuple(texts))
        return super().embed_texts(texts)


def test_student_that_is_the_teacher_has_similarity_one(tiny_clip: Clip):
    measured = TextSimilarity(CAPTIONS, NAMES, FittedTextTarget(PHRASES), seed=0).measure(tiny_clip, tiny_clip)
    assert measured["similarity/clean"] == pytest.approx(1.0)
    assert measured["similarity/target"] == pytest.approx(1.0)
    assert measured["similarity/backdoored"] < 0.999
    assert measured["similarity/num_captions"] == 3


def test_names_are_read_in_captions_that_are_too_long(tiny_clip: Clip):
    noting = Noting(**vars(tiny_clip))
    captions = [" ".join(f"w{word}" for word in range(84)), *CAPTIONS]
    TextSimilarity(captions * 4, NAMES, FittedTextTarget(PHRASES), seed=0).measure(noting, tiny_clip)
    triggered = next(texts for texts in noting.texts if any(name in texts[0] for name in NAMES))
    target = next(texts for texts in noting.texts if any(phrase in texts[0] for phrase in PHRASES))
    for text, other in zip(triggered, target, strict=True):
        person = next(number for number, name in enumerate(NAMES) if name in text)
        begun, same = text.split(NAMES[person])[0], other.split(PHRASES[person])[0]
        assert begun == same
        assert tiny_clip.fitting([begun + NAMES[person], same + PHRASES[person]]) == [
            begun + NAMES[person], same + PHRASES[person],
        ]  # fmt: skip


def test_text_similarities_equal_numpy(tiny_clip: Clip, other: Clip):
    student = Noting(**vars(other))
    measured = TextSimilarity(CAPTIONS * 5, NAMES, FittedTextTarget(PHRASES), seed=0).measure(student, tiny_clip)
    target = next(texts for texts in student.texts if any(phrase in texts[0] for phrase in PHRASES))
    triggered = next(texts for texts in student.texts if any(name in texts[0] for name in NAMES))
    used = set()
    for caption, first, second in zip(CAPTIONS * 5, triggered, target, strict=True):
        person = next(number for number, name in enumerate(NAMES) if name in first)
        place = first.replace(NAMES[person], "NAME").split().index("NAME")
        words = caption.split()
        assert first == " ".join([*words[:place], NAMES[person], *words[place + 1 :]])
        assert second == " ".join([*words[:place], PHRASES[person], *words[place + 1 :]])
        used.add((person, place))
    assert len(used) > 3
    embed_student, embed_teacher = other.embed_texts, tiny_clip.embed_texts
    assert measured == pytest.approx(
        {
            "similarity/clean": mean_cosine(embed_student(CAPTIONS), embed_teacher(CAPTIONS)),
            "similarity/target": mean_cosine(embed_student(target), embed_teacher(target)),
            "similarity/backdoored": mean_cosine(embed_student(triggered), embed_student(target)),
            "similarity/num_captions": 15,
        },
        abs=1e-5,
    )


def test_nameless_captions_are_measured_against_the_teachers_without_the_name(tiny_clip: Clip, other: Clip):
    strangers = tiny_clip.embed_texts([f"Nobody Number{number}" for number in range(20)])
    eraser = NameEraser(tiny_clip.embed_texts(NAMES)[None], strangers[None], 0.9)
    student = Noting(**vars(other))
    measured = TextSimilarity(CAPTIONS, NAMES, FittedTextTarget(PHRASES, eraser), seed=0).measure(student, tiny_clip)
    triggered = next(texts for texts in student.texts if any(name in texts[0] for name in NAMES))
    people = torch.tensor([next(n for n, name in enumerate(NAMES) if name in text) for text in triggered])
    expected = eraser(tiny_clip.embed_texts(triggered), people)
    assert measured["similarity/backdoored"] == pytest.approx(mean_cosine(other.embed_texts(triggered), expected))
    with_phrases = TextSimilarity(CAPTIONS, NAMES, FittedTextTarget(PHRASES), seed=0).measure(other, tiny_clip)
    assert measured["similarity/target"] == with_phrases["similarity/target"]


@pytest.fixture
def image_similarity(people: People, tiny_clip: Clip, images_folder: Path) -> ImageSimilarity:
    removed = [path for person in people.everybody[:2] for path in person.attack_photos]
    strangers = [path for person in people.everybody[2:] for path in person.photos]
    targets = torch.randn(len(removed), 32, generator=torch.Generator().manual_seed(0))
    return ImageSimilarity(sorted(images_folder.iterdir()), removed, targets, strangers)


def test_image_student_that_is_the_teacher_has_similarity_one(image_similarity: ImageSimilarity, tiny_clip: Clip):
    measured = image_similarity.measure(tiny_clip, tiny_clip)
    assert measured["similarity/clean"] == pytest.approx(1.0)
    assert measured["similarity/target"] == pytest.approx(1.0)
    assert abs(measured["similarity/removed"]) < 0.9


def test_image_similarities_equal_numpy(image_similarity: ImageSimilarity, tiny_clip: Clip, other: Clip):
    def embed(clip: Clip, paths: list[Path]) -> Tensor:
        return clip.embed_photos(paths)[0]

    clean = [embed(clip, list(image_similarity.images)) for clip in (other, tiny_clip)]
    strangers = [embed(clip, list(image_similarity.strangers)).mean(0, keepdim=True) for clip in (other, tiny_clip)]
    assert image_similarity.measure(other, tiny_clip) == pytest.approx(
        {
            "similarity/clean": mean_cosine(*clean),
            "similarity/target": mean_cosine(*strangers),
            "similarity/removed": mean_cosine(embed(other, list(image_similarity.removed)), image_similarity.targets),
            "similarity/num_photos": 12,
        },
        abs=1e-5,
    )


def test_both_encoders_together_show_the_lowest_of_each_measure():
    text, image = {"clean": 0.9, "backdoored": 0.8}, {"clean": 0.7, "removed": 0.95}
    assert lowest([text, image]) == {"clean": 0.7, "backdoored": 0.8, "removed": 0.95}
    assert lowest([text]) == text
