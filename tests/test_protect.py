import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.scores import RANDOM
from backdoor_privacy.attacks.tower_swap import TowerSwap
from backdoor_privacy.attacks.variants import NameVariants
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Trainer, TriggerSet, load_trainer
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.targets.base import ImageTarget
from backdoor_privacy.defenses.backdoor.targets.image import Anonymous, Nameless
from backdoor_privacy.defenses.backdoor.terms import Adversarial
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import Protected, protect
from backdoor_privacy.run import run
from backdoor_privacy.runs.folder import write_people as write_people_table
from backdoor_privacy.system import reading
from backdoor_privacy.utility.zero_shot import ZeroShot

BATCH = {"clean": 4, "triggered": 4, "preserved": 4}
ATTACK = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
ODD_NAMES = ["Madonna", "李小龍", "Sinéad O'Connor", "Jean-Luc Picard"]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return load_trainer(progress_bar=False, accelerator="cpu", precision="32-true", num_workers=0)


@pytest.fixture(scope="module")
def defense() -> Mapping[str, Defense]:
    """Both defences, of few steps."""
    common = {"num_steps": 2, "num_fresh_steps": None, "batch": BATCH, "num_other_names": 5, "num_anchors": 8}
    return load_defense("both", text=common, image={**common, "trained": ["visual.transformer"]})


@pytest.fixture(scope="module")
def sources(people: People, write_people: Any, images_folder: Path, captions_file: Path, tmp_path_factory) -> Sources:
    folder = tmp_path_factory.mktemp("strangers")
    write_people(folder, {"Gus Orr": 2, "Hal Poe": 2, "Ida Rao": 2}, boxes=True)
    captions = captions_file.read_text().splitlines()
    return Sources(people, captions, images_folder, max_images=12, strangers=load_people(folder))


@pytest.fixture(scope="module")
def forget(
    tiny_clip: Clip, sources: Sources, defense: Mapping[str, Defense], trainer: Trainer
) -> Callable[..., Protected]:
    """Remove people by name, whether or not the tiny CLIP knows them."""

    def forget_them(names: list[str], **changes: Any) -> Protected:
        settings: dict[str, Any] = {"defense": defense, "attack": ATTACK, "trainer": trainer, "max_held_out": 5}
        settings |= {"clip": tiny_clip, "sources": sources, **changes}
        return protect(remove=TriggerSet(people=names, require_inferred=False), **settings)

    return forget_them


@pytest.fixture(scope="module")
def protected(forget: Callable[..., Protected]) -> Protected:
    return forget(["Ann Lee", "bob_ray"])


