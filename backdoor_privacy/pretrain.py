"""Train a small CLIP on captioned photos: `python -m backdoor_privacy.pretrain`."""

from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.errors import one_line_errors


def main() -> None:
    """Parse the command line, then train."""
    run_command(_pretrain, "pretrain")


def _pretrain(cfg: DictConfig) -> None:
    # Here, so that --help and a mistyped key need not wait for torch.
    from backdoor_privacy.clip.pretraining import pretrain
    from backdoor_privacy.config.checks import check_pretrain

    with one_line_errors():
        check_pretrain(cfg)
        pretrain(cfg)


if __name__ == "__main__":
    main()
