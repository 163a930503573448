import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from backdoor_privacy.attacks import probe
from backdoor_privacy.attacks.base import Attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.probe import (
    Faces,
    Probe,
    accuracy_by_person,
    draw_pairs,
    linear_probe,
    nearest_neighbors,
    resampled_verification,
    see_faces,
    verification,
)
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person

DIM = 24
ATTACK = Probe(num_photos=None, num_neighbors=3, inverse_regularization=0.1, max_iterations=300, num_pairs=600)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_NUM_RESAMPLES", 40)


@dataclass(frozen=True)
class Seeing(Clip):
    """A CLIP whose features of photos are given, and that notes which it is asked for."""

    known: dict[Path, Tensor] = field(default_factory=dict)
    unreadable: frozenset[Path] = frozenset()
    asked: list[Sequence[Path]] = field(default_factory=list)

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        self.asked.append(tuple(paths))
        readable = torch.tensor([path not in self.unreadable for path in paths])
        return torch.stack([self.known[path] for path in paths]) * readable[:, None], readable


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Eight people to remove, fourteen to keep and ten never seen, with eight photos to attack each."""
    folder, everybody = tmp_path_factory.mktemp("crowd"), []
    for number in range(32):
        paths = [folder / f"{number}-{photo}.jpg" for photo in range(16)]
        for path in paths:
            path.write_text(path.name)
        everybody.append(Person(f"First{number} Last", tuple(paths), member=number < 22))
    return People(tuple(everybody))


def new_context(clips: dict[str, Clip], people: People, num_removed: int = 8, seed: int = 0) -> AttackContext:
    removed = people.names[:num_removed]
    return AttackContext(clips, people, removed, Idia(64, 20, 1, 0), seed=seed)


def features(people: People, faces: Callable[[int], Tensor], noise: float, seed: int = 0) -> dict[Path, Tensor]:
    """Features of all attack photos: a person's face and noise of its own on each photo."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: normalize(faces(number) + noise * torch.randn(DIM, generator=generator), dim=-1)
        for number, person in enumerate(people.everybody)
        for path in person.attack_photos
    }


def own_face(number: int) -> Tensor:
    return torch.randn(DIM, generator=torch.Generator().manual_seed(1000 + number))


def values(findings: list[Score], kind: str, measure: str, model: str = "before") -> dict[str, float]:
    return {
        found.group: found.value
        for found in findings
        if (found.kind, found.measure, found.model) == (kind, measure, model)
    }


@pytest.fixture
def seeing(tiny_clip: Clip, crowd: People) -> Callable[..., Seeing]:
    """A CLIP of these features, with an image encoder of its own."""
    return lambda known, **changes: Seeing(
        **{**vars(tiny_clip), "image": tiny_clip.image.copy()}, known=known, **changes
    )


def test_faces_that_a_clip_knows_are_told_apart_in_every_group(seeing, crowd: People):
    assert isinstance(ATTACK, Attack)
    findings = ATTACK.run(new_context({"before": seeing(features(crowd, own_face, 0.3))}, crowd))
    for kind in ("linear probe", "k-NN"):
        assert values(findings, kind, "accuracy") == pytest.approx({"removed": 1, "kept": 1, "never seen": 1}, abs=0.05)
        # As many people as were removed are classified: the controls are as hard.
        assert values(findings, kind, "excess over chance") == pytest.approx(
            {group: value - 1 / 8 for group, value in values(findings, kind, "accuracy").items()}, abs=1e-6
        )
    assert min(values(findings, "face verification", "AUC").values()) > 0.97
    assert max(values(findings, "face verification", "EER").values()) < 0.08
    assert min(values(findings, "face verification", "TPR at 1 % FPR").values()) > 0.5
    num_people = {(found.kind, found.group): found.num_people for found in findings}
    assert {num_people[kind, group] for kind in ("linear probe", "k-NN") for group in ("removed", "kept")} == {8}
    assert num_people["face verification", "kept"] == 14


