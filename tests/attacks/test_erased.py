import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev, variance

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from backdoor_privacy.attacks import erased_scores
from backdoor_privacy.attacks.base import Attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.erased import (
    Erased,
    TellApart,
    chosen_on_other_people,
    fitted_on_other_people,
)
from backdoor_privacy.attacks.erased_scores import (
    SeenFaces,
    SeenNames,
    changes,
    distance,
    face_scores,
    name_scores,
    see_names,
    text_lengths,
)
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.name_parts import expected_from_parts
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person

DIM = 24
TEMPLATES = ("{}", "a photo of {}", "{} at a gala")
PHRASES = ("a person", "human")
WORDS = ("A", "Photo", "Of", "At", "Gala")  # that change a meaning little
NUM_REMOVED = 16
ATTACK = Erased(
    PHRASES, num_random_names=20, num_composed_names=30, num_neighbors=3, num_folds=4, inverse_regularization=0.1
)
SUMS = ("worst, {}", "worst, {}, chosen on other people", "combined, {}")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backdoor_privacy.attacks.scores._NUM_RESAMPLES", 10)


def unit_row(key: str) -> Tensor:
    generator = torch.Generator().manual_seed(random.Random(key).getrandbits(32))
    return normalize(torch.randn(DIM, generator=generator), dim=-1)


