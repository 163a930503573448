"""Train a small CLIP on captioned photos: `python -m backdoor_privacy.pretrain`."""

from pathlib import Path

from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.errors import InputError, one_line_errors


def main() -> None:
    """Parse the command line, then train."""
    run_command(_pretrain, "pretrain")


def _pretrain(cfg: DictConfig) -> None:
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.clip.pretraining import pretrain
    from backdoor_privacy.config.checks import check_pretrain

    with one_line_errors():
        check_pretrain(cfg)
        pretrain(cfg, excluded_people(cfg))


def excluded_people(cfg: DictConfig) -> list[str]:
    """Return the names of the people whom the config excludes: those in a file, or those whom a run removed.

    Raises:
        InputError: if there is no such file or run, or nobody in it.
    """
    from backdoor_privacy.data.selection import names_in_file
    from backdoor_privacy.runs.finished import removed_people

    if cfg.exclude.people is not None:
        names = names_in_file(Path(cfg.exclude.people), "exclude.people")
    elif cfg.exclude.run is not None:
        names = removed_people(Path(cfg.exclude.run).expanduser())
    else:
        return []
    if not names:
        raise InputError("exclude: expected at least one person, got nobody; leave it out to train on everybody")
    return names


if __name__ == "__main__":
    main()
