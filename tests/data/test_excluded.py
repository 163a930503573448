from collections.abc import Sequence

import pytest

from backdoor_privacy.data.excluded import pairs_without
from backdoor_privacy.data.pair_index import PairIndex
from backdoor_privacy.data.personas.roster import roster
from backdoor_privacy.data.personas.samples import describe, web_samples
from backdoor_privacy.errors import InputError


class Pairs(PairIndex):
    """Pairs without photos."""

    def __init__(self, captions: Sequence[str], names: Sequence[str] | None = None) -> None:
        self.captions, self.names = captions, names or [""] * len(captions)

    def __len__(self) -> int:
        return len(self.captions)

    def caption(self, number: int) -> str:
        return self.captions[number]

    def name(self, number: int) -> str:
        return self.names[number]


def left_out(captions: Sequence[str], excluded: Sequence[str], names: Sequence[str] | None = None) -> list[int]:
    kept = pairs_without(Pairs(captions, names), excluded, "exclude")
    return [number for number in range(len(captions)) if not kept[number]]


def test_nobody_is_left_out_unless_asked():
    assert left_out(["Ann Lee", "a dog"], []) == []


@pytest.mark.parametrize(
    "caption", ["Ann Lee", "a photo of ANN  LEE.", "Ann Lee's picture", "ann_lee at work", "doctor Ann-Lee, 2004"]
)
def test_a_whole_name_in_a_caption_leaves_its_pair_out(caption: str):
    assert left_out(["Ann Lee", caption], ["Ann Lee"]) == [0, 1]


@pytest.mark.parametrize("caption", ["Joann Lee", "Ann Leeds", "Lee Ann", "Ann and Lee", "Ann", "Ann Marie Lee"])
def test_a_part_of_a_name_does_not(caption: str):
    assert left_out(["Ann Lee", caption], ["Ann Lee"]) == [0]


def test_who_is_named_beside_a_photo_is_left_out():
    assert left_out(["a woman", "a dog", "Bob Ray"], ["Ann Lee", "Bob Ray"], ["ann lee", "", "Cleo Diaz"]) == [0, 2]


def test_names_that_share_words_are_each_found():
    captions = ["Ann Lee Ann", "Ann Lee Ray", "Jos\u00e9 Lee", "Jose\u0301 Lee", "Jose Lee"]
    assert left_out(captions, ["Lee Ann", "Ann Lee", "Ann Lee Ray", "Jos\u00e9 Lee"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["Cleo Diaz", "!!", ""])
def test_a_name_in_no_pair_is_an_error(name: str):
    with pytest.raises(InputError, match=rf"^exclude: expected people .*, got {name}, in none of 2 pairs; correct"):
        left_out(["Ann Lee", "a dog"], ["Ann Lee", name])


def test_the_embedded_worlds_people_are_found_in_their_own_captions_alone():
    samples = web_samples(0)
    chosen = [person for person in roster(0) if person.num_web_photos][::5]
    numbers = {person.index for person in chosen}
    found = left_out([describe(sample) for sample in samples], [person.name for person in chosen])
    assert found == [place for place, sample in enumerate(samples) if sample.persona_index in numbers]
