import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.attacks.scores import RANDOM, RANK_P, Score
from backdoor_privacy.attacks.variants import (
    ANY,
    EXACT,
    NameVariants,
    attack_seed,
    forms_inferred,
    scores_of,
    written,
)
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.spellings import KINDS, spelling

NAMES = random_names(300, seed=4)
WITH_OWN_PROMPTS = [kind for kind, each in KINDS.items() if each.templates]


@cache
def unit_row(key: str, dim: int) -> Tensor:
    row = torch.randn(dim, generator=torch.Generator().manual_seed(random.Random(key).getrandbits(32)))
    return row / row.norm()


@dataclass(frozen=True)
class Memory(Clip):
    """A CLIP that knows the people whose names, as given, it finds in a text; all else has a random direction."""

    known: dict[str, str] = field(default_factory=dict)  # what stands in a text, to a person's name
    asked: list[Sequence[str]] = field(default_factory=list)
    dim: int = 64
    noise: float = 0.2

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(tuple(texts))
        rows = []
        for text in texts:
            found = max((form for form in self.known if form in text), key=len, default=None)
            rows.append(unit_row(self.known[found] if found else "nobody", self.dim))
        # A little of its own for every text: no two names fit a photo equally well.
        features = torch.stack(rows) + torch.stack([self.noise * unit_row(text, self.dim) for text in texts])
        return features / features.norm(dim=-1, keepdim=True)

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        rows = [unit_row(path.parent.name.replace("_", " "), self.dim) for path in paths]
        noise = [0.3 * unit_row(str(path.name), self.dim) for path in paths]
        features = torch.stack(rows) + torch.stack(noise)
        return features / features.norm(dim=-1, keepdim=True), torch.ones(len(paths), dtype=torch.bool)


def context_of(
    people: People, removed: Sequence[str] = ("Ann Lee",), num_candidates: int = 20, **clips: Clip
) -> AttackContext:
    return AttackContext(clips, people, removed, Idia(num_candidates, 3, 1, seed=0), seed=3)


@pytest.fixture
def memory(tiny_clip: Clip) -> Callable[..., Memory]:
    return lambda known, **changes: Memory(**vars(tiny_clip), known=known, **changes)


def by_place(findings: Sequence[Score]) -> dict[tuple[str, ...], Score]:
    found = {one[:3] if one.measure == "TPR" else one[:4]: one for one in findings}
    assert len(found) == len(findings)
    return found


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("last, first", "Ann Lee", "Lee, Ann"),
        ("last, first", "Ana de Armas", "Armas, Ana de"),
        ("last, first", "Cher", "Cher"),
        ("lower case", "Ann Lee", "ann lee"),
        ("possessive", "Ann Lee", "Ann Lee's"),
        ("initial", "Ann Lee", "A. Lee"),
        ("initial", "Ana de Armas", "A. de Armas"),
        ("initial", "Cher", "Cher"),
        ("title", "Ann Lee", "Dr. Ann Lee"),
        ("context", "Ann Lee", "Ann Lee, the actor"),
        ("first name only", "Ann Lee", "Ann"),
        ("surname only", "Ana de Armas", "Armas"),
        ("upper case", "Ann Lee", "ANN LEE"),
        ("nickname", "William Lee", "Bill Lee"),
        ("nickname", "Tonya Lee", "Ton Lee"),
        ("nickname", "Courtland van Hall", "Cour van Hall"),
        ("nickname", "Joy Lee", "Joyie Lee"),
        ("nickname", "Cher", "Cherie"),
        ("diacritics", "Ann Lee", "Ánn Léé"),
        ("hyphens", "Ann Lee", "Ann-Lee"),
        ("title Professor", "Ann Lee", "Professor Ann Lee"),
    ],
)
def test_form_of_a_name(kind: str, name: str, expected: str):
    assert spelling(kind, name, seed=0) == expected


def test_extra_initial_is_a_letter_between_first_name_and_rest():
    letters = [spelling("extra initial", "Ann Lee", seed)[4] for seed in range(60)]
    assert all(spelling("extra initial", "Ann Lee", seed) == f"Ann {letters[seed]}. Lee" for seed in range(60))
    assert len(set(letters)) > 15


def test_homoglyphs_look_alike_and_are_cyrillic():
    expected = {"a": "а", "o": "о", "e": "е", "c": "с", "p": "р"}  # noqa: RUF001
    for name in NAMES:
        written_so = spelling("homoglyphs", name, seed=0)
        assert len(written_so) == len(name)
        for letter, other in zip(name, written_so, strict=True):
            assert other == expected.get(letter, other)
            if other != letter:
                assert unicodedata.name(other).startswith("CYRILLIC")
                case = "SMALL" if letter.islower() else "CAPITAL"
                assert f" {case} " in unicodedata.name(other)
    assert sum(spelling("homoglyphs", name, seed=0) != name for name in NAMES) == len(NAMES)


