import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from backdoor_privacy.attacks import idia_sweep
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.attacks.idia_sweep import IdiaSweep, name_ranks
from backdoor_privacy.attacks.photos import see_photos
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person


def unit_row(key: str, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(random.Random(key).getrandbits(32))
    return normalize(torch.randn(dim, generator=generator), dim=-1)


@dataclass(frozen=True)
class Noisy(Clip):
    """A CLIP that knows people by so much; all else about a text or a photo is noise."""

    knowledge: float = 0.0
    unreadable: frozenset[Path] = frozenset()
    dim: int = 16

    def row(self, person: str, key: str) -> Tensor:
        return normalize(self.knowledge * unit_row(person, self.dim) + unit_row(key, self.dim), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        # The names of the crowd are the only words with a digit.
        names = [" ".join(word for word in text.split() if word[-1].isdecimal()) for text in texts]
        return torch.stack([self.row(name, text) for name, text in zip(names, texts, strict=True)])

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        readable = torch.tensor([path not in self.unreadable for path in paths])
        rows = [self.row(path.parent.name.replace("_", " "), str(path.name)) for path in paths]
        return torch.stack(rows) * readable[:, None], readable


@pytest.fixture
def noisy(tiny_clip: Clip) -> Callable[..., Noisy]:
    return lambda knowledge, **changes: Noisy(**vars(tiny_clip), knowledge=knowledge, **changes)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Forty people with one to eight photos to attack."""
    folder, everybody = tmp_path_factory.mktemp("crowd"), []
    for number in range(40):
        name = f"First{number} Last{number}"
        paths = [folder / name.replace(" ", "_") / f"{number}-{photo}.jpg" for photo in range(2 * (1 + number % 8))]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.name)
        everybody.append(Person(name, tuple(paths), member=number < 30))
    return People(tuple(everybody))


def context_of(people: People, idia: Idia, **clips: Clip) -> AttackContext:
    return AttackContext(clips, people, people.names[:10], idia, seed=3)


def by_place(findings: Sequence[Score]) -> dict[tuple[str, str, str], Score]:
    found = {(one.kind, one.model, one.group): one for one in findings}
    assert len(found) == len(findings)
    return found


def slow_attack(clip: Noisy, people: People, idia: Idia) -> dict[str, tuple[int, float, float]]:
    """In plain Python: of each person the right prompts, the mean margin and the mean rank."""
    candidates = idia.candidates(people.names)
    texts = [clip.embed_texts([template.format(name) for name in candidates]).tolist() for template in idia.templates]
    found = {}
    for person in people.everybody:
        features, readable = clip.embed_photos(person.attack_photos[: idia.num_photos])
        place, correct, margins, ranks = candidates.index(person.name), 0, [], []
        for names in texts:
            votes: Counter[int] = Counter()
            for photo in features[readable].tolist():
                cosines = [sum(a * b for a, b in zip(photo, name, strict=True)) for name in names]
                own = cosines[place]
                votes[cosines.index(max(cosines))] += 1
                ranks.append(1 + sum(cosine > own for cosine in cosines))
                margins.append(own - max(cosines[:place] + cosines[place + 1 :]))
            first = votes.most_common(2)
            correct += bool(first) and first[0][0] == place and not (len(first) > 1 and first[0][1] == first[1][1])
        count = max(1, len(ranks))
        found[person.name] = correct, sum(margins) / count, sum(ranks) / count
    return found


def test_every_setting_equals_a_slow_attack(noisy, crowd: People):
    unreadable = {crowd.everybody[9].attack_photos[0], *crowd.everybody[0].attack_photos}
    clip, templates = noisy(1.2, unreadable=frozenset(unreadable), dim=6), TEMPLATES[:4]
    people = People(crowd.everybody[:12])
    idia = Idia(num_candidates=30, num_photos=3, threshold=2, seed=1, templates=templates)
    found = by_place(IdiaSweep(num_photos=(1, 5), num_candidates=(15, 50)).run(context_of(people, idia, before=clip)))

    def check(kind: str, settings: Idia, values: Callable[[tuple[int, float, float]], float], first: int = 0) -> None:
        slow = [values(one) for one in list(slow_attack(clip, people, settings).values())[first:10]]
        assert found[kind, "before", "removed"].value == pytest.approx(sum(slow) / len(slow), abs=1e-5), kind

    for tau in range(1, 5):
        check(f"tau {tau}", idia, lambda one, tau=tau: one[0] >= tau)
    check("1 photo", replace(idia, num_photos=1), lambda one: one[0] >= 2)
    check("5 photos", replace(idia, num_photos=5), lambda one: one[0] >= 2)
    check("15 candidates", replace(idia, num_candidates=15), lambda one: one[0] >= 2)
    check("50 candidates", replace(idia, num_candidates=50), lambda one: one[0] >= 2)
    # Of the first person no photo can be read.
    check("margin", idia, lambda one: one[1], first=1)
    check("rank", idia, lambda one: one[2], first=1)
    assert found["rank", "before", "removed"].num_people == 9
    assert found["tau 1", "before", "removed"].num_people == 10
    assert len({one.value for one in found.values() if one.group == "removed"}) > 6


def test_tau_photos_and_candidates_of_idias_settings_are_idia(tiny_clip: Clip, people: People):
    idia = Idia(num_candidates=9, num_photos=3, threshold=3, seed=0)
    context = AttackContext({"before": tiny_clip}, people, people.names[:3], idia, seed=0)
    found = by_place(IdiaSweep(num_photos=(3,), num_candidates=(9,)).run(context))
    expected = idia.run(tiny_clip, people.everybody)
    for group in context.groups:
        rows = context.rows(group)
        rate = sum(expected.inferred[people.names[row]] for row in rows) / len(rows)
        margin = expected.evidence.margins[rows].mean().item()
        for kind in ("tau 3", "3 photos", "9 candidates"):
            assert found[kind, "before", group].value == pytest.approx(rate)
        assert found["margin", "before", group].value == pytest.approx(margin, abs=1e-6)
    assert sum(expected.inferred.values()) > 0


def test_findings_are_of_all_models_groups_and_settings(noisy, crowd: People):
    idia = Idia(num_candidates=60, num_photos=8, threshold=1, seed=0)
    clips = {"before": noisy(2.0), "both": noisy(0.0)}
    context = context_of(crowd, idia, **clips)
    findings = IdiaSweep(num_photos=(1, 5, 10), num_candidates=(20, 40, 80)).run(context)
    # Nobody has ten photos.
    kinds = [f"tau {tau}" for tau in range(1, 22)]
    kinds += ["1 photo", "5 photos", "20 candidates", "40 candidates", "80 candidates", "margin", "rank"]
    expected = [(kind, model, group) for model in clips for group in context.groups for kind in kinds]
    assert [one[:3] for one in findings] == expected
    assert {one.kind: one.measure for one in findings if one.measure != "TPR"} == {"margin": "margin", "rank": "rank"}
    assert list(context.groups) == ["removed", "kept", "never seen"]


def test_clip_that_knows_everybody_and_one_that_knows_nobody(noisy, crowd: People):
    idia = Idia(num_candidates=60, num_photos=8, threshold=1, seed=0, templates=TEMPLATES[:5])
    clips = {"before": noisy(4.0, dim=64), "both": noisy(0.0)}
    found = by_place(IdiaSweep(num_photos=(1, 5), num_candidates=(50,)).run(context_of(crowd, idia, **clips)))
    for group in ("removed", "kept", "never seen"):
        for kind in ("tau 1", "tau 5", "1 photo", "5 photos", "50 candidates"):
            assert found[kind, "before", group].value == 1
        assert found["rank", "before", group].value == 1
        assert found["margin", "before", group].value > 0.3
        assert found["tau 5", "both", group].value == 0
        assert found["margin", "both", group].value < 0
    # Chance is the middle of 60 candidates.
    ranks = [found["rank", "both", group] for group in ("removed", "kept", "never seen")]
    assert sum(one.value * one.num_people for one in ranks) / 40 == pytest.approx(30.5, abs=4)


def test_few_candidates_are_the_own_name_and_random_ones(noisy, crowd: People):
    clip, idia = noisy(0.8), Idia(num_candidates=60, num_photos=3, threshold=2, seed=0, templates=TEMPLATES[:4])
    found = by_place(IdiaSweep(num_photos=(), num_candidates=(5,)).run(context_of(crowd, idia, before=clip)))
    strangers = [name for name in replace(idia, num_candidates=60).candidates(crowd.names) if name not in crowd.names]
    inferred = []
    for person in crowd.everybody:
        # As IDIA, with this person and the first four random names alone.
        texts = [
            clip.embed_texts([form.format(name) for name in [*strangers[:4], person.name]]) for form in idia.templates
        ]
        photos = clip.embed_photos(person.attack_photos[:3])[0]
        right = 0
        for names in texts:
            votes = Counter((photos @ names.T).argmax(1).tolist()).most_common()
            right += votes[0][0] == 4 and (len(votes) == 1 or votes[1][1] < votes[0][1])
        inferred.append(right >= 2)
    for group, rows in (("removed", range(10)), ("kept", range(10, 30)), ("never seen", range(30, 40))):
        expected = sum(inferred[row] for row in rows) / len(rows)
        assert found["5 candidates", "before", group].value == pytest.approx(expected)
    assert 0 < sum(inferred) < 40


def test_more_taken_for_granted_infers_fewer(noisy, crowd: People):
    idia = Idia(num_candidates=60, num_photos=8, threshold=1, seed=0)
    found = by_place(IdiaSweep((1, 5), (50, 400)).run(context_of(crowd, idia, before=noisy(0.9))))
    rates = [found[f"tau {tau}", "before", "kept"].value for tau in range(1, 22)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    few, many = (found[f"{size} candidates", "before", "kept"].value for size in (50, 400))
    assert few > many


def test_ranks_are_at_chance_on_random_features_and_count_from_one():
    generator = torch.Generator().manual_seed(1)
    photos, texts = (normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in ((400, 32), (3, 101, 32)))
    own = torch.arange(400) % 101
    assert name_ranks(photos, texts, own).float().mean().item() == pytest.approx(51, abs=3)
    assert name_ranks(texts[0], texts[:1], torch.arange(101)).unique().tolist() == [1]
    assert name_ranks(-texts[0], texts[:1], torch.arange(101)).unique().tolist() == [101]


def test_ranks_in_chunks_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch):
    photos, texts = torch.randn(130, 6), torch.randn(4, 12, 6)
    own = torch.arange(130) % 12
    whole = name_ranks(photos, texts, own)
    monkeypatch.setattr(idia_sweep, "_NUM_SIMILARITIES_PER_CHUNK", 100)
    assert torch.equal(name_ranks(photos, texts, own), whole)


def test_photos_are_numbered_with_the_unreadable_ones(noisy, crowd: People):
    shown = [person.attack_photos for person in crowd.everybody[:3]]  # one, two and three photos
    seen = see_photos(noisy(1.0, unreadable=frozenset([shown[1][0], shown[2][1]])), shown)
    assert seen.person_index.tolist() == [0, 1, 2, 2]
    assert seen.numbers.tolist() == [0, 1, 0, 2]
    assert seen.features.shape == (4, 16)


def test_fewer_candidates_are_some_of_more(crowd: People):
    idia = Idia(num_candidates=100, num_photos=8, threshold=1, seed=7)
    more = set(replace(idia, num_candidates=1000).candidates(crowd.names))
    for size in (40, 100, 300):
        assert set(replace(idia, num_candidates=size).candidates(crowd.names)) <= more
    assert set(random_names(960, 7, exclude=crowd.names)) <= more


def test_weights_stay_and_idias_prompts_are_read_once(tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch):
    clip = tiny_clip.with_encoders(text=tiny_clip.text.copy(), image=tiny_clip.image.copy())
    idia, digest = Idia(num_candidates=9, num_photos=3, threshold=1, seed=0), clip.sha256()
    idia.run(clip, people.everybody)
    monkeypatch.setattr(Clip, "_encode_texts", lambda *_: pytest.fail("read again"))
    context = AttackContext({"before": clip}, people, people.names[:3], idia, seed=0)
    findings = IdiaSweep(num_photos=(1, 2), num_candidates=(6, 8)).run(context)
    assert clip.sha256() == digest
    assert findings == IdiaSweep(num_photos=(1, 2), num_candidates=(6, 8)).run(context)
