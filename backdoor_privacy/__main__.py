"""The command: `python -m backdoor_privacy`."""

import logging
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.errors import one_line_errors
from backdoor_privacy.system.visible import visible


def main() -> None:
    """Parse the command line, run, and print what came out."""
    run_command(_run, "config")


def _run(cfg: DictConfig) -> None:
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.config.naming import untold_names
    from backdoor_privacy.report.terminal import print_table
    from backdoor_privacy.run import check_run, run
    from backdoor_privacy.system.distributed import exit_code_of_launch, is_main_process, process_group
    from backdoor_privacy.system.hardware import take_a_gpu

    with one_line_errors(untold_names(cfg)):
        check_run(cfg)
        folder = Path(cfg.paths.run)
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
            if is_main_process():
                print(visible(str(folder))) if cfg.quiet else print_table(metrics, str(folder))


if __name__ == "__main__":
    main()
