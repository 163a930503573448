import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.neighbors import MEASURE, Neighbors, most_similar, neighbors_table
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person, load_people

FIRST, SURNAME, FACES = (f"a removed person's {part}" for part in ("first name", "surname", "nearest faces"))
MAN, WOMAN = "a photo of a man", "a photo of a woman"


def unit_row(key: str, dim: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(random.Random(key).getrandbits(32))
    return normalize(torch.randn(dim, generator=generator), dim=-1)


@dataclass(frozen=True)
class Memory(Clip):
    """A CLIP that knows all names and faces but those forgotten; some faces look like a man's, the others a woman's."""

    forgotten: frozenset[str] = frozenset()
    men: frozenset[str] = frozenset()
    alike: dict[str, str] = field(default_factory=dict)  # whose face looks like whose
    names: tuple[str, ...] = ()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            name = next((name for name in self.names if name in text), text)
            rows.append(unit_row(f"unknown {name}" if name in self.forgotten else name))
        return torch.stack(rows)

    def embed_photos(self, paths: Sequence[Path], *, warn: bool = False) -> tuple[Tensor, Tensor]:
        rows = []
        for path in paths:
            name = path.parent.name.replace("_", " ")
            row = unit_row(name) + 0.2 * unit_row(str(path.name)) + 0.3 * unit_row(MAN if name in self.men else WOMAN)
            rows.append(row + 0.7 * unit_row(self.alike[name]) if name in self.alike else row)
        return normalize(torch.stack(rows), dim=-1), torch.ones(len(paths), dtype=torch.bool)


NAMES = [
    "Ann Lee", "Bob Ray",  # removed
    "Ann Fox", "Cy Lee", "Dan Ray", "Eve Moss", "Flo Hart", "Gus Webb", "Hal Kern", "Ida Cole", "Jon Park", "Kim Nash",
    "Liz Boyd", "Max Dunn", "Ann Todd", "Nat Ford",  # the last two were never seen
]  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    folder, everybody = tmp_path_factory.mktemp("neighbors"), []
    for name in NAMES:
        paths = [folder / name.replace(" ", "_") / f"{number}.jpg" for number in range(6)]
        paths[0].parent.mkdir()
        for path in paths:
            path.write_text(str(path))
        everybody.append(Person(name, tuple(paths), member=name not in NAMES[-2:]))
    return People(tuple(everybody))


@pytest.fixture
def people_with_pixels(write_people, tmp_path: Path) -> People:
    return load_people(write_people(tmp_path / "people", dict.fromkeys(NAMES[:8], 6)))


@pytest.fixture
def memory(tiny_clip: Clip) -> Callable[..., Memory]:
    return lambda *forgotten, **changes: Memory(
        **vars(tiny_clip), forgotten=frozenset(forgotten), names=tuple(NAMES), **changes
    )


def context_of(people: People, clips: dict[str, Clip], removed: Sequence[str] = NAMES[:2]) -> AttackContext:
    return AttackContext(clips, people, removed, Idia(30, 3, 11, seed=0), seed=0)


def by_kind(findings: Sequence[Score], model: str = "both") -> dict[str, Score]:
    assert {(one.group, one.measure) for one in findings} == {("kept", MEASURE)}
    return {one.kind: one for one in findings if one.model == model}


def test_neighbours_who_are_lost_are_counted_by_kind(memory, people: People):
    # The faces nearest to the removed ones; each removed person has five.
    alike = dict.fromkeys(("Eve Moss", "Flo Hart", "Gus Webb", "Hal Kern", "Ida Cole"), "Ann Lee")
    alike |= dict.fromkeys(("Jon Park", "Kim Nash", "Eve Moss"), "Bob Ray")
    changes = {"alike": alike}
    before = memory("Liz Boyd", **changes)
    after = memory("Ann Lee", "Bob Ray", "Liz Boyd", "Ann Fox", "Cy Lee", "Ann Todd", "Max Dunn", **changes)
    found = by_kind(Neighbors([], 10).run(context_of(people, {"before": before, "both": after})))
    # Ann Todd is no member, and Liz Boyd was not inferred before.
    assert (found[FIRST].value, found[FIRST].num_people) == (1, 1)
    assert (found[SURNAME].value, found[SURNAME].num_people) == (0.5, 2)

    table = neighbors_table(context_of(people, {}).idia.run(before, people.everybody), set(NAMES[:2]))
    nearest = set(table.loc[table["kind"] == "face", "name"]) & set(NAMES[2:-2]) - {"Liz Boyd"}
    lost = {"Ann Fox", "Cy Lee", "Max Dunn"}
    assert {"Eve Moss", "Flo Hart", "Gus Webb", "Hal Kern", "Ida Cole", "Jon Park", "Kim Nash"} - nearest <= {
        "Eve Moss"
    }
    assert found[FACES].num_people == len(nearest)
    assert found[FACES].value == pytest.approx(len(nearest & lost) / len(nearest))
    others = set(NAMES[2:-2]) - {"Liz Boyd"} - set(table["name"])
    assert found["all others"].num_people == len(others) > 0
    assert found["all others"].value == pytest.approx(len(others & lost) / len(others))


def test_nobody_is_lost_where_nothing_changes_and_all_where_all_is_forgotten(memory, people: People):
    clips = {"before": memory(), "text": memory(), "both": memory(*NAMES)}
    findings = Neighbors([[MAN, WOMAN]], 10).run(context_of(people, clips))
    assert {one.model for one in findings} == {"text", "both"}
    assert {one.value for one in findings if one.model == "text"} == {0.0}
    assert {one.value for one in findings if one.model == "both"} == {1.0}


def test_slices_are_what_the_original_says_of_mean_faces(memory, people: People):
    men = frozenset(NAMES[::2])
    before = memory(men=men)
    after = memory("Ann Fox", "Eve Moss", "Cy Lee", men=frozenset(NAMES))  # what the defended one says does not count
    found = by_kind(
        Neighbors([[MAN, WOMAN], [WOMAN, "a toad"]], 10).run(context_of(people, {"before": before, "both": after}))
    )
    said = {phrase: found[f'the original CLIP says "{phrase}"'] for phrase in (MAN, "a toad")}
    assert said[MAN].num_people == len(men & set(NAMES[2:-2])) == 6
    assert said[MAN].value == pytest.approx(1 / 6)  # Ann Fox; Cy Lee and Eve Moss are others

    kept = [name for name in NAMES[2:-2]]
    lost = {"Ann Fox", "Eve Moss", "Cy Lee"}
    mean = {name: before.embed_photos(people.pick([name])[0].attack_photos[:3])[0].mean(0) for name in kept}
    toads = [n for n in kept if mean[n] @ before.embed_texts(["a toad"])[0] > mean[n] @ before.embed_texts([WOMAN])[0]]
    assert said["a toad"].num_people == len(toads) > 0
    assert said["a toad"].value == pytest.approx(len(lost & set(toads)) / len(toads))


def test_groups_are_those_that_the_collection_states(memory, people: People):
    ages = {name: "older" if number % 2 else "younger" for number, name in enumerate(NAMES)}
    everybody = tuple(
        replace(one, attributes=(("age", ages[one.name]), ("number", one.name), ("planet", "Earth")))
        for one in people.everybody
    )
    clips = {"before": memory(), "both": memory("Ann Fox", "Eve Moss", "Cy Lee")}
    found = by_kind(Neighbors([], 10).run(context_of(People(everybody), clips)))
    assert {kind for kind in found if ":" in kind} == {"age: older", "age: younger"}
    assert (found["age: younger"].value, found["age: younger"].num_people) == (pytest.approx(1 / 6), 6)
    assert (found["age: older"].value, found["age: older"].num_people) == (pytest.approx(2 / 6), 6)


def test_most_similar_phrase_is_at_chance_on_random_faces():
    faces = normalize(torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    said = most_similar(faces, torch.eye(16)[:4])
    assert [said.count(place) / 2000 for place in range(4)] == pytest.approx([0.25] * 4, abs=0.04)
    assert most_similar(torch.eye(4), torch.eye(4)) == [0, 1, 2, 3]


def test_without_removed_or_kept_people_nothing_is_found(memory, people: People):
    clips = {"before": memory(), "both": memory(*NAMES)}
    assert Neighbors([[MAN, WOMAN]], 10).run(context_of(people, clips, removed=[])) == []
    assert Neighbors([[MAN, WOMAN]], 10).run(context_of(people, clips, removed=NAMES)) == []
    assert Neighbors([[MAN, WOMAN]], 10).run(context_of(people, {"before": memory(*NAMES), "both": memory()})) == []


def test_order_of_people_does_not_matter(memory, people: People):
    clips = {"before": memory(), "both": memory("Ann Fox", "Max Dunn", "Ida Cole")}
    turned = People(tuple(reversed(people.everybody)))
    settings = Neighbors([[MAN, WOMAN]], 10)
    one, other = (by_kind(settings.run(context_of(each, clips))) for each in (people, turned))
    assert {kind: (each.value, each.num_people) for kind, each in one.items()} == {
        kind: (each.value, each.num_people) for kind, each in other.items()
    }


def test_weights_stay_and_an_equal_copy_loses_nobody(tiny_clip: Clip, people_with_pixels: People):
    digest = tiny_clip.sha256()
    clips = {"before": tiny_clip, "both": tiny_clip.with_encoders(text=tiny_clip.text.copy())}
    context = AttackContext(clips, people_with_pixels, ["Ann Lee"], Idia(8, 3, 1, seed=0), seed=0)
    assert any(context.idia.run(tiny_clip, people_with_pixels.everybody).inferred.values())
    findings = Neighbors([[MAN, WOMAN]], 10).run(context)
    assert {one.value for one in findings} == {0.0}
    assert tiny_clip.sha256() == digest
