import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from faker.providers.person.en_US import Provider
from torch import Tensor

from backdoor_privacy.attacks import idia
from backdoor_privacy.attacks.idia import TEMPLATES, Idia, IdiaVotes, cast_votes, majority
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import audit
from backdoor_privacy.utility.zero_shot import ZeroShot
from benchmarks import reference


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


def slow_correct_prompts(
    photos: Sequence[Sequence[Sequence[float]]], prompts: Sequence[Sequence[Sequence[float]]], true: Sequence[int]
) -> list[int]:
    """IDIA in plain Python: photos of each person, prompts of each template, the place of each person's name."""
    correct = []
    for shown, name in zip(photos, true, strict=True):
        count = 0
        for candidates in prompts:
            votes: Counter[int] = Counter()
            for photo in shown:
                cosines = [
                    sum(a * b for a, b in zip(photo, text, strict=True)) / math.hypot(*photo) / math.hypot(*text)
                    for text in candidates
                ]
                votes[cosines.index(max(cosines))] += 1
            first = votes.most_common(2)
            tied = len(first) > 1 and first[0][1] == first[1][1]
            count += bool(first) and not tied and first[0][0] == name
        correct.append(count)
    return correct


@dataclass(frozen=True)
class Features(Clip):
    """A CLIP that has an own random direction for every text and photo, and that notes what it is asked."""

    unreadable: frozenset[Path] = frozenset()
    dim: int = 4
    texts: list[Sequence[str]] = field(default_factory=list)
    photos: list[Sequence[Path]] = field(default_factory=list)

    def row(self, key: str) -> Tensor:
        return unit_rows(self.dim, seed=random.Random(key).getrandbits(32))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self.texts.append(tuple(texts))
        return torch.stack([self.row(text) for text in texts])

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        self.photos.append(tuple(paths))
        readable = torch.tensor([path not in self.unreadable for path in paths])
        return torch.stack([self.row(path.name) for path in paths]) * readable[:, None], readable


@pytest.fixture
def features(tiny_clip: Clip) -> Callable[..., Features]:
    return lambda **changes: Features(**vars(tiny_clip), **changes)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    """Twelve people with one to eight photos to attack."""
    folder, people = tmp_path_factory.mktemp("crowd"), []
    for number in range(12):
        paths = [folder / f"{number}-{photo}.jpg" for photo in range(2 * (1 + number % 8))]
        for path in paths:
            path.write_text(path.name)
        people.append(Person(f"First{number} Last", tuple(paths), member=number < 8))
    return people


@pytest.mark.parametrize("num_photos", [2, 5, 20])
def test_attack_equals_a_slow_one(features, crowd: list[Person], num_photos: int):
    # Few candidates in few dimensions, so that votes tie; some photos cannot be read, one person has none left.
    unreadable = {path for person in crowd[::3] for path in person.attack_photos[:2]} | set(crowd[1].attack_photos)
    clip = features(unreadable=frozenset(unreadable))
    attack = Idia(num_candidates=14, num_photos=num_photos, threshold=3, seed=5)
    found = attack.run(clip, crowd)

    candidates = attack.candidates([person.name for person in crowd])
    prompts = [[clip.row(template.format(name)).tolist() for name in candidates] for template in TEMPLATES]
    shown = [[path for path in person.attack_photos[:num_photos] if path not in unreadable] for person in crowd]
    photos = [[clip.row(path.name).tolist() for path in paths] for paths in shown]
    expected = slow_correct_prompts(photos, prompts, [candidates.index(person.name) for person in crowd])
    assert sum(expected) > 0
    assert found.names == [person.name for person in crowd]
    assert found.correct_prompts == expected
    assert found.num_photos == [len(paths) for paths in shown]
    assert found.inferred == {person.name: count >= 3 for person, count in zip(crowd, expected, strict=True)}


def test_attack_of_a_clip_equals_the_plain_path(tiny_clip: Clip, people: People):
    attack = Idia(num_candidates=8, num_photos=3, threshold=1, seed=1)
    found = attack.run(tiny_clip, people.everybody).correct_prompts
    assert found == reference.correct_prompts(tiny_clip, people.everybody, attack)
    assert sum(found) > 0


