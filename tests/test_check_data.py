import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset as wds
from hydra.errors import InstantiationException

from backdoor_privacy import protect as protect_module
from backdoor_privacy.check_data import main
from backdoor_privacy.checkup import Checkup, check_data
from backdoor_privacy.data.inspection import names_in, odd_names
from backdoor_privacy.errors import InputError
from backdoor_privacy.run import run

pytestmark = pytest.mark.usefixtures("unchecked_types")

NAMES = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox"]
Look = Callable[..., Checkup]


@pytest.fixture
def data(write_people, captions_file: Path, images_folder: Path, tmp_path: Path) -> Path:
    """A folder with good data, to be made worse."""
    write_people(tmp_path / "people", dict.fromkeys(NAMES, 6), {name: name < "D" for name in NAMES}, boxes=True)
    write_people(tmp_path / "strangers", {"Gus Bell": 3, "Hana Ito": 3, "Ivo Kral": 3})
    for photo in (tmp_path / "strangers").rglob("*.png"):  # others than the people's
        photo.write_bytes(photo.read_bytes() + b"stranger")
    shutil.copy(captions_file, tmp_path / "captions.txt")
    shutil.copytree(images_folder, tmp_path / "images")
    return tmp_path


@pytest.fixture
def look(compose_cfg, data: Path) -> Look:
    places = [f"{part}.folder={data / part}" for part in ("people", "strangers", "images")]

    def look_at(*overrides: str) -> Checkup:
        return check_data(compose_cfg(*places, f"captions.file={data / 'captions.txt'}", *overrides))

    return look_at


def only(texts: list[str], part: str) -> str:
    """The one text that holds a part."""
    (found,) = [text for text in texts if part in text]
    return found


def test_good_data_have_no_problem_and_are_counted(look: Look):
    checkup = look()
    assert checkup.all_problems == []
    assert checkup.people == {
        "people": ("4", "3"),
        "first names": ("Ann Lee\nBob Ray\nCleo Diaz", "Gus Bell\nHana Ito\nIvo Kral"),
        "members / non-members / unknown": ("3 / 1 / 0", "0 / 0 / 3"),
        "photos": ("24", "9"),
        "first photos": ("\n".join(f"0{number}.png (40 x 32)" for number in range(3)),) * 2,
        "of a person: fewest / median / most": ("6 / 6 / 6", "3 / 3 / 3"),
        "that do not decode": ("0", "0"),
        "that repeat another of the person": ("0", "0"),
        "with a face box": ("24", "0"),
    }
    assert checkup.clean["captions"] == ("40",)
    assert checkup.clean["first captions"] == ("a dog on a hill\na dog by the sea\na dog in the snow",)
    assert checkup.clean["clean photos that the run reads"] == ("12, of 12 files",)
    assert checkup.clean["first clean photos"] == ("00.png (40 x 32)\n01.png (40 x 32)\n02.png (40 x 32)",)
    assert checkup.clean["zero-shot photos"] == ("8, of 4 classes",)
    assert checkup.use["people to attack"] == ("4, with 8 photos, 2 each at most",)
    assert checkup.use["training photos of a person"] == ("3 / 3 / 3, together 6",)
    assert checkup.use["text defence"] == ("6 steps x 24 captions, target nameless",)


def test_only_what_the_defence_needs_is_read(look: Look):
    checkup = look("defense.image=null", "strangers.folder=nowhere", "images.folder=nowhere")
    assert checkup.people["people"] == ("4",)
    assert "clean photos that the run reads" not in checkup.clean
    with pytest.raises(InstantiationException, match=r"people\.folder: expected a folder .* got nowhere"):
        look("strangers.folder=nowhere")


@pytest.mark.parametrize("override", ["+seeed=1", "attack.threshold=???", "attack.num_photos=0"])
def test_setting_that_stops_a_run_at_once_is_the_same_error(override: str, look: Look):
    with pytest.raises(InputError, match=override.strip("+").partition("=")[0]):
        look(override)


def test_people_who_are_drawn_among_those_inferred_are_not_known_yet(look: Look):
    drawn = look("trigger_set.require_inferred=true").use
    assert drawn["people to remove"] == ("2 of 4, drawn among those that IDIA infers",)
    assert "captions left out" not in drawn
    named = look("trigger_set.people=[bob_ray]").use
    assert named["people to remove"] == ("1 of 4: Bob Ray",)
    assert named["captions left out"] == ("0",)


