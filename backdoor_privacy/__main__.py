"""The command: `python -m backdoor_privacy`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

import backdoor_privacy.config  # noqa: F401  registers the schemas
from backdoor_privacy.errors import one_line_errors
from backdoor_privacy.paths import CONFIG_FOLDER


@hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Parse the command line, run, and print what came out."""
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.run import run
    from backdoor_privacy.table import print_table

    with one_line_errors():
        metrics = run(cfg)
    print_table(metrics, str(Path(cfg.paths.run)))  # without the empty part of a run without overrides


if __name__ == "__main__":
    main()