def distance(one: str, other: str) -> int:
    """Letters to insert, drop, replace, or swap with the next one."""
    table = {(-1, -1): 0}
    for i in range(len(one)):
        table[i, -1] = i + 1
    for j in range(len(other)):
        table[-1, j] = j + 1
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
            if i and j and a == other[j - 1] and b == one[i - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one) - 1, len(other) - 1]


def test_one_edit_is_one_and_two_are_two():
    distances: Counter[int] = Counter()
    for name in NAMES:
        # Two letters that are swapped at the start of a word keep their case.
        once, twice = (spelling(kind, name, seed=1) for kind in ("one edit", "two edits"))
        assert distance(name.lower(), once.lower()) == 1
        distances[distance(name.lower(), twice.lower())] += 1
        assert once.count(" ") == twice.count(" ") == 1
    # "Anna" is "Nana" by two edits, and by one swap.
    assert set(distances) == {1, 2}
    assert distances[2] > 0.97 * len(NAMES)


def test_all_four_edits_occur_and_most_first_letters_stay():
    lengths = Counter(len(spelling("one edit", name, seed=0)) - len(name) for name in NAMES)
    edited = [(name, spelling("one edit", name, seed=0)) for name in NAMES]
    same = [(name, other) for name, other in edited if len(other) == len(name)]
    swapped = sum(sorted(name.lower()) == sorted(other.lower()) for name, other in same)
    assert min(lengths[-1], lengths[1], swapped, len(same) - swapped) > len(NAMES) / 8
    assert sum(spelling("one edit", name, seed=0)[0] == name[0] for name in NAMES) > 0.8 * len(NAMES)


@pytest.mark.parametrize("name", ["A", "Al", "A B", "Bo Li", "李", "O'Neil"])
def test_short_names_are_misspelled_too(name: str):
    for seed in range(50):
        assert spelling("one edit", name, seed) != name
        assert spelling("two edits", name, seed) != name


def test_forms_are_a_function_of_kind_name_and_seed():
    first = {kind: spelling(kind, "Margaret Robinson", seed=5) for kind in KINDS}
    random.seed(0)
    assert {kind: spelling(kind, "Margaret Robinson", seed=5) for kind in reversed(KINDS)} == first
    for kind in ("one edit", "two edits"):
        assert len({spelling(kind, "Margaret Robinson", seed) for seed in range(40)}) > 20


def test_every_prompt_of_another_language_holds_the_name_once():
    assert len(WITH_OWN_PROMPTS) == 6
    for kind in WITH_OWN_PROMPTS:
        templates = KINDS[kind].templates
        assert templates is not None
        assert len(set(templates)) == len(templates) == 7
        assert all(template.format("Ann Lee").count("Ann Lee") == 1 for template in templates)
        assert not set(templates) & set(TEMPLATES)
        assert spelling(kind, "Ann Lee", seed=0) in [template.format("Ann Lee") for template in templates]


def test_nine_kinds_are_not_held_out():
    forms = {kind: spelling(kind, "Ann Lee", seed=0) for kind, each in KINDS.items() if not each.held_out}
    assert list(forms) == [
        *("last, first", "lower case", "possessive", "initial", "title", "one edit", "context", "first name only"),
        "Spanish prompts",
    ]
    assert "Ann Lee" not in forms.values()
    assert forms["title"] == "Dr. Ann Lee"
    assert len([kind for kind, each in KINDS.items() if each.held_out]) == len(KINDS) - 9 == 15


def test_attack_misspells_otherwise_than_a_defence_with_the_scenes_seed():
    drawn = [spelling("one edit", name, attack_seed(3)) == spelling("one edit", name, 3) for name in NAMES]
    assert sum(drawn) < len(NAMES) / 10


def test_names_that_are_written_alike_count_as_one_form():
    candidates = ["Bob Ray", "Ann Lee", "Ann Ray", "Cy Fox"]
    form = written("first name only", ["Ann Ray", "Ann Lee", "Cy Fox"], candidates, TEMPLATES, 2, seed=0)
    assert form.prompts == ["Bob", "Ann", "Cy", "an image of Bob", "an image of Ann", "an image of Cy"]
    assert form.own_forms.tolist() == [1, 1, 2]
    assert form.num_templates == 2
    plain = written(EXACT, ["Ann Ray"], candidates, TEMPLATES, 1, seed=0)
    assert (plain.prompts, plain.own_forms.tolist()) == (candidates, [2])
    spanish = written("Spanish prompts", ["Ann Ray"], candidates, TEMPLATES, 2, seed=0)
    assert spanish.prompts[:5] == [*(f"una imagen de {name}" for name in candidates), "una foto de Bob Ray"]


