"""What Hydra must know before it composes a config: the schemas and our resolver."""

import hashlib

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from backdoor_privacy.settings import Config, Pretrain


def folder_name(overrides: str) -> str:
    """The overrides of a run as one folder's name: shortened to a digest where they are no good name."""
    overrides = overrides.replace("\\", "")  # Hydra quotes spaces with it
    if len(overrides) <= 120 and "/" not in overrides:
        return overrides
    return f"overrides={hashlib.sha256(overrides.encode()).hexdigest()[:12]}"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
_store = ConfigStore.instance()
_store.store(name="schema", node=Config)
_store.store(name="pretrain_schema", node=Pretrain)
