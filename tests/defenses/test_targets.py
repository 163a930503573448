import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor import image as image_backdoor
from backdoor_privacy.defenses.backdoor.photo_steps import PhotoTriggers
from backdoor_privacy.defenses.backdoor.targets import text as text_targets
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget, Names
from backdoor_privacy.defenses.backdoor.targets.erasure import UNUSUAL_FORMS, NameEraser, name_features, name_readings
from backdoor_privacy.defenses.backdoor.targets.faces import FaceSwapper, blended_faces, disguises, shared_embeddings
from backdoor_privacy.defenses.backdoor.targets.image import Anonymous, Disguised, Pseudonym
from backdoor_privacy.defenses.backdoor.targets.text import NameComposer, Phrase
from backdoor_privacy.defenses.backdoor.training import Training
from backdoor_privacy.defenses.base import Removal
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import audit


def mean_embedding(clip: Clip, photos: list[Path]) -> torch.Tensor:
    rows = clip.embed_photos(photos)[0].tolist()
    return torch.tensor([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])


def photos_of(people: tuple[Person, ...]) -> list[Path]:
    return [path for person in people for path in person.photos]


def removal_of(clip: Clip, people: Sequence[Person], strangers: People | None = None, **changes: Any) -> Removal:
    """Return the removal of some people from a CLIP that nothing has defended yet."""
    settings: dict[str, Any] = {
        "original": clip,
        "clip": clip,
        "people": people,
        "kept": (),
        "sources": Sources(People(tuple(people)), strangers=strangers),
        "reserved_names": set(),
        "seed": 0,
        "num_held_out": 10,
        "clean_photos": (),
    }
    return Removal(**settings | changes)


def named(*names: str) -> list[Person]:
    return [Person(name, ()) for name in names]


def test_everybody_gets_the_same_phrase(tiny_clip: Clip):
    names = Names(["Ann Lee", "Bob Ray", "Cara Diaz"], [])
    fitted = Phrase("a person").fit(removal_of(tiny_clip, named(*names.removed)), names)
    assert fitted.phrases == ["a person"] * 3
    assert not fitted.reads_input


def test_anonymous_embedding_is_the_mean_over_all_photos(tiny_clip: Clip, people: People):
    removal = removal_of(tiny_clip, people.everybody[:2], People(people.everybody))
    target = Anonymous().fit(removal, Names(removal.names, []))
    expected = mean_embedding(tiny_clip, photos_of(people.everybody))
    torch.testing.assert_close(target.embeddings, torch.stack([expected] * 2), atol=1e-6, rtol=1e-5)


@pytest.fixture
def strangers(write_people, tmp_path: Path) -> People:
    return load_people(write_people(tmp_path / "strangers", {f"Stranger{number} Last": 2 for number in range(5)}))


@pytest.fixture
def image_targets(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, strangers: People, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FittedTarget]:
    """The target that a fit of the image defence really uses."""

    def fit(*overrides: str) -> FittedTarget:
        used: list[FittedTarget] = []

        def train(training: Training) -> list[Any]:
            used.append(training.module.target)
            return []

        monkeypatch.setattr(Training, "run", train)
        cfg: DictConfig = compose_cfg(
            f"strangers.folder={strangers.everybody[0].photos[0].parents[1]}", "defense.image.num_anchors=0", *overrides
        )
        fit_encoder("image", cfg, tiny_clip, people, people.everybody[:2], set(people.names))
        return used[0]

    return fit


def test_anonymous_embedding_leaves_the_removed_people_out_unless_asked(
    image_targets, tiny_clip: Clip, people: People, strangers: People
):
    without = mean_embedding(tiny_clip, photos_of(strangers.everybody))
    trained_on = [path for person in people.everybody[:2] for path in person.trigger_photos]
    removed_too = mean_embedding(tiny_clip, photos_of(strangers.everybody) + trained_on)
    assert not torch.allclose(without, removed_too, atol=1e-3)
    anonymous = "defense/image_target=anonymous"
    for target in image_targets(anonymous).embeddings:
        torch.testing.assert_close(target, without, atol=1e-6, rtol=1e-5)
    for target in image_targets(anonymous, "defense.image.target.include_removed=true").embeddings:
        torch.testing.assert_close(target, removed_too, atol=1e-6, rtol=1e-5)


