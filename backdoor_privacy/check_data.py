"""Check the data of a run: `python -m backdoor_privacy.check_data` takes the arguments of `python -m backdoor_privacy`.

It loads no CLIP, trains nothing and writes nothing outside the cache.
"""

from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.errors import InputError, one_line_errors
from backdoor_privacy.system.terminal import VisibleConsole


def _check_data(cfg: DictConfig) -> None:
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.checkup import check_data, print_checkup

    with one_line_errors():
        checkup = check_data(cfg)
        print_checkup(checkup)
        if checkup.problems:
            raise InputError(f"{cfg.name}: expected data without problems, got {len(checkup.problems)}; see above")
    VisibleConsole(highlight=False).print("The run can start.")


def main() -> None:
    """Parse the command line, then check the data."""
    run_command(_check_data, "check_data")


if __name__ == "__main__":
    main()
