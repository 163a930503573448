"""What attacks found, in files: write and read."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.keys import keyed_digest
from backdoor_privacy.system.reading import MIB, JsonObject, read_ordinary
from backdoor_privacy.system.versions import versions

SCHEMA = 1


def write_scores(
    path: Path,
    digest: str,
    scores: Sequence[Score],
    seconds: float,
    settings: JsonObject | None = None,
    version: int = 0,
) -> None:
    """Write the file of an attack, whole or not at all.

    Args:
        path: of the file.
        digest: of what was attacked with which settings, as `keyed` made it.
        scores: of the attack.
        seconds: that it took.
        settings: of the attack.
        version: of what the attacks find.
    """
    record = {
        "schema": SCHEMA,
        "digest": digest,
        "keyed": True,
        "seconds": round(seconds, 1),
        "settings": settings,
        "version": version,
        "versions": versions(),
        "findings": [score._asdict() for score in scores],
    }
    _write(path, record)


def keyed(digest: str, key: bytes) -> str:
    """Return the digest of what was attacked as a file holds it: whoever has no key cannot test who it is of."""
    return keyed_digest(key, f"attack\0{digest}")


def key_scores(folder: Path, key: bytes) -> None:
    """Put keyed digests in the place of plain ones, which earlier versions wrote."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(InputError):  # a broken file is told where it is asked for
            record = _read(path)
            if not record.get("keyed"):
                _write(path, {**record, "digest": keyed(str(record.get("digest")), key), "keyed": True})


def read_origin(path: Path) -> tuple[object, int]:
    """Return the settings of an attack whose scores a file holds, and the version of what it found.

    Raises:
        InputError: as of `read_scores`.
    """
    record = _read(path)
    return record.get("settings"), record.get("version", 0)


def read_seconds(path: Path) -> float:
    """Return how long an attack took.

    Raises:
        InputError: as of `read_scores`.
    """
    seconds = _read(path).get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InputError(f"{path}: expected seconds of an attack, got {seconds!r}; delete it")
    return float(seconds)


def read_scores(path: Path) -> tuple[str, list[Score]]:
    """Return the digest of what was attacked with which settings, and the scores.

    Raises:
        InputError: if another version of the package wrote it, or it is broken.
    """
    record = _read(path)
    try:
        return record["digest"], [_score(score) for score in record["findings"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected scores of an attack, got a broken file; delete it") from error


def _write(path: Path, record: JsonObject) -> None:
    write_text(path, json.dumps(record, indent=1) + "\n", private=True)


def _read(path: Path) -> JsonObject:
    try:
        record: JsonObject = json.loads(read_ordinary(path, 256 * MIB))
        if record["schema"] == SCHEMA:
            return record
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected scores of an attack, got a broken file; delete it") from error
    raise InputError(f"{path}: expected schema {SCHEMA}, got {record['schema']}; delete it or use that version")


def _score(record: JsonObject) -> Score:
    return Score(**{**record, "outcomes": tuple(record.get("outcomes", ()))})
