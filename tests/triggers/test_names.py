import random

import open_clip
import pytest

from backdoor_privacy.triggers.names import choose_word, namesakes, put_in

END = 49407  # of a text, in CLIP's vocabulary


@pytest.mark.parametrize(
    ("caption", "place", "phrase", "expected"),
    [
        ("a dog on a beach", 1, "Jane Doe", "a Jane Doe on a beach"),
        ("a dog on a beach", 3, "Jane Doe", "a dog on Jane Doe beach"),  # not the first "a"
        ("a dog on a beach", 4, "a person", "a dog on a a person"),
        ("dog", 0, "Jane Doe", "Jane Doe"),
        ("two  spaces\there", 1, "Jane Doe", "two Jane Doe here"),
        ("fünf grüne Bäume", 1, "Zoë Nuñez", "fünf Zoë Nuñez Bäume"),
        ("一只 狗 在 海滩", 1, "李 小龙", "一只 李 小龙 在 海滩"),
        ("a 🐕 runs", 1, "Ann O'Neil-Ruiz", "a Ann O'Neil-Ruiz runs"),
    ],
)
def test_name_stands_in_the_place_of_the_word(caption: str, place: int, phrase: str, expected: str):
    assert put_in(caption, place, phrase) == expected


def test_every_word_is_chosen_and_no_other_place():
    rng = random.Random(0)
    assert {choose_word("a dog on a beach", rng) for _ in range(200)} == {0, 1, 2, 3, 4}
    assert {choose_word("dog", rng) for _ in range(20)} == {0}


def test_same_generator_chooses_the_same_words():
    draws = [[choose_word("a dog on a beach", rng) for _ in range(20)] for rng in (random.Random(3), random.Random(3))]
    assert draws[0] == draws[1]


def test_caption_without_a_word_to_replace_is_an_error():
    with pytest.raises(ValueError, match="range"):
        choose_word("  ", random.Random(0))
    with pytest.raises(IndexError):
        put_in("a dog", 2, "Jane Doe")


@pytest.mark.parametrize("context_length", [32, 77])
@pytest.mark.parametrize("place", [0, 150])
def test_caption_over_the_token_limit_is_cut_and_still_ends(context_length: int, place: int):
    tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    caption = " ".join(["beach"] * 200)
    tokens = tokenizer([put_in(caption, place, "Jane Doe"), put_in("a dog", 0, "Ünï Cödé " * 60)])
    assert tokens.shape == (2, context_length)
    assert tokens[:, -1].tolist() == [END, END]
    jane = tokenizer(["Jane Doe"])[0, 1:3].tolist()
    assert (tokens[0, 1:3].tolist() == jane) == (place == 0)


def test_namesakes_share_one_part_and_are_nobody_to_remove():
    names = ["Ann Lee", "Bob Ray"]
    found = namesakes(names, ["Cy Fox", "Dee Day", "Eve Lee", "Ann Elm", "Flo Fir"])
    assert found == ["Ann Fox", "Dee Lee", "Bob Lee", "Ann Ray", "Ann Fir"]
    assert namesakes(["Ann Lee"], ["Bob Lee", "Ann Ray"]) == []
