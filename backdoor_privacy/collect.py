"""Collect many runs in one table: `python -m backdoor_privacy.collect runs`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from backdoor_privacy.errors import CommandParser, ended_in_one_line

_MAX_MISSING = 3  # runs of a sweep that are listed


@ended_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the means over seeds, write every row to `collected.csv`, and draw `figures/`.

    Runs that are missing, not finished or broken are listed.

    Returns:
        The exit code: 1 if there is no run.
    """
    parser = CommandParser(
        prog="python -m backdoor_privacy.collect",
        description=(
            "Print the means over the seeds of the finished runs below a folder, write a row for each audited model to "
            "collected.csv in it, draw figures/, and list the runs that are missing, not finished or broken."
        ),
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="of all runs; default: runs")
    folder: Path = parser.parse_args(arguments).folder

    from backdoor_privacy.report.collected import collect, write_collected
    from backdoor_privacy.runs.sweeps import missing_runs, public_overrides
    from backdoor_privacy.system.terminal import VisibleConsole

    console = VisibleConsole(markup=False, emoji=False)  # paths and logs may have brackets and colons
    rows, failed = collect(folder)
    if len(rows):
        console.print(write_collected(rows, folder))
    for sweep, missing in missing_runs(folder).items():
        shown = [public_overrides(job, folder) for job in missing[:_MAX_MISSING]]
        shown += ["..."] * (len(missing) > _MAX_MISSING)
        text = f"missing of {sweep}: {len(missing)} runs: {'; '.join(shown)}"
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    for line in failed:
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