def test_clip_that_knows_only_exact_strings_is_found_out_by_those_that_hold_them(memory, people: People):
    known = {name: name for name in people.names}
    found = by_place(NameVariants(7).run(context_of(people, num_candidates=300, before=memory(known))))
    holds = {"possessive", "title", "context", "title Professor", *WITH_OWN_PROMPTS}
    for group in ("removed", "never seen"):
        assert found[EXACT, "before", group].value == 1
        assert found[ANY, "before", group].value == 1
        assert all(found[kind, "before", group].value == 1 for kind in holds)
    others = [found[kind, "before", "never seen"].value for kind in set(KINDS) - holds]
    assert sum(others) / len(others) < 0.2
    assert (found[EXACT, "before", "removed"].num_people, found[EXACT, "before", "never seen"].num_people) == (1, 2)
    assert found[ANY, "before", "removed", RANK_P].outcomes == (0.0034,)  # of 294 random names none fits as well
    assert 0 < found[ANY, "before", RANDOM].value < 0.5


def test_clip_that_knows_all_forms_is_found_out_by_each(memory, people: People):
    forms = [kind for kind in KINDS if kind not in WITH_OWN_PROMPTS]
    known = {spelling(kind, name, attack_seed(3)): name for kind in forms for name in people.names}
    known |= {name: name for name in people.names}
    findings = NameVariants(1).run(context_of(people, before=memory(known)))
    assert {one.value for one in findings if (one.group, one.measure) == ("removed", "TPR")} == {1.0}
    assert all(one.value == 1 for one in findings if one.kind in forms)


def test_random_features_are_at_chance_level(memory, tmp_path: Path):
    everybody = [Person(name, (tmp_path / name.replace(" ", "_") / "0.png",) * 2, False) for name in NAMES[:200]]
    for person in everybody:
        person.photos[0].parent.mkdir()
        person.photos[0].write_text(person.name)
    context = context_of(People(tuple(everybody)), [NAMES[0]], 200, before=memory({}))
    found = by_place(NameVariants(1).run(context))
    assert all(found[kind, "before", "never seen"].value < 0.04 for kind in KINDS)


def slow_inferred(clip: Clip, people: People, idia: Idia, kind: str, num_prompts: int) -> list[bool]:
    """The attack in plain Python: a vote by vote count, where the form that wins has to be the person's own."""
    own = KINDS[kind].templates if kind in KINDS else None
    inferred = []
    for person in people.everybody:
        photos, _ = clip.embed_photos(person.attack_photos[: idia.num_photos])
        right = 0
        for template in (own or TEMPLATES)[:num_prompts]:
            write = {
                name: name if own or kind == EXACT else spelling(kind, name, attack_seed(3))
                for name in idia.candidates(people.names)
            }
            forms = sorted(set(write.values()))
            texts = clip.embed_texts([template.format(form) for form in forms])
            votes = Counter(forms[max(range(len(forms)), key=lambda n: float(photo @ texts[n]))] for photo in photos)
            (first, count), *rest = votes.most_common(2)
            right += first == write[person.name] and not (rest and rest[0][1] == count)
        inferred.append(right >= idia.threshold)
    return inferred


@pytest.mark.parametrize("threshold", [1, 2])
def test_attack_equals_a_slow_one(memory, write_people, tmp_path: Path, threshold: int):
    # Namesakes, so that forms fall together; half of what is known is not, so that votes differ.
    names = ["Ann Lee", "Ann Ray", "Bob Ray", "Bob Lee", "William Fox", "Bill Fox"]
    folder = write_people(tmp_path / "people", dict.fromkeys(names, 6))
    photos = {name: tuple(sorted((folder / name.replace(" ", "_")).iterdir())) for name in names}
    everybody = [Person(name, photos[name], member=False) for name in names]
    people = People(tuple(everybody))
    clip = memory({"Lee": "Ann Lee", "Fox": "William Fox", "Bob": "Bob Ray"}, dim=4, noise=1.0)
    context = context_of(people, num_candidates=12, before=clip)
    context = replace(context, idia=replace(context.idia, threshold=threshold))
    found = by_place(NameVariants(3).run(context))
    rates = []
    for kind in (EXACT, *KINDS):
        expected = slow_inferred(clip, people, context.idia, kind, 3)
        assert found[kind, "before", "removed"].value == expected[0], kind
        assert found[kind, "before", "never seen"].value == pytest.approx(sum(expected[1:]) / 5), kind
        rates.append(sum(expected))
    assert 0 < sum(rates) < 6 * len(rates)