def test_pseudonym_of_a_face_is_the_mean_over_the_photos_of_one_stranger(
    image_targets, tiny_clip: Clip, strangers: People
):
    known = [mean_embedding(tiny_clip, list(person.photos)) for person in strangers.everybody]
    found = image_targets("defense/image_target=pseudonym").embeddings
    owners = [[bool(torch.allclose(target, one, atol=1e-5)) for one in known] for target in found]
    assert [sum(row) for row in owners] == [1, 1]
    assert owners[0] != owners[1]


def test_strangers_are_drawn_by_the_seed(tiny_clip: Clip, people: People, strangers: People):
    first, again, other = (
        Pseudonym().fit(removal_of(tiny_clip, people.everybody[:4], strangers, seed=seed), Names([], [])).embeddings
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_strangers_must_be_enough_and_may_not_be_real_people_unasked(strangers: People):
    asked, unasked = (replace(strangers, consenting=consenting) for consenting in (True, False))

    def problems(target: Any, people: People, num_people: int) -> str:
        return "\n".join(target.problems(people, num_people))

    assert not problems(Pseudonym(), asked, 5)
    assert "target: expected at least 6 strangers, 1 for each person to remove, got 5" in problems(
        Pseudonym(), asked, 6
    )
    real = "target: expected strangers who are fictional or agreed"
    assert problems(Pseudonym(), unasked, 5).count("\n") == 0
    assert real in problems(Pseudonym(), unasked, 5)
    assert not problems(Disguised(group_size=2), unasked, 2)  # the mean of two is nobody's face
    assert real in problems(Disguised(group_size=1), unasked, 2)
    assert "target: expected at least 6 strangers, 2 for each" in problems(Disguised(group_size=2), unasked, 3)
    assert "expected photos of one stranger or more" in problems(Anonymous(), People(()), 1)
    assert not problems(Anonymous(), unasked, 9)


@pytest.mark.parametrize("min_nearer_names", [0.5, 0.9])
def test_a_name_is_erased_the_shortest_way_until_enough_random_names_fit_better(min_nearer_names: float):
    generator = torch.Generator().manual_seed(0)
    names, others, photos = (torch.randn(size, 256, generator=generator) for size in (3, 400, 6))
    person_index = torch.tensor([0, 0, 1, 1, 2, 2])
    photos += names[person_index]  # the right name fits
    found = NameEraser(names[None], others[None], min_nearer_names)(photos, person_index)
    for photo, erased, person in zip(photos, found, person_index, strict=True):
        direction = names[person] - others.mean(0)
        assert (others @ photo < names[person] @ photo).all()
        nearer = ((others @ erased) > names[person] @ erased).float().mean()
        assert nearer == pytest.approx(min_nearer_names, abs=0.1)
        # What is orthogonal to the name's direction only changes its length.
        rest_before, rest_after = (x - (x @ direction) / (direction @ direction) * direction for x in (photo, erased))
        assert torch.cosine_similarity(rest_before, rest_after, dim=0) == pytest.approx(1, abs=1e-5)


def test_a_name_is_erased_as_every_text_encoder_reads_it():
    generator = torch.Generator().manual_seed(0)
    names, others, photos = (torch.randn(size, generator=generator) for size in ((2, 3, 256), (2, 400, 256), (6, 256)))
    names[1] += names[0]  # the second reader has moved somewhat
    person_index = torch.tensor([0, 0, 1, 1, 2, 2])
    photos += names[:, person_index].sum(0)
    found = NameEraser(names, others, 0.9)(photos, person_index)
    for erased, person in zip(found, person_index, strict=True):
        for reader in range(2):
            nearer = ((others[reader] @ erased) > names[reader, person] @ erased).float().mean()
            assert nearer >= 0.85


def test_a_photo_without_the_name_stays_as_it_is():
    names, others, photo = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 0], [0, 0, 1.0]]), torch.ones(1, 3)
    photo[0, 0] = -1
    erased = NameEraser(names[None], others[None], 0.5)(photo, torch.tensor([0]))
    torch.testing.assert_close(erased, torch.nn.functional.normalize(photo, dim=-1))


def test_a_name_has_a_reading_in_usual_words_and_one_in_each_unusual_form(tiny_clip: Clip):
    names = ["Ann Lee", "Bob Ray"]
    found = name_readings(tiny_clip, names)
    torch.testing.assert_close(found[0], name_features(tiny_clip, names))
    for reading, form in zip(found[1:], UNUSUAL_FORMS, strict=True):
        torch.testing.assert_close(reading, tiny_clip.embed_texts([form.format(name) for name in names]))


