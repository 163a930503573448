"""Name the folder of a run after its differences from other runs of its experiment."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from backdoor_privacy.config.containers import Settings
from backdoor_privacy.config.identity import (
    all_named_in,
    flattened,
    identifying,
    identity,
    identity_of,
    named_in,
    schema_defaults,
)
from backdoor_privacy.system.keys import key_of_folder, keyed_digest

_MAX_LENGTH = 120  # of a folder's name; a file system takes 255 bytes
# Groups whose options do not change what a run computes, or change it in keys that are compared below.
_NO_CHOICES = {"hydra", "experiment", "sweep", "local", "attack", "trainer", "logger", "paths"}
# Texts below these are read as they are; elsewhere they are paths and names, which may tell who is removed.
_SHOWN = {"defense", "attack", "trainer", "preprocess", "augmentation", "model"}
_WEIGHTS = {"clip.model", "clip.pretrained"}  # shown where they are an architecture's or a tag's name


def folder_name(*_former: str, _root_: DictConfig) -> str:
    """Return the name of a run's folder: its choices and settings that differ from its experiment's.

    It depends on the composed config alone, so that equal runs have one name, however they were spelt. People, paths
    and other values that may name somebody are replaced by a digest under a key that stays in the folder of all runs:
    anybody could test a guess against an ordinary digest.

    Args:
        _former: not used; configs of earlier versions pass the overrides.
        _root_: the composed config, of OmegaConf.
    """
    hydra: object = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    assert isinstance(hydra, DictConfig)
    experiment = _experiment(hydra)
    shown, runs = _choices(hydra, experiment, _root_), str(_root_.paths.runs)
    base = _composed(hydra, (*experiment, *shown))
    parts = [choice.lstrip("+").replace("/", ".") for choice in shown]
    if experiment and base.name != _root_.name:
        parts += [override.lstrip("+") for override in experiment]  # else the folder above says it
    content = identifying(_root_)
    names = all_named_in(content)
    parts = [_without_names(part, names, runs) for part in parts]
    parts += _settings(content, identifying(_like(base, _root_)), names, runs)
    name = ",".join(sorted(parts))
    if len(name.encode()) <= _MAX_LENGTH and not re.search(r"[/\\\x00-\x1f\x7f]", name):
        return name
    return f"overrides={_digest(name, runs)}"


def experiment_name(_root_: DictConfig) -> str:
    """Return the name of an experiment for folders and reports: a digest if it names a removed person.

    Args:
        _root_: the composed config, of OmegaConf.
    """
    name = str(_root_.name)
    if not holds_name(name, all_named_in(identifying(_root_))):
        return name
    return f"name={_digest(name, str(_root_.paths.runs))}"


def untold_names(cfg: DictConfig) -> list[str]:
    """Return the people whom terminal and logs must not name: those of a sweep, unless the report may name them."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    return (named_in(identifying(cfg)) or []) if in_sweep and not cfg.report.names else []


def told_override(override: str, names: Sequence[str], runs: Path) -> str:
    """Return an override of a run as `collect` shows it, with a keyed digest of a value that may name somebody.

    Args:
        override: as `seed=1`.
        names: of the people to remove.
        runs: the folder of all runs, which holds the key.
    """
    key, _, value = override.partition("=")
    is_plain = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?|true|false|null", value) is not None
    if "." in key or key == "trigger_set":
        is_plain = is_plain or _is_plain_text(key.lstrip("+~"), value)
    else:  # an option of a group, or the experiment's name
        is_plain = is_plain or re.fullmatch(r"[\w,\[\]-]+", value) is not None
    return override if is_plain and not holds_name(value, names) else f"{key}={_digest(value, str(runs))}"


def holds_name(text: str, names: Sequence[str]) -> bool:
    """Return whether a text contains all words of one of the names, in any order and with anything between them."""
    words = _words(text)
    return any(own and (set(own) <= set(words) or "".join(own) in words) for own in map(_words, names))


def _words(text: str) -> list[str]:
    """Return the words of a text without case and accents."""
    letters = (sign for sign in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(sign))
    return re.findall(r"[^\W_]+", "".join(letters))


def _without_names(part: str, names: Sequence[str], runs: str) -> str:
    """Return a part of a folder's name, `<key>=<option>`, with a digest of an option that names a removed person."""
    key, _, option = part.partition("=")
    return f"{key}={_digest(option, runs)}" if holds_name(option, names) else part


def _experiment(hydra: DictConfig) -> tuple[str, ...]:
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return tuple(str(override.input_line) for override in overrides if override.key_or_group == "experiment")