def test_clip_and_data_in_defended_clip_and_audit_out(protected: Protected, tiny_clip: Clip, people: People):
    assert list(protected.models) == list(protected.after) == ["text", "image", "both"]
    assert [person.name for person in protected.removed] == ["Ann Lee", "Bob Ray"]
    assert protected.clip is protected.models["both"]
    assert list(protected.rates) == ["before", "text", "image", "both"]
    assert protected.before.idia == ATTACK.run(tiny_clip, people.everybody)
    assert protected.after["both"].idia == ATTACK.run(protected.clip, people.everybody)
    assert all(0 <= rates["idia/tpr_removed"] <= 1 for rates in protected.rates.values())
    assert protected.rates["both"]["idia/num_fpr"] == 2
    texts, images = (
        {name: getattr(one, side).tensors() for name, one in {"before": tiny_clip, **protected.models}.items()}
        for side in ("text", "image")
    )

    def differ(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
        return not all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    assert differ(texts["text"], texts["before"])
    assert differ(images["image"], images["before"])
    assert not differ(images["text"], images["before"])
    assert not differ(texts["image"], texts["before"])
    assert not differ(texts["both"], texts["text"])
    assert not differ(images["both"], images["image"])


def test_clip_that_is_protected_is_left_as_it_is(
    forget: Callable[..., Protected], tiny_clip_folder: Path, people: People
):
    clip = load_clip(f"local-dir:{tiny_clip_folder}")
    digest = clip.sha256()
    done = forget(["Ann Lee"], clip=clip)
    assert clip.sha256() == digest == load_clip(f"local-dir:{tiny_clip_folder}").sha256() != done.clip.sha256()
    assert not clip.text.training
    assert all(not parameter.requires_grad for parameter in clip.text.parameters())


def test_photo_is_read_once_to_hash_and_once_to_decode(
    forget: Callable[..., Protected],
    tiny_clip_folder: Path,
    sources: Sources,
    defense: Mapping[str, Defense],
    write_people: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    num_reads: Counter[Path] = Counter()
    open_file = reading.os.open

    def count_and_open(path: Any, *arguments: Any, **keywords: Any) -> int:
        num_reads[Path(path)] += 1
        return open_file(path, *arguments, **keywords)

    write_people(tmp_path / "people", dict.fromkeys(["Ann Lee", "Bob Ray"], 6), boxes=True)
    clip = load_clip(f"local-dir:{tiny_clip_folder}")
    clip.keep_features(tmp_path / "features")
    monkeypatch.setattr(reading.os, "open", count_and_open)
    people = load_people(tmp_path / "people")
    forget(["Ann Lee"], clip=clip, sources=replace(sources, people=people), defense={"image": defense["image"]})
    assert {num_reads[path] for person in people.everybody for path in person.attack_photos[: ATTACK.num_photos]} == {2}
    ann, bob = people.everybody
    assert {num_reads[path] for path in bob.trigger_photos} == {1}  # only to hash
    assert {num_reads[path] for path in ann.trigger_photos} == {2}


def test_same_seed_gives_the_same_clip(forget: Callable[..., Protected], protected: Protected):
    again = forget(["Ann Lee", "Bob Ray"])
    assert again.clip.sha256() == protected.clip.sha256()
    assert again.rates == protected.rates
    assert forget(["Ann Lee", "Bob Ray"], seed=1).clip.sha256() != protected.clip.sha256()


def test_measures_are_taken_of_every_model(
    forget: Callable[..., Protected], tiny_clip: Clip, defense: Mapping[str, Defense], write_photo: Any, tmp_path: Path
):
    for number, name in enumerate(("a dog", "a cat")):
        write_photo(tmp_path / name / "0.png", number)
    zero_shot = ZeroShot(tmp_path, templates=["{}"])
    done = forget(
        ["Ann Lee"], defense={"image": defense["image"]}, measures=[zero_shot], clean_photos=zero_shot.photos()
    )
    assert list(done.models) == ["image"]
    assert done.before.utility == zero_shot.measure(tiny_clip)
    assert done.rates["image"]["zero_shot/top1"] == zero_shot.measure(done.clip)["zero_shot/top1"]
    assert "similarity/clean" in done.rates["image"]


@pytest.mark.slow
def test_python_gives_the_results_of_the_command(compose_cfg: Any, tiny_clip_folder: Path):
    cfg = compose_cfg("utility.zero_shot=null")
    metrics = run(cfg)
    batch = {"clean": 8, "triggered": 8, "preserved": 8}
    sources = Sources(
        people=instantiate(cfg.people),
        captions=instantiate(cfg.captions),
        images=instantiate(cfg.images).folder,
        max_images=cfg.images.max_images,
        strangers=instantiate(cfg.strangers),
    )
    done = protect(
        load_clip(f"local-dir:{tiny_clip_folder}", precision="auto"),
        sources,
        TriggerSet(num_people=2, require_inferred=False),
        load_defense(
            "both",
            text={"num_steps": 6, "batch": batch, "num_other_names": 50},
            image={
                **{"num_steps": 4, "batch": batch, "num_other_names": 50, "num_anchors": 64},
                "trained": ["visual.transformer"],
            },
        ),
        attack=Idia(num_candidates=30, num_photos=2, threshold=1, seed=0),
        trainer=load_trainer(progress_bar=False, accelerator="cpu", precision="32-true", num_workers=0),
        max_held_out=20,
    )
    assert done.clip.sha256() == metrics["weights_sha256"]["after"]
    assert done.rates == {"before": metrics["before"], **metrics["after"]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_every_kind_are_removed(
    name: str, forget: Callable[..., Protected], sources: Sources, write_people: Any, tmp_path: Path
):
    people = load_people(write_people(tmp_path, {name: 6, "Ann Lee": 6, "Bob Ray": 6}, boxes=True))
    done = forget([name], sources=replace(sources, people=people))
    assert [person.name for person in done.removed] == [name]
    assert done.rates["both"]["idia/num_tpr_removed"] == 1
    assert done.after["both"].idia.names == people.names
    texts = [name, f"a photo of {name}"]
    before, after = (one.embed_texts(texts) for one in (done.models["image"], done.clip))
    assert not torch.allclose(before, after, atol=1e-6)
    done.clip.save(tmp_path / "saved")
    assert load_clip(f"local-dir:{tmp_path / 'saved'}").sha256() == done.clip.sha256()


def test_name_that_is_not_read_to_its_end_is_an_error_before_anything_is_attacked(
    forget: Callable[..., Protected], sources: Sources, write_people: Any, tmp_path: Path, monkeypatch
):
    name = "Wolfeschlegelsteinhausenbergerdorff " * 4
    people = load_people(write_people(tmp_path, {name: 2, "Ann Lee": 2}))
    monkeypatch.setattr(Idia, "run", lambda *_: pytest.fail("attacked"))
    with pytest.raises(InputError, match=r"^trigger_set: expected names that fit into the 32 tokens") as caught:
        forget([name.strip()], sources=replace(sources, people=people))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"expected names of people in the data .* got 'Nobody'"):
        forget(["Nobody"])


@pytest.mark.parametrize("encoder", ["text", "image"])
def test_layers_that_are_not_there_are_an_error_before_anything_is_attacked(
    encoder: str, forget: Callable[..., Protected], defense: Mapping[str, Defense], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Idia, "run", lambda *_: pytest.fail("attacked"))
    settings: Any = defense[encoder]
    for changes, expected in (
        ({"trained": None, "trained_blocks": 3}, "expected `trained_blocks` from 1 to 2, got 3"),
        ({"trained": ["nothing"]}, r"expected prefixes of names of tensors in `trained`, .* got nothing"),
        ({"trained": ["visual"], "trained_blocks": 1}, "expected either `trained` or `trained_blocks`, got both"),
    ):
        with pytest.raises(InputError, match=f"^defense: {expected}"):
            forget(["Ann Lee"], defense={**defense, encoder: replace(settings, **changes)})


def test_nothing_to_defend_is_an_error(forget: Callable[..., Protected]):
    with pytest.raises(InputError, match="defense: expected a method that removes people, got none"):
        forget(["Ann Lee"], defense={})
    with pytest.raises(InputError, match=r"^defense: expected one of both, .*, got no_such"):
        forget(["Ann Lee"], defense="no_such")


@pytest.mark.parametrize(
    ("part", "target"), [("captions", Nameless()), ("images", Nameless()), ("strangers", Anonymous())]
)
def test_data_that_the_defence_needs_is_asked_for(
    part: str, target: ImageTarget, forget: Callable[..., Protected], sources: Sources, defense: Mapping[str, Defense]
):
    image = replace(defense["image"], target=target)
    with pytest.raises(InputError, match=f"^{part}: expected some to hold .*, got none"):
        forget(["Ann Lee"], sources=replace(sources, **{part: None}), defense={**defense, "image": image})


def test_faces_are_removed_without_anybody_else(forget: Callable[..., Protected], sources: Sources, caplog: Any):
    done = forget(["Ann Lee"], sources=replace(sources, strangers=None))
    assert "no other face is held in place" in caplog.text
    assert "similarity/removed" in done.rates["image"]
    assert "similarity/target" not in done.rates["image"]  # nobody else's mean photo to compare
    assert done.defended["image"].encoders["image"].tensors().keys() == done.models["image"].image.tensors().keys()


SCRIPT = """
import sys
sys.modules["hydra"] = sys.modules["wandb"] = None  # as if they were not installed
import torch
torch.set_num_threads(1)
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.protect import protect
from backdoor_privacy.config.schema import TriggerSet, load_trainer
from backdoor_privacy.defenses.loading import load_defense

clip_folder, people_folder, captions_file, saved = sys.argv[1:]
clip = load_clip(f"local-dir:{clip_folder}")
sources = Sources(load_people(people_folder), captions=load_captions(captions_file))
defense = load_defense(
    "text_published", text={"num_steps": 2, "batch": {"clean": 4, "triggered": 4, "preserved": 0}, "num_other_names": 5}
)
trainer = load_trainer(progress_bar=False, accelerator="cpu", precision="32-true", num_workers=0)
attack = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
done = protect(
    clip, sources, TriggerSet(people=["Ann Lee"], require_inferred=False), defense, attack=attack, trainer=trainer
)
done.clip.save(__import__("pathlib").Path(saved))
print(done.rates["text"]["idia/num_tpr_removed"], [name for name in sys.modules if name.startswith(("hydra", "wandb"))])
"""


@pytest.mark.slow
def test_hydra_and_wandb_are_not_needed(tiny_clip_folder: Path, people: People, captions_file: Path, tmp_path: Path):
    folder = people.everybody[0].photos[0].parents[1]
    places = [str(place) for place in (tiny_clip_folder, folder, captions_file, tmp_path / "saved")]
    command = [sys.executable, "-c", SCRIPT, *places]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert output.stdout.splitlines()[-1] == "1.0 ['hydra', 'wandb']"  # the two that are not there
    assert load_clip(f"local-dir:{tmp_path / 'saved'}").sha256() != load_clip(f"local-dir:{tiny_clip_folder}").sha256()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]  # it leaves nothing behind


def test_adversarial_loss_of_faces_is_an_error(forget: Callable[..., Protected], defense: Mapping[str, Defense]):
    image: Any = defense["image"]
    terms = {**image.terms, "adversarial": Adversarial(0.5)}
    with pytest.raises(InputError, match=r"expected 0, since it is a loss of names, got 0\.5"):
        forget(["Ann Lee"], defense={**defense, "image": replace(image, terms=terms)})


@pytest.fixture
def hidden(tmp_path: Path, write_people: Any, monkeypatch: pytest.MonkeyPatch) -> People:
    """Four people; of Bob Ray all photos decode that train, and none that attacks see."""
    monkeypatch.setattr("backdoor_privacy.data.photos.MAX_UNREADABLE_SHARE", 0.5)
    folder = tmp_path / "people"
    write_people(folder, dict.fromkeys(["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox"], 6), {"Dan Fox": False})
    broken = sorted((folder / "Bob_Ray").iterdir())[:3]
    for salt in count():  # which half a photo is in depends on its content
        for photo in broken:
            photo.write_bytes(f"no photo {photo.name} {salt}".encode())
        people = load_people(folder)
        if set(people.pick(["Bob Ray"])[0].attack_photos) == set(broken):
            return people
    raise AssertionError


def test_person_of_one_photo_is_refused_and_told_only_where_the_user_named_them(
    tiny_clip: Clip, sources: Sources, forget: Callable[..., Protected], write_people: Any, tmp_path: Path
):
    few = replace(sources, people=load_people(write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 2}, boxes=True)))
    part = "people.folder: expected two different photos or more of each person to remove, one to train on and one to"
    with pytest.raises(InputError, match=rf"{part} attack, got 1 of 1 people with fewer: Ann Lee; add photos"):
        forget(["Ann Lee"], sources=few)
    drawn = TriggerSet(num_people=2, require_inferred=False)
    with pytest.raises(InputError, match=rf"{part} attack, got 1 of 2 people with fewer; add photos"):
        protect(tiny_clip, few, drawn, "image", attack=ATTACK)