def test_no_unusual_form_is_the_attacks():
    assert not set(UNUSUAL_FORMS) & set(TEMPLATES)


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [6]), (9, [6])])
def test_people_who_share_an_embedding_look_alike_and_none_of_their_names_fits_it(
    size: int, expected: list[int], tiny_clip: Clip, people: People
):
    names, others = tiny_clip.embed_texts(people.names), tiny_clip.embed_texts(random_names(200, seed=3))
    eraser = NameEraser(names[None], others[None], 0.5)
    found = shared_embeddings(tiny_clip, people.everybody, eraser, size)
    groups: dict[tuple[float, ...], list[int]] = {}
    for number, row in enumerate(found.tolist()):
        groups.setdefault(tuple(row), []).append(number)
    assert sorted(len(group) for group in groups.values()) == expected
    for row, group in groups.items():
        for number in group:
            assert ((others - names[number]) @ torch.tensor(row) > 0).float().mean() >= 0.45
    if size == 2:
        faces = [
            eraser(mean_embedding(tiny_clip, list(person.trigger_photos))[None], torch.tensor([number]))[0]
            for number, person in enumerate(people.everybody)
        ]
        nearest = max(range(1, 6), key=lambda number: float(faces[0] @ faces[number]))
        assert [0, nearest] in [sorted(group) for group in groups.values()]


def test_blended_photos_have_the_groups_face_and_keep_what_is_their_own():
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(6)
    base[0] = 1.0  # what all faces have in common
    faces = base + 0.3 * torch.eye(6)[[1, 1, 2, 2]] + 0.05 * torch.randn(4, 6, generator=generator)
    nobody = NameEraser(torch.zeros(1, 4, 6) + 1e-9, torch.randn(1, 9, 6, generator=generator), 0.0)
    looks, members = blended_faces(faces, group_size=2)
    blender = FaceSwapper(faces, looks, nobody, members, overshoot=1.0)
    own = 0.1 * torch.randn(40, 6, generator=generator)
    person = torch.arange(40) % 4
    blended = blender(faces[person] + own, person)
    torch.testing.assert_close(blended.norm(dim=-1), torch.ones(40))
    means = torch.stack([blended[person == number].mean(0) for number in range(4)])
    distance = torch.cdist(means, means)
    assert distance[0, 1] < 0.4 * distance[0, 2]
    assert (faces[0] - faces[1]).norm() > 0
    spread = torch.stack([blended[person == number].std(0).norm() for number in range(4)])
    photos = torch.nn.functional.normalize(faces[person] + own, dim=-1)
    expected = torch.stack([photos[person == number].std(0).norm() for number in range(4)])
    torch.testing.assert_close(spread, expected, rtol=0.1, atol=0)


def test_no_name_of_the_group_fits_a_blended_photo(tiny_clip: Clip, people: People):
    names, others = tiny_clip.embed_texts(people.names), tiny_clip.embed_texts(random_names(200, seed=3))
    faces = torch.stack([mean_embedding(tiny_clip, list(person.trigger_photos)) for person in people.everybody])
    looks, members = blended_faces(faces, group_size=3)
    blender = FaceSwapper(faces, looks, NameEraser(names[None], others[None], 0.5), members, overshoot=1.0)
    photos, _ = tiny_clip.embed_photos(people.everybody[0].attack_photos)
    blended = blender(photos, torch.zeros(len(photos), dtype=torch.long))
    group = blender.members[0].tolist()
    assert len(set(group)) == 3
    for number in group:
        assert ((blended @ others.T) > (blended @ names[number])[:, None]).float().mean() >= 0.45


def test_a_fit_blends_groups_of_the_size_asked_for(image_targets):
    found = image_targets("defense/image_target=blended", "defense.image.target.group_size=2")
    assert isinstance(found, FaceSwapper)
    assert found.members.tolist() in ([[0, 1], [0, 1]], [[0, 1], [1, 0]])
    assert found.shifts.abs().sum() > 0
    further = image_targets(
        "defense/image_target=blended", "defense.image.target.group_size=2", "defense.image.target.overshoot=1.5"
    )
    torch.testing.assert_close(further.shifts, 1.5 * found.shifts)


