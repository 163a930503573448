"""Build the defences that a config describes, or a file of `conf/defense`."""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.config.build import build
from backdoor_privacy.config.schema import load_option
from backdoor_privacy.defenses.base import NO_DEFENSE, Defense
from backdoor_privacy.errors import InputError


def build_defenses(node: DictConfig) -> dict[str, Defense]:
    """Return the defences of `cfg.defense` by name, in the order in which they are applied.

    Raises:
        InputError: if there is none, or a setting is wrong.
    """
    nodes = {str(name): settings for name, settings in node.items() if settings is not None}  # null: not used
    defenses = {name: build(settings, Defense, f"defense.{name}") for name, settings in nodes.items()}
    if not defenses:
        raise InputError(NO_DEFENSE)
    return defenses


def load_defense(name: str, *, options: Mapping[str, str] | None = None, **changes: object) -> dict[str, Defense]:
    """Return the defences of a file in `conf/defense` by name, with some settings changed.

    Args:
        name: of the file, without its suffix.
        options: the chosen file of each group within it, as `{"text_target": "phrase"}`, or of groups to add, as
            `{"text_term": "delete"}`.
        changes: settings to change, by defence.

    Example:
        >>> load_defense("text_published", text={"num_steps": 100})["text"].num_steps
        100

    Raises:
        InputError: if there is no such file, or a setting is wrong.
    """
    chosen = options or {}
    added = [load_option(f"defense/{group}", option) for group, option in chosen.items()]
    settings = OmegaConf.merge(load_option("defense", name, chosen), *added, changes)
    assert isinstance(settings, DictConfig)
    return build_defenses(settings)
