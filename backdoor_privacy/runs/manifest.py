"""What a run was made from: counts and digests of its data, the same for the same data."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.photos import content_of, photo_files
from backdoor_privacy.data.shards import find_shards, holds_shards
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.system.keys import key_of_folder, keyed_digest
from backdoor_privacy.utility.retrieval import Retrieval
from backdoor_privacy.utility.zero_shot import ZeroShot

SCHEMA = 2


def manifest(
    cfg: DictConfig,
    sources: Sources,
    removed: Collection[str],
    zero_shot: ZeroShot | None = None,
    retrieval: Retrieval | None = None,
) -> dict[str, Any]:
    """What `manifest.json` holds: `schema`, and for each source what is below, or null where the run did without it.

    Each source has `config`, its part of the run's config, and `sha256`, over

    - `people`, `strangers`: the names and the contents of all photos; `boxes_sha256` is over the face boxes. These are
      HMACs under the key of the folder of all runs, so that who sees them cannot test whom they are of.
    - `captions`: the captions, in their order.
    - `images`: names and contents of the photos; of shards only names and sizes, of URLs only these.
    - `zero_shot`, `retrieval`: names and sizes of the photos, with their classes or captions.

    `num_...` are counts: `num_members` and `num_non_members` of the people of whom that is known, `num_left_out` of the
    captions that hold a removed name, `num_photos` of `images` of the first `max_images` files. `people.everybody` has
    for each person `num_photos`, `num_trigger_photos`, `num_attack_photos` and `sha256`, an HMAC as well, over the
    sorted SHA-256 of the photos. There is no time and, but for `config`, no folder in it.

    Args:
        cfg: of the run.
        sources: of the run.
        removed: names of the people who are removed.
        zero_shot: of the run.
        retrieval: of the run.
    """
    key = key_of_folder(Path(cfg.paths.runs))
    everybody = {person.name: _person(person, key) for person in sources.people.everybody}
    parts = {
        "people": (cfg.people, {**_people(sources.people, key), "everybody": everybody}),
        "strangers": (cfg.strangers, sources.strangers and _people(sources.strangers, key)),
        "captions": (cfg.captions, None if sources.captions is None else _captions(sources.captions, removed)),
        "images": (cfg.images, None if sources.images is None else _images(sources.images, sources.max_images)),
        "zero_shot": (cfg.utility.zero_shot, zero_shot and _zero_shot(zero_shot)),
        "retrieval": (cfg.utility.retrieval, retrieval and _retrieval(retrieval)),
    }
    return {"schema": SCHEMA} | {
        name: found and {"config": OmegaConf.to_container(node, resolve=True), **found}
        for name, (node, found) in parts.items()
    }


def _person(person: Person, key: bytes) -> dict[str, Any]:
    return {
        "num_photos": len(person.photos),
        "num_trigger_photos": len(person.trigger_photos),
        "num_attack_photos": len(person.attack_photos),
        "sha256": keyed_digest(key, _person_sha256(person)),
    }


def _people(people: People, key: bytes) -> dict[str, Any]:
    everybody = sorted(people.everybody, key=lambda person: person.name)
    photos = [path for person in everybody for path in person.photos]
    names = _sha256(f"{person.name}\t{_person_sha256(person)}" for person in everybody)
    boxes = _sha256(f"{_in_folder(path)}\t{people.boxes[path]}" for path in photos if path in people.boxes)
    return {
        "num_people": len(everybody),
        "num_members": sum(person.member is True for person in everybody),
        "num_non_members": sum(person.member is False for person in everybody),
        "num_photos": len(photos),
        "num_boxes": len(people.boxes),
        "sha256": keyed_digest(key, names),
        "boxes_sha256": keyed_digest(key, boxes),
    }


def _captions(captions: Collection[str], removed: Collection[str]) -> dict[str, Any]:
    return {
        "num_captions": len(captions),
        "num_left_out": sum(map(name_matcher(removed), captions)),
        "sha256": _sha256(captions),
    }


def _images(source: str | Path, max_images: int) -> dict[str, Any]:
    if holds_shards(source):
        shards = find_shards(source, "images.folder")
        return {"num_shards": len(shards), "sha256": _sha256(map(_shard, shards))}
    root, photos = Path(source).expanduser(), photo_files(source)[:max_images]
    contents = (hashlib.sha256(content_of(path)).hexdigest() for path in photos)
    lines = (f"{path.relative_to(root).as_posix()}\t{content}" for path, content in zip(photos, contents, strict=True))
    return {"num_photos": len(photos), "sha256": _sha256(lines)}


def _zero_shot(zero_shot: ZeroShot) -> dict[str, Any]:
    photos, labels, classnames, _ = zero_shot.data
    lines = (f"{_sized(path)}\t{classnames[label]}" for path, label in zip(photos, labels, strict=True))
    return {"num_classes": len(classnames), "num_photos": len(photos), "sha256": _sha256(lines)}


def _retrieval(retrieval: Retrieval) -> dict[str, Any]:
    captioned = retrieval.captioned
    return {
        "num_photos": len(captioned),
        "num_captions": sum(map(len, captioned.values())),
        "sha256": _sha256("\t".join([_sized(path), *texts]) for path, texts in captioned.items()),
    }


def _person_sha256(person: Person) -> str:
    return _sha256(sorted(person.hashes.values()))


def _shard(place: str) -> str:
    path = Path(place)
    return _sized(path) if path.is_file() else place


def _sized(path: Path) -> str:
    return f"{path.name}\t{path.stat().st_size if path.is_file() else 0}"


def _in_folder(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogatepass"))  # names of files and captions of JSON can hold any
    return digest.hexdigest()