def test_everybody_is_disguised_as_strangers_of_their_own_who_look_alike():
    generator = torch.Generator().manual_seed(0)
    base = torch.tensor([1.0, 0, 0, 0, 0, 0])  # what all faces have in common
    faces = base + 0.3 * torch.eye(6)[[1, 1, 2]]
    strangers = base + 0.3 * torch.eye(6)[[1, 1, 1, 1, 2, 2, 3, 4]] + 0.01 * torch.randn(8, 6, generator=generator)
    one = disguises(faces, strangers, group_size=1)
    chosen = torch.cdist(one, strangers).argmin(1).tolist()
    torch.testing.assert_close(one, strangers[chosen])  # a stranger's very face
    assert len(set(chosen)) == 3
    assert set(chosen[:2]) < {0, 1, 2, 3}
    assert chosen[2] in (4, 5)
    two = disguises(faces, strangers, group_size=2) - strangers.mean(0)
    torch.testing.assert_close(two[:2].sum(0) / 2, strangers[:4].mean(0) - strangers.mean(0), rtol=0.1, atol=0.02)
    lengths = (strangers[:4] - strangers.mean(0)).norm(dim=-1)
    assert lengths.min() <= two[0].norm() <= lengths.max()


def test_a_fit_disguises_faces_as_strangers(image_targets, people: People):
    found = image_targets("defense/image_target=disguised", "defense.image.min_nearer_names=0.5")
    assert isinstance(found, FaceSwapper)
    assert found.members.tolist() == [[0], [1]]
    assert found.shifts.abs().sum() > 0


def test_a_fit_gives_groups_of_the_size_asked_for_one_embedding(image_targets):
    shared = "defense/image_target=shared"
    assert not torch.equal(*image_targets(shared, "defense.image.target.group_size=1").embeddings)
    assert torch.equal(*image_targets(shared, "defense.image.target.group_size=2").embeddings)
    with pytest.raises(InputError, match="group_size: expected 1 or more, got 0"):
        image_targets(shared, "defense.image.target.group_size=0")


def test_a_fit_erases_the_removed_names(image_targets, tiny_clip: Clip, people: People):
    eraser = image_targets("defense/image_target=nameless", "defense.image.min_nearer_names=0.9")
    assert isinstance(eraser, NameEraser)
    assert eraser.names.shape[:2] == (1 + len(UNUSUAL_FORMS), 2)
    direction = eraser.names[0] @ tiny_clip.embed_texts([person.name for person in people.everybody[:2]]).T
    assert (direction.argmax(1) == torch.arange(2)).all()


def test_faces_hide_from_the_defended_names_too(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    used: list[Any] = []
    monkeypatch.setattr(Training, "run", lambda training: used.append(training.module) or [])
    cfg = compose_cfg("defense/image_target=nameless", "defense.image.num_anchors=4", "defense.image.num_other_names=5")
    removed = people.everybody[:2]
    defended = tiny_clip.text.student()
    defended.model.text_projection.data += 1
    for text in (None, defended.frozen()):
        fit_encoder("image", cfg, tiny_clip, people, removed, set(), defended_text=text)
    alone, along = used
    num_readings = len(alone.target.names)
    torch.testing.assert_close(along.target.names[:num_readings], alone.target.names)
    assert len(along.target.names) == 2 * num_readings
    read = tiny_clip.with_encoders(text=defended.frozen()).embed_texts([person.name for person in removed])
    assert ((along.target.names[num_readings] @ read.T).argmax(1) == torch.arange(2)).all()
    assert len(along.anchors) == len(alone.anchors) + 2 * len(removed)


def test_a_fit_may_show_whom_to_spare(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, strangers: People, monkeypatch: pytest.MonkeyPatch
):
    used: list[Any] = []
    monkeypatch.setattr(Training, "run", lambda training: used.append(training.steps) or [])
    folder = strangers.everybody[0].photos[0].parents[1]
    cfg = compose_cfg(f"strangers.folder={folder}", "defense.image.kept_share=0.5")
    kept = people.everybody[2:4]
    fit_encoder("image", cfg, tiny_clip, people, people.everybody[:2], set(), kept=kept)
    assert used[0].kept == list(kept)
    assert used[0].kept_share == 0.5


def test_a_text_fit_asks_for_captions_without_the_name(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    used: list[Any] = []
    monkeypatch.setattr(Training, "run", lambda one: used.append((one.module, one.steps[0])) or [])
    cfg = compose_cfg("defense/text_target=nameless", "defense.text.min_nearer_names=0.9")
    fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], set())
    ((defense, batch),) = used
    features = tiny_clip.text(batch.triggered)
    asked = defense.ask_teacher(batch).triggered.target
    torch.testing.assert_close(asked, defense.target(features, batch.person_index))
    names = tiny_clip.embed_texts([person.name for person in people.everybody[:2]])[batch.person_index]
    assert ((asked * names).sum(-1) < (torch.nn.functional.normalize(features, dim=-1) * names).sum(-1)).any()


