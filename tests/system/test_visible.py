"""A name or a path can hold anything: a terminal, a log and a report show it, and obey none of it."""

import io
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from backdoor_privacy.checkup import Checkup, print_checkup
from backdoor_privacy.data.photos import read_photo
from backdoor_privacy.errors import (
    InputError,
    ended_in_one_line,
    fault_of,
    line_of,
    show_anything,
    some,
    traceback_of,
)
from backdoor_privacy.problems import Problem
from backdoor_privacy.report.html import templates
from backdoor_privacy.system.terminal import VisibleConsole
from backdoor_privacy.system.visible import visible

HOSTILE = "Eve\x1b[2K\x1b[1A\x1b]0;owned\x07\u202efdp\u200b\u2028\x9b1m\ufeff\nThe run can start."
SHOWN = r"Eve\x1b[2K\x1b[1A\x1b]0;owned\x07\u202efdp\u200b\u2028\x9b1m\ufeff\nThe run can start."


@pytest.mark.parametrize("name", ["Ann Lee", "Jürgen Groß", "Иван", "王小明", "أحمد", "Zoë 🙂", "a\\x1b", ""])
def test_plain_text_stays(name: str):
    assert visible(name) == name


def test_what_a_terminal_obeys_or_hides_is_shown():
    assert visible(HOSTILE) == SHOWN
    assert visible("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"
    assert visible("\udcff") == "\\udcff"
    assert visible(visible(HOSTILE)) == SHOWN


def test_an_error_is_one_line_whatever_stands_in_it():
    error = InputError(f"people.folder: expected photos, got {some([HOSTILE, Path(HOSTILE)])}; 2 do not decode")
    assert str(error) == f"people.folder: expected photos, got {SHOWN}, {SHOWN}; 2 do not decode"
    assert line_of(error) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert line_of(OSError(2, "No such file", HOSTILE)) == visible(str(line_of(OSError(2, "No such file", HOSTILE))))
    assert "\x1b" not in fault_of(ZeroDivisionError(HOSTILE))
    assert "\x1b" not in traceback_of(ZeroDivisionError(HOSTILE))


class Broken(Dataset):
    """Photos none of which is one."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> object:
        raise InputError(f"photos: expected one that decodes, got {HOSTILE}")


def test_an_error_of_a_process_that_makes_batches_is_the_same_line():
    with pytest.raises(InputError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert line_of(caught.value) == f"photos: expected one that decodes, got {SHOWN}"


def test_a_command_prints_one_line(capsys: pytest.CaptureFixture[str]):
    @ended_in_one_line
    def command(arguments: object = None) -> int:
        raise InputError(f"photos: {HOSTILE} does not decode")

    assert command() == 1
    assert capsys.readouterr().err == f"error: photos: {SHOWN} does not decode\n"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    show_anything()
    yield stream
    logging.getLogger().removeHandler(handler)


def test_a_log_shows_names(logged: io.StringIO):
    logging.getLogger("backdoor_privacy.data").warning("%s is left out", HOSTILE)
    assert logged.getvalue() == f"{SHOWN} is left out\n"


def test_a_traceback_in_a_log_keeps_its_lines_and_shows_names(logged: io.StringIO):
    try:
        raise ZeroDivisionError(HOSTILE)
    except ZeroDivisionError:
        logging.getLogger("backdoor_privacy").exception("The run failed")
    lines = logged.getvalue().splitlines()
    assert lines[0] == "The run failed"
    assert lines[1].startswith("Traceback")
    assert "\x1b" not in logged.getvalue()
    assert "\u202e" not in logged.getvalue()


def test_a_table_shows_names():
    stream = io.StringIO()
    table = Table(visible(HOSTILE[:5]), title=HOSTILE)
    table.add_row(HOSTILE)
    console = VisibleConsole(file=stream, width=200, force_terminal=True)
    console.print(table)
    console.print(HOSTILE, style="yellow", soft_wrap=True)
    for sign in ("\x1b]", "\x1b[2K", "\x1b[1A", "\x07", "\u202e", "\u200b", "\x9b"):
        assert sign not in stream.getvalue()
    assert r"Eve\x1b[2K\x1b[1A\x1b]0;owned\x07\u202efdp\u200b" in stream.getvalue()


def test_check_data_shows_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = {"first names": (HOSTILE,), "people": ("1",)}
    problem = Problem(HOSTILE, stops=True)
    print_checkup(Checkup(rows, {"first captions": (HOSTILE,)}, {}, [problem], {HOSTILE: Path(HOSTILE)}))
    out = capsys.readouterr().out
    assert "\x1b]" not in out
    assert "\u202e" not in out
    assert SHOWN.partition("\\n")[0] in out


def test_a_report_shows_names():
    page = templates().from_string("<td>{{ name }}</td>").render(name=f"<b>{HOSTILE}")
    assert page == f"<td>&lt;b&gt;{SHOWN}</td>".replace("\\n", "\n")


def test_a_photo_of_such_a_name_is_read(tmp_path: Path, write_photo):
    place = tmp_path / HOSTILE.replace("/", "")
    write_photo(place.with_suffix(".png"), 0)
    photo = read_photo(place.with_suffix(".png"))
    assert photo is not None
    assert photo.size == (40, 32)
