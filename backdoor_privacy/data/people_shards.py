"""Unpack WebDataset shards of people: samples of a photo and a name."""

import unicodedata
from pathlib import Path

from backdoor_privacy.data.caption_json import value_at
from backdoor_privacy.data.people_tables import person_name
from backdoor_privacy.data.photos import is_left_behind, photos_of
from backdoor_privacy.data.shards import ShardSample, find_shards, unpack_shards
from backdoor_privacy.data.texts import decoded, json_of
from backdoor_privacy.errors import InputError

_KEY = "people.folder.shards"


def unpacked_people(shards: str | Path, cache: str | Path, name_key: str | None = "name") -> Path:
    """Unpack shards into a folder per person, `First_Last/00000000.jpg`, once.

    Args:
        shards: see `find_shards`; of samples with a photo and the name of the person in it.
        cache: folder that holds what was unpacked.
        name_key: key of the name in `json`; without `json`, or for `None`, `txt` is the name.

    Raises:
        InputError: if there are no shards, one is broken, or a photo has no name that can be a folder's.
    """

    def place(sample: ShardSample, number: int) -> dict[str, bytes]:
        photos = photos_of(sample.files)  # a sample without one is named in `left_out.txt`
        name = _folder_name(sample, name_key) if photos else ""
        return {f"{name}/{number:08}.{suffix}": content for suffix, content in photos.items()}

    return unpack_shards(find_shards(shards, _KEY), _KEY, cache, place, settings=f"name_key={name_key}", private=True)


def _folder_name(sample: ShardSample, name_key: str | None) -> str:
    try:
        if name_key and "json" in sample.files:
            name = value_at(json_of(decoded(sample.files["json"])), name_key)
        else:
            name = decoded(sample.files["txt"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"people.folder.name_key: expected the name of the person as {name_key!r} in json, or as txt, got none in "
            f"sample {sample.place}; choose another key; the files of a sample lie side by side and differ only behind "
            "the last dot"
        ) from error
    folder = person_name(name).replace(" ", "_") if isinstance(name, str) else ""
    is_text = not any(unicodedata.category(sign) == "Cs" for sign in folder)  # JSON can escape half a character
    is_name = is_text and any(map(str.isalnum, folder)) and not is_left_behind(folder)
    if not is_name or set(folder) & set("/\\:\0[]{}") or len(folder.encode()) > 255:
        raise InputError(
            f"people.folder.name_key: expected a person's name, without / \\ : [ ] {{ }} and no dot in front, got "
            f"{name!r} in sample {sample.place}; correct it"
        )
    return folder
