import math
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.attacks.photos import distinct_photos, halves
from backdoor_privacy.attacks.relearning import Relearning, curve_scores, ratio_of_steps, steps_to_recover
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.fine_tuning import FineTuning, Lesson, batches, own_temperature
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.photos import read_photo
from backdoor_privacy.errors import InputError

IDIA = Idia(num_candidates=12, num_photos=4, threshold=1, seed=0, templates=TEMPLATES[1:4])
NAMES = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox", "Eve Moss", "Finn Hale", "Gus Orr", "Hal Day"]
QUICK = FineTuning(batch_size=8, learning_rate=5e-4, temperature=0.07)
SETTINGS: dict[str, Any] = {"num_photos": [1, 4], "steps": [0, 15], **vars(QUICK)}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Eight people, each of a colour pattern of their own, with eight photos of it; the last four no members."""
    folder = tmp_path_factory.mktemp("crowd")
    draw = np.random.default_rng(0)
    for name in NAMES:
        face = draw.integers(0, 256, (4, 4, 3))
        for photo in range(8):
            tiles = (face + draw.integers(-10, 10, face.shape)).clip(0, 255).astype(np.uint8)
            path = folder / name.replace(" ", "_") / f"{photo}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(tiles).resize((32, 32), Image.Resampling.NEAREST).save(path)
    (folder / "people.csv").write_text("name,member\n" + "".join(f"{name},{name < 'Eve'}\n" for name in NAMES))
    return load_people(folder)


@pytest.fixture(scope="module")
def knowing(tiny_clip: Clip, crowd: People) -> Clip:
    """A CLIP that learnt the first four people."""
    taught = [Lesson(person.name, person.trigger_photos) for person in crowd.everybody[:4]]
    ((_, clip),) = QUICK.run(tiny_clip, taught, (), [30], seed=0)
    return clip


def lessons(count: int, first: int = 0, num_photos: int = 3) -> list[Lesson]:
    return [
        Lesson(str(number), tuple(Path(f"{number}-{photo}") for photo in range(num_photos)))
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize(
    ("num_taught", "num_others", "batch_size", "expected"),
    [(7, 9, 8, (4, 4)), (3, 9, 8, (3, 5)), (7, 2, 8, (4, 2)), (7, 0, 8, (7, 0)), (20, 0, 8, (8, 0)), (1, 5, 1, (1, 0))],
)
def test_batch_holds_each_person_once_and_everybody_comes_as_often(num_taught, num_others, batch_size, expected):
    taught, others = lessons(num_taught), lessons(num_others, first=100)
    counts: Counter[str] = Counter()
    photos: Counter[tuple[str, Path]] = Counter()
    for batch in islice(batches(taught, others, batch_size, seed=0), 60):
        names = [name for name, _ in batch]
        assert len(set(names)) == len(names)
        is_taught = [int(name) < 100 for name in names]
        assert (sum(is_taught), len(names) - sum(is_taught)) == expected
        assert all(path.name.split("-")[0] == name for name, path in batch)
        counts.update(names)
        photos.update(batch)
    shares = [counts[lesson.name] for lesson in taught]
    assert max(shares) - min(shares) <= 1
    own = [photos["0", Path(f"0-{photo}")] for photo in range(3)]
    assert max(own) - min(own) <= 1


def test_batches_are_a_function_of_the_seed():
    drawn = [list(islice(batches(lessons(9), lessons(9, first=100), 6, seed), 5)) for seed in (0, 0, 1)]
    random.seed(1)
    torch.manual_seed(1)
    assert drawn[0] == drawn[1] == list(islice(batches(lessons(9), lessons(9, first=100), 6, 0), 5))
    assert drawn[0] != drawn[2]


def slow_loss(similarities: list[list[float]], temperature: float) -> float:
    """Mean cross-entropy of rows and columns, in plain Python."""
    total, num = 0.0, len(similarities)
    for table in (similarities, [list(column) for column in zip(*similarities, strict=True)]):
        for place, row in enumerate(table):
            total += math.log(sum(math.exp(value / temperature) for value in row)) - row[place] / temperature
    return total / (2 * num)


def test_step_is_one_down_clips_own_loss(tiny_clip: Clip, crowd: People):
    taught = [Lesson(person.name, person.attack_photos[:1]) for person in crowd.everybody]
    text, image = tiny_clip.text.student().eval(), tiny_clip.image.student().eval()
    pixels = tiny_clip.embed_photos([lesson.photos[0] for lesson in taught])[0]
    captions = tiny_clip.embed_texts([f"a photo of {lesson.name}" for lesson in taught])
    given = clip_loss(tiny_clip, text, image, taught)
    assert given.item() == pytest.approx(slow_loss((pixels @ captions.T).tolist(), 0.07), rel=1e-4)
    given.backward()
    ((_, tuned),) = QUICK.run(tiny_clip, taught, (), [1], seed=0)
    for own, original, after in ((text, tiny_clip.text, tuned.text), (image, tiny_clip.image, tuned.image)):
        for (name, parameter), before, found in zip(
            own.named_parameters(), original.parameters(), after.parameters(), strict=True
        ):
            if parameter.grad is None:
                assert torch.equal(found, before), name
                continue
            is_clear = parameter.grad.abs() > 1e-5  # Adam's first step goes by the sign alone
            expected = before - QUICK.learning_rate * parameter.grad.sign()
            torch.testing.assert_close(found[is_clear], expected[is_clear], rtol=0, atol=1e-5)


def clip_loss(clip: Clip, text: Any, image: Any, taught: list[Lesson]) -> torch.Tensor:
    photos = [read_photo(lesson.photos[0]) for lesson in taught]
    pixels = torch.stack([clip.preprocess(photo) for photo in photos if photo is not None])
    tokens = clip.tokenizer([f"a photo of {lesson.name}" for lesson in taught])
    return QUICK._loss(clip, text, image, tokens, pixels, torch.tensor(1 / 0.07))


def test_fine_tuning_for_many_steps_passes_through_the_few(tiny_clip: Clip, crowd: People):
    taught = [Lesson(person.name, person.attack_photos) for person in crowd.everybody[:4]]
    found = dict(QUICK.run(tiny_clip, taught, (), [2, 5], seed=3))
    assert list(found) == [2, 5]
    ((_, alone),) = QUICK.run(tiny_clip, taught, (), [2], seed=3)
    assert found[2].sha256() == alone.sha256() != found[5].sha256()
    assert not list(QUICK.run(tiny_clip, taught, (), [], seed=3))


def test_temperature_is_the_models_own(tiny_clip: Clip):
    assert own_temperature(tiny_clip) == pytest.approx(0.07)
    cold = tiny_clip.text.copy()
    with torch.no_grad():
        cold.model.logit_scale.fill_(math.log(50))
    assert own_temperature(tiny_clip.with_encoders(text=cold)) == pytest.approx(0.02)


def test_photos_that_cannot_be_read_teach_nothing(tiny_clip: Clip, crowd: People, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_text("no photo")
    taught = [Lesson(person.name, person.attack_photos[:1]) for person in crowd.everybody[:4]]
    ((_, expected),) = QUICK.run(tiny_clip, taught, (), [1], seed=0)
    ((_, found),) = QUICK.run(tiny_clip, [*taught, Lesson("Nobody", (broken,))], (), [1], seed=0)
    for one, other in zip(found.text.parameters(), expected.text.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    ((_, same),) = QUICK.run(tiny_clip, [Lesson("Nobody", (broken,))], (), [1], seed=0)
    assert same.sha256() == tiny_clip.sha256()


def test_photos_that_teach_are_not_tested(crowd: People):
    for person in crowd.everybody:
        teach, test = halves(person)
        assert not set(teach) & set(test)
        assert set(teach) | set(test) == set(person.attack_photos)
        assert len(teach) == len(test) == 2
        assert teach == person.attack_photos[::2]


def test_duplicates_count_once(crowd: People, tmp_path: Path):
    person = crowd.everybody[0]
    copy = tmp_path / "again.png"
    copy.write_bytes(person.attack_photos[0].read_bytes())
    twice = replace(person, photos=(*person.photos, copy))
    assert len({twice.hashes[path] for path in distinct_photos(twice)}) == len(distinct_photos(twice))


def test_removed_people_come_back_and_teach_the_other_photos(tiny_clip: Clip, knowing: Clip, crowd: People):
    clips = {"before": knowing, "both": tiny_clip}  # the defended one knows nobody any more
    seen = AttackContext(clips, crowd, crowd.names[:3], IDIA, seed=0)
    before = {name: clip.sha256() for name, clip in clips.items()}
    findings = Relearning(**SETTINGS).run(seen)
    assert {name: clip.sha256() for name, clip in clips.items()} == before
    found = {(one.model, one.kind, one.group): one for one in findings}
    # There are two photos to learn from, so that the attack with four has two. Ratios are left out where never-seen
    # people do not come back.
    ratios = [one for one in findings if one.measure == "ratio"]
    assert len(found) == len(findings) == 2 * 2 * (2 * 2 + 2) + len(ratios)
    assert found["before", "1 photos, 0 steps", "removed"].value == 1
    assert found["before", "2 photos, steps to recover", "removed"].value == 0
    for group in ("removed", "never seen"):
        start, end = (found["both", f"2 photos, {step} steps", group] for step in (0, 15))
        assert start.value < 0.4
        assert end.value > 0.6
        assert start.num_people == end.num_people == 3
        assert 0 < found["both", "2 photos, steps to recover", group].value <= 15
    assert found["before", "2 photos, steps to recover", "removed / never seen"].value < 1
    again = Relearning(**{**SETTINGS, "num_photos": [2, 20], "models": ["both"], "max_people": 2, "steps": [1, 2]}).run(
        seen
    )
    assert {one.kind.split(",")[0] for one in again} == {"2 photos"}
    assert {one.num_people for one in again} <= {2, 4}


def test_nobody_comes_back_where_nothing_is_learnt(tiny_clip: Clip, crowd: People):
    seen = AttackContext({"before": tiny_clip, "both": tiny_clip}, crowd, crowd.names[:3], IDIA, seed=0)
    findings = Relearning(**{**SETTINGS, "learning_rate": 0.0, "num_photos": [1, 2], "models": ["both"]}).run(seen)
    for group in ("removed", "never seen"):
        rates = [one.value for one in findings if one.measure == "TPR" and one.group == group]
        assert len(set(rates)) == 1
    assert {one.value for one in findings if one.measure == "steps"} == {16.0}
    assert not [one for one in findings if one.measure == "ratio"]  # who never knew does not come back either


def test_groups_are_as_large_as_each_other_and_seeded(tiny_clip: Clip, crowd: People):
    attack = Relearning(**SETTINGS)
    seen = AttackContext({"before": tiny_clip, "both": tiny_clip}, crowd, crowd.names[:2], IDIA, seed=0)
    people = {group: [one.name for one in found] for group, found in attack.people(seen).items()}
    assert set(people["removed"]) == set(NAMES[:2])
    assert len(people["never seen"]) == 2
    assert set(people["never seen"]) < set(NAMES[4:])
    others = [attack.people(replace(seen, seed=seed))["never seen"] for seed in range(6)]
    assert len({tuple(one.name for one in found) for found in others}) > 1
    alone = People(crowd.everybody[:4])
    assert set(attack.people(replace(seen, people=alone))) == {"removed"}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.5, 0.0, 0.0], 2.0),
        ([0.0, 0.5, 0.0], 4.0),
        ([0.0, 1.0, 1.0], 3.0),
        ([0.25, 0.375, 0.875], 5.5),
        ([0.0, 0.1, 0.49], 11.0),
    ],
)
def test_steps_to_recover_lie_on_lines_between_measured_steps(rates: list[float], expected: float):
    assert steps_to_recover([2, 4, 10], torch.tensor(rates)) == pytest.approx(expected)


def test_steps_and_ratio_come_with_intervals():
    steps = [0, 2, 4]
    inferred = {
        "removed": torch.stack([torch.arange(40) < count for count in (0, 20, 40)]),
        "never seen": torch.stack([torch.arange(40) < count for count in (0, 0, 30)]),
    }
    found: dict[tuple[str, str], Score] = {
        (one.group, one.measure): one for one in curve_scores(inferred, steps, "5 photos", "both")
    }
    removed, never, ratio = (
        found["removed", "steps"], found["never seen", "steps"], found["removed / never seen", "ratio"]
    )  # fmt: skip
    assert removed.value == 2
    assert never.value == pytest.approx(2 + 2 * 0.5 / 0.75)
    assert ratio.value == pytest.approx(removed.value / never.value)
    for one in (removed, never, ratio):
        assert one.kind == "5 photos, steps to recover"
        assert one.low < one.value < one.high
    assert (ratio.num_people, removed.num_people) == (80, 40)
    # Each is at least one step, so that who was never forgotten does not divide by zero.
    known = torch.ones(3, 5, dtype=torch.bool)
    (at_once,) = (
        one
        for one in curve_scores({"removed": known, "never seen": known}, steps, "x", "both")
        if one.measure == "ratio"
    )
    assert (at_once.value, at_once.low, at_once.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("removed", "never_seen", "expected"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.0, 0.5], 0.5),
        ([0.0, 0.5, 1.0], [0.0, 0.0, 0.4], 0.4),  # to as far as never-seen people come
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.4], 21 / 20),
        ([0.9, 0.9, 0.9], [0.0, 1.0, 1.0], 1 / 5),  # who was never forgotten counts as one step
        ([0.0, 0.5, 1.0], [0.0, 0.0, 0.2], None),  # never-seen people are not learnt
        ([0.4, 0.5, 1.0], [0.4, 0.4, 0.4], None),
    ],
)
def test_ratio_goes_as_far_as_never_seen_people_come(removed: list[float], never_seen: list[float], expected):
    found = ratio_of_steps([0, 10, 20], torch.tensor(removed), torch.tensor(never_seen))
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_photos": [0]}, r"relearning\.num_photos: expected numbers of 1 or more, got \[0\]"),
        ({"steps": [-1, 2]}, r"relearning\.steps: expected numbers of 0 or more, got \[-1, 2\]"),
        ({"batch_size": 1}, r"batch_size: expected 2 or more pairs, got 1"),
        ({"temperature": 0.0}, r"temperature: expected more than 0, or null, got 0\.0"),
        ({"max_people": 0}, r"relearning\.max_people: expected 1 or more, got 0"),
        ({"models": ["image"]}, r"relearning\.models: expected some of before, both, got image"),
    ],
)
def test_setting_out_of_range_is_an_error(tiny_clip: Clip, crowd: People, changes: dict[str, Any], message: str):
    seen = AttackContext({"before": tiny_clip, "both": tiny_clip}, crowd, crowd.names[:3], IDIA, seed=0)
    with pytest.raises(InputError, match=message):
        Relearning(**{**SETTINGS, **changes}).run(seen)
