"""Choose attacks by name, with their settings of `conf/attack/also`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from backdoor_privacy.attacks.context import Attack
from backdoor_privacy.attacks.names import ATTACK_SETTINGS, attack_names
from backdoor_privacy.errors import InputError, cause_of

_SHARED = ("tower_swap", "variants")  # what takes time in them is shared by the processes of a run


def check_attacks(attacks: Mapping[str, DictConfig], num_processes: int) -> None:
    """See that attacks can be run at the end of a run: a mistake in one shows before hours of work, not after.

    Raises:
        InputError: if a setting is of no use, or an attack cannot be shared by the processes of the run.
    """
    for settings in attacks.values():
        make_attack(settings)
    alone = [name for name in attacks if name not in _SHARED]
    if alone and num_processes > 1:  # what they embed would wait for the other processes
        raise InputError(
            f"attack: expected attack=default or attack=idia in a run of {num_processes} processes, got "
            f"{', '.join(alone)}; attack the finished run: python -m backdoor_privacy.attack <run>"
        )


def load_attacks(names: Sequence[str], changes: Sequence[str] = ()) -> dict[str, DictConfig]:
    """The settings of attacks.

    Args:
        names: of `conf/attack/also`; none: all of them.
        changes: as `probe.num_neighbors=3`.

    Raises:
        InputError: if there is no such attack, or no such setting.
    """
    known = attack_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"attack: expected some of {', '.join(known)}, got {unknown[0]}; choose of these")
    found = OmegaConf.create({name: OmegaConf.load(ATTACK_SETTINGS / f"{name}.yaml") for name in names or known})
    OmegaConf.set_struct(found, True)
    settings = [f"{name!s}.{key!s}" for name, one in found.items() for key in one if key != "_target_"]
    for change in changes:
        key, _, value = change.partition("=")
        try:
            OmegaConf.update(found, key, OmegaConf.create(f"value: {value}").value)
            if not all(isinstance(one, DictConfig) for one in found.values()):
                raise TypeError(change)
        except (OmegaConfBaseException, YAMLError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"attack: expected a setting of {', '.join(map(str, found))}, got {change}; there are "
                f"{', '.join(settings)}"
            ) from error
    return {str(name): settings for name, settings in found.items()}


def make_attack(settings: Any) -> Attack:
    """An attack from its settings.

    Raises:
        InputError: if one of them is of no use.
    """
    if not isinstance(settings, DictConfig) or "_target_" not in settings:
        raise InputError(f"attack: expected settings of an attack with its _target_, got {settings}")
    try:
        attack: Attack = instantiate(settings)
    except InstantiationException as error:
        cause = cause_of(error)
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"attack: expected other settings of {settings._target_}: {cause}") from error
    return attack
