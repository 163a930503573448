"""Read the configs of run folders, which a stranger may have written.

The user's own config and command line are trusted, a config that lies in a folder is not: it may only call what this
package ships. It may name no other `_target_` unless the user does, must not look anything up outside itself (the
environment, above all), and does not decide where this machine writes.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_privacy.config.build import TARGET, build
from backdoor_privacy.config.containers import Settings, settings_of
from backdoor_privacy.config.schema import Clip, People
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.reading import MIB, read_ordinary

_GROUPS = ("attack", "captions", "clip", "defense", "images", "people", "strangers", "utility")  # parts of a run
_EARLIER_TARGETS: frozenset[str] = frozenset()  # of configs of earlier versions, where conf/ has them no more
_MAX_BYTES, _MAX_DEPTH = MIB, 20
_HYDRA_KEYS = ("_args_", "_partial_", "_convert_", "_recursive_")  # which no config of ours has
_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")  # to another value, and not through a resolver
_OWN_CACHE = "${oc.env:BACKDOOR_PRIVACY_CACHE,'~/.cache/backdoor_privacy'}"
# Folders that this package makes in its cache.
_IN_CACHES = ("personas-v*", "features", "unpacked", "plain-captions-v*", "faces", "lfw_home")
_PARTS = {"clip": Clip, "people": People, "strangers": People}


@cache
def own_targets() -> frozenset[str]:
    """Return each `_target_` of this package that parts of a run have in conf/, or had in earlier versions."""
    parts = (path for group in _GROUPS for path in (CONFIG_FOLDER / group).rglob("*.yaml"))
    texts = (path.read_text(encoding="utf-8") for path in parts)
    return _EARLIER_TARGETS.union(*(re.findall(r"_target_: (backdoor_privacy\.[\w.]+)", text) for text in texts))


def read_stored(path: Path) -> DictConfig:
    """Read the config in the folder of a run; `paths.run` becomes that folder, and `hydra` is left out.

    Args:
        path: `.hydra/config.yaml` or `checkpoints/config.yaml` of a run.

    Raises:
        InputError: if it is no such config, or looks something up outside itself.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected the config of a run, got {type(content).__name__}; copy its folder again")
    content.pop("hydra", None)
    if isinstance(content.get("paths"), dict):
        content["paths"]["run"] = str(path.parent.parent).replace("${", "\\${")
    for key, value in _values(content, path):
        _check_references(key, value, content, path)
    try:
        return OmegaConf.create(content)
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(f"{path}: expected the config of a run, got {_line(error)}; copy its folder again") from error