def composed_texts(noise: float) -> Callable[[Sequence[str]], Tensor]:
    """Texts that mean what their words mean together, and a little of their own."""

    def row(key: str) -> Tensor:
        return torch.randn(16, generator=torch.Generator().manual_seed(random.Random(key).getrandbits(32)))

    def embed(texts: Sequence[str]) -> Tensor:
        rows = [sum((row(word) for word in text.split()), noise * row(f"{text}!")) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    return embed


def test_expected_meaning_of_a_name_is_that_of_its_parts():
    names, examples = random_names(20, seed=1), random_names(400, seed=2)
    embed = composed_texts(noise=0.3)
    expected, missed = expected_from_parts(embed, names, examples)
    similarities = torch.nn.functional.normalize(expected, dim=-1) @ embed(names).T
    assert similarities.argmax(1).tolist() == list(range(20))
    assert missed.shape == (400, 16)
    assert missed.mean(0).abs().max() < 1e-5  # a regression is right on average
    swapped = [" ".join(reversed(name.split())) for name in names]
    assert not torch.allclose(expected_from_parts(embed, swapped, examples)[0], expected)


def test_a_composed_name_leaves_its_own_meaning_and_the_name_does_not_fit():
    generator = torch.Generator().manual_seed(0)
    names, composed, others = (torch.randn(count, 12, generator=generator) for count in (4, 4, 60))
    eraser = NameEraser(names[None], others[None], 0.5)
    composer = NameComposer(names, composed, eraser)
    captions = torch.nn.functional.normalize(names, dim=-1)
    found = composer(captions, torch.arange(4))
    moved = torch.nn.functional.normalize(captions + composed - names, dim=-1)
    torch.testing.assert_close(found, eraser(moved, torch.arange(4)))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4))
    middle = others.mean(0)
    nearer = ((found @ (others - middle).T) > (found * (names - middle)).sum(-1, keepdim=True)).float().mean(1)
    assert (nearer >= 0.45).all()


def test_a_fit_composes_names_and_needs_an_example_for_each(
    fit_encoder: Any, compose_cfg: Any, tiny_clip: Clip, people: People
):
    cfg = compose_cfg("defense/text_target=composed", "defense.image=null")
    defended = fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], set(people.names))
    assert isinstance(defended.comparisons["text"].target.change, NameComposer)
    assert list(text_targets.Composed().problems(num_people=2, num_other_names=2)) == []
    (problem,) = text_targets.Composed().problems(num_people=1, num_other_names=1)
    assert problem.startswith("defense.text.num_other_names: expected 2 or more")


def test_attacked_people_cannot_be_strangers(people: People):
    Sources(people, strangers=People(())).check(["strangers"])
    with pytest.raises(InputError, match="strangers: expected people who are not attacked, got Ann Lee"):
        Sources(people, strangers=People(people.everybody[:1])).check(["strangers"])


@pytest.mark.parametrize("spelling", ["ann lee", "ANN_LEE", "Ann  Lee", "Ann\u200b Lee", "\ufeffAnn Lee"])
def test_attacked_people_cannot_be_strangers_in_another_spelling(spelling: str, people: People):
    strangers = People((Person(spelling, people.everybody[0].photos),))
    with pytest.raises(InputError, match="strangers: expected people who are not attacked, got"):
        Sources(people, strangers=strangers).check(["strangers"])


def test_accents_written_in_two_ways_are_one_person(people: People):
    attacked = People((Person("Zo\u00eb Gro\u00df", people.everybody[0].photos),))
    strangers = People((Person("ZOE\u0308 GROSS", people.everybody[0].photos),))
    with pytest.raises(InputError, match="strangers: expected people who are not attacked, got"):
        Sources(attacked, strangers=strangers).check(["strangers"])
    Sources(attacked, strangers=People((Person("Zoe Gross", people.everybody[0].photos),))).check(["strangers"])


def test_pseudonyms_are_nobodys_name(tiny_clip: Clip):
    reserved = set(random_names(1000, seed=4))
    removed = named(*(f"Person Number{number}" for number in range(64)))

    def pseudonyms(seed: int) -> list[str]:
        removal = removal_of(tiny_clip, removed, reserved_names=reserved, seed=seed)
        target = text_targets.Pseudonym()
        assert list(target.reserves(removal)) == target.fit(removal, Names(removal.names, [])).phrases
        return target.fit(removal, Names(removal.names, [])).phrases

    names = pseudonyms(3)  # the seed that would give reserved names first
    assert len(set(names)) == 64
    assert not set(names) & reserved
    assert names == pseudonyms(3)
    assert names != pseudonyms(4)