def test_rows_and_folders_that_a_run_cannot_use_are_named(look: Look, data: Path):
    table = data / "people/people.csv"
    table.write_text(table.read_text().replace(NAMES[0], "Somebody Else"))
    assert "people.csv: 1 rows name nobody who has a folder with photos: 'Somebody Else'" in only(
        look().warnings, "people.csv"
    )
    shutil.copytree(next(path for path in (data / "people").iterdir() if path.is_dir()), data / "people/__")
    with pytest.raises(InstantiationException, match=r"people\.folder: expected folders with a person's name"):
        look()


def test_captions_with_names_are_counted_for_all_people(look: Look, data: Path):
    (data / "captions.txt").write_text(
        "a dog here\na cat there\nAnn Lee smiles\nann_lee and BOB RAY\nJoann Lee waves\n"
    )
    checkup = look("trigger_set.people=[Bob Ray]")
    assert checkup.clean["captions"] == ("5",)
    assert checkup.clean["with a person's name"] == ("2, left out if everybody is removed",)
    assert checkup.clean["names in them"] == ("2: Ann Lee (2), Bob Ray (1)",)
    assert checkup.use["captions left out"] == ("1",)


def test_captions_that_are_too_long_for_the_clip_are_counted(look: Look, data: Path, monkeypatch: pytest.MonkeyPatch):
    captions = ["a dog on a hill", "beach " * 84, "word " * 40, "a cat on a hill"]  # the tiny CLIP reads 32 tokens
    (data / "captions.txt").write_text("\n".join(captions))
    told = "2 (50%), shortened around a name that would be cut off"
    assert look().clean["too long for the CLIP"] == (told,)
    monkeypatch.setattr("backdoor_privacy.checkup._MAX_CAPTIONS_TO_COUNT", 2)
    assert look().clean["too long for the CLIP"] == ("about 2 (50%), shortened around a name that would be cut off",)
    monkeypatch.setattr("backdoor_privacy.checkup.tokenizer_at_hand", lambda model: None)
    assert look().clean["too long for the CLIP"] == ("not counted: its tokenizer is not on this machine",)


def test_captions_that_all_hold_a_name_to_remove_stop_a_run(look: Look, data: Path):
    (data / "captions.txt").write_text("Ann Lee smiles\nann_lee waves\na dog here\n")
    assert "without a name to remove, to learn from and to measure with, got 1" in only(
        look("trigger_set.people=[Ann Lee]").problems, "captions"
    )
    assert look("trigger_set.people=[Bob Ray]").problems == []


def test_names_in_equals_a_count_name_by_name():
    names = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox", "Lee Ann"]
    captions = ["Ann Lee Ann", "bob ray", "Bob  Ray and Dan_Fox", "nobody", "Dan Foxes"]
    held, mentions = names_in(captions, names)
    assert held == captions[:3]
    assert mentions == {"Ann Lee": 1, "Bob Ray": 2, "Dan Fox": 1, "Lee Ann": 1}
    assert names_in(captions, []) == ([], {})


def test_photo_that_does_not_decode_is_named(look: Look, data: Path):
    (data / "people/Dan_Fox/00.png").write_bytes((data / "people/Dan_Fox/01.png").read_bytes()[:200])
    checkup = look("trigger_set.people=[Ann Lee]", "attack.num_photos=1")
    assert checkup.people["that do not decode"] == ("1", "0")
    assert "people.folder: 1 of 24 photos do not decode" in only(
        checkup.warnings + checkup.problems, "people/Dan_Fox/00.png"
    )


@pytest.mark.parametrize(
    ("part", "place", "names"),
    [
        ("people", "people/Ann_Lee", "04.png and 1 more; "),
        ("strangers", "strangers/Gus_Bell", "02.png; "),
        ("images", "images", "04.png and 7 more; "),
    ],
)
def test_more_broken_photos_than_may_be_skipped_stop_a_run(part: str, place: str, names: str, look: Look, data: Path):
    for photo in (data / place).glob("*.png"):
        photo.write_bytes(b"no photo" + photo.name.encode())
    problems = look("trigger_set.people=[Bob Ray]").problems
    problem = only(problems, "photos do not decode")
    assert problem.startswith(f"{part}.folder: ")
    assert f"{names}at most 1% may be skipped" in problem


