"""Choose attacks by name, with their settings of `conf/attack/also`."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from backdoor_privacy.attacks.base import Attack
from backdoor_privacy.config.attacks import ATTACK_SETTINGS, attack_names
from backdoor_privacy.config.build import build, is_described
from backdoor_privacy.errors import InputError


def check_attacks(attacks: Mapping[str, DictConfig], num_processes: int) -> dict[str, Attack]:
    """Build the attacks that follow a run: a mistake in one shows before hours of work, not after.

    Raises:
        InputError: if a setting is of no use, or an attack cannot be shared by the processes of the run.
    """
    built = {name: make_attack(settings) for name, settings in attacks.items()}
    alone = [name for name, attack in built.items() if not attack.is_shared]
    if alone and num_processes > 1:  # what they embed would wait for the other processes
        raise InputError(
            f"attack: expected attack=default or attack=idia in a run of {num_processes} processes, got "
            f"{', '.join(alone)}; attack the finished run: python -m backdoor_privacy.attack <run>"
        )
    return built


def load_attacks(names: Sequence[str], changes: Sequence[str] = ()) -> dict[str, DictConfig]:
    """Return the settings of attacks, by name.

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
    attacks = OmegaConf.create({name: OmegaConf.load(ATTACK_SETTINGS / f"{name}.yaml") for name in names or known})
    OmegaConf.set_struct(attacks, True)
    settings = [f"{name!s}.{key!s}" for name, one in attacks.items() for key in one if key != "_target_"]
    for change in changes:
        key, _, value = change.partition("=")
        try:
            OmegaConf.update(attacks, key, OmegaConf.create(f"value: {value}").value)
            if not all(isinstance(one, DictConfig) for one in attacks.values()):
                raise TypeError(change)
        except (OmegaConfBaseException, YAMLError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"attack: expected a setting of {', '.join(map(str, attacks))}, got {change}; there are "
                f"{', '.join(settings)}"
            ) from error
    return {str(name): settings for name, settings in attacks.items()}


def make_attack(settings: object) -> Attack:
    """Return an attack from its settings.

    Raises:
        InputError: if one of them is of no use.
    """
    if not isinstance(settings, DictConfig) or not is_described(settings):
        raise InputError(f"attack: expected settings of an attack with its _target_, got {settings}")
    return build(settings, Attack)