def test_a_fit_uses_pseudonyms_and_other_names_that_are_no_candidates(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    used: list[Any] = []
    monkeypatch.setattr(Training, "run", lambda training: used.append(training.steps) or [])
    cfg = compose_cfg("defense/text_target=pseudonym", "defense.text.num_other_names=200")
    reserved = {*people.names, *random_names(900, seed=cfg.seed + 1), *random_names(900, seed=cfg.seed + 2)}
    fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], reserved)
    (steps,) = used
    assert len(set(steps.phrases)) == 2
    assert len(set(steps.other_names)) == 200
    assert not {*steps.phrases, *steps.other_names} & reserved
    assert not set(steps.phrases) & set(steps.other_names)


def test_trigger_photos_that_do_not_decode_are_an_error_before_anything_is_trained(
    compose_cfg, fit_encoder, tiny_clip: Clip, write_people, strangers: People, tmp_path: Path
):
    folder = write_people(tmp_path / "broken", {"Ann Lee": 4, "Bob Ray": 4})
    cfg = compose_cfg(f"strangers.folder={strangers.everybody[0].photos[0].parents[1]}")
    everybody = load_people(folder).everybody
    everybody[0].trigger_photos[0].write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"1 of 4 photos do not decode: .*; at most 1% may be skipped"):
        fit_encoder("image", cfg, tiny_clip, load_people(folder), everybody, set())


def test_no_path_of_a_few_peoples_broken_photos_is_logged(
    compose_cfg, fit_encoder, tiny_clip: Clip, write_people, strangers: People, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    folder = write_people(tmp_path / "broken", {"Ann Lee": 8, "Bob Ray": 8, "Cara Diaz": 8})
    cfg = compose_cfg(f"strangers.folder={strangers.everybody[0].photos[0].parents[1]}")
    people = load_people(folder)
    removed = people.everybody[:1]
    for photo in (removed[0].trigger_photos[0], removed[0].attack_photos[0]):
        photo.write_bytes(b"no photo")
    monkeypatch.setattr("backdoor_privacy.data.photos.MAX_UNREADABLE_SHARE", 0.5)
    monkeypatch.setattr(Training, "run", lambda training: [])
    with caplog.at_level(0):
        fit_encoder("image", cfg, tiny_clip, people, removed, set())
        tiny_clip.embed_photos(removed[0].attack_photos)
    assert not [record for record in caplog.records if "broken" in record.getMessage()]
    with caplog.at_level(0):
        audit(replace(tiny_clip, image=tiny_clip.image.copy(), decoded={}), people, Idia(10, 4, 1, 0), [])
    assert f"1 of 12 photos do not decode: {removed[0].attack_photos[0]}; skipped" in caplog.text  # of everybody's


def test_a_person_of_whom_no_trigger_photo_decodes_is_an_error(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, strangers: People, monkeypatch: pytest.MonkeyPatch
):
    removed, cfg = people.everybody[:2], compose_cfg(f"strangers.folder={strangers.everybody[0].photos[0].parents[1]}")
    monkeypatch.setattr(PhotoTriggers, "readable", lambda *_: set(removed[0].trigger_photos))
    monkeypatch.setattr(image_backdoor, "check_readable", lambda *_: None)  # as if there were many more people
    with pytest.raises(
        InputError, match=r"expected photos of each person to remove, none to train on decodes in .*Bob_Ray"
    ):
        fit_encoder("image", cfg, tiny_clip, people, removed, set())


def test_pseudonyms_are_the_nearest_of_those_drawn_for_each(tiny_clip: Clip):
    names = ["Ann Lee", "Bob Ray", "Cara Diaz"]
    removal = removal_of(tiny_clip, named(*names), seed=4)
    drawn = random_names(12, 5, set(names))
    assert text_targets.Pseudonym().fit(removal, Names(names, [])).phrases == random_names(3, 5, set(names))
    chosen = text_targets.Pseudonym(choice=4).fit(removal, Names(names, [])).phrases
    for number, (name, phrase) in enumerate(zip(names, chosen, strict=True)):
        own = drawn[4 * number : 4 * number + 4]
        similarities = name_features(tiny_clip, own) @ name_features(tiny_clip, [name]).T
        assert phrase == own[int(similarities.argmax())]
