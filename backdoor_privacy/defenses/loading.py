"""Build the defences that a config describes, or a file of `conf/defense`."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.config.build import build
from backdoor_privacy.config.schema import load_option
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.errors import InputError


def build_defenses(node: DictConfig) -> dict[str, Defense]:
    """Return the defences of `cfg.defense` by name, in the order in which they are applied.

    Raises:
        InputError: if there is none, or a setting is wrong.
    """
    chosen = {str(name): one for name, one in node.items() if one is not None}  # a null leaves a defence out
    defenses = {name: build(one, Defense, f"defense.{name}") for name, one in chosen.items()}
    if not defenses:
        raise InputError("defense: expected a method that removes people, got none; choose defense=both, text or image")
    return defenses


def load_defense(name: str, *, targets: Mapping[str, str] | None = None, **changes: Any) -> dict[str, Defense]:
    """Return the defences of a file in `conf/defense` by name, with some settings changed.

    Args:
        name: of the file, without its suffix.
        targets: options of groups within it, as `{"text_target": "phrase"}`.
        changes: settings of each defence.

    Example:
        >>> load_defense("text_published", text={"num_steps": 100})["text"].num_steps
        100

    Raises:
        InputError: if there is no such file, or a setting is wrong.
    """
    settings = OmegaConf.merge(load_option("defense", name, targets or {}), changes)
    assert isinstance(settings, DictConfig)
    return build_defenses(settings)
