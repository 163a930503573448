"""The command: `python -m backdoor_privacy.report <run> [<run> ...]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from backdoor_privacy.errors import CommandParser, InputError, ended_in_one_line, line_of
from backdoor_privacy.system.visible import visible

_WITH_NAMES, _WITHOUT_NAMES = "report.names=true", "report.names=false"


@ended_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports of runs again.

    Returns:
        The exit code: 1 if one of the folders is no finished run; the reports of the others are written.
    """
    parser = CommandParser(
        prog="python -m backdoor_privacy.report",
        description=(
            "Write report.html and figures/ of finished runs again, from the files in their folders. Of several runs, "
            "write a page that compares them, comparison.html, into the folder that all of them are in. With "
            f"{_WITH_NAMES} the reports name people; otherwise they say nothing about single people."
        ),
        epilog="Example: python -m backdoor_privacy.report runs/both_64/*/seed=* report.names=true",
    )
    parser.add_argument("runs", nargs="+", metavar="run", help="folder of a run: the one with metrics.json")
    words: list[str] = parser.parse_args(arguments).runs
    names = _WITH_NAMES in words
    folders = [Path(folder) for folder in words if folder not in (_WITH_NAMES, _WITHOUT_NAMES)]

    from backdoor_privacy.report.writing import write_comparison, write_report
    from backdoor_privacy.runs.folder import check_links

    failed, written = False, []
    for folder in folders:
        try:
            check_links(folder)
            write_report(folder, names=names)
        except (InputError, OSError) as error:
            failed = True
            print(f"error: {line_of(error)}", file=sys.stderr)
        else:
            print(visible(str(folder / "report.html")))
            written.append(folder)
    if len(written) > 1:
        print(visible(str(write_comparison(written))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
