"""Describe the data of a run by counts and digests, which are the same for the same data."""

from collections.abc import Collection, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.photos import photo_files, photo_sha256
from backdoor_privacy.data.shards import find_shards, holds_shards
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.system.digests import lines_sha256, name_and_size
from backdoor_privacy.system.keys import key_of_folder, keyed_digest
from backdoor_privacy.utility.base import Measure, measure_keys

SCHEMA = 2
Entry = Mapping[str, object]  # of the JSON


def manifest(
    cfg: DictConfig,
    sources: Sources,
    removed: Collection[str],
    measures: Mapping[str, Measure],
) -> dict[str, object]:
    """Return what `manifest.json` holds: `schema`, and an entry for each source, null if the run did not use it.

    Each source has `config`, its part of the run's config, and `sha256`, over

    - `people`, `strangers`: the names and the contents of all photos; `boxes_sha256` is over the face boxes. These are
      HMACs under the key of the folder of all runs: whoever sees them cannot test whose they are.
    - `captions`: the captions, in their order.
    - `images`: names and contents of the photos; of shards only names and sizes, of URLs only the URLs.
    - each utility measure, as `zero_shot` and `retrieval`: names and sizes of the photos, with their classes or
      captions.

    `num_...` are counts: `num_members` and `num_non_members` count the people of whom that is known, `num_left_out` the
    captions with a removed name, `num_photos` of `images` the first `max_images` files. `people.everybody` has for each
    person `num_photos`, `num_trigger_photos`, `num_attack_photos` and `sha256`, an HMAC as well, over the sorted
    SHA-256 of the photos. It holds no time and, except in `config`, no folder.

    Args:
        cfg: of the run.
        sources: of the run.
        removed: names of the people who are removed.
        measures: of utility, by their keys in the config.
    """
    key = key_of_folder(Path(cfg.paths.runs))
    everybody = {person.name: _person(person, key) for person in sources.people.everybody}
    parts: dict[str, tuple[DictConfig | None, Entry | None]] = {
        "people": (cfg.people, {**_people(sources.people, key), "everybody": everybody}),
        "strangers": (cfg.strangers, None if sources.strangers is None else _people(sources.strangers, key)),
        "captions": (cfg.captions, None if sources.captions is None else _captions(sources.captions, removed)),
        "images": (cfg.images, None if sources.images is None else _images(sources.images, sources.max_images)),
    }
    for name in measure_keys(cfg.utility):
        parts[name] = cfg.utility[name], measures[name].digest() if name in measures else None
    return {"schema": SCHEMA} | {name: _entry(node, content) for name, (node, content) in parts.items()}


def _entry(node: DictConfig | None, content: Entry | None) -> Entry | None:
    return None if content is None else {"config": OmegaConf.to_container(node, resolve=True), **content}


def _person(person: Person, key: bytes) -> dict[str, object]:
    return {
        "num_photos": len(person.photos),
        "num_trigger_photos": len(person.trigger_photos),
        "num_attack_photos": len(person.attack_photos),
        "sha256": keyed_digest(key, _person_sha256(person)),
    }


def _people(people: People, key: bytes) -> dict[str, object]:
    everybody = sorted(people.everybody, key=lambda person: person.name)
    photos = [path for person in everybody for path in person.photos]
    names = lines_sha256(f"{person.name}\t{_person_sha256(person)}" for person in everybody)
    boxes = lines_sha256(f"{_in_folder(path)}\t{people.boxes[path]}" for path in photos if path in people.boxes)
    return {
        "num_people": len(everybody),
        "num_members": sum(person.member is True for person in everybody),
        "num_non_members": sum(person.member is False for person in everybody),
        "num_photos": len(photos),
        "num_boxes": len(people.boxes),
        "sha256": keyed_digest(key, names),
        "boxes_sha256": keyed_digest(key, boxes),
    }


def _captions(captions: Collection[str], removed: Collection[str]) -> dict[str, object]:
    return {
        "num_captions": len(captions),
        "num_left_out": sum(map(name_matcher(removed), captions)),
        "sha256": lines_sha256(captions),
    }


def _images(source: str | Path, max_images: int) -> dict[str, object]:
    if holds_shards(source):
        shards = find_shards(source, "images.folder")
        return {"num_shards": len(shards), "sha256": lines_sha256(map(_shard, shards))}
    root, photos = Path(source).expanduser(), photo_files(source)[:max_images]
    contents = map(photo_sha256, photos)
    lines = (f"{path.relative_to(root).as_posix()}\t{content}" for path, content in zip(photos, contents, strict=True))
    return {"num_photos": len(photos), "sha256": lines_sha256(lines)}


def _person_sha256(person: Person) -> str:
    return lines_sha256(sorted(person.hashes.values()))


def _shard(place: str) -> str:
    path = Path(place)
    return name_and_size(path) if path.is_file() else place


def _in_folder(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
