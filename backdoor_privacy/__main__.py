"""The command: `python -m backdoor_privacy`."""

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

import backdoor_privacy.config  # noqa: F401  registers the schemas
from backdoor_privacy.errors import InputError
from backdoor_privacy.paths import CONFIG_FOLDER

log = logging.getLogger("backdoor_privacy")


@hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Parse the command line, run, and print what came out."""
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.run import run
    from backdoor_privacy.table import print_table

    try:
        metrics = run(cfg)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, InputError):
            log.exception("The run failed")
            raise
        log.error("%s", cause)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs of a sweep; it would end with an exit
        sys.exit(1)
    print_table(metrics, str(Path(cfg.paths.run)))  # without the empty part of a run without overrides


if __name__ == "__main__":
    main()