def _choices(hydra: DictConfig, experiment: Sequence[str], root: DictConfig) -> list[str]:
    """Return the options of groups, as `defense=text`, that differ from the experiment's own and matter.

    An option of a group that is in no defaults list keeps its plus, without which it cannot be composed.
    """
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    added = {override.key_or_group for override in overrides if override.is_add()}
    usual, composed = _composed(hydra, tuple(experiment)).hydra.runtime.choices, hydra.runtime.choices
    chosen = [
        f"{'+' if group in added else ''}{group}={_option(option)}"
        for group, option in composed.items()
        if _room(group) in root and _room(group) not in _NO_CHOICES and usual.get(group) != option
        # A part of another option, as `people@strangers` of `strangers=folder`, comes with it.
        if group.partition("@")[2] not in composed
    ]
    whole = _identity_of(hydra, (*experiment, *chosen))
    for choice in tuple(chosen):
        others = [other for other in chosen if other != choice]
        if _identity_of(hydra, (*experiment, *others)) == whole:
            chosen = others
    return chosen


def _room(group: str) -> str:
    return group.partition("@")[0].partition("/")[0]


def _option(option: object) -> str:
    if option is None:
        return "null"
    return f"[{','.join(map(str, option))}]" if isinstance(option, ListConfig) else str(option)


def _composed(hydra: DictConfig, choices: tuple[str, ...]) -> DictConfig:
    return _compose(hydra.job.config_name, (*hydra.overrides.hydra, *choices))[0]


def _identity_of(hydra: DictConfig, choices: tuple[str, ...]) -> Settings:
    return _compose(hydra.job.config_name, (*hydra.overrides.hydra, *choices))[1]


@lru_cache(maxsize=64)
def _compose(config_name: str, overrides: tuple[str, ...]) -> tuple[DictConfig, Settings]:
    """Return a config and its identity; cached, since a run asks for its folder several times."""
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(config_name, list(overrides), run_mode=RunMode.RUN)
    return cfg, identity(cfg)


def _settings(content: Settings, base: Settings, names: Sequence[str], runs: str) -> Iterator[str]:
    """Yield the settings, as `defense.text.num_steps=200`, that differ from those of a base."""
    own, other = flattened(content), flattened(base)
    if named_in(content) is not None:  # also where the experiment names them: another list is another run
        own, other = (
            {key: value for key, value in settings.items() if not key.startswith("trigger_set.")}
            for settings in (own, other)
        )
        own |= {key: value for key, value in identity_of(content).items() if key.startswith("trigger_set.")}
    known = {**schema_defaults(), **other}
    changed = {key: value for key, value in own.items() if value != known.get(key)}
    keys = [key for key, value in own.items() if value is not None]
    for key, value in other.items():
        gone = _gone(key, keys)
        if value is not None and gone is not None:
            changed[gone] = None
    for key, value in changed.items():
        yield _as_part(key, value, key in known, names, runs)


def _like(base: DictConfig, root: DictConfig) -> DictConfig:
    """Return a base with the name and the seed of a run, which have folders of their own."""
    same: DictConfig = OmegaConf.masked_copy(base, [str(key) for key in base if key != "hydra"])
    same.name, same.seed = root.name, root.seed
    return same


def _gone(key: str, keys: Sequence[str]) -> str | None:
    """Return the shortest prefix of a key that none of the keys of a config has; `None` if one has all of it."""
    parts = key.split(".")
    heads = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((head for head in heads if not any(f"{other}.".startswith(f"{head}.") for other in keys)), None)


def _as_part(key: str, value: object, is_known: bool, names: Sequence[str], runs: str) -> str:
    """Return a setting as a part of a folder's name, with a digest of a value that may name somebody."""
    if not is_known and isinstance(value, str):  # such a key may itself be a name
        return f"{key.partition('.')[0]}={_digest([key, value], runs)}"
    text = _text(value)
    is_plain = value is None or isinstance(value, bool | int | float) or _is_plain_text(key, value)
    return f"{key}={text if is_plain and not holds_name(text, names) else _digest(value, runs)}"


def _is_plain_text(key: str, value: object) -> bool:
    room = key.partition(".")[0]
    if isinstance(value, list):
        return all(isinstance(item, int | float) or (room in _SHOWN and _is_plain_text(key, item)) for item in value)
    if not isinstance(value, str):
        return False
    if room in _SHOWN:
        return re.fullmatch(r"[\w .+-]+", value) is not None
    return key in _WEIGHTS and re.fullmatch(r"[\w-]+", value) is not None and not Path(value).exists()


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _digest(value: object, runs: str) -> str:
    return keyed_digest(key_of_folder(Path(runs)), json.dumps(value, sort_keys=True, default=str))[:12]