def read_yaml(path: Path) -> Any:
    """Read a small YAML file as plain values; aliases are refused, since they may grow without end.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        text = read_ordinary(path, _MAX_BYTES).decode()
        if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("parts that are repeated")
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise InputError(
            f"{path}: expected YAML as a run writes it, got {_line(error)}; copy its folder again"
        ) from error


def for_this_machine(stored: DictConfig, path: Path, allow: Collection[str] = ()) -> DictConfig:
    """Return a stored config that is safe to instantiate here.

    Args:
        stored: of `read_stored`.
        path: of the file, for errors.
        allow: targets besides `own_targets` that the user has named.

    Returns:
        The parts that attacks load, of the types that their schemas say, with places to write to of this machine.

    Raises:
        InputError: if it names another target, or a part is missing or of another type.
    """
    content = settings_of(stored)
    cache = (content.get("paths") or {}).get("cache")
    content["paths"] = {
        **(content.get("paths") or {}),
        "cache": cache if isinstance(cache, str) and _is_cache(cache) else _OWN_CACHE,
    }
    own = _with_own_places(content)
    check_targets(own, path, allow)
    try:
        cfg = OmegaConf.create(own)
        for key, kind in _PARTS.items():
            if cfg[key] is not None or key != "strangers":
                cfg[key] = OmegaConf.merge(OmegaConf.structured(kind), cfg[key])
                if not cfg[key].get(TARGET):
                    raise ValueError(f"no {TARGET} of {key}")
        build(cfg.attack, object, "attack")
        if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
            raise ValueError(f"seed={cfg.seed}")
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the config of a run, got {_line(error)}; copy its folder again") from error
    return cfg


def check_targets(content: object, path: Path, allow: Collection[str] = ()) -> None:
    """Check that a config calls only targets of this package or those that the user allows.

    Raises:
        InputError: with another target.
    """
    for key, node in _nodes(content, path):
        target = str(node.get(TARGET))  # as text: a stranger may have put a list here, which has no hash
        if TARGET in node and target not in own_targets() and target not in allow:
            raise InputError(
                f"{path}: expected a _target_ of this package, got {key}{TARGET}={target!r}; a config from a folder "
                f"runs nothing else: name it if you trust it, as 'allow=[{target}]'"
            )
        hydra_key = next((name for name in _HYDRA_KEYS if name in node), None)
        if hydra_key is not None and target not in allow:
            raise InputError(f"{path}: expected settings of {target}, got {key}{hydra_key}; copy its folder again")


def targets_of(cfg: DictConfig) -> set[str]:
    """Return the targets of a config of the user, which a config in a run folder may then have, too."""
    content = settings_of(cfg)
    return {str(node[TARGET]) for _, node in _nodes(content, CONFIG_FOLDER) if TARGET in node}


def _nodes(content: object, path: Path, prefix: str = "") -> Iterator[tuple[str, Settings]]:
    """Yield each mapping in a config, with what its keys begin with."""
    if prefix.count(".") > _MAX_DEPTH:
        raise InputError(f"{path}: expected the config of a run, got one of more than {_MAX_DEPTH} levels")
    if isinstance(content, dict):
        yield prefix, content
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from _nodes(value, path, f"{prefix}{key}.")


def _values(content: object, path: Path) -> Iterator[tuple[str, str]]:
    """Yield each text in a config, keys among them, with its dotted key."""
    for prefix, node in _nodes(content, path):
        for key, value in node.items():
            yield f"{prefix}{key}", str(key)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield f"{prefix}{key}", text


def _check_references(key: str, text: str, content: Settings, path: Path) -> None:
    """Check that a text refers only to plain values of its own config; chains of references may grow or circle."""
    if "${" not in text or text == _OWN_CACHE or key == "paths.run":
        return
    for reference in _REFERENCE.findall(text):
        value: object = content
        for part in reference.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, dict | list) or ("${" in str(item) and item != _OWN_CACHE) for item in items):
            raise InputError(f"{path}: expected {key} to refer to a plain value, got {text!r}; copy its folder again")
    if "${" in _REFERENCE.sub("", text):
        raise InputError(
            f"{path}: expected values that stand in the config itself, got {key}={text!r}; write what is meant in its "
            "place, if you trust it"
        )


def _with_own_places(node: Settings) -> Settings:
    """Return a config that writes only to the cache of this machine."""
    own = {key: _parts_with_own_places(value) for key, value in node.items()}
    for key, place in (("cache", "${paths.cache}"), ("store", "${paths.cache}/features")):
        if own.get(key) not in (None, place, _OWN_CACHE) and not _is_cache(own[key], within=key == "store"):
            own[key] = place
    return own


def _parts_with_own_places(value: object) -> object:
    if isinstance(value, list):
        return [_parts_with_own_places(part) for part in value]
    return _with_own_places(value) if isinstance(value, dict) else value


def _is_cache(place: object, within: bool = False) -> bool:
    """Return whether a folder is already a cache of this package, or its `features`; a stranger can name no other."""
    if not isinstance(place, str) or "${" in place:
        return place == _OWN_CACHE
    folder = Path(place).expanduser()
    try:
        if within:
            return folder.is_dir() and any(folder.glob("*/*.safetensors"))
        return any(path.is_dir() for name in _IN_CACHES for path in folder.glob(name))
    except (OSError, ValueError, RuntimeError):
        return False


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200]