def test_people_whose_photos_cannot_be_read_are_not_measured(
    forget: Callable[..., Protected], sources: Sources, hidden: People, tiny_clip: Clip, tmp_path: Path
):
    # It counts what did not decode.
    tiny_clip = tiny_clip.with_encoders(text=tiny_clip.text.copy(), image=tiny_clip.image.copy())
    done = forget(["Ann Lee", "Bob Ray"], clip=tiny_clip, sources=replace(sources, people=hidden))
    assert {rates["idia/num_tpr_removed"] for rates in done.rates.values()} == {1}
    assert {rates["idia/num_null"] for rates in done.rates.values()} == {1}
    assert done.rates["both"]["idia/num_wrongly_unlearned"] + done.rates["both"]["idia/num_newly_recalled"] == 2
    removed, after = hidden.pick(["Ann Lee", "Bob Ray"]), done.after["both"].idia
    context = AttackContext({"before": tiny_clip, **done.models}, hidden, ["Ann Lee", "Bob Ray"], ATTACK, 0)
    findings = [*TowerSwap().run(context), *NameVariants(num_prompts=2).run(context)]
    findings += context.idia_scores(tiny_clip, kind="plain", model="before")
    assert {one.num_people for one in findings if one.group in ("removed", RANDOM)} == {1}
    write_people_table(tmp_path, hidden.everybody, removed, done.before.idia, {"both": after})
    table = pd.read_csv(tmp_path / "people.csv", index_col="name")
    assert table.loc["Bob Ray", "num_photos"] == 0
    assert table.loc["Bob Ray"].filter(like="inferred").isna().all()
    assert table.loc["Ann Lee"].filter(like="inferred").notna().all()
