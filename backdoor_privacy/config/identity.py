"""Define the identity of a run: for the name of its folder, to resume it, and to find it among others.

A run is identified by what it computes: everything in its composed config except where, how and for whom it is
computed. Two spellings of one setting are one run, and a file of people stands for the names in it, whatever the file
is called.
"""

import json
import unicodedata
from collections.abc import Collection, Sequence
from copy import deepcopy
from functools import cache, lru_cache

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_privacy.config.containers import Settings, settings_of
from backdoor_privacy.config.schema import Config
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import MIB, read_ordinary

# Keys that do not change what a run computes: where and how it runs, and how it is reported and attacked afterwards.
_IGNORED = {"hydra", "paths", "logger", "report", "quiet", "attacks", "mixed_worlds"}
_IGNORED |= {"num_workers", "checkpoint_every_steps"}  # of `pretrain`
_IGNORED_BELOW = {"clip": {"num_workers", "device", "store"}}
_OF_THE_TRAINER = {"precision"}  # all else in it changes a result by rounding at most
_PLACES = {"cache"}  # at any depth: what is drawn or unpacked there is the same anywhere
_COPIES = ("${trigger_set.people}", "${trigger_set.file}")  # of who is removed, which is compared as trigger_set


def identifying(cfg: DictConfig) -> Settings:
    """Return the part of a config that identifies a run, nested and resolved as far as possible."""
    content = settings_of(cfg)
    kept = {
        key: _without_places(value, _IGNORED_BELOW.get(key, set()))
        for key, value in content.items()
        if key not in _IGNORED
    }
    trainer = kept.get("trainer")
    if isinstance(trainer, dict):
        kept["trainer"] = {key: value for key, value in trainer.items() if key in _OF_THE_TRAINER}
    # Interpolations may point to places. The run's own folder stays out: its name depends on this very result.
    places = {key: value for key, value in (content.get("paths") or {}).items() if key != "run"}
    try:
        resolved = deepcopy(_resolved(json.dumps({**kept, "paths": places})))
    except OmegaConfBaseException:  # a reference that only resolves while the run is made, as `${hydra:...}`
        return kept
    del resolved["paths"]
    exclude = resolved.get("exclude")
    if isinstance(exclude, dict) and exclude.get("people") is not None:  # who is in the file, wherever it lies
        exclude["people"] = sorted({_normalized(name) for name in _lines_of(exclude["people"])})
    return resolved


@lru_cache(maxsize=64)
def _resolved(content: str) -> Settings:
    """Return what a JSON text says, resolved; cached, since a run asks for its identity several times."""
    return settings_of(OmegaConf.create(json.loads(content)), resolve=True)


def identity(cfg: DictConfig, named: Sequence[str] | None = None) -> Settings:
    """Return the identity of a run as a flat mapping, without settings that are null or the default of the schema.

    Args:
        cfg: of the run.
        named: the people to remove; `None`: as the config says.
    """
    return identity_of(identifying(cfg), named)


def identity_of(content: Settings, named: Sequence[str] | None = None) -> Settings:
    """Return the `identity` of a run from what `identifying` returned for it."""
    flat = flattened(content)
    names = named_in(content) if named is None else list(named)
    if names is not None:
        # The names identify the run; how many people would have been drawn does not.
        flat = {key: value for key, value in flat.items() if key not in ("trigger_set.file", "trigger_set.num_people")}
        flat["trigger_set.people"] = [_normalized(name) for name in names]
    defaults = schema_defaults()
    return {key: value for key, value in flat.items() if value is not None and value != defaults.get(key)}


def run_key(cfg: DictConfig) -> str:
    """Return the identity of a run as one text, to look it up."""
    return json.dumps(identity(cfg), sort_keys=True, default=str)


def named_in(content: Settings) -> list[str] | None:
    """Return the people that a config names, in its list or its file; `None` if it names nobody.

    Raises:
        InputError: if the list contains something else than names, as Hydra's `glob(*)` without quotes.
    """
    trigger_set = content.get("trigger_set") or {}
    file, people = trigger_set.get("file"), trigger_set.get("people")
    if file is None:
        if isinstance(people, list) and not all(isinstance(name, str) for name in people):
            raise InputError(
                "trigger_set.people: expected a list of names, got something else in it; put each name in quotes, as "
                "in 'trigger_set.people=[\"Doe, Jane\"]'"
            )
        return people
    return _lines_of(file)


def all_named_in(content: Settings) -> list[str]:
    """Return all people whom a config names, to remove them or to leave them out of a training.

    Raises:
        InputError: see `named_in`.
    """
    excluded = (content.get("exclude") or {}).get("people")
    return [*(named_in(content) or ()), *(excluded if isinstance(excluded, list) else ())]


def _lines_of(file: object) -> list[str]:
    """Return the lines of a file of names; its path if it cannot be read, since the run itself reports that."""
    try:
        text = read_ordinary(str(file), 64 * MIB).decode("utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return [str(file)]
    return [line.strip() for line in text.splitlines() if line.strip()]


def flattened(content: object, prefix: str = "") -> Settings:
    """Return the leaves of nested mappings by their dotted keys; lists are leaves, missing values are null."""
    if not isinstance(content, dict):
        return {prefix: None if content == "???" else content}
    if not content and prefix:
        return {prefix: None}
    leaves: Settings = {}
    for key, value in content.items():
        leaves |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


@cache
def schema_defaults() -> Settings:
    """Return the defaults of the schemas, so that a new key of a later version changes no identity."""
    content = settings_of(OmegaConf.structured(Config))
    return {key: value for key, value in flattened(content).items() if value is not None}


def _without_places(content: object, ignored: Collection[str] = ()) -> object:
    if isinstance(content, dict):
        return {
            key: _without_places(value)
            for key, value in content.items()
            if key not in _PLACES and key not in ignored and value not in _COPIES
        }
    return [_without_places(value) for value in content] if isinstance(content, list) else content


def _normalized(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", str(name)).replace("_", " ").split())
