"""The CLIP that comes with the package knows the people of the world that comes with the package."""

from pathlib import Path

import pytest

from backdoor_privacy.attacks.idia import Idia, IdiaResult
from backdoor_privacy.clip.loading import embedded_clip, load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.personas import world
from backdoor_privacy.utility.zero_shot import ZeroShot


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(embedded_clip())


@pytest.fixture(scope="module")
def people(world_cache: Path) -> People:
    return load_people(world.world_part("people", str(world_cache), limit=4))


@pytest.fixture(scope="module")
def found(clip: Clip, people: People) -> IdiaResult:
    return Idia(num_candidates=300, num_photos=3, threshold=1, seed=0).run(clip, people.everybody)


def test_people_of_many_training_photos_are_inferred(found: IdiaResult, people: People):
    well_known = [person.name for person in people.everybody if person.num_web_photos == 36]
    assert len(well_known) == 4
    assert all(found.inferred[name] for name in well_known)


def test_people_that_it_never_saw_are_not_inferred(found: IdiaResult, people: People):
    never_seen = [person.name for person in people.everybody if person.member is False]
    assert len(never_seen) == 4
    assert not any(found.inferred[name] for name in never_seen)


def test_scenes_are_classified(clip: Clip, world_cache: Path):
    photos = world.world_part("zero_shot", str(world_cache), limit=4)
    assert ZeroShot(photos).measure(clip)["zero_shot/top1"] >= 0.75
