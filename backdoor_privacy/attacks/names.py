"""Names of the attacks that there are besides IDIA, read from `conf/attack`: no attack is imported for them."""

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.system.paths import CONFIG_FOLDER

ATTACK_SETTINGS = CONFIG_FOLDER / "attack" / "also"


def attack_names() -> list[str]:
    """The attacks that there are besides IDIA."""
    return sorted(path.stem for path in ATTACK_SETTINGS.glob("*.yaml"))


def quick_attacks() -> list[str]:
    """The faster ones, which `conf/attack/quick.yaml` lists."""
    return _listed("quick")


def default_attacks() -> list[str]:
    """Return the attacks that every run ends with, which `conf/attack/default.yaml` lists."""
    return _listed("default")


def _listed(choice: str) -> list[str]:
    parts = OmegaConf.load(CONFIG_FOLDER / "attack" / f"{choice}.yaml").defaults
    return [str(name) for part in parts if isinstance(part, DictConfig) for name in part.values()]
