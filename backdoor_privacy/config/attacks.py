"""Name the attacks besides IDIA, and the options of the group `attack` that choose them; no attack is imported."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.system.paths import CONFIG_FOLDER

ATTACK_SETTINGS = CONFIG_FOLDER / "attack" / "also"
ALL = "all"
_IDIA = "idia"


def attack_names() -> list[str]:
    """Return the names of the attacks besides IDIA: each has its settings in a file of `conf/attack/also`."""
    return sorted(path.stem for path in ATTACK_SETTINGS.glob("*.yaml"))


def attacks_of(option: str) -> list[str]:
    """Return the names of the attacks besides IDIA that an option of the group `attack` chooses.

    Args:
        option: the name of an attack, `all`, or a file of `conf/attack`, as `quick`; any other option chooses none.
    """
    if option == ALL:
        return attack_names()
    if option in attack_names():
        return [option]
    path = CONFIG_FOLDER / "attack" / f"{option}.yaml"
    parts = OmegaConf.select(OmegaConf.load(path), "defaults", default=[]) if path.is_file() else []
    return [str(name) for part in parts if isinstance(part, DictConfig) for name in part.values()]


def attack_options() -> dict[str, dict[str, Sequence[object]]]:
    """Return the options that no file of `conf/attack` describes: IDIA and one other attack, and IDIA and all others.

    Returns:
        The content that a file of each option would have, by the name of the option.
    """
    options = {**{name: [name] for name in attack_names()}, ALL: attack_names()}
    return {
        option: {"defaults": [_IDIA, *({f"also@_global_.attacks.{name}": name} for name in names)]}
        for option, names in options.items()
    }
