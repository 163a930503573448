"""Attack a finished run with more than IDIA: `python -m backdoor_privacy.attack <run> [attack ...]`."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from backdoor_privacy.config.attacks import ALL, attack_names, attacks_of
from backdoor_privacy.errors import CommandParser, ended_in_one_line, show_anything
from backdoor_privacy.system.terminal import VisibleConsole
from backdoor_privacy.system.visible import visible

if TYPE_CHECKING:  # without torch, --help comes at once
    from backdoor_privacy.attacks.scores import Score

_ALLOW = "allow="
_QUICK = "quick"


def print_scores(scores: "Mapping[str, Sequence[Score]]", folder: Path) -> None:
    """Print the headlines of attacks, those that are worst for the removed people first."""
    from backdoor_privacy.attacks.headlines import headlines

    table = Table("measure", "kind", "model", title="Worst first; collateral damage to other people comes last")
    for column in ("before", "after (95 %)", "never seen"):
        table.add_column(column, justify="right")
    for row in headlines(scores):
        score = row.score
        others = ["" if other is None else f"{other.value:.3f}" for other in (row.before, row.control)]
        interval = f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
        table.add_row(row.label, escape(score.kind), score.model, others[0], interval, others[1])
    console = VisibleConsole(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    print(visible(f"All scores: {folder / 'attacks'}"))


def _listed_in(text: str) -> list[str]:
    """Return the classes of `allow=[a.b.C, ...]`."""
    return [one for one in text.removeprefix(_ALLOW).strip("[]").split(",") if one.strip()]


def _chosen(names: Sequence[str]) -> Sequence[str]:
    """Return the attacks that `all` and `quick` among these names stand for, and the others."""
    if ALL in names:
        return attack_names()
    if _QUICK in names:
        return list(dict.fromkeys([*attacks_of(_QUICK), *(name for name in names if name != _QUICK)]))
    return names


@ended_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Attack the models of a run, print what was found, and write its report again.

    Returns:
        The exit code.
    """
    parser = CommandParser(
        prog="python -m backdoor_privacy.attack",
        description="Attack the models of a finished run, write attacks/<attack>.json, and write the report again.",
        epilog="Example: python -m backdoor_privacy.attack runs/both_64/seed=0 probe variants variants.num_prompts=21",
    )
    parser.add_argument("run", type=Path, help="folder of a run: the one with metrics.json")
    parser.add_argument(
        "attacks",
        nargs="*",
        metavar="attack",
        help=f"{', '.join(attack_names())}, quick, all (default), a setting, or allow=[my.module.Class]: what the "
        "run's config may call besides this package's own, if you trust it",
    )
    parsed = parser.parse_args(arguments)
    allow = [one.strip(" '\"") for text in parsed.attacks if text.startswith(_ALLOW) for one in _listed_in(text)]
    changes = [one for one in parsed.attacks if "=" in one and not one.startswith(_ALLOW)]
    chosen = _chosen([one for one in parsed.attacks if "=" not in one])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("backdoor_privacy").setLevel(logging.INFO)
    show_anything()

    from omegaconf import OmegaConf

    from backdoor_privacy.attacks.choice import load_attacks, make_attack
    from backdoor_privacy.config.stored import read_stored
    from backdoor_privacy.report.writing import write_report
    from backdoor_privacy.runs.attacks import config_path, load_context, run_attacks

    attacks = load_attacks(chosen, changes)
    for settings in attacks.values():
        make_attack(settings)  # so that a mistake in one shows before the others have run
    scores = run_attacks(load_context(parsed.run, allow), attacks, parsed.run)
    write_report(parsed.run, names=OmegaConf.select(read_stored(config_path(parsed.run)), "report.names") is True)
    print_scores(scores, parsed.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
