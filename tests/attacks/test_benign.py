from typing import Any

import pytest

from backdoor_privacy.attacks.benign import BenignFineTuning
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.clip.fine_tuning import FineTuning
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.errors import InputError

IDIA = Idia(num_candidates=14, num_photos=2, threshold=1, seed=0, templates=TEMPLATES[1:3])
SETTINGS: dict[str, Any] = {"steps": [0, 1, 3], "batch_size": 4, "learning_rate": 1e-3, "temperature": None}


@pytest.fixture(scope="module")
def crowd(write_people, tmp_path_factory: pytest.TempPathFactory) -> People:
    """Twelve people, the last four no members."""
    names = [f"First{letter} Last" for letter in "abcdefghijkl"]
    folder = write_people(
        tmp_path_factory.mktemp("crowd"), dict.fromkeys(names, 4), {name: name < "Firsti" for name in names}
    )
    return load_people(folder)


@pytest.fixture
def context(tiny_clip: Clip, crowd: People) -> AttackContext:
    return AttackContext({"before": tiny_clip, "both": tiny_clip}, crowd, crowd.names[:2], IDIA, seed=0)


def test_who_is_taught_is_not_attacked(context: AttackContext, crowd: People):
    taught, attacked = BenignFineTuning(**SETTINGS).people(context)
    names = {group: [person.name for person in people] for group, people in attacked.items()}
    assert names["removed"] == crowd.names[:2]
    assert [len(found) for found in names.values()] == [2, 2, 2]
    assert not {lesson.name for lesson in taught} & {name for found in names.values() for name in found}
    assert len(taught) == 3 + 2  # of six kept and four never-seen people
    triggers = {path for person in crowd.everybody for path in person.trigger_photos}
    assert not triggers & {path for lesson in taught for path in lesson.photos}
    others = [
        BenignFineTuning(**SETTINGS).people(AttackContext(**{**fields(context), "seed": seed}))[0] for seed in range(5)
    ]
    assert len({tuple(lesson.name for lesson in found) for found in others}) > 1


def fields(context: AttackContext) -> dict[str, Any]:
    return {key: getattr(context, key) for key in AttackContext.__dataclass_fields__}


def test_rates_are_idias_after_the_same_fine_tuning(context: AttackContext, tiny_clip: Clip):
    before = tiny_clip.sha256()
    attack = BenignFineTuning(**SETTINGS, models=["both"])
    findings = attack.run(context)
    assert tiny_clip.sha256() == before
    taught, attacked = attack.people(context)
    tuned = FineTuning(4, 1e-3, None).run(tiny_clip, taught, (), [1, 3], seed=0)
    clips = {0: tiny_clip, **dict(tuned)}
    assert clips[1].sha256() != clips[3].sha256() != before
    everybody = [person for people in attacked.values() for person in people]
    for step, clip in clips.items():
        inferred = IDIA.run(clip, everybody).inferred
        for group, people in attacked.items():
            (found,) = (one for one in findings if (one.kind, one.group) == (f"{step} steps", group))
            assert found.value == pytest.approx(sum(inferred[person.name] for person in people) / len(people))
    assert len(findings) == 9


def test_nothing_changes_where_nothing_is_learnt(context: AttackContext):
    findings = BenignFineTuning(**{**SETTINGS, "learning_rate": 0.0}).run(context)
    assert {one.model for one in findings} == {"before", "both"}
    for group in context.groups:
        assert len({one.value for one in findings if one.group == group}) == 1


def test_num_candidates_is_idias_unless_it_is_given(context: AttackContext, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    run = Idia.run
    monkeypatch.setattr(Idia, "run", lambda self, *given: asked.append(self.num_candidates) or run(self, *given))
    for num_candidates in (None, 9):
        attack = BenignFineTuning(**{**SETTINGS, "steps": [0]}, num_candidates=num_candidates, models=["both"])
        attack.run(context)
    assert asked == [14, 9]


def test_nobody_to_teach_is_an_error(context: AttackContext):
    alone = AttackContext(**{**fields(context), "people": People(context.people.everybody[:2])})
    with pytest.raises(InputError, match=r"three people or more who were not removed, two to teach .*, got 0 to teach"):
        BenignFineTuning(**SETTINGS).run(alone)
    (problem,) = BenignFineTuning(**SETTINGS).problems(alone, ["before", "both"])
    assert "got 0 to teach" in problem
    assert list(BenignFineTuning(**SETTINGS).problems(context, ["before", "both"])) == []