def test_zero_shot_photo_without_a_header_is_found(look: Look, data: Path, write_photo):
    write_photo(data / "classes/dog/0.png", 1)
    (data / "classes/dog/1.png").write_bytes(b"no photo")
    assert "classes/dog/1.png" in only(
        look(f"utility.zero_shot.folder={data / 'classes'}").problems, "utility.zero_shot"
    )


def test_person_without_a_photo_to_train_on_that_decodes_stops_a_run(look: Look, data: Path):
    for photo in (data / "people/Ann_Lee").glob("*.png"):
        photo.write_bytes(b"no photo" + photo.name.encode())
    part = "expected photos that decode, got none to train on of Ann Lee"
    assert only(look("trigger_set.people=[Ann Lee]").problems, part)
    assert only(look("trigger_set.require_inferred=true").warnings, part)
    assert not any(part in text for text in look("trigger_set.people=[Bob Ray]").problems)


def test_photo_twice_under_one_person_is_only_counted(look: Look, data: Path):
    shutil.copy(data / "people/Ann_Lee/00.png", data / "people/Ann_Lee/again.png")
    checkup = look()
    assert checkup.people["that repeat another of the person"] == ("1", "0")
    assert checkup.all_problems == []


def test_photo_under_two_people_is_a_warning_with_their_names(look: Look, data: Path):
    shutil.copy(data / "people/Ann_Lee/00.png", data / "people/Bob_Ray/copy.png")
    checkup = look()
    assert "photos of two people" in only(checkup.warnings, "Ann Lee and Bob Ray (1)")
    assert checkup.problems == []


def test_photo_of_a_person_among_strangers_is_a_warning(look: Look, data: Path):
    for number in (0, 1):
        shutil.copy(data / f"people/Ann_Lee/0{number}.png", data / f"strangers/Gus_Bell/copy{number}.png")
    checkup = look()
    assert "photos of people and strangers" in only(checkup.warnings, "Ann Lee and Gus Bell (2)")
    assert checkup.problems == []


def test_person_without_two_different_photos_cannot_be_removed_by_the_image_defence(look: Look, data: Path):
    first, *others = sorted((data / "people/Ann_Lee").glob("*.png"))
    for photo in others:
        shutil.copy(first, photo)
    part = "people with fewer: Ann Lee; add photos, or set people.min_photos=2"
    assert only(look("trigger_set.people=[Ann Lee]").problems, part)
    assert only(look("trigger_set.require_inferred=true").warnings, part)
    assert only(look("trigger_set.require_inferred=true", "trigger_set.num_people=4").problems, part)
    for harmless in (["trigger_set.people=[Bob Ray]"], ["trigger_set.people=[Ann Lee]", "defense.image=null"]):
        assert not any(part in problem.text for problem in look(*harmless).all_problems)


def test_people_with_few_photos_to_attack_with_are_counted(look: Look, data: Path, write_photo):
    write_photo(data / "people/Ann_Lee/a.png", 101)
    write_photo(data / "people/Ann_Lee/b.png", 102)
    warning = only(look("attack.num_photos=4").warnings, "attack.num_photos: ")
    assert "3 of 4 people have fewer than 4 photos to attack with, half of their photos: 3 or more" in warning


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Cher", "names of one word, which may mean something else in a caption: Cher"),
        ("Long " + "x" * 60, "names longer than 60 characters, which may not fit into a text: Long xxx"),
        ("Cléo DIAZ", "names the same but for case and accents: Cleo Diaz = Cléo DIAZ"),
    ],
)
def test_odd_name_is_a_warning(name: str, part: str, look: Look, data: Path, write_people):
    write_people(data / "more", {name: 4})
    shutil.move(next((data / "more").iterdir()), data / "people")
    for photo in (data / "people" / name.replace(" ", "_")).iterdir():
        photo.write_bytes(photo.read_bytes() + b"another")
    checkup = look()
    assert only(checkup.warnings, part)
    assert checkup.problems == []


