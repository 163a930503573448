import random

import open_clip
import pytest

from backdoor_privacy.triggers.names import (
    Spot,
    choose_word,
    may_be_cut,
    namesakes,
    put_in,
    read_to_the_end,
    shortened,
)

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


# Captions that are too long


def test_text_is_read_to_its_end_up_to_the_context():
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    texts = ["beach", "a b c d e", "a b c d e f", "a b c d e f g", ""]
    assert read_to_the_end(texts, tokenizer) == [True, True, False, False, True]  # six words fill it up
    assert may_be_cut(tokenizer(texts), tokenizer).tolist() == [False, True, True, True, False]
    assert read_to_the_end([], tokenizer) == []


LONG = " ".join(f"w{number}" for number in range(84))  # of two tokens or more each


@pytest.mark.parametrize("context_length", [16, 32, 77])
@pytest.mark.parametrize("place", [0, 1, 7, 40, 82, 83])
def test_long_caption_keeps_the_words_around_the_name(context_length: int, place: int):
    tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    pair = ("Jane Doe", "a person")
    (short,) = shortened([Spot(LONG, place)], [pair], tokenizer)
    if short.caption == LONG:  # nothing was cut off: it stays as it is
        begun = [put_in(" ".join(LONG.split()[: place + 1]), place, phrase) for phrase in pair]
        assert all(read_to_the_end(begun, tokenizer))
        return
    words, own = LONG.split(), short.caption.split()
    start = words.index(own[0])
    assert own == words[start : start + len(own)]
    assert own[short.place] == words[place]
    texts = [put_in(*short, phrase) for phrase in pair]
    assert all(read_to_the_end(texts, tokenizer))
    assert texts[0].split("Jane Doe") == texts[1].split("a person")
    wider = Spot(LONG, place).near(max(short.place, len(own) - short.place - 1) + 1)
    assert wider.caption == short.caption or not all(
        read_to_the_end([put_in(*wider, phrase) for phrase in pair], tokenizer)
    )


def test_caption_is_cut_as_the_longer_of_its_phrases_needs():
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    caption = " ".join(["beach"] * 11)
    spots, long = [Spot(caption, 10)] * 2, "a phrase of five words"
    same, short = shortened(spots, [("Ann", "a person"), ("Ann", long)], tokenizer)
    assert same == spots[0]
    assert short != same
    assert read_to_the_end([put_in(*short, long)], tokenizer) == [True]


def test_name_alone_is_what_is_left_where_there_is_no_more_room():
    tokenizer = open_clip.SimpleTokenizer(context_length=5)
    assert shortened([Spot("one two three four five", 4)], [("Jane Doe",)], tokenizer) == [Spot("five", 0)]
    assert shortened([], [], tokenizer) == []


def test_part_of_a_caption_has_the_same_place():
    spot = Spot("a b c d e", 3)
    assert [spot.near(size) for size in (0, 1, 3, 9)] == [Spot("d", 0), Spot("c d e", 1), spot, spot]
