"""What Hydra must know before it composes a config: the schemas and our resolver."""

import hashlib
import hmac
import secrets
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from backdoor_privacy.config.schema import Config, Pretrain
from backdoor_privacy.system.files import made_once, write_text


def folder_name(overrides: str, runs: str) -> str:
    """The overrides of a run as one folder's name: shortened to a digest where they are no good name.

    Where they name people, it is a digest under a key that stays in the folder of all runs: a folder's name is shown in
    many places, and whoever suspects a name could test an ordinary digest of it.
    """
    overrides = overrides.replace("\\", "")  # Hydra quotes spaces with it
    if "trigger_set.people=" in overrides or "people.names=" in overrides:
        key = made_once(Path(runs) / ".key", lambda draft: write_text(draft / "key", secrets.token_hex(32)))
        digest = hmac.new((key / "key").read_bytes(), overrides.encode(), hashlib.sha256).hexdigest()
        return f"people={digest[:12]}"
    if len(overrides) <= 120 and "/" not in overrides:
        return overrides
    return f"overrides={hashlib.sha256(overrides.encode()).hexdigest()[:12]}"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
_store = ConfigStore.instance()
_store.store(name="schema", node=Config)
_store.store(name="pretrain_schema", node=Pretrain)