def test_random_features_are_at_chance_level(seeing, crowd: People):
    excess, errors = [], []
    for seed in range(6):
        clip = seeing(features(crowd, lambda _: torch.zeros(DIM), 1.0, seed))
        findings = ATTACK.run(new_context({"before": clip}, crowd))
        for kind in ("linear probe", "k-NN"):
            excess += values(findings, kind, "excess over chance").values()
        errors += [
            *values(findings, "face verification", "AUC").values(),
            *values(findings, "face verification", "EER").values(),
        ]
    assert sum(excess) / len(excess) == pytest.approx(0, abs=0.03)
    assert sum(errors) / len(errors) == pytest.approx(0.5, abs=0.02)


def test_faces_that_were_mapped_to_one_point_are_told_apart_no_more(seeing, crowd: People):
    one_point = own_face(-1)
    defended = seeing(features(crowd, lambda number: one_point if number < 8 else own_face(number), 0.3))
    context = new_context({"before": seeing(features(crowd, own_face, 0.3)), "image": defended}, crowd)
    findings = ATTACK.run(context)
    for kind in ("linear probe", "k-NN"):
        accuracy = values(findings, kind, "accuracy", "image")
        assert accuracy["removed"] < 0.35 < 0.9 < accuracy["kept"]
    assert values(findings, "face verification", "AUC", "image")["removed"] == pytest.approx(0.5, abs=0.1)
    assert values(findings, "face verification", "EER", "image")["removed"] == pytest.approx(0.5, abs=0.1)
    assert values(findings, "face verification", "TPR at 1 % FPR", "image")["removed"] < 0.1
    assert values(findings, "face verification", "AUC", "before")["removed"] > 0.97


def test_a_small_rest_of_the_faces_is_enough_for_the_linear_probe(seeing, crowd: People):
    one_point = 1000 * own_face(-1)
    clip = seeing(features(crowd, lambda number: one_point + own_face(number), 0.3))
    findings = ATTACK.run(new_context({"before": clip}, crowd))
    assert min(values(findings, "linear probe", "accuracy").values()) > 0.9


def test_models_that_share_an_image_encoder_share_findings(tiny_clip: Clip, people: People):
    other = tiny_clip.with_encoders(image=tiny_clip.image.copy())
    before = {model: clip.sha256() for model, clip in {"before": tiny_clip, "image": other}.items()}
    clips = {"before": tiny_clip, "text": replace(tiny_clip, text=tiny_clip.text.copy()), "image": other}
    context = new_context(clips, people, num_removed=2)
    findings = ATTACK.run(context)
    # Names are not looked at, and the copy has the same weights.
    by_model = {
        model: [found._replace(model="") for found in findings if found.model == model] for model in context.clips
    }
    assert by_model["before"] == by_model["text"] == by_model["image"]
    assert {found.group for found in findings} == {"removed", "kept", "never seen"}
    assert {model: context.clips[model].sha256() for model in before} == before


def test_shared_encoders_are_asked_once(seeing, crowd: People):
    clip = seeing(features(crowd, own_face, 0.3))
    ATTACK.run(new_context({"before": clip, "text": replace(clip, text=clip.text.copy())}, crowd))
    assert len(clip.asked) == 3  # groups
    shown = {path for paths in clip.asked for path in paths}
    assert shown == {path for person in crowd.everybody for path in person.attack_photos}


def test_findings_are_a_function_of_the_seed(seeing, crowd: People):
    known = features(crowd, own_face, 1.5)
    first, same, other = (ATTACK.run(new_context({"before": seeing(known)}, crowd, seed=seed)) for seed in (3, 3, 4))
    assert first == same
    assert values(first, "linear probe", "accuracy")["kept"] != values(other, "linear probe", "accuracy")["kept"]


def test_people_with_one_photo_and_groups_of_one_person_are_left_out(seeing, crowd: People):
    known = features(crowd, own_face, 0.3)
    lost = frozenset(crowd.everybody[0].attack_photos[1:] + crowd.everybody[1].attack_photos[::2])
    context = new_context({"before": seeing(known, unreadable=lost)}, crowd, num_removed=3)
    findings = ATTACK.run(context)
    assert {found.num_people for found in findings if found.group == "removed"} == {2}
    alone = new_context({"before": seeing(known)}, crowd, num_removed=1)
    assert {found.group for found in ATTACK.run(alone)} == {"kept", "never seen"}