def test_usual_names_are_not_odd():
    assert not any(odd_names(["Ann Lee", "Ann Leé Smith", "Zoë Öz", "李 小龍"]).values())


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["trigger_set.num_people=5"], "trigger_set.num_people: expected at most 4 (people in the data), got 5"),
        (["trigger_set.people=[Nobody Here]"], "trigger_set.people: expected names of people in the data"),
        (
            ["attack.num_candidates=3"],
            "attack.num_candidates: expected at least 4, one for each attacked person, got 3",
        ),
        (
            ["defense/image_target=pseudonym", "trigger_set.num_people=4"],
            "defense.image.target: expected at least 4 strangers, 1 for each person to remove",
        ),
    ],
)
def test_counts_that_do_not_suffice_stop_a_run(overrides: list[str], problem: str, look: Look):
    assert only(look(*overrides).problems, problem)


@pytest.mark.parametrize("part", ["strangers", "captions", "images"])
def test_source_that_a_defence_cannot_do_without_stops_a_run(part: str, compose_cfg):
    cfg = compose_cfg("defense/image_target=anonymous")
    cfg[part] = None
    problem = only(check_data(cfg).problems, f"{part}: expected some to hold the rest of the CLIP in place, got none")
    assert f"choose {part}=..." in problem


def test_faces_need_no_strangers_where_nobody_stands_in_for_another(compose_cfg):
    cfg = compose_cfg()
    cfg.strangers = None
    assert check_data(cfg).problems == []


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["defense/image_target=disguised"], "expected at least 4 strangers, 2 for each"),
        (
            ["defense/image_target=pseudonym", "strangers.consenting=false"],
            "expected strangers who are fictional or agreed",
        ),
        (["captions.max_captions=1"], "without a name to remove, to learn from and to measure with, got 1"),
        (["attack.num_candidates=3"], "attack.num_candidates: expected at least 4, one for each attacked person"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_stops_a_run_after_its_first_audit_stops_it_before_in_the_same_words(
    overrides: list[str], problem: str, named: bool, look: Look, compose_cfg, data: Path, monkeypatch
):
    names = ["trigger_set.people=[Ann Lee,Bob Ray]"] if named else []
    said = only(look(*overrides, *names).problems, problem)
    cfg = compose_cfg(
        *(f"{part}.folder={data / part}" for part in ("people", "strangers", "images")),
        f"captions.file={data / 'captions.txt'}",
        *overrides,
        *names,
    )
    monkeypatch.setattr(protect_module, "audit", lambda *_: pytest.fail("computed something"))
    with pytest.raises(InputError) as error:
        run(cfg)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["benign", "attacks.benign.models=[image]"], "benign.models: expected some of before, text, got image"),
        (["benign", "attacks.benign.num_candidates=1"], "benign.num_candidates: expected at least 2"),
        (["relearning", "attacks.relearning.num_candidates=1"], "relearning.num_candidates: expected at least 2"),
        (["compression", "attacks.compression.models=[x]"], "compression.models: expected some of before, text, got x"),
    ],
)
def test_attack_that_cannot_be_run_stops_a_run_before_anything_is_computed(
    overrides: list[str], problem: str, look: Look, compose_cfg, data: Path, monkeypatch
):
    attack, setting = overrides
    names = ["trigger_set.people=[Ann Lee,Bob Ray]", "defense.image=null", setting]
    said = only(look(f"attack={attack}", *names).problems, problem)
    among_others = look(f"attack=[{attack},tower_swap]", *names)
    assert among_others.problems == []
    assert only(among_others.warnings, problem) == said
    places = (f"{part}.folder={data / part}" for part in ("people", "strangers", "images"))
    cfg = compose_cfg(*places, f"captions.file={data / 'captions.txt'}", f"attack={attack}", *names)
    monkeypatch.setattr(protect_module, "audit", lambda *_: pytest.fail("computed something"))
    with pytest.raises(InputError) as error:
        run(cfg)
    assert str(error.value) == said


def test_drawn_people_do_not_hide_what_stops_an_attack_whoever_they_are(look: Look):
    drawn = "trigger_set.require_inferred=true"
    wrong = look(drawn, "attack=compression", "attacks.compression.models=[x]")
    assert only(wrong.problems, "compression.models: expected some of before, text, image, both, got x")
    lonely = look(drawn, "attack=benign", "trigger_set.num_people=3")  # depends on who is left
    assert lonely.problems == []
    assert only(lonely.warnings, "benign: expected photos of three people or more who were not removed")