@pytest.mark.parametrize("threshold", [1, 2, 21])
def test_threshold_is_the_number_of_right_prompts_that_it_takes(features, crowd: list[Person], threshold: int):
    found = Idia(num_candidates=12, num_photos=20, threshold=threshold, seed=0).run(features(), crowd)
    assert set(found.correct_prompts) & set(range(1, 22))
    assert list(found.inferred.values()) == [count >= threshold for count in found.correct_prompts]


def test_prompts_are_the_papers_in_its_order():
    assert " · ".join(TEMPLATES) == (
        "{} · an image of {} · a photo of {} · {} on a photo · a photo of a person named {} · a person named {} · "
        "a man named {} · a woman named {} · the name of the person is {} · a photo of a person with the name {} · "
        "{} at a gala · a photo of the celebrity {} · actor {} · actress {} · a colored photo of {} · "
        "a black and white photo of {} · a cool photo of {} · a cropped photo of {} · a cropped image of {} · "
        "{} in a suit · {} in a dress"
    )


def test_photo_votes_for_the_most_similar_candidate():
    image_features, text_features = unit_rows(6, 8), unit_rows(3, 10, 8, seed=1)
    own = torch.tensor([0, 9, 4, 4, 2, 7])
    votes, margins, others = cast_votes(image_features, text_features, own)
    for photo in range(6):
        for prompt in range(3):
            cosines = [float(image_features[photo] @ text) for text in text_features[prompt]]
            assert votes[photo, prompt] == cosines.index(max(cosines))
            true, cosines[own[photo]] = cosines[own[photo]], -1
            assert others[photo, prompt] == cosines.index(max(cosines))
            assert margins[photo, prompt].item() == pytest.approx(true - max(cosines), abs=1e-6)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [([0, 3, 2], 1), ([2, 0, 0], 0), ([2, 2, 1], -1), ([1, 1, 1], -1), ([0, 0, 0], -1), ([0, 0, 1], 2)],
)
def test_tie_for_first_place_and_no_vote_have_no_winner(votes: list[int], winner: int):
    cast = [candidate for candidate, count in enumerate(votes) for _ in range(count)]
    others = [2, 2, 1]  # of another person, who must not matter
    photos = torch.tensor([*others, *cast]).unsqueeze(1)
    person_index = torch.tensor([0] * len(others) + [1] * len(cast))
    assert majority(photos, person_index, num_people=2).flatten().tolist() == [2, winner]