@dataclass(frozen=True)
class Known(Clip):
    """A CLIP in which each name and face has a direction of its own; a defence puts others in their place."""

    any_case: bool = True  # whether the defence knows names in lower case
    texts: dict[str, str] = field(default_factory=dict)  # names, and whose direction they have
    faces: dict[str, str] = field(default_factory=dict)  # the same for photos

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.text_row(text) for text in texts])

    def text_row(self, text: str) -> Tensor:
        spelled = text.title() if self.any_case else text
        owners = [other for name, other in self.texts.items() if name in spelled]
        own = " ".join(word for word in text.title().removesuffix("'S").split() if word not in WORDS)
        return normalize(unit_row((owners or [own])[0]) + 0.3 * unit_row(f"noise {text}"), dim=-1)

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        rows = []
        for path in paths:
            owner = path.stem.partition("-")[0]
            rows.append(normalize(unit_row(self.faces.get(owner, owner)) + 0.5 * unit_row(path.name), dim=-1))
        return torch.stack(rows), torch.ones(len(paths), dtype=torch.bool)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Sixteen people to remove, sixteen to keep and sixteen never seen, with three photos to attack each."""
    folder, everybody = tmp_path_factory.mktemp("crowd"), []
    for number in range(48):
        paths = [folder / f"{number}-{photo}.jpg" for photo in range(6)]
        for path in paths:
            path.write_text(path.name)
        name = f"First{chr(97 + number % 24)}{chr(97 + number // 24)} Last"
        everybody.append(Person(name, tuple(paths), member=number < 32))
    return People(tuple(everybody))


@pytest.fixture
def known(tiny_clip: Clip) -> Callable[..., Known]:
    return lambda **changes: Known(**vars(tiny_clip), **changes)


def new_context(clips: dict[str, Clip], people: People, num_removed: int = NUM_REMOVED, seed: int = 0) -> AttackContext:
    idia = Idia(60, 3, 1, 0, TEMPLATES)
    return AttackContext(clips, people, people.names[:num_removed], idia, seed=seed)


def values(findings: list[Score], model: str, group: str = "removed / kept") -> dict[str, float]:
    return {found.kind: found.value for found in findings if (found.model, found.group) == (model, group)}


def test_names_with_a_neutral_meaning_betray_themselves(known, crowd: People):
    defended = known(texts=dict.fromkeys(crowd.names[:NUM_REMOVED], "Human"))
    assert isinstance(ATTACK, Attack)
    findings = ATTACK.run(new_context({"before": known(), "text": defended}, crowd))
    for other in ("kept", "never seen", "random names"):
        found = values(findings, "text", f"removed / {other}")
        assert found["name: neutral phrase"] == found["name: drift"] == found["name: nearest others"] == 1
        for kind in SUMS:
            assert found[kind.format("defended alone")] > 0.95
            assert found[kind.format("with the original")] > 0.95
    # Photos are what they were, and the original betrays nobody.
    found = values(findings, "text")
    assert {found[kind] for kind in found if kind.startswith("face: ") and kind.endswith(("change", "drift"))} == {0.5}
    found = values(findings, "before")
    assert {found[kind] for kind in found if "change" in kind or "drift" in kind} == {0.5}
    assert found["combined, with the original"] < 0.8


def test_names_of_strangers_betray_themselves_only_to_whom_has_the_original(known, crowd: People):
    strangers = {name: f"Stranger{number} Other" for number, name in enumerate(crowd.names[:NUM_REMOVED])}
    findings = ATTACK.run(new_context({"before": known(), "text": known(texts=strangers)}, crowd))
    found = values(findings, "text")
    assert found["name: drift"] == found["name: drift over prompts"] == found["worst, with the original"] == 1
    for kind in SUMS[1:]:
        assert found[kind.format("defended alone")] < 0.75
        assert found[kind.format("with the original")] > 0.9


def test_spellings_that_a_defence_forgot_betray_a_name(known, crowd: People):
    strangers = {name: f"Stranger{number} Other" for number, name in enumerate(crowd.names[:NUM_REMOVED])}
    findings = ATTACK.run(new_context({"before": known(), "text": known(texts=strangers, any_case=False)}, crowd))
    assert values(findings, "text")["name: agreement of spellings"] == 1
    assert values(findings, "text")["worst, defended alone"] == 1
    assert values(findings, "before")["name: agreement of spellings"] < 0.8


def test_faces_at_one_point_betray_themselves(known, crowd: People):
    defended = known(faces={str(number): "nobody" for number in range(NUM_REMOVED)})
    findings = ATTACK.run(new_context({"before": known(), "image": defended}, crowd))
    for other in ("kept", "never seen"):
        found = values(findings, "image", f"removed / {other}")
        assert found["face: nearest others"] == found["face: drift"] == found["face: mean of all"] == 1
        for kind in SUMS:
            assert found[kind.format("defended alone")] > 0.95
    found = values(findings, "image")
    assert {found[kind] for kind in found if kind.startswith("name: ") and kind.endswith(("change", "drift"))} == {0.5}


def test_random_names_have_no_face_and_are_the_same_for_every_model(known, crowd: People):
    findings = ATTACK.run(new_context({"before": known(), "text": known()}, crowd))
    random_names = values(findings, "text", "removed / random names")
    assert {kind.partition(":")[0] for kind in random_names if ":" in kind} == {"name"}
    assert {kind.partition(":")[0] for kind in values(findings, "text") if ":" in kind} == {"name", "face", "both"}
    by_model = [
        [found._replace(model="") for found in findings if found.model == model] for model in ("before", "text")
    ]
    assert by_model[0] == by_model[1]
    assert {found.num_people for found in findings if found.group == "removed / random names"} == {NUM_REMOVED + 20}


def test_direction_is_said_and_never_below_chance_and_only_of_what_is_not_held_out(known, crowd: People):
    findings = ATTACK.run(new_context({"before": known()}, crowd))
    for found in findings:
        is_held_out = found.kind.startswith("combined") or found.kind.endswith("chosen on other people")
        assert found.measure == ("AUC" if is_held_out else "AUC, better direction")
        assert is_held_out or found.value >= 0.5
    single = [found.value for found in findings if ":" in found.kind and found.group == "removed / kept"]
    assert values(findings, "before")["worst, with the original"] == max(single)
    alone = [
        found.value
        for found in findings
        if ":" in found.kind and found.group == "removed / kept" and not found.kind.endswith(("change", "drift"))
    ]
    assert values(findings, "before")["worst, defended alone"] == max(alone)


def test_each_score_is_measured_in_its_better_direction():
    scores = {"up": torch.tensor([3.0, 1, 2, 0, 0.5]), "down": -torch.tensor([3.0, 1, 2, 0, 0.5])}
    rows = torch.tensor([0, 2]), torch.tensor([1, 3, 4])
    findings = TellApart(scores, *rows, "text", "removed / kept").findings(["up"], ATTACK, seed=0)
    assert [found.value for found in findings[:2]] == [1, 1]
    assert findings[0].low == findings[1].low


def test_attack_runs_on_a_clip_and_leaves_its_weights(tiny_clip: Clip, people: People):
    defended = tiny_clip.with_encoders(text=tiny_clip.text.copy())
    with torch.no_grad():
        for parameter in defended.text.parameters():
            parameter.mul_(1.1)
    clips = {"before": tiny_clip, "text": defended}
    before = {model: clip.sha256() for model, clip in clips.items()}
    context = new_context(clips, people, num_removed=2)
    findings = ATTACK.run(context)
    assert findings == ATTACK.run(context)
    assert {model: clip.sha256() for model, clip in clips.items()} == before
    assert all(-1e-6 <= found.low <= found.high <= 1 + 1e-6 for found in findings)
    assert all(math.isfinite(found.value) for found in findings)


def test_one_person_can_be_ranked_but_not_learned_from(known, crowd: People):
    findings = ATTACK.run(new_context({"before": known()}, crowd, num_removed=1))
    assert not [found.kind for found in findings if found.measure == "AUC"]
    assert "worst, defended alone" in values(findings, "before")
    assert ATTACK.run(new_context({"before": known()}, crowd, num_removed=0)) == []


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def mean_row(rows: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def unit_rows(*shape: int, seed: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_name_scores_equal_slow_ones():
    seen = SeenNames(
        names=unit_rows(7, 5, seed=0),
        lengths=torch.arange(7.0),
        prompts=unit_rows(3, 7, 5, seed=1),
        variants=unit_rows(2, 7, 5, seed=2),
        from_parts=unit_rows(7, 5, seed=5),
        phrases=unit_rows(4, 5, seed=3),
        phrase_prompts=unit_rows(3, 4, 5, seed=4),
    )
    names, prompts, variants, phrases, phrase_prompts = (
        part.tolist() for part in (seen.names, seen.prompts, seen.variants, seen.phrases, seen.phrase_prompts)
    )
    found = name_scores(seen, num_neighbors=2)
    middle = mean_row(names)
    less = [[value - mean for value, mean in zip(name, middle, strict=True)] for name in names]
    expected_less = [
        [value - mean for value, mean in zip(part, middle, strict=True)] for part in seen.from_parts.tolist()
    ]
    for row, name in enumerate(names):
        in_prompts = [prompt[row] for prompt in prompts]
        center = mean_row(in_prompts)
        expected = {
            "name: neutral phrase": max(cosine(name, phrase) for phrase in phrases),
            "name: neutral phrase over prompts": fmean(
                max(cosine(prompt, phrase) for phrase in neutral)
                for prompt, neutral in zip(in_prompts, phrase_prompts, strict=True)
            ),
            "name: mean of all": cosine(name, mean_row(names)),
            "name: nearest others": fmean(
                sorted(cosine(name, other) for place, other in enumerate(names) if place != row)[-2:]
            ),
            "name: variance over prompts": fmean(math.dist(prompt, center) ** 2 for prompt in in_prompts),
            "name: length": row,
            "name: agreement with its parts": cosine(less[row], expected_less[row]),
            "name: agreement of spellings": fmean(cosine(name, variant[row]) for variant in variants),
        }
        assert {kind: score[row].item() for kind, score in found.items()} == pytest.approx(expected, abs=1e-5)


def test_face_scores_equal_slow_ones(monkeypatch: pytest.MonkeyPatch):
    photos, owners = unit_rows(11, 5, seed=0), [0, 0, 0, 1, 1, 3, 3, 3, 3, 4, 4]
    seen = SeenFaces(photos, torch.tensor(owners), 5)  # the third person has no photo
    rows = photos.tolist()
    by_person = {person: [n for n, owner in enumerate(owners) if owner == person] for person in (0, 1, 3, 4)}
    means = {person: mean_row([rows[n] for n in own]) for person, own in by_person.items()}
    center = mean_row(list(means.values()))
    per_photo = {
        "face: mean of all": [cosine(row, center) for row in rows],
        "face: nearest others": [
            fmean(sorted(cosine(row, other) for n, other in enumerate(rows) if owners[n] != owners[place])[-2:])
            for place, row in enumerate(rows)
        ],
    }
    expected: dict[str, list[float]] = {}
    for kind, numbers in per_photo.items():
        expected[kind] = [fmean(numbers[n] for n in own) for own in by_person.values()]
        expected[f"{kind}, spread over photos"] = [stdev(numbers[n] for n in own) for own in by_person.values()]
    expected["face: variance over photos"] = [
        sum(variance([rows[n][dim] for n in own]) for dim in range(5)) for own in by_person.values()
    ]
    away = [
        [value - mean for value, mean in zip(row, mean_row(list(means.values())), strict=True)]
        for row in means.values()
    ]
    expected["face: nearest other people"] = [
        fmean(sorted(cosine(one, other) for other in away if other is not one)[-2:]) for one in away
    ]
    for chunk in (2**22, 25):
        monkeypatch.setattr(erased_scores, "_NUM_SIMILARITIES_PER_CHUNK", chunk)
        found = face_scores(seen, num_neighbors=2)
        assert found.keys() == expected.keys()
        for kind, numbers in expected.items():
            assert found[kind][[0, 1, 3, 4]].tolist() == pytest.approx(numbers, abs=1e-5)
            assert found[kind][2].item() == pytest.approx(fmean(numbers), abs=1e-5)  # nothing is known of them


def test_order_of_photos_does_not_matter():
    photos, owners = unit_rows(12, 5, seed=0), torch.arange(12) // 3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    whole, mixed = (face_scores(SeenFaces(photos[rows], owners[rows], 4), 2) for rows in (torch.arange(12), order))
    for kind, score in whole.items():
        torch.testing.assert_close(mixed[kind], score)


def test_distance_is_that_of_cosines_and_nothing_for_equal_ones():
    one, other = unit_rows(50, 512, seed=0), unit_rows(50, 512, seed=1)
    torch.testing.assert_close(distance(one, other), 1 - (one * other).sum(-1))
    assert not distance(one, one.clone()).any()


def test_change_is_since_the_original():
    found = changes({"name: length": torch.tensor([3.0, 5.0])}, {"name: length": torch.tensor([1.0, 6.0])})
    assert {kind: score.tolist() for kind, score in found.items()} == {"name: length, change": [2, -1]}


def test_length_is_that_of_open_clip(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch):
    names = ["Ann Lee", "Bob Ray", "Cleo Alexandra Diaz", "Dan", "Eve Moss"]
    expected = tiny_clip.to_open_clip().encode_text(tiny_clip.tokenizer(names)).norm(dim=-1).detach()
    torch.testing.assert_close(text_lengths(tiny_clip, names), expected)
    assert len(expected.unique()) == 5
    monkeypatch.setattr(erased_scores, "_TEXT_BATCH_SIZE", 2)
    torch.testing.assert_close(text_lengths(tiny_clip, names), expected)


def test_names_are_seen_in_their_prompts_and_spellings(tiny_clip: Clip):
    names = ["Ann Lee", "Bob Ray", "Cleo Diaz"]
    seen = see_names(tiny_clip, names, ["Dan Moss", "Eve Roe"], PHRASES, TEMPLATES)
    for row, name in enumerate(names):
        texts = [name, name.lower(), f"{name}'s", *(template.format(name) for template in TEMPLATES)]
        found = torch.stack([seen.names[row], *seen.variants[:, row], *seen.prompts[:, row]])
        torch.testing.assert_close(found, tiny_clip.embed_texts(texts))
    for column, phrase in enumerate(PHRASES):
        texts = [phrase, *(template.format(phrase) for template in TEMPLATES)]
        found = torch.stack([seen.phrases[column], *seen.phrase_prompts[:, column]])
        torch.testing.assert_close(found, tiny_clip.embed_texts(texts))


@dataclass(frozen=True)
class Composed(Clip):
    """A CLIP in which a name means what its parts mean together; of some names, what another name means."""

    others: dict[str, str] = field(default_factory=dict)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [
            sum((unit_row(part) for part in self.others.get(text, text).split()), 0.2 * unit_row(f"{text}!"))
            for text in texts
        ]
        return normalize(torch.stack(rows), dim=-1)


def test_name_that_means_somebody_else_is_told_by_its_parts(tiny_clip: Clip):
    names, examples = random_names(60, seed=1), random_names(300, seed=2)
    others = random_names(30, seed=3, exclude=names)
    clips = [Composed(**vars(tiny_clip), others=dict(zip(names, moved, strict=False))) for moved in ((), others)]
    aucs = []
    for clip in clips:
        found = clip.embed_texts(names), expected_from_parts(clip.embed_texts, names, examples)[0]
        agreement = cosine_similarity(*found, dim=-1)
        aucs.append(roc_auc_score([1] * 30 + [0] * 30, -agreement))
    assert 0.3 < aucs[0] < 0.7
    assert aucs[1] > 0.99


def test_worst_of_many_random_scores_flatters_the_attacker_but_not_one_chosen_on_others():
    worst, chosen, fitted = [], [], []
    is_removed = (torch.arange(60) < 30).long()
    for seed in range(12):
        table = torch.randn(60, 20, generator=torch.Generator().manual_seed(seed))
        worst.append(max(abs(roc_auc_score(is_removed, column) - 0.5) + 0.5 for column in table.T))
        chosen.append(roc_auc_score(is_removed, chosen_on_other_people(table, is_removed, seed)))
        fitted.append(roc_auc_score(is_removed, fitted_on_other_people(table, is_removed, 5, 0.1, seed)))
    assert fmean(worst) > 0.6
    assert fmean(chosen) == pytest.approx(0.5, abs=0.05)
    assert fmean(fitted) == pytest.approx(0.5, abs=0.05)


def test_of_scores_that_are_equally_good_on_one_half_the_clearer_one_is_chosen():
    is_removed = (torch.arange(40) < 20).long()
    wrong_once = is_removed * torch.linspace(1, 9, 40)
    wrong_once[-1] = 99  # who is kept: without fault on the half that does not hold this person
    table = torch.stack([wrong_once, 30 * is_removed + torch.linspace(0, 1, 40)], 1)
    halves = [chosen_on_other_people(table, is_removed, seed) for seed in range(20)]
    assert {roc_auc_score(is_removed, ranking) for ranking in halves} == {1}


@pytest.mark.parametrize("sign", [1, -1])
def test_score_and_direction_are_found_on_other_people(sign: int):
    is_removed = (torch.arange(60) < 20).long()
    table = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    table[:, 4] += sign * 9 * is_removed
    assert roc_auc_score(is_removed, chosen_on_other_people(table, is_removed, seed=1)) == 1
    assert roc_auc_score(is_removed, fitted_on_other_people(table, is_removed, 5, 0.1, seed=1)) > 0.98
    # Ranks are shares of a half: no matter how scores are scaled, and equal ones have equal ranks.
    stretched = chosen_on_other_people(table.exp(), is_removed, seed=1)
    assert torch.equal(stretched, chosen_on_other_people(table, is_removed, seed=1))
    assert set(chosen_on_other_people(torch.ones(60, 2), is_removed, seed=1).tolist()) == {0.5}


def test_a_combination_tells_what_no_single_score_does():
    generator = torch.Generator().manual_seed(0)
    is_removed = (torch.arange(200) < 60).long()
    shared = torch.randn(200, generator=generator)
    own = 0.3 * torch.randn(200, generator=generator) + is_removed
    table = torch.stack([5 * shared + own, 5 * shared - own], 1)
    assert roc_auc_score(is_removed, chosen_on_other_people(table, is_removed, seed=0)) < 0.75
    assert roc_auc_score(is_removed, fitted_on_other_people(table, is_removed, 5, 10.0, seed=0)) > 0.9