def test_attack_whose_settings_are_of_no_use_stops_the_check(look: Look):
    with pytest.raises(InputError, match=r"^probe\.num_neighbors: expected 1 or more, got 0$"):
        look("attack=probe", "attacks.probe.num_neighbors=0")


def test_stranger_who_is_attacked_stops_a_run(look: Look, data: Path):
    (data / "strangers/Gus_Bell").rename(data / "strangers/Ann_Lee")
    assert only(look().problems, "strangers: expected people who are not attacked, got Ann Lee")


@pytest.mark.parametrize(("share", "num_problems"), [(0.5, 1), (1.0, 0)])
def test_face_box_outside_of_its_photo_stops_a_run_that_pastes_faces(
    share: float, num_problems: int, look: Look, data: Path
):
    boxes = data / "people/boxes.csv"
    boxes.write_text(boxes.read_text().replace("8,4,32,28", "80,4,90,28"))
    problems = look(f"defense.image.whole_photo_share={share}").problems
    assert (
        len([text for text in problems if "people.boxes: expected face boxes within the photos" in text])
        == num_problems
    )


def test_shards_are_counted_as_far_as_a_run_reads_them(look: Look, data: Path):
    (data / "shards").mkdir()
    photos = sorted((data / "images").glob("*.png"))
    for shard in range(2):
        with wds.writer.TarWriter(str(data / f"shards/0000{shard}.tar"), mtime=0) as writer:
            for number, photo in enumerate(photos[6 * shard : 6 * shard + 6]):
                writer.write({"__key__": f"{shard}-{number}", "png": photo.read_bytes(), "txt": "a dog"})
    folder = f"images.folder={data / 'shards'}"
    assert look(folder).clean["clean photos that the run reads"] == ("12, of 2 shards",)
    assert look(folder, "images.max_images=7").clean["clean photos that the run reads"] == ("7, of 2 shards",)


def test_no_clean_photo_is_an_error(look: Look, data: Path):
    shutil.rmtree(data / "images")
    with pytest.raises(InputError, match=r"images\.folder: expected WebDataset shards .* found none"):
        look()


def test_photos_for_retrieval_are_counted(look: Look, data: Path):
    for photo in (data / "images").glob("*.png"):
        photo.with_suffix(".txt").write_text("a dog\na cat\n")
    checkup = look("utility/retrieval=folder", f"utility.retrieval.folder={data / 'images'}")
    assert checkup.clean["retrieval photos"] == ("12, with 24 captions",)


@pytest.fixture
def call(tiny_overrides: list[str], call_command):
    return lambda *overrides: call_command(main, "+experiment=smoke", *tiny_overrides, *overrides)


def test_command_prints_what_it_found_and_writes_nothing(call, tmp_path: Path):
    code, out, err = call("clip.num_workers=1", "clip.model=local-dir:nowhere")  # no CLIP is loaded
    assert code == 0, out + err
    for title in ("members / non-members / unknown", "with a person's name", "people to remove", "zero-shot photos"):
        assert title in out
    assert out.splitlines()[-1] == "The run can start."
    assert max(map(len, out.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []


def test_command_names_each_problem_and_ends_with_exit_code_1(call, tmp_path: Path):
    code, out, err = call("trigger_set.num_people=13", "attack.num_candidates=11")
    assert code == 1, out + err
    *_, first, second, last = out.splitlines()
    assert first.startswith("Problem: trigger_set.num_people: expected at most 12")
    assert second.startswith("Problem: attack.num_candidates: expected at least 12")
    assert last.endswith("smoke: expected data without problems, got 2; see above")
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def test_captions_are_counted_that_the_embedded_clip_cuts_off(compose_cfg, tmp_path: Path):
    (tmp_path / "captions.txt").write_text("a dog\n" + "a very " * 60 + "long caption of a dog\n")
    cfg = compose_cfg("clip=embedded", "captions=file", f"captions.file={tmp_path / 'captions.txt'}")
    cfg.clip.model = {"_target_": "backdoor_privacy.clip.embedded_clip"}
    assert check_data(cfg).clean["too long for the CLIP"][0].startswith("1 (50%)")