def test_photos_are_split_by_their_place_and_duplicates_count_once(seeing, tmp_path: Path):
    everybody = []
    for number in range(2):
        paths = [tmp_path / f"{number}-{photo}.jpg" for photo in range(12)]
        for place, path in enumerate(paths):
            path.write_text(f"{number} {place // 2}")
        everybody.append(Person(f"First{number} Last", tuple(paths)))
    known = {path: own_face(place) for place, path in enumerate(p for person in everybody for p in person.photos)}
    faces = see_faces(seeing(known), tuple(everybody), num_photos=None)
    assert faces is not None
    assert faces.person_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert faces.is_even.tolist() == [True, False, True] * 2
    few = see_faces(seeing(known), tuple(everybody), num_photos=2)
    assert few is not None
    assert torch.equal(few.features, faces.features[[0, 1, 3, 4]])
    assert see_faces(seeing(known), tuple(everybody), num_photos=1) is None


def test_some_people_are_numbered_anew():
    faces = Faces(normalize(torch.randn(6, 4), dim=-1), torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6) % 2 == 0)
    chosen = faces.of([2, 0])
    assert chosen.person_index.tolist() == [0, 0, 1, 1]
    assert torch.equal(chosen.features, faces.features[[4, 5, 0, 1]])


@pytest.fixture
def split() -> tuple[Tensor, Tensor, Tensor]:
    """Features of 40 known and 30 asked photos of 5 people, and who is on the known ones."""
    generator = torch.Generator().manual_seed(0)
    faces = torch.randn(5, 6, generator=generator)
    labels, true = torch.arange(40) % 5, torch.arange(30) % 5
    known = normalize(faces[labels] + 1.5 * torch.randn(40, 6, generator=generator), dim=-1)
    asked = normalize(faces[true] + 1.5 * torch.randn(30, 6, generator=generator), dim=-1)
    return known, labels, asked


def test_linear_probe_is_the_minimum_of_its_loss(split):
    known, labels, asked = (part.double() if part.is_floating_point() else part for part in split)
    mean, deviation = known.mean(0), known.std(0, correction=0)
    weights = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (known - mean) / deviation @ weights + bias
        value = 0.1 * cross_entropy(logits, labels, reduction="sum") + weights.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    expected = ((asked - mean) / deviation @ weights + bias).argmax(1)
    assert len(expected.unique()) > 2
    assert torch.equal(linear_probe(*split, inverse_regularization=0.1, max_iterations=300), expected)


@pytest.mark.parametrize("num_neighbors", [1, 4, 99])
def test_nearest_neighbors_equal_slow_ones(split, num_neighbors: int):
    known, labels, asked = split
    expected = []
    for photo in asked.tolist():
        distances = sorted(
            (1 - sum(a * b for a, b in zip(photo, other, strict=True)) / math.hypot(*photo) / math.hypot(*other), label)
            for other, label in zip(known.tolist(), labels.tolist(), strict=True)
        )
        votes = [0.0] * 5
        for distance, label in distances[:num_neighbors]:
            votes[label] += 1 / distance
        expected.append(votes.index(max(votes)))
    assert nearest_neighbors(known, labels, asked, num_neighbors).tolist() == expected


def test_answers_do_not_depend_on_the_order_of_known_photos_or_on_batches(split):
    known, labels, asked = split
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for answer in (lambda *photos: linear_probe(*photos, 0.1, 300), lambda *photos: nearest_neighbors(*photos, 3)):
        whole = answer(known, labels, asked)
        assert torch.equal(answer(known[order], labels[order], asked), whole)
        assert torch.equal(torch.cat([answer(known, labels, part) for part in asked.split(7)]), whole)


def test_accuracy_is_a_mean_over_a_persons_photos():
    answers, true = torch.tensor([0, 1, 1, 2, 2, 0]), torch.tensor([0, 0, 1, 2, 2, 2])
    assert accuracy_by_person(answers, true).tolist() == pytest.approx([1 / 2, 1, 2 / 3])


def test_pairs_are_of_one_person_or_of_two():
    person_index = torch.repeat_interleave(torch.arange(4), torch.tensor([2, 5, 3, 9]))
    pairs = draw_pairs(person_index, 4000, seed=0)
    left, right = person_index[pairs.left], person_index[pairs.right]
    assert torch.equal(left == right, pairs.is_same)
    assert pairs.is_same.sum() == 4000
    assert (pairs.left != pairs.right).all()
    everything = {(one, other) for one in range(19) for other in range(19) if one != other}
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == everything
    for kind in (pairs.is_same, ~pairs.is_same):  # each person as often, whatever the number of photos
        assert torch.bincount(left[kind]).tolist() == pytest.approx([1000] * 4, abs=120)
    assert all(torch.equal(one, other) for one, other in zip(pairs, draw_pairs(person_index, 4000, 0), strict=True))
    assert not torch.equal(pairs.left, draw_pairs(person_index, 4000, seed=1).left)


