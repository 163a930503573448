"""One of each, and none: one person, photo, class, caption or candidate is a small case, not a special one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from backdoor_privacy.attacks.choice import load_attacks, make_attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia, IdiaVotes, cast_votes, majority
from backdoor_privacy.attacks.idia_sweep import name_ranks
from backdoor_privacy.attacks.neighbors import neighbors_table
from backdoor_privacy.attacks.photos import see_photos
from backdoor_privacy.attacks.scores import auc_score, mean_score
from backdoor_privacy.attacks.variants import EXACT, answers_to, written
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.defenses.backdoor.similarity import ImageSimilarity, TextSimilarity
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.targets.erasure import NameEraser, name_features
from backdoor_privacy.defenses.backdoor.targets.faces import (
    blended_faces,
    disguises,
    look_alikes,
    mean_embeddings,
    shared_embeddings,
)
from backdoor_privacy.defenses.backdoor.targets.text import composed_names
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import audit, idia_rates, leak_table
from backdoor_privacy.report.figures.losses import losses_figure
from backdoor_privacy.report.figures.people import idia_figure, map_figure, margins_figure, prompts_figure
from backdoor_privacy.runs.evidence import map_table, votes_table
from backdoor_privacy.utility.retrieval import Retrieval, recalls
from backdoor_privacy.utility.zero_shot import ZeroShot

pytestmark = pytest.mark.usefixtures("few_draws")

IDIA = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)


def right_answers(clip: Clip, person: Person, attack: Idia) -> int:
    """IDIA of one person by hand."""
    candidates = attack.candidates([person.name])
    photos, _ = clip.embed_photos(person.attack_photos[: attack.num_photos])
    right = 0
    for template in attack.templates:
        texts = clip.embed_texts([template.format(name) for name in candidates])
        counts = torch.bincount((photos @ texts.T).argmax(1), minlength=len(candidates))
        own = candidates.index(person.name)
        right += int(counts[own] == counts.max() and (counts == counts.max()).sum() == 1)
    return right


@pytest.fixture(scope="module", params=[1, 2, 6])
def person(request: Any, write_people: Any, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """One person with one photo, two or six."""
    folder = tmp_path_factory.mktemp("one")
    (one,) = load_people(write_people(folder, {"Ann Lee": request.param})).everybody
    return one


def test_one_person_is_attacked_among_random_names(tiny_clip: Clip, person: Person):
    expected = right_answers(tiny_clip, person, IDIA)
    found = IDIA.run(tiny_clip, [person])
    assert found.correct_prompts == [expected]
    assert found.num_photos == [min(2, len(person.attack_photos))]
    assert found.inferred == {"Ann Lee": expected >= 1}
    assert found.evidence.own_votes.shape == (1, 21)
    assert found.evidence.margins.shape == (1,)
    assert found.evidence.face_features.norm(dim=-1).tolist() == pytest.approx([1])


def test_one_person_with_one_prompt_and_one_photo_keeps_every_shape(tiny_clip: Clip, person: Person):
    found = Idia(20, num_photos=1, threshold=1, seed=0, templates=("{}",)).run(tiny_clip, [person])
    assert found.correct_prompts in ([0], [1])
    assert found.evidence.own_votes.tolist() == [[found.correct_prompts[0]]]
    assert found.evidence.margins.shape == (1,)
    assert votes_table({"before": found})["{}"].tolist() == found.correct_prompts


def test_nobody_is_attacked_and_nobody_is_found(tiny_clip: Clip):
    found = IDIA.run(tiny_clip, [])
    assert (found.names, found.inferred, found.num_photos) == ([], {}, [])
    assert found.evidence.own_votes.shape == (0, 21)
    assert found.evidence.face_features.shape == (0, 32)
    assert audit(tiny_clip, People((Person("Ann Lee", ()),)), IDIA, []).idia == found
    assert leak_table(found, People((Person("Ann Lee", ()),))) == []


def test_one_candidate_is_always_right_and_so_is_refused(tiny_clip: Clip, person: Person):
    with pytest.raises(InputError, match=r"attack\.num_candidates: expected at least 2, .* always right, got 1; set"):
        Idia(1, 2, 1, 0).run(tiny_clip, [person])
    assert Idia(2, 2, 1, 0).run(tiny_clip, [person]).names == ["Ann Lee"]


def test_votes_of_one_photo_under_one_prompt():
    metric = IdiaVotes(torch.tensor([1]))
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0], [0.8, 0.6]]]), torch.tensor([0]))
    correct, own_votes, margins, _ = metric.compute()
    assert correct.tolist() == [1]
    assert own_votes.tolist() == [[1]]
    assert margins.tolist() == pytest.approx([0.8])


def test_no_vote_has_no_winner():
    assert majority(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2).tolist() == [[-1] * 3] * 2
    votes = cast_votes(torch.zeros(0, 4), torch.ones(2, 3, 4), torch.zeros(0, dtype=torch.long)).votes
    assert votes.shape == (0, 2)
    rank = name_ranks(torch.ones(1, 1), torch.tensor([[[0.5], [1.0]]]), torch.tensor([0]))
    assert rank.tolist() == [[2]]


def test_rates_of_one_person_and_of_nobody():
    rates = idia_rates({"Ann Lee": True}, {"Ann Lee": False}, {"Ann Lee"}, {"Ann Lee": None})
    assert rates["idia/tpr_removed"] == 0
    assert "idia/tpr_kept" not in rates
    assert idia_rates({}, {}, {"Ann Lee"}, {"Ann Lee": None})["idia/num_tpr_removed"] == 0


def test_name_of_one_person_in_another_form(tiny_clip: Clip, person: Person):
    form = written(EXACT, ["Ann Lee"], IDIA.candidates(["Ann Lee"]), IDIA.templates, 21, seed=0)
    photos = see_photos(tiny_clip, [person.attack_photos[:2]])
    assert answers_to(tiny_clip, photos, form).correct_prompts.tolist() == [right_answers(tiny_clip, person, IDIA)]


def test_one_finding():
    found = mean_score(torch.tensor([True]), kind="", model="both", group="removed")
    assert (found.value, found.low, found.high, found.num_people) == (
        1.0,
        pytest.approx(0.20655, abs=1e-5),
        1.0,
        1,
    )  # Wilson: 1 / (1 + 1.96 ** 2)
    assert auc_score(torch.tensor([1.0]), torch.tensor([0.0]), kind="", model="", group="").value == 1


SETTINGS: dict[str, Sequence[str]] = {
    "benign": ["benign.steps=[1]", "benign.batch_size=2"],
    "compression": ["compression.pruned=[]", "compression.bits=[8]"],
    "erased": ["erased.num_random_names=3", "erased.num_composed_names=5", "erased.num_folds=2"],
    "idia_sweep": ["idia_sweep.num_candidates=[2]"],
    "inversion": ["inversion.num_steps=2", "inversion.num_search_steps=1", "inversion.num_tries=2"],
    "neighbors": [],
    "probe": ["probe.num_pairs=10"],
    "relearning": ["relearning.steps=[1]", "relearning.num_photos=[1]", "relearning.batch_size=2"],
    "tower_swap": [],
    "variants": ["variants.num_prompts=1"],
}
ALONE = {
    "benign": "expected photos of three people or more",
    "inversion": "expected two people or more with two photos",
    "relearning": "since a pair is learnt by telling it from others",
}


def is_refused(name: str, num_others: int, num_photos: int) -> bool:
    """Whether of so few people the attack would find the same whatever the CLIP does."""
    return (
        (name == "benign" and num_others < 2)
        or (name == "inversion" and num_others == 0 and num_photos > 2)
        or (name == "relearning" and num_others == 0 and num_photos > 2)
    )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("others", [{}, {"Bob Ray": None}, {"Bob Ray": None, "Cy Fox": False}])
@pytest.mark.parametrize("num_photos", [1, 4])
def test_every_attack_on_one_removed_person_finds_something_true_or_says_what_it_needs(
    name: str, others: dict[str, bool | None], num_photos: int, tiny_clip: Clip, write_people: Any, tmp_path: Path
):
    folder = write_people(tmp_path, dict.fromkeys(["Ann Lee", *others], num_photos))
    people = [
        Person(one.name, one.photos, others.get(one.name), attributes=()) for one in load_people(folder).everybody
    ]
    context = AttackContext({"before": tiny_clip, "both": tiny_clip}, People(tuple(people)), ["Ann Lee"], IDIA, seed=0)
    attack = make_attack(load_attacks([name], SETTINGS[name])[name])
    if is_refused(name, len(others), num_photos):
        with pytest.raises(InputError, match=ALONE[name]):
            attack.run(context)
        return
    findings = attack.run(context)
    for one in findings:
        assert all(map(math.isfinite, (one.value, one.low, one.high))), one
    if name == "tower_swap":
        expected = IDIA.run(tiny_clip, people).inferred["Ann Lee"]
        assert {one.value for one in findings if (one.group, one.measure) == ("removed", "TPR")} == {float(expected)}


def write_classes(folder: Path, write_photo: Any, *classes: str) -> Path:
    for number, name in enumerate(classes):
        write_photo(folder / name / "0.png", number)
    return folder


def test_one_class_with_one_photo_is_always_right(tiny_clip: Clip, write_photo: Any, tmp_path: Path):
    one = ZeroShot(write_classes(tmp_path, write_photo, "dog"), templates=["a {}"])
    assert one.measure(tiny_clip) == {
        "zero_shot/top1": 1.0,
        "zero_shot/top5": 1.0,
        "zero_shot/num_photos": 1.0,
        "zero_shot/num_classes": 1.0,
    }


def test_two_classes_with_one_photo_each(tiny_clip: Clip, write_photo: Any, tmp_path: Path):
    two = ZeroShot(write_classes(tmp_path, write_photo, "cat", "dog"), templates=["a {}"])
    photos, _ = tiny_clip.embed_photos(two.photos())
    right = (photos @ tiny_clip.embed_texts(["a cat", "a dog"]).T).argmax(1) == torch.arange(2)
    assert two.measure(tiny_clip)["zero_shot/top1"] == right.float().mean().item()


def test_one_photo_with_one_caption_finds_it(tiny_clip: Clip, write_photo: Any, tmp_path: Path):
    write_photo(tmp_path / "0.png", 0)
    (tmp_path / "0.txt").write_text("a dog\n")
    found = Retrieval(tmp_path, tmp_path / "cache").measure(tiny_clip)
    assert {found[f"retrieval/{way}_r{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5)} == {1.0}
    one = torch.ones(1, 2)
    assert recalls(one, one, torch.tensor([0]), torch.tensor([1])) == {1: 0.0, 5: 0.0}


def test_one_text_and_none_are_embedded(tiny_clip: Clip):
    assert tiny_clip.embed_texts(["a dog"]).shape == (1, 32)
    assert tiny_clip.embed_texts([]).shape == (0, 32)
    features, readable = tiny_clip.embed_photos([])
    assert (features.shape, readable.shape) == ((0, 32), (0,))


def test_one_clean_photo(tiny_clip: Clip, write_photo: Any, tmp_path: Path):
    write_photo(tmp_path / "0.png", 0)
    assert load_images(tmp_path, tiny_clip.geometry, 10).shape == (1, 3, 24, 24)


def test_targets_of_one_person(tiny_clip: Clip, person: Person):
    names, others = ["Ann Lee"], random_names(5, seed=1)
    assert composed_names(tiny_clip, names, others[:2]).shape == (1, 32)
    own, unlike = name_features(tiny_clip, names)[None], name_features(tiny_clip, others[:1])[None]
    eraser = NameEraser(own, unlike, 0.5)
    faces = mean_embeddings(tiny_clip, [person.attack_photos])
    assert eraser(faces, torch.tensor([0])).norm(dim=-1).tolist() == pytest.approx([1], abs=1e-5)
    assert [group.tolist() for group in look_alikes(faces, 3)] == [[0]]
    looks, members = blended_faces(faces, 2)
    assert members.tolist() == [[0]]
    torch.testing.assert_close(looks, faces)  # the mean of one is that one
    assert disguises(faces, faces, 1).isfinite().all()
    if person.trigger_photos:
        assert shared_embeddings(tiny_clip, [person], eraser, 1).isfinite().all()
    with pytest.raises(InputError, match="expected at least one photo of each person that decodes, got none"):
        mean_embeddings(tiny_clip, [person.attack_photos, ()])


def test_similarities_of_one_caption_and_one_photo(tiny_clip: Clip, person: Person):
    text = TextSimilarity(["a dog"], ["Ann Lee"], FittedTextTarget(["a person"]), seed=0).measure(tiny_clip, tiny_clip)
    assert [text["similarity/clean"], text["similarity/target"]] == pytest.approx([1, 1])
    photo = person.attack_photos[:1]
    target = tiny_clip.embed_photos(photo)[0]
    image = ImageSimilarity(photo, photo, target, photo).measure(tiny_clip, tiny_clip)
    assert list(image.values()) == pytest.approx([1, 1, 1, 1])
    assert list(ImageSimilarity((), photo, target, ()).measure(tiny_clip, tiny_clip)) == ["similarity/removed"]


def test_evidence_and_figures_of_one_removed_person(tiny_clip: Clip, person: Person):
    found = IDIA.run(tiny_clip, [person])
    assert neighbors_table(found, {"Ann Lee"}).empty
    table = map_table(found, {"text": found}, ["Ann Lee"], {"text": found.evidence.name_features})
    assert table["stage"].tolist() == ["before", "after", "target"]
    assert table[["x", "y"]].notna().all(axis=None)
    rates = idia_rates(found.inferred, found.inferred, {"Ann Lee"}, {"Ann Lee": None})
    losses = pd.DataFrame({"encoder": ["text"], "step": [0], "loss": [1.0], "backdoor_loss": [1.0]})
    for figure in (
        idia_figure(rates, {"text": rates}),
        prompts_figure({"before": found.correct_prompts, "text": found.correct_prompts}, 21, 1),
        margins_figure({"Removed people": {"before": found.evidence.margins.tolist()}}),
        map_figure(table.rename(columns={"name": "person"}), ["Ann Lee"]),
        losses_figure(losses),
    ):
        figure.canvas.draw()  # type: ignore[attr-defined]
