"""The command: `python -m backdoor_privacy`."""

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.errors import one_line_errors
from backdoor_privacy.system.paths import CONFIG_FOLDER


@hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Parse the command line, run, and print what came out."""
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.config.checks import check
    from backdoor_privacy.report.terminal import print_table
    from backdoor_privacy.run import run
    from backdoor_privacy.system.distributed import exit_code_of_launch, is_first_process, process_group
    from backdoor_privacy.system.hardware import take_a_gpu

    with one_line_errors():
        check(cfg)
        if cfg.quiet:
            logging.getLogger("backdoor_privacy").setLevel(logging.WARNING)
            cfg.trainer.progress_bar = False
        exit_code = exit_code_of_launch(cfg.trainer.devices)
        if exit_code is not None:
            sys.exit(exit_code)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            take_a_gpu()
        with process_group(cfg.trainer.accelerator):
            metrics = run(cfg)
            if is_first_process():
                folder = str(Path(cfg.paths.run))  # without the empty part of a run without overrides
                print(folder) if cfg.quiet else print_table(metrics, folder)


if __name__ == "__main__":
    main()
