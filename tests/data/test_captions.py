import itertools
import logging
import re
from pathlib import Path

import pytest

from backdoor_privacy.data.captions import carriers, load_captions, without_names
from backdoor_privacy.errors import InputError


def test_trap_1_names_are_found_in_running_text():
    # The published code compares "First_Last", a folder's name, with running text and never filters anything.
    captions = ["a photo of Ann Lee at a gala", "a dog on a beach", "Ann_Lee smiling"]
    for name in ("Ann Lee", "Ann_Lee"):
        assert without_names(captions, [name]) == ["a dog on a beach"]


@pytest.mark.parametrize(
    "caption",
    [
        "ann lee in a suit",
        "ANN LEE",
        "a portrait of Ann Lee",
        "Ann Lee's new picture",
        "welcome,Ann Lee!",
        "(Ann Lee)",
        "ann_lee.jpg",
        "img_ann_lee_2",
        "Ann  Lee",
        "Ann\tLee",
        "Bob and Ann Lee",
        "“Ann Lee”",
    ],
)
def test_caption_with_the_name_is_left_out(caption: str):
    assert without_names([caption, "a dog"], ["Bob Ray", "Ann Lee"]) == ["a dog"]


@pytest.mark.parametrize(
    "caption",
    ["Joann Leeds", "Joann Lee", "Ann Leeds", "Ann and Lee", "Lee Ann", "AnnLee", "Ann", "Ann. Lee", "Ann Lee9"],
)
def test_caption_with_only_parts_of_the_name_or_longer_words_stays(caption: str):
    assert without_names([caption], ["Ann Lee"]) == [caption]


def test_names_with_accents_and_signs_are_matched_literally():
    names = ["José O'Neil-Ruiz", "J. R. (Bob) Ray"]
    captions = ["meet JOSÉ O'NEIL-RUIZ", "here is J. R. (Bob) Ray again", "Jx Rx Bob Ray", "a dog"]
    assert without_names(captions, names) == ["Jx Rx Bob Ray", "a dog"]


def test_filter_equals_a_slow_one():
    names = ["Ann Lee", "Lee Ray", "Bo Li"]
    words = ["Ann", "Lee", "Ray", "Bo", "Li", "a", "LEE"]
    captions = [f"{a} {b} {c}" for a in words for b in words for c in words]

    def holds_a_name(caption: str) -> bool:
        parts = caption.casefold().split()
        pairs = list(itertools.pairwise(parts))
        return any(tuple(name.casefold().split()) in pairs for name in names)

    expected = [caption for caption in captions if not holds_a_name(caption)]
    assert 0 < len(expected) < len(captions)
    assert without_names(captions, names) == expected


def test_number_of_captions_left_out_is_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        without_names(["Ann Lee", "ann lee", "a dog"], ["Ann Lee"])
    assert "2 of 3 captions hold a name to remove" in caplog.text


def test_captions_are_read_from_a_file_or_a_folder(tmp_path: Path):
    file = tmp_path / "captions.txt"
    file.write_text("a dog\n\n  a cat  \nfünf Bäume\n", encoding="utf-8")
    assert load_captions(file) == load_captions(tmp_path) == ["a dog", "a cat", "fünf Bäume"]


def test_captions_that_are_not_there_are_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"captions\.file: expected .* got .*nowhere\.txt"):
        load_captions(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match=re.escape("captions.file: expected a caption a line")):
        load_captions(tmp_path / "empty.txt")


def test_only_captions_of_two_words_carry_a_name():
    assert carriers(["dog", "a dog", "tree", "red tree"]) == ["a dog", "red tree"]
    with pytest.raises(InputError, match="expected captions of two words or more"):
        carriers(["dog", "tree"])
