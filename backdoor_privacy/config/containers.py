"""Turn a config into plain values."""

from typing import TypeAlias

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.system.reading import JsonObject

Settings: TypeAlias = JsonObject  # nested, as YAML holds them; OmegaConf does not type them


def settings_of(cfg: DictConfig, *, resolve: bool = False) -> Settings:
    """Return a config as nested mappings and lists of plain values; interpolations stay unless they are resolved."""
    content = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
