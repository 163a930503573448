"""Turn a config into plain values."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

Settings = dict[str, Any]  # nested, as YAML holds them; OmegaConf does not type them


def settings_of(cfg: DictConfig, *, resolve: bool = False) -> Settings:
    """Return a config as nested mappings and lists of plain values; interpolations stay unless they are resolved."""
    content: Any = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
    return content
