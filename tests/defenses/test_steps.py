from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.photos import cut_to, read_photo
from backdoor_privacy.defenses.backdoor import photo_steps
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.photo_steps import PhotoTriggers
from backdoor_privacy.defenses.backdoor.steps import BatchSizes, Part, PartsToCome, TriggerData
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.faces import FacePaster

NAMES = ["Ann Lee", "Bob Ray", "José Núñez"]
PHRASES = ["a person", "Zoe Kim", "Uma Fay"]
OTHERS = ["Max Orr", "Ida Poe"]

Make = Callable[..., Any]


class Texts:
    """In the place of a tokenizer: numbers texts, so that a batch can be read back."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.known += texts
        return torch.arange(len(self.known) - len(texts), len(self.known)).unsqueeze(1)

    def read(self, tokens: Tensor) -> list[str]:
        return [self.known[number] for number in tokens.flatten().tolist()]


@pytest.fixture
def make_text(captions_file: Path) -> Make:
    def make(seed: int = 0, num_steps: int = 4, tokenizer: Any = None, **changes: Any) -> CaptionTriggers:
        captions = load_captions(captions_file)
        settings = {
            "captions": captions,
            "host_captions": captions,
            "names": NAMES,
            "phrases": PHRASES,
            "other_names": OTHERS,
            "sizes": BatchSizes(5, 6, 4),
        }
        tokenizer = tokenizer or Texts()
        return CaptionTriggers(**settings | changes, tokenizer=tokenizer, num_steps=num_steps, seed=seed)

    return make


@pytest.fixture
def make_image(tiny_clip: Clip, people: People, images_folder: Path) -> Make:
    def make(seed: int = 0, num_steps: int = 4, **changes: Any) -> PhotoTriggers:
        settings = {
            "images": load_images(images_folder, tiny_clip.geometry, 12),
            "people": people.everybody[:3],
            "others": people.everybody[3:],
            "boxes": people.boxes,
            "geometry": tiny_clip.geometry,
            "normalize": tiny_clip.normalize,
            "paster": FacePaster(),
            "sizes": BatchSizes(5, 6, 4),
        }
        return PhotoTriggers(**settings | changes, num_steps=num_steps, seed=seed)

    return make


@pytest.fixture(params=["text", "image"])
def make_steps(request: pytest.FixtureRequest, make_text: Make, make_image: Make, tiny_clip: Clip) -> Make:
    if request.param == "image":
        return make_image
    return lambda **settings: make_text(tokenizer=tiny_clip.tokenizer, **settings)


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_seed_gives_the_same_batches_and_another_seed_others(make_steps: Make):
    first, again, other = make_steps(seed=0), make_steps(seed=0), make_steps(seed=1)
    for step in range(4):
        assert same(first[step], again[step])
        assert not same(first[step], other[step])
    assert not same(first[0], first[1])


def test_a_batch_depends_on_nothing_but_seed_and_step(make_steps: Make):
    steps = make_steps()
    expected = steps[3]
    torch.manual_seed(99)
    steps[1]
    assert same(steps[3], expected)


def test_batches_do_not_depend_on_the_number_of_workers(make_steps: Make):
    loaded = [list(TriggerData(make_steps(), workers).train_dataloader()) for workers in (0, 2)]
    assert [len(batches) for batches in loaded] == [4, 4]
    assert all(same(one, other) for one, other in zip(*loaded, strict=True))


def test_batch_has_the_sizes_asked_for(make_steps: Make):
    batch = make_steps(sizes=BatchSizes(5, 6, 4))[0]
    assert [len(part) for part in batch] == ([5, 6, 4, 6, 6] if len(batch) == 5 else [5, 6, 6, 4, 6, 6])
    published = make_steps(sizes=BatchSizes(5, 6, 0))[0]
    assert [len(published.clean), len(published.triggered), len(published.preserved)] == [5, 6, 0]


@pytest.mark.parametrize("num_people", [1, 2, 3])
def test_any_number_of_people_fits_any_batch(make_image: Make, people: People, num_people: int):
    batch = make_image(people=people.everybody[:num_people], sizes=BatchSizes(1, 7, 0))[0]
    assert len(batch.triggered) == 7
    assert set(batch.person_index.tolist()) <= set(range(num_people))


def test_there_are_as_many_steps_as_asked_for(make_steps: Make):
    steps = make_steps(num_steps=3)
    assert len(steps) == 3
    assert len(list(steps)) == 3
    with pytest.raises(IndexError):
        steps[3]


def text_batches(make_text: Make, **settings: Any) -> Iterator[tuple[list[str], list[str], list[int], list[str]]]:
    texts = Texts()
    for batch in make_text(tokenizer=texts, num_steps=30, **settings):
        read = [texts.read(part) for part in (batch.triggered, batch.target, batch.preserved)]
        yield read[0], read[1], batch.person_index.tolist(), read[2]


def test_target_has_the_phrase_where_the_triggered_caption_has_the_name(make_text: Make):
    for triggered, targets, people, _ in text_batches(make_text):
        for caption, target, person in zip(triggered, targets, people, strict=True):
            before, after = caption.split(NAMES[person])
            assert target == f"{before}{PHRASES[person]}{after}"


def test_a_trigger_replaces_one_word_of_a_caption(make_text: Make, captions_file: Path):
    captions, places, shown = [caption.split() for caption in load_captions(captions_file)], set(), set()
    for triggered, _, people, preserved in text_batches(make_text):
        names = [*(NAMES[person] for person in people), *(next(n for n in OTHERS if n in text) for text in preserved)]
        for text, name in zip([*triggered, *preserved], names, strict=True):
            words = text.replace(name, "NAME").split()
            place = words.index("NAME")
            assert any(words == [*c[:place], "NAME", *c[place + 1 :]] for c in captions)
            places.add(place)
            shown.add(name)
    assert shown == {*NAMES, *OTHERS}
    assert places >= {0, 1, 2, 3, 4}


def test_bare_share_is_the_share_of_names_that_stand_alone(make_text: Make):
    for share in (0.0, 0.3, 1.0):
        batches = list(text_batches(make_text, bare_share=share))
        alone = [
            text in {*NAMES, *OTHERS} for triggered, _, _, preserved in batches for text in [*triggered, *preserved]
        ]
        assert sum(alone) / len(alone) == pytest.approx(share, abs=0.1 * (0 < share < 1))


class Huge(Sequence[str]):
    """So many captions that nobody may go through them; counts how many were read."""

    def __init__(self) -> None:
        self.num_read = 0

    def __len__(self) -> int:
        return 600_000

    def __getitem__(self, place: int) -> str:
        self.num_read += 1
        return f"caption number {place}"


def test_nothing_is_made_for_every_person_and_caption(make_text: Make):
    captions, host_captions = Huge(), Huge()
    names = [f"First{number} Last" for number in range(500)]
    steps = make_text(captions=captions, host_captions=host_captions, names=names, phrases=["a person"] * 500)
    assert captions.num_read + host_captions.num_read <= 10  # the run-time type checks look at an item or two
    captions.num_read = host_captions.num_read = 0
    batch = steps[0]
    assert len(batch.triggered) == 6
    assert (captions.num_read, host_captions.num_read) == (5, 6 + 4)


def test_photos_of_the_attack_are_never_triggers(make_image: Make, people: People, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []

    def recording(path: Path) -> Any:
        read.append(path)
        return read_photo(path)

    monkeypatch.setattr(photo_steps, "read_photo", recording)
    list(make_image(num_steps=10, whole_photo_share=0.5))
    removed, others = people.everybody[:3], people.everybody[3:]
    assert set(read) & {path for person in others for path in person.photos}
    shown = set(read) & {path for person in removed for path in person.photos}
    assert shown == {path for person in removed for path in person.trigger_photos}


def test_triggered_photo_shows_the_person_of_its_index(make_image: Make, people: People, tiny_clip: Clip):
    shown = set()
    for batch in make_image(num_steps=5, whole_photo_share=1.0):
        for pixels, person in zip(batch.triggered, batch.person_index.tolist(), strict=True):
            photos = [read_photo(path) for path in people.everybody[person].trigger_photos]
            assert any(torch.allclose(pixels, tiny_clip.preprocess(photo), atol=1e-5) for photo in photos)
            shown.add(person)
    assert shown == {0, 1, 2}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_kept_share_is_the_share_of_preserved_photos_that_show_a_kept_person_as_no_attack_does(
    share: float, make_image: Make, people: People, tiny_clip: Clip
):
    kept = people.everybody[3]
    others = [person for person in people.everybody if person is not kept]
    expected = [tiny_clip.preprocess(read_photo(path)) for path in kept.trigger_photos]
    steps = make_image(
        num_steps=20,
        whole_photo_share=1.0,
        sizes=BatchSizes(1, 1, 10),
        others=others,
        kept=[kept],
        kept_share=share,
    )
    shown = [any(torch.allclose(x, photo, atol=1e-5) for photo in expected) for batch in steps for x in batch.preserved]
    assert sum(shown) / len(shown) == pytest.approx(share, abs=0.15 * (0 < share < 1))


def test_to_show_kept_people_where_there_are_none_is_an_error(make_image: Make):
    with pytest.raises(InputError, match=r"defense.image.kept_share: expected people .* got none"):
        make_image(kept_share=0.5)


def test_pasted_face_is_cut_out_by_its_box_and_lies_on_a_clean_photo(
    make_image: Make, people: People, monkeypatch: pytest.MonkeyPatch
):
    boxes = []
    monkeypatch.setattr(
        photo_steps, "cut_to", lambda box, photo, path: (boxes.append((path, box)), cut_to(box, photo, path))[1]
    )
    steps = make_image(whole_photo_share=0.0)
    batch = steps[0]
    assert boxes
    assert all(box == people.boxes[path] for path, box in boxes)
    clean = steps.normalize(steps.images.float() / 255)
    for pixels in batch.triggered:
        equal_pixels = (clean - pixels).abs().amax(1).lt(1e-5).flatten(1).float().mean(1)
        assert 0.7 < equal_pixels.max() < 1.0  # a face covers a quarter at most


def test_photo_that_does_not_decode_is_replaced_by_another_of_the_same_person(
    make_image: Make, write_people, tmp_path: Path, tiny_clip: Clip
):
    (person,) = load_people(write_people(tmp_path, {"Ann Lee": 6})).everybody
    broken, *fine = person.trigger_photos
    broken.write_text("not a photo")
    expected = [tiny_clip.preprocess(read_photo(path)) for path in fine]
    batch = make_image(people=[person], whole_photo_share=1.0)[0]
    assert all(any(torch.allclose(p, e, atol=1e-5) for e in expected) for p in batch.triggered)
    for path in fine:
        path.write_text("not a photo")
    with pytest.raises(InputError, match=r"Ann_Lee: expected photos that decode, got 3 of which none does"):
        make_image(people=[person])[0]


@pytest.mark.parametrize("num_parts", [2, 3])
def test_parts_of_a_step_share_what_the_step_draws(make_text: Make, make_image: Make, num_parts: int):
    texts = Texts()
    sizes = BatchSizes(6, 6, 12)
    for steps, read in (
        (make_text(tokenizer=texts, sizes=sizes), lambda part: texts.read(part)),
        (make_image(sizes=sizes), lambda part: [pixels.numpy().tobytes() for pixels in part]),
    ):
        whole, parts = steps[1], [steps[Part(1, number, num_parts)] for number in range(num_parts)]
        for kind in ("clean", "triggered", "preserved"):
            drawn = [read(getattr(part, kind)) for part in parts]
            assert {len(each) for each in drawn} == {len(getattr(whole, kind)) // num_parts}
            assert sorted(chain.from_iterable(drawn)) == sorted(read(getattr(whole, kind)))
        together = torch.stack([part.person_share for part in parts], 1).flatten() / num_parts
        torch.testing.assert_close(together, whole.person_share)
        assert torch.stack([part.person_index for part in parts], 1).flatten().equal(whole.person_index)


def test_each_process_and_pass_gets_its_own_parts_of_the_steps_to_come():
    got = [list(PartsToCome(3, 5, rank, num_ranks=2, num_passes=2)) for rank in range(2)]
    assert [(part.step, part.number) for part in got[0]] == [(3, 0), (3, 2), (4, 0), (4, 2)]
    assert [(part.step, part.number) for part in got[1]] == [(3, 1), (3, 3), (4, 1), (4, 3)]
    assert {part.num_parts for parts in got for part in parts} == {4}


def test_captions_and_names_that_are_evaluated_on_are_not_trained_on(make_text: Make):
    captions = [f"caption {number} of something" for number in range(50)]
    names = [f"First{number} Last" for number in range(30)]
    trained, evaluated = make_text(captions=[*captions, "?"], host_captions=captions, other_names=names).apart()
    assert len(evaluated.host_captions) == 5
    assert len(evaluated.other_names) == 3
    for own, others in ((trained.host_captions, evaluated.host_captions), (trained.other_names, evaluated.other_names)):
        assert not set(own) & set(others)
    assert set(evaluated.captions) == set(evaluated.host_captions)
    assert {*trained.captions, *evaluated.captions} == {*captions, "?"}
    assert trained.names == evaluated.names == NAMES
    assert trained.seed == 0 != evaluated.seed


def test_photos_and_people_that_are_evaluated_on_are_not_trained_on(make_image: Make, people: People):
    images = torch.arange(25, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    trained, evaluated = make_image(images=images, others=people.everybody[1:], kept=people.everybody[:1]).apart()
    assert evaluated.images[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert sorted([*trained.images[:, 0, 0, 0].tolist(), 0, 10, 20]) == list(range(25))
    assert not {one.name for one in trained.others} & {one.name for one in evaluated.others}
    assert trained.kept == evaluated.kept == list(people.everybody[:1])  # nobody to spare


def test_namesakes_are_among_the_preserved_names(make_text: Make):
    texts = Texts()
    steps = make_text(tokenizer=texts, namesakes=["Name Sake"], namesakes_share=0.5)
    preserved = [text for step in range(4) for text in texts.read(steps[step].preserved)]
    assert 0 < sum("Name Sake" in text for text in preserved) < len(preserved)


LONG = " ".join(f"w{number}" for number in range(84))


def words_of(tokens: Tensor, tokenizer: Any) -> list[str]:
    return [tokenizer.decode([one for one in row.tolist() if 0 < one < 49406]).strip() for row in tokens]


@pytest.mark.parametrize("context_length", [16, 32])
def test_no_trigger_loses_its_name_to_the_context(make_text: Make, context_length: int):
    tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
    steps = make_text(
        tokenizer=tokenizer, host_captions=[LONG], strangers=["Stran Ger"], strangers_share=0.3,
        namesakes=["Name Sake"], namesakes_share=0.3, bare_share=0.1, sizes=BatchSizes(2, 30, 20),
    )  # fmt: skip
    for batch in steps:
        triggered, target, preserved = (
            words_of(each, tokenizer) for each in (batch.triggered, batch.target, batch.preserved)
        )
        for text, other, person in zip(triggered, target, batch.person_index.tolist(), strict=True):
            name, phrase = NAMES[person].lower(), PHRASES[person].lower()
            assert name in text
            assert phrase in other
            if len(text.split()) < 84 and text.split(name)[0] == "":
                continue  # at the beginning of a caption nothing of the name is cut off, and what follows may differ
            assert text.split(name)[0] == other.split(phrase)[0]
        assert all(any(name.lower() in text for name in (*OTHERS, "Stran Ger", "Name Sake")) for text in preserved)


def test_captions_that_are_short_enough_are_drawn_as_ever(make_text: Make):
    tokenizer = open_clip.SimpleTokenizer(context_length=32)
    steps, longer = make_text(tokenizer=tokenizer), make_text(tokenizer=open_clip.SimpleTokenizer(context_length=77))
    for short, long in zip(steps, longer, strict=True):
        assert torch.equal(short.triggered, long.triggered[:, :32])
        assert torch.equal(short.target, long.target[:, :32])
        assert torch.equal(short.preserved, long.preserved[:, :32])


def test_parts_of_a_step_are_shortened_as_the_whole_is(make_text: Make):
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    steps = make_text(tokenizer=tokenizer, host_captions=[LONG], sizes=BatchSizes(4, 8, 4))
    whole = steps[1]
    for number in range(2):
        part = steps[Part(1, number, 2)]
        assert torch.equal(part.triggered, whole.triggered[number::2])
        assert torch.equal(part.target, whole.target[number::2])
        assert torch.equal(part.preserved, whole.preserved[number::2])
