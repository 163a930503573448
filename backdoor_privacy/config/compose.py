"""Register what Hydra must know before it composes a config: schemas, attacks, and the names of a run's folder."""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from backdoor_privacy.config.attacks import attack_options
from backdoor_privacy.config.naming import experiment_name, folder_name
from backdoor_privacy.config.schema import Config, Pretrain

OmegaConf.register_new_resolver("experiment_name", experiment_name, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
_store = ConfigStore.instance()
_store.store(name="schema", node=Config)
_store.store(name="pretrain_schema", node=Pretrain)
for _name, _content in attack_options().items():
    _store.store(group="attack", name=_name, node=_content)