@pytest.fixture
def attacked() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of 60 photos of 9 people, 4 prompts with 12 candidates, who is on each photo, and their own names."""
    person_index = torch.randint(9, (60,), generator=torch.Generator().manual_seed(0))
    true_candidates = torch.tensor([11, 3, 5, 0, 1, 7, 8, 2, 10])
    prompts = unit_rows(4, 12, 6, seed=1)
    photos = prompts[:, true_candidates[person_index]].mean(0) + unit_rows(60, 6, seed=2)
    return photos / photos.norm(dim=-1, keepdim=True), prompts, person_index, true_candidates


def new_votes(true_candidates: Tensor) -> IdiaVotes:
    return IdiaVotes(true_candidates)


def test_votes_equal_a_slow_count(attacked):
    photos, prompts, person_index, true_candidates = attacked
    metric = new_votes(true_candidates)
    metric.update(photos, prompts, person_index)
    by_person = [photos[person_index == person].tolist() for person in range(9)]
    expected = slow_correct_prompts(by_person, prompts.tolist(), true_candidates.tolist())
    assert 0 < sum(expected) < 36
    assert metric.compute().correct_prompts.tolist() == expected


@pytest.mark.parametrize("batch_size", [1, 7, 59])
def test_votes_do_not_depend_on_batches_or_their_order(attacked, batch_size: int):
    photos, prompts, person_index, true_candidates = attacked
    whole, parts = new_votes(true_candidates), new_votes(true_candidates)
    whole.update(photos, prompts, person_index)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    for batch in order.split(batch_size):
        parts.update(photos[batch], prompts, person_index[batch])
    for found, expected in zip(parts.compute(), whole.compute(), strict=True):
        torch.testing.assert_close(found, expected)


def test_evidence_is_a_count_of_votes_and_a_mean_of_margins(attacked):
    photos, prompts, person_index, true_candidates = attacked
    metric = new_votes(torch.cat([true_candidates, torch.tensor([4])]))  # the last of whom there is no photo
    metric.update(photos, prompts, person_index)
    _, own_votes, margins, _ = metric.compute()
    votes, photo_margins, _ = cast_votes(photos, prompts, true_candidates[person_index])
    for person in range(9):
        shown = person_index == person
        assert own_votes[person].tolist() == (votes[shown] == true_candidates[person]).sum(0).tolist()
        torch.testing.assert_close(margins[person], photo_margins[shown].mean())
    assert own_votes[9].tolist() == [0] * 4
    assert margins[9].isnan()


def test_votes_in_chunks_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch):
    prompts, photos = unit_rows(4, 12, 6), unit_rows(130, 6, seed=1)
    own = torch.arange(130) % 12
    whole = cast_votes(photos, prompts, own)
    monkeypatch.setattr(idia, "_NUM_SIMILARITIES_PER_CHUNK", 100)
    for found, expected in zip(cast_votes(photos, prompts, own), whole, strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(whole.votes, torch.stack([(photos @ names.T).argmax(1) for names in prompts], 1))


def test_votes_of_two_ranks_come_together(attacked):
    photos, prompts, person_index, true_candidates = attacked
    whole = new_votes(true_candidates)
    whole.update(photos, prompts, person_index)
    ranks: list[IdiaVotes] = []
    asked: list[int] = []
    states = ("votes", "margins", "others", "person_index")

    def gather(own: Tensor, group: Any = None) -> list[Tensor]:
        """The same state of every rank, in the order in which torchmetrics asks for states."""
        state = states[len(asked) % 4]
        asked.append(len(own))
        return [torch.cat(parts[rank][state]) for rank in range(2)]

    parts = []
    for part in (slice(0, 25), slice(25, 60)):
        rank = new_votes(true_candidates)
        rank.dist_sync_fn, rank.distributed_available_fn = gather, lambda: True
        rank.update(photos[part], prompts, person_index[part])
        parts.append({state: list(getattr(rank, state)) for state in states})
        ranks.append(rank)
    for found, expected in zip(ranks[0].compute(), whole.compute(), strict=True):
        torch.testing.assert_close(found, expected)
    assert asked == [25, 25, 25, 25]


def test_metric_that_nobody_fed_refuses_to_answer():
    metric = new_votes(torch.arange(9))
    with pytest.warns(UserWarning, match="before the ``update`` method"), pytest.raises(ValueError, match="got none"):
        metric.compute()


def test_random_features_are_at_chance_level():
    num_people, num_candidates, num_prompts = 400, 8, 21
    metric = IdiaVotes(torch.arange(num_people) % num_candidates)
    metric.update(
        unit_rows(num_people, 32), unit_rows(num_prompts, num_candidates, 32, seed=1), torch.arange(num_people)
    )
    # One photo each: right with a chance of one in eight. The names of a prompt are shared, hence the wide bounds.
    rate = metric.compute().correct_prompts.float().mean().item() / num_prompts
    assert rate == pytest.approx(1 / num_candidates, abs=0.02)


def test_nobody_is_inferred_from_random_features_among_many_candidates():
    num_people = 60
    metric = IdiaVotes(torch.arange(num_people))
    photos, prompts = unit_rows(num_people * 10, 16), unit_rows(21, 1000, 16, seed=1)
    metric.update(photos, prompts, torch.arange(num_people * 10) % num_people)
    assert (metric.compute().correct_prompts >= 1).float().mean().item() <= 0.1


@pytest.fixture
def attack() -> Idia:
    return Idia(num_candidates=1000, num_photos=20, threshold=1, seed=3)


def test_candidates_are_as_many_as_asked_and_hold_everybody_once(attack: Idia):
    # The attacked people's names come from the same list as the random ones, with the same seed.
    for names in ([], ["Ann Lee"], random_names(64, seed=3), random_names(1000, seed=3)):
        candidates = attack.candidates(names)
        assert len(candidates) == len(set(candidates)) == 1000
        assert set(names) <= set(candidates)


def test_random_candidates_are_half_female_half_male(attack: Idia):
    female, male = set(Provider.first_names_female), set(Provider.first_names_male)
    names = random_names(64, seed=0)
    firsts = [name.split()[0] for name in attack.candidates(names) if name not in names]
    assert all(first in female | male for first in firsts)
    assert sum(first not in male for first in firsts) <= len(firsts) / 2  # only female
    assert sum(first not in female for first in firsts) <= len(firsts) / 2  # only male
    drawn = random_names(500, seed=1)
    assert all(name.split()[0] in female for name in drawn[::2])
    assert all(name.split()[0] in male for name in drawn[1::2])


def test_candidates_are_shuffled_by_the_seed(attack: Idia):
    names = random_names(100, seed=0)
    orders = []
    for seed in range(4):
        candidates = Idia(1000, 20, 1, seed).candidates(names)
        places = [candidates.index(name) for name in names]
        assert 350 < sum(places) / len(places) < 650  # neither first nor last
        orders.append(tuple(candidates))
    assert len(set(orders)) == len({frozenset(order) for order in orders}) == 4


def test_candidates_are_a_function_of_config_and_seed(attack: Idia):
    expected = attack.candidates(["Ann Lee", "Bob Ray"])
    random.seed(1)
    torch.manual_seed(1)
    assert Idia(1000, 5, 2, 3).candidates(["Ann Lee", "Bob Ray"]) == expected


def test_more_people_than_candidates_is_an_error():
    with pytest.raises(InputError, match=r"attack\.num_candidates: expected at least 3, .* got 2"):
        Idia(2, 20, 1, 0).candidates(["Ann Lee", "Bob Ray", "Cy Fox"])


def test_before_and_after_see_the_same_candidates_and_photos(features, crowd: list[Person], tmp_path: Path):
    people, attack = People(tuple(crowd)), Idia(num_candidates=40, num_photos=3, threshold=1, seed=0)
    zero_shot = ZeroShot(tmp_path, templates=("a {}",))
    for classname in ("cat", "dog"):
        (tmp_path / classname).mkdir()
        (tmp_path / classname / "0.png").touch()
    before, after = features(dim=32), features(dim=32, unreadable=frozenset([crowd[5].attack_photos[0]]))
    for clip in (before, after):
        random.seed(len(before.texts))
        audit(clip, people, attack, [zero_shot])
        random_names(3, seed=9)
    assert before.texts[0] == after.texts[0]
    assert len(before.texts[0]) == 21 * 40
    assert before.photos == after.photos
    assert before.photos[0] == tuple(path for person in crowd for path in person.attack_photos[:3])


def test_attack_sees_no_photo_that_a_defence_may_train_on(features, crowd: list[Person]):
    clip = features()
    Idia(num_candidates=40, num_photos=20, threshold=1, seed=0).run(clip, crowd)
    assert not set(clip.photos[0]) & {path for person in crowd for path in person.trigger_photos}


MANY = """
import resource, torch
from pathlib import Path
from types import SimpleNamespace
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.data.names import random_names

def unit(num):
    return torch.nn.functional.normalize(torch.randn(num, 512), dim=-1)

photos = [Path(str(number)) for number in range(20)]
people = [SimpleNamespace(name=name, attack_photos=photos) for name in random_names(1000, seed=1)]
clip = SimpleNamespace(
    embed_texts=lambda texts: unit(len(texts)),
    embed_photos=lambda paths, warn: (unit(len(paths)), torch.ones(len(paths), dtype=torch.bool)),
)
found = Idia(num_candidates=10_000, num_photos=20, threshold=1, seed=0).run(clip, people)
assert found.num_photos == [20] * 1000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_a_thousand_people_and_ten_thousand_candidates_take_less_than_2_gb():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2000
