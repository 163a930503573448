"""A command whose output nobody reads does its work all the same."""

import subprocess
import sys

import pytest

CODE = """
import logging, sys
from pathlib import Path
from backdoor_privacy.errors import ended_in_one_line

@ended_in_one_line
def main(arguments):
    logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
    for number in range(20000):
        print("line", number)
        logging.getLogger("backdoor_privacy").info("logged")
    sys.stdout.flush()
    print("told on standard error", file=sys.stderr)
    Path(sys.argv[1]).write_text("finished")
    return 0

sys.exit(main())
"""


@pytest.mark.parametrize("shell", ["'{python}' -c '{code}' '{done}' | head -1", "'{python}' -c '{code}' '{done}' >&-"])
def test_a_closed_output_stops_nothing(shell: str, tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    command = f"{shell}; exit ${{{{PIPESTATUS[0]}}}}".replace("-c '{code}'", f"'{tmp_path}/code.py'")
    command = command.format(python=sys.executable, done=tmp_path / "done")
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "done").read_text() == "finished"
    assert ended.stderr == "told on standard error\n"
    assert ended.stdout in ("", "line 0\n")


def test_closed_outputs_do_not_get_into_a_file(tmp_path):
    code = CODE.replace("range(20000)", "range(3)")
    (tmp_path / "code.py").write_text(code)
    command = f"'{sys.executable}' '{tmp_path}/code.py' '{tmp_path}/done' >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert (tmp_path / "done").read_text() == "finished"
