"""Run the attack and the utility measures on a CLIP: the same function before and after a defence.

`python -m backdoor_privacy.audit` audits a CLIP without defending it; of named people it writes a report.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from backdoor_privacy.attacks.idia import Idia, IdiaResult
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import one_line_errors
from backdoor_privacy.system.terminal import VisibleConsole
from backdoor_privacy.utility.base import Measure


@dataclass(frozen=True)
class Audit:
    """What was measured of one CLIP."""

    idia: IdiaResult
    utility: dict[str, float]


def audit(clip: Clip, people: People, attack: Idia, measures: Sequence[Measure]) -> Audit:
    """Attack everybody who has photos, then measure what the CLIP is good for."""
    result = attack.run(clip, people.with_photos.everybody, warn=True)
    return Audit(result, {key: value for measure in measures for key, value in measure.measure(clip).items()})


def idia_rates(
    before: Mapping[str, bool], after: Mapping[str, bool], removed: Collection[str], members: Mapping[str, bool | None]
) -> dict[str, float]:
    """Return rates over the same people, candidates and photos, each with the number of people behind it.

    Args:
        before: whether each person was inferred from the original CLIP.
        after: whether each person is inferred from the audited CLIP.
        removed: names of the people removed.
        members: whether each person was in the training data; `None` (nobody knows) counts as a member.

    Returns:
        Rates in [0, 1]; a rate over nobody is left out, its count is 0.
    """
    removed = set(removed)
    groups = {
        "tpr_removed": [after[name] for name in after if name in removed],
        "tpr_kept": [after[name] for name in after if name not in removed and members[name] is not False],
        "fpr": [after[name] for name in after if name not in removed and members[name] is False],
        "wrongly_unlearned": [not after[name] for name in after if name not in removed and before[name]],
        "newly_recalled": [after[name] for name in after if name not in removed and not before[name]],
    }
    counts = {f"idia/num_{group}": float(len(people)) for group, people in groups.items()}
    return {f"idia/{group}": sum(people) / len(people) for group, people in groups.items() if people} | counts


def null_rates(found: IdiaResult, removed: Collection[str]) -> dict[str, float]:
    """Return how often the attack infers a random name in place of a removed person's own, see `attacks.chance`.

    Returns:
        `idia/null_rate`, the mean share of random names over removed people with photos; `idia/num_null`, these people,
        and `idia/num_random_names`. The rate over nobody is left out.
    """
    chance = found.evidence.chance
    if chance is None:
        return {}
    rows = [row for row, name in enumerate(found.names) if name in removed and found.num_photos[row]]
    counts = {"idia/num_null": float(len(rows)), "idia/num_random_names": float(chance.num_random)}
    is_known = bool(rows) and chance.num_random > 0
    return ({"idia/null_rate": float(chance.rates[rows].mean())} if is_known else {}) | counts


def leak_table(found: IdiaResult, people: People) -> list[tuple[str, int, float, float]]:
    """Return how much the CLIP leaks: a row for each group of people who have as many photos in its training data.

    Returns:
        Group, number of people, TPR (FPR for people whom it never saw), and mean number of right prompts.
    """
    groups: dict[int | None, list[int]] = defaultdict(list)
    for row, person in enumerate(people.with_photos.everybody):
        groups[person.num_web_photos].append(row)
    table = []
    for num_photos, rows in sorted(groups.items(), key=lambda item: -1 if item[0] is None else item[0]):
        correct = [found.correct_prompts[row] for row in rows]
        title = "unknown" if num_photos is None else f"{num_photos} training photos"
        rate = sum(count >= found.threshold for count in correct) / len(rows)
        table.append((title, len(rows), rate, sum(correct) / len(rows)))
    return table


def _print_audit(cfg: DictConfig) -> None:
    """Audit the CLIP of a config, print what it leaks and what it is good for, and write a report of named people."""
    from hydra.utils import instantiate

    from backdoor_privacy.config.build import build
    from backdoor_privacy.config.checks import check
    from backdoor_privacy.config.naming import untold_names
    from backdoor_privacy.config.schema import load_config
    from backdoor_privacy.data.selection import named_people
    from backdoor_privacy.report.audited import sought
    from backdoor_privacy.run import report_audit
    from backdoor_privacy.utility.base import build_measures

    with one_line_errors(untold_names(cfg)):
        check(cfg, only_audits=True)
        clip, people = instantiate(cfg.clip), instantiate(cfg.people)
        named = named_people(people, load_config(cfg).trigger_set) or ()
        clip.check_fits([person.name for person in named])
        found = audit(clip, people, build(cfg.attack, Idia), list(build_measures(cfg.utility).values()))
    table = Table(title=f"IDIA with {cfg.attack.num_candidates} candidates, seed {cfg.seed}")
    for column in ("people with", "people", "inferred", "right prompts of 21"):
        table.add_column(column, justify="left" if column == "people with" else "right")
    for title, num_people, rate, correct in leak_table(found.idia, people):
        table.add_row(title, str(num_people), f"{rate:.3f}", f"{correct:.2f}")
    console = VisibleConsole()
    console.print(table)
    for key, value in found.utility.items():
        if "/num_" not in key:
            console.print(f"{key} {value:.3f}")
    if named:
        page = report_audit(cfg, Path(cfg.paths.run), clip, found, people, named)
        for number, row in enumerate(sought(found.idia, named), 1):
            console.print(f"person {number} of {len(named)}: {row.outcome}", soft_wrap=True, highlight=False)
        console.print(f"Report: {page}", soft_wrap=True, highlight=False)


def main() -> None:
    """The command; Hydra is only loaded for it."""
    from backdoor_privacy.config.command import run_command

    run_command(_print_audit, "audit")


if __name__ == "__main__":
    main()
