"""Audit a CLIP without defending it: `python -m backdoor_privacy.audit`; a report is written about named people."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.errors import one_line_errors

if TYPE_CHECKING:  # without torch, --help comes at once
    from backdoor_privacy.data.people import People
    from backdoor_privacy.evaluation import Audit
    from backdoor_privacy.system.terminal import VisibleConsole


def _print_audit(cfg: DictConfig) -> None:
    """Audit the CLIP of a config, print what it leaks and its utility, and write a report about named people."""
    # Here, so that --help and a mistyped key need not wait for torch.
    from pathlib import Path

    from hydra.utils import instantiate

    from backdoor_privacy.attacks.idia import Idia
    from backdoor_privacy.config.build import build
    from backdoor_privacy.config.checks import check
    from backdoor_privacy.config.naming import untold_names
    from backdoor_privacy.config.schema import load_config
    from backdoor_privacy.config.worlds import check_worlds
    from backdoor_privacy.data.selection import named_people
    from backdoor_privacy.evaluation import audit
    from backdoor_privacy.report.audited import sought
    from backdoor_privacy.run import report_audit
    from backdoor_privacy.system.terminal import VisibleConsole
    from backdoor_privacy.utility.base import build_measures

    with one_line_errors(untold_names(cfg)):
        check(cfg)
        check_worlds(cfg, parts=())
        clip, people = instantiate(cfg.clip), instantiate(cfg.people)
        named = named_people(people, load_config(cfg).trigger_set) or ()
        clip.check_fits([person.name for person in named])
        result = audit(clip, people, build(cfg.attack, Idia), list(build_measures(cfg.utility).values()))
    console = VisibleConsole()
    _print_leaks(console, f"IDIA with {cfg.attack.num_candidates} candidates, seed {cfg.seed}", result, people)
    for key, value in result.utility.items():
        if "/num_" not in key:
            console.print(f"{key} {value:.3f}")
    if named:
        page = report_audit(cfg, Path(cfg.paths.run), clip, result, people, named)
        for number, row in enumerate(sought(result.idia, named), 1):
            console.print(f"person {number} of {len(named)}: {row.outcome}", soft_wrap=True, highlight=False)
        console.print(f"Report: {page}", soft_wrap=True, highlight=False)


def _print_leaks(console: "VisibleConsole", title: str, result: "Audit", people: "People") -> None:
    """Print which shares of the people the attack infers."""
    from rich.table import Table

    from backdoor_privacy.attacks.idia import TEMPLATES
    from backdoor_privacy.evaluation import leak_table

    table = Table(title=title)
    for column in ("people with", "people", "inferred", f"right prompts of {len(TEMPLATES)}"):
        table.add_column(column, justify="left" if column == "people with" else "right")
    for group, num_people, rate, correct in leak_table(result.idia, people):
        table.add_row(group, str(num_people), f"{rate:.3f}", f"{correct:.2f}")
    console.print(table)


def main() -> None:
    """Parse the command line, then audit."""
    run_command(_print_audit, "audit")


if __name__ == "__main__":
    main()