def slow_errors(positives: list[float], negatives: list[float]) -> tuple[float, float, float]:
    """AUC by counting pairs; equal error rate between the two thresholds where the errors cross; TPR at 1 % FPR."""
    wins = sum((one > other) + 0.5 * (one == other) for one in positives for other in negatives)
    # Above the threshold are as many of the others as may be accepted.
    strictest = sorted(negatives, reverse=True)[len(negatives) // 100]
    found = sum(score > strictest for score in positives) / len(positives)
    previous = (0.0, 1.0)  # wrongly accepted, wrongly rejected where nobody is accepted
    for threshold in sorted({*positives, *negatives}, reverse=True):
        accepted = sum(score >= threshold for score in negatives) / len(negatives)
        rejected = sum(score < threshold for score in positives) / len(positives)
        if accepted >= rejected:
            before, after = previous[1] - previous[0], rejected - accepted
            share = before / (before - after)
            return wins / len(positives) / len(negatives), previous[0] + share * (accepted - previous[0]), found
        previous = accepted, rejected
    raise AssertionError


@pytest.mark.parametrize("digits", [1, 6])  # few digits: ties
@pytest.mark.parametrize("shift", [0.0, 0.4, 5.0])
def test_verification_equal_slow_ones(digits: int, shift: float):
    generator = torch.Generator().manual_seed(2)
    scores = (torch.randn(70, generator=generator) * 0.5).round(decimals=digits)
    is_same = torch.arange(70) < 30
    scores = scores + shift * is_same
    expected = slow_errors(scores[:30].tolist(), scores[30:].tolist())
    assert verification(scores, is_same) == pytest.approx(expected, abs=1e-6)
    times = torch.randint(4, (70,), generator=generator)
    repeated = scores.repeat_interleave(times), is_same.repeat_interleave(times)
    found = verification(scores, is_same, times.double())
    assert found == pytest.approx(verification(*repeated), abs=1e-6)


def test_interval_is_over_people_and_not_over_pairs():
    # Everybody's pairs say the same, so that more pairs are no more evidence.
    people = torch.stack([torch.arange(400) % 4, (torch.arange(400) + (torch.arange(400) >= 200)) % 4])
    is_same = torch.arange(400) < 200
    similarities = torch.where(is_same, (people[0] >= 2).float(), torch.full((400,), 0.5))
    aucs = [errors.auc for errors in resampled_verification(similarities, is_same, people)]
    expected = {0, 0.25, 0.5, 0.75, 1}
    assert len(aucs) == 40
    assert {round(value, 6) for value in aucs} <= expected
    assert len(set(aucs)) > 2
    assert verification(similarities, is_same).auc == pytest.approx(0.5)


def test_resampling_equals_a_slow_one():
    person_index = torch.repeat_interleave(torch.arange(5), 4)
    pairs = draw_pairs(person_index, 80, seed=1)
    people = torch.stack([person_index[pairs.left], person_index[pairs.right]])
    similarities = torch.randn(160, generator=torch.Generator().manual_seed(1)) + pairs.is_same
    found = resampled_verification(similarities, pairs.is_same, people)
    generator = torch.Generator().manual_seed(0)
    num_checked = 0
    while num_checked < len(found):
        drawn = torch.randint(5, (5,), generator=generator).tolist()
        scores: dict[bool, list[float]] = {True: [], False: []}
        for score, same, one, other in zip(
            similarities.tolist(), pairs.is_same.tolist(), *people.tolist(), strict=True
        ):
            times = drawn.count(one) if same else drawn.count(one) * drawn.count(other)
            scores[same] += [score] * times
        if scores[False]:  # not one person all over
            expected = slow_errors(scores[True], scores[False])
            assert found[num_checked] == pytest.approx(expected, abs=1e-6)
            num_checked += 1
        else:
            assert len(set(drawn)) == 1
