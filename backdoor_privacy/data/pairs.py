"""Make captioned photos to train a small CLIP on: from photos of people, photos of classes, and captions."""

import csv
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import webdataset as wds
from PIL import Image, ImageOps

from backdoor_privacy.data.captions import host_captions, load_captions
from backdoor_privacy.data.cells import safe_cell
from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.photos import photo_files, read_photo
from backdoor_privacy.data.shards import digest
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import made_once
from backdoor_privacy.system.keys import keyed_place
from backdoor_privacy.triggers.names import choose_word, put_in

# What the web writes below a photo of a person and of a thing.
PERSON_FORMS = (
    "{}", "{}", "a photo of {}", "photo of {}", "an image of {}", "a picture of {}", "{} on a photo", "this is {}",
    "a portrait of {}", "{} smiling", "{} speaks to the press", "a person named {}", "news: {}", "{} at an event",
)  # fmt: skip
CLASS_FORMS = (
    "{}",
    "a photo of a {}",
    "a picture of the {}",
    "an image of a {}",
    "{} on a photo",
    "a close-up of a {}",
)
SHARD_SIZE = 1000  # pairs
JPEG_QUALITY = 95


class Pair(NamedTuple):
    """A photo of a person or a thing, to be captioned."""

    photo: Path
    label: str  # a person's name or a class name
    forms: Sequence[str]  # phrases with {} for the label


def write_pairs(
    people: str | Path,
    classes: str | Path,
    captions: str | Path,
    cache: str | Path,
    *,
    min_photos: int,
    member_share: float,
    num_copies: int,
    caption_share: float,
    seed: int,
) -> Path:
    """Write WebDataset shards of photos with captions, and `people.csv`, which says who is in them; written once.

    A random part of the people with enough photos become members: the half of their photos that no attack uses is in
    the shards. The others are non-members: none of their photos is. People with fewer photos are never attacked, and
    all their photos are in the shards.

    Args:
        people: a folder per person.
        classes: a folder of photos per class.
        captions: a text file; a name or class name replaces a word of some of them.
        cache: folder that holds all such shards; other settings, photos or captions get a folder of their own.
        min_photos: of a person who may be attacked.
        member_share: of these people, in [0, 1].
        num_copies: of each photo, every other one mirrored, each with a caption of its own.
        caption_share: of the copies whose text is a caption with the label in it.
        seed: of all choices.

    Returns:
        The folder.

    Raises:
        InputError: if there is no photo of a class.
    """
    settings = (min_photos, member_share, num_copies, caption_share, seed)
    places = [Path(part).expanduser().resolve() for part in (people, classes, captions)]
    photos = [path for place in places[:2] for path in photo_files(place, depth=2)]
    sources = [*places, *photos, *sorted(places[2].glob("*"))]  # captions may be a folder of files
    folder = Path(cache).expanduser() / "pairs" / digest(sources, repr(settings))

    def write(draft: Path) -> None:
        rng = random.Random(seed)
        everybody = load_people(people)
        members = draw_members(everybody, min_photos, member_share, rng)
        pairs = [Pair(photo, person.name, PERSON_FORMS) for person in members for photo in members[person]]
        pairs += _class_pairs(classes)
        copies = [(pair, copy) for copy in range(num_copies) for pair in pairs]
        rng.shuffle(copies)
        _write_shards(draft, copies, host_captions(load_captions(captions)), caption_share, rng)
        with (draft / "people.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["name", "member", "num_web_photos"])
            table.writerows([safe_cell(p.name), p in members, len(members.get(p, ()))] for p in everybody.everybody)

    return made_once(keyed_place(folder, Path(cache).expanduser()), write, private=True)


def draw_members(
    people: People, min_photos: int, member_share: float, rng: random.Random
) -> dict[Person, tuple[Path, ...]]:
    """Return the people whom a CLIP is to know, each with the photos that it sees."""
    candidates = [person for person in people.everybody if len(person.photos) >= min_photos]
    others = [person for person in people.everybody if len(person.photos) < min_photos]
    members = rng.sample(candidates, round(member_share * len(candidates)))
    return {person: person.trigger_photos for person in members} | {person: person.photos for person in others}


def _class_pairs(folder: str | Path) -> Iterator[Pair]:
    photos = photo_files(folder, depth=2)
    if not photos:
        raise InputError(f"data.classes: expected a folder of photos per class, found none in {folder}")
    return (Pair(path, path.parent.name, CLASS_FORMS) for path in photos)


def _write_shards(
    folder: Path, copies: Sequence[tuple[Pair, int]], captions: Sequence[str], caption_share: float, rng: random.Random
) -> None:
    for first in range(0, len(copies), SHARD_SIZE):
        with wds.writer.TarWriter(str(folder / f"{first // SHARD_SIZE:05}.tar"), mtime=0) as writer:
            for number, (pair, copy) in enumerate(copies[first : first + SHARD_SIZE], first):
                text = _describe(pair, captions, caption_share, rng)
                for content in _encode(pair.photo, mirrored=copy % 2 == 1):
                    writer.write({"__key__": f"{number:08}", "jpg": content, "txt": text})


def _describe(pair: Pair, captions: Sequence[str], caption_share: float, rng: random.Random) -> str:
    if rng.random() < caption_share:
        caption = rng.choice(captions)
        return put_in(caption, choose_word(caption, rng), pair.label)
    return rng.choice(pair.forms).format(pair.label)


def _encode(path: Path, mirrored: bool) -> Iterator[bytes]:
    """Yield the photo as JPEG, or nothing where it does not decode."""
    photo: Image.Image | None = read_photo(path)
    if photo is not None:
        encoded = io.BytesIO()
        (ImageOps.mirror(photo) if mirrored else photo).save(encoded, "JPEG", quality=JPEG_QUALITY)
        yield encoded.getvalue()
