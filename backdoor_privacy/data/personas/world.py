"""Write the embedded world as ordinary files, once, so that the loaders need not know of it."""

import csv
import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import webdataset as wds
from rich.console import Console
from rich.progress import track

from backdoor_privacy.data.personas.roster import Group, Persona, appearance_of, people_of
from backdoor_privacy.data.personas.samples import (
    NUM_CLEAN_CAPTIONS,
    NUM_CLEAN_IMAGES,
    Sample,
    clean_samples,
    describe,
    draw,
    photo_sample,
    web_samples,
    zero_shot_sample,
)
from backdoor_privacy.data.personas.scenes import CLASSNAMES
from backdoor_privacy.system.files import made_once

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Part = Literal["people", "strangers", "captions", "images", "zero_shot", "web"]
VERSION = 1  # of the drawings; each version has a folder of its own
JPEG_QUALITY = 90
NUM_PHOTOS_PER_PERSON = 40  # half for triggers, half for attacks
NUM_STRANGERS, NUM_PHOTOS_PER_STRANGER = 640, 8
NUM_PHOTOS_PER_CLASS = 12
SHARD_SIZE = 500  # pictures


def world_part(part: Part, cache: str, seed: int = 0, limit: int | None = None) -> Path:
    """Return the folder of one part of the world; drawn and written first if it is not in the cache.

    Args:
        part: `people` and `strangers` are folders per person with `boxes.csv`, `captions` is a text file,
            `images` and `web` are WebDataset shards of photos with captions, `zero_shot` is a folder per class.
        cache: folder that holds all worlds.
        seed: of the world; the embedded CLIP knows the people of seed 0.
        limit: only so many people of each group and so many pictures, for tests.

    Returns:
        The folder.
    """
    name = part if limit is None else f"{part}-{limit}"
    folder = Path(cache).expanduser() / f"personas-v{VERSION}" / f"seed={seed}" / name
    return made_once(folder, lambda draft: _WRITERS[part](draft, seed, limit))


def _map(function: Callable[[_Item], _Result], items: Sequence[_Item], title: str) -> list[_Result]:
    """Apply a function in all processors, with a progress bar (on standard error: others print results)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        chunksize = max(1, min(64, len(items) // (8 * (os.cpu_count() or 1))))
        results, console = pool.map(function, items, chunksize=chunksize), Console(stderr=True)
        return list(track(results, f"Drawing {title}", len(items), console=console))


def _write_photo(item: tuple[Sample, str]) -> tuple[int, int, int, int] | None:
    sample, path = item
    image, box = draw(sample)
    image.save(path, quality=JPEG_QUALITY)
    return box


def _write_people(folder: Path, seed: int, limit: int | None) -> None:
    """Write `First_Last/00.jpg`, `boxes.csv` and `people.csv` for everybody who is attacked."""
    groups: tuple[Group, ...] = ("well_known", "rarely_shown", "non_member")
    people = [persona for group in groups for persona in _spread(people_of(seed, group), limit)]
    _write_photos(folder, seed, "people", people, NUM_PHOTOS_PER_PERSON)
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "member", "num_web_photos", "presentation", "age"])
        for persona in people:
            age = "older" if appearance_of(seed, persona).age > 0.5 else "younger"
            writer.writerow([persona.name, persona.member, persona.num_web_photos, persona.presentation, age])


def _write_strangers(folder: Path, seed: int, limit: int | None) -> None:
    """Write photos of people of the crowd, who are never attacked."""
    people = people_of(seed, "crowd", limit if limit is not None else NUM_STRANGERS)
    _write_photos(folder, seed, "strangers", people, NUM_PHOTOS_PER_STRANGER)


def _write_photos(
    folder: Path, seed: int, collection: Literal["people", "strangers"], people: Sequence[Persona], num_photos: int
) -> None:
    paths = [f"{persona.name.replace(' ', '_')}/{photo:02}.jpg" for persona in people for photo in range(num_photos)]
    samples = [photo_sample(seed, collection, persona, photo) for persona in people for photo in range(num_photos)]
    for path in paths:
        (folder / path).parent.mkdir(exist_ok=True)
    boxes = _map(_write_photo, [(s, str(folder / path)) for s, path in zip(samples, paths, strict=True)], collection)
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "left", "top", "right", "bottom"])
        writer.writerows([path, *(box or ())] for path, box in zip(paths, boxes, strict=True))


def _write_captions(folder: Path, seed: int, limit: int | None) -> None:
    """Write one caption a line."""
    samples = clean_samples(seed, "captions", NUM_CLEAN_CAPTIONS if limit is None else limit * 50)
    (folder / "captions.txt").write_text("".join(describe(sample) + "\n" for sample in samples), encoding="utf-8")


def _write_images(folder: Path, seed: int, limit: int | None) -> None:
    samples = clean_samples(seed, "images", NUM_CLEAN_IMAGES if limit is None else limit * 10)
    _write_shards(folder, list(samples), "images")


def _write_web(folder: Path, seed: int, limit: int | None) -> None:
    _write_shards(folder, web_samples(seed)[: None if limit is None else limit * 50], "the web")


def _write_shards(folder: Path, samples: list[Sample], title: str) -> None:
    """Write `00000.tar`, ...: `jpg` and `txt` of each sample, as img2dataset writes them."""
    shards = [
        (str(folder / f"{number:05}.tar"), first, samples[first : first + SHARD_SIZE])
        for number, first in enumerate(range(0, len(samples), SHARD_SIZE))
    ]
    _map(_write_shard, shards, title)


def _write_shard(item: tuple[str, int, list[Sample]]) -> None:
    path, first, samples = item
    with wds.writer.TarWriter(path, mtime=0) as writer:
        for number, sample in enumerate(samples, first):
            encoded = io.BytesIO()
            draw(sample)[0].save(encoded, "JPEG", quality=JPEG_QUALITY)
            writer.write({"__key__": f"{number:08}", "jpg": encoded.getvalue(), "txt": describe(sample)})


def _write_zero_shot(folder: Path, seed: int, limit: int | None) -> None:
    """Write a folder per class, named as the class is."""
    num_photos = NUM_PHOTOS_PER_CLASS if limit is None else 2
    items = []
    for classname in CLASSNAMES[:limit]:
        (folder / classname).mkdir()
        for photo in range(num_photos):
            items.append((zero_shot_sample(seed, classname, photo), str(folder / classname / f"{photo:02}.jpg")))
    _map(_write_photo, items, "scenes")


def _spread(people: Sequence[Persona], limit: int | None) -> Sequence[Persona]:
    """Return `limit` people from all over a group, so that every tier of it is there."""
    if limit is None or limit >= len(people):
        return people
    return [people[number * len(people) // limit] for number in range(limit)]


_WRITERS: dict[Part, Callable[[Path, int, int | None], None]] = {
    "people": _write_people,
    "strangers": _write_strangers,
    "captions": _write_captions,
    "images": _write_images,
    "zero_shot": _write_zero_shot,
    "web": _write_web,
}