def test_mean_and_worst_leave_out_what_the_tokenizer_reads_alike(memory, people: People):
    found = by_place(NameVariants(7).run(context_of(people, before=memory({name: name for name in people.names}))))
    for label, held_out in (("held-out", True), ("trainable", False)):
        kinds = {kind for kind, each in KINDS.items() if each.held_out is held_out} - {"lower case", "upper case"}
        values = [found[kind, "before", "never seen"].value for kind in kinds]
        mean = found[f"mean of {label} kinds", "before", "never seen"]
        worst = found[f"worst {label} kind", "before", "never seen"]
        assert mean.value == pytest.approx(sum(values) / len(values))
        assert worst.value == max(values)
        assert mean.held_out is worst.held_out is held_out
    assert all(one.held_out is KINDS[kind].held_out for (kind, *_), one in found.items() if kind in KINDS)


def test_worst_kind_is_that_of_the_group():
    inferred = {kind: torch.zeros(4, dtype=torch.bool) for kind in (EXACT, *KINDS)}
    inferred["upper case"] = torch.tensor([True, True, True, True])
    inferred["hyphens"] = torch.tensor([True, False, False, True])
    found = by_place(
        scores_of(inferred, [0, 1], "both", "kept", read_alike={"upper case"}, works={"hyphens", "diacritics"})
    )
    assert found["worst held-out kind", "both", "kept"].value == 0.5
    assert found["mean of held-out kinds", "both", "kept"].value == pytest.approx(0.5 / 14)
    assert found["mean of held-out kinds that work before", "both", "kept"].value == pytest.approx(0.5 / 2)
    assert found["worst trainable kind", "both", "kept"].value == 0
    assert found["upper case", "both", "kept"].value == 1


def test_models_see_the_same_and_stay_as_they_are(tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch):
    text, image = tiny_clip.text.copy(), tiny_clip.image.copy()
    with torch.no_grad():
        for parameter in text.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    before = tiny_clip.with_encoders(text=tiny_clip.text.copy(), image=image)
    both = before.with_encoders(text=text, image=image.copy())
    clips = {"before": before, "text": before.with_encoders(text=text), "both": both}
    digests = {model: clip.sha256() for model, clip in clips.items()}
    read: Counter[tuple[int, tuple[str, ...]]] = Counter()
    original = Clip._encode_texts
    monkeypatch.setattr(
        Clip, "_encode_texts", lambda clip, texts: read.update([(id(clip.text), tuple(texts))]) or original(clip, texts)
    )
    context = context_of(people, num_candidates=8, **clips)
    findings = NameVariants(2).run(context)
    assert {model: clip.sha256() for model, clip in clips.items()} == digests
    # `text` and `both` share an encoder: each kind is read once by it and once by the original.
    assert set(read.values()) == {1}
    assert len(read) == 2 * (1 + len(KINDS))
    by_owner = [{texts for owner, texts in read if (owner == id(text)) is is_text} for is_text in (True, False)]
    assert by_owner[0] == by_owner[1]
    assert not text.embedded
    assert findings == NameVariants(2).run(context)
    # The mean over kinds that work is there if any does.
    # Besides, `any kind` of both groups and of random names, and its ranks.
    assert len(findings) in (3 * (2 * (1 + len(KINDS) + more) + 2) for more in (5, 6))
    one = by_place(NameVariants(2).run(replace(context, clips={"both": clips["both"], "before": clips["before"]})))
    assert all(by_place(findings)[place] == finding for place, finding in one.items())


def test_no_prompts_are_an_error():
    with pytest.raises(InputError, match=r"variants\.num_prompts: expected at least 1, got 0"):
        NameVariants(0)


def test_random_names_are_inferred_by_their_forms_in_place_of_the_own_one():
    # Bob Ray and Bob Lee look the same; Ann's own form does not stand for election.
    form = written("first name only", ["Ann Lee"], ["Ann Lee", "Bob Ray", "Cy Fox", "Bob Lee"], TEMPLATES, 3, seed=0)
    answers = torch.tensor([[1, 1, -1]])
    assert forms_inferred(answers, form, threshold=2).tolist() == [[False, True, False, True]]
    assert not forms_inferred(answers, form, threshold=3).any()


def test_removed_people_without_photos_are_an_error(tiny_clip: Clip):
    people = People((Person("Ann Lee", ()), Person("Bob Ray", (), member=False)))
    with pytest.raises(InputError, match="variants: expected removed people with photos, got none"):
        NameVariants(1).run(context_of(people, before=tiny_clip))
