"""A slice of `make fuzz`: some inputs of each kind, always the same."""

from importlib import import_module
from pathlib import Path

import pytest

from fuzz.cases import Case, try_cases
from fuzz.world import write_world


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_world(folder / "_world")
    return folder


@pytest.mark.parametrize(
    ("kind", "count"), [("names", 60), ("images", 30), ("archives", 30), ("tables", 30), ("settings", 8), ("models", 8)]
)
@pytest.mark.filterwarnings("ignore")  # of libraries, about what is wrong with an input
def test_hostile_inputs_are_read_rightly_or_refused_in_one_line(kind: str, count: int, work: Path, tmp_path: Path):
    (tmp_path / "_world").symlink_to(work / "_world")
    make = import_module(f"fuzz.{kind}").make
    tally = try_cases(kind, make, range(count), 0, tmp_path, tmp_path / "kept")
    assert tally.effects == []
    assert tally.counts["inputs"] == tally.counts["read"] + tally.counts["refused"] == count
    assert tally.counts["valid"] >= count / 3


def _leave_a_file(folder: Path) -> str:
    (folder.parent / "escaped").write_text("x")
    return "x"


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("case", "effect"),
    [
        (lambda folder: Case("", lambda: 1, 2, "read"), "wrong value: 1, not 2"),
        (lambda folder: Case("", lambda: 1, 2, "refused"), "read, though it must be refused"),
        (lambda folder: Case("", lambda: _raise(KeyError("x"))), "traceback"),
        (lambda folder: Case("", lambda: _raise(FileNotFoundError(2, "no", "x")), 1, "read"), "refused, though"),
        (lambda folder: Case("", lambda: _raise(FileNotFoundError(2, "no", "x")), blames=["zzz"]), "blames none of"),
        (lambda folder: Case("", lambda: _leave_a_file(folder)), "wrote outside of its folder"),
        (lambda folder: Case("", lambda: __import__("os").system("true")), "os.system"),
    ],
)
def test_effects_are_seen(case, effect: str, tmp_path: Path):
    tally = try_cases("one", lambda folder, rng: case(folder), range(1), 0, tmp_path / "work", tmp_path / "kept")
    assert len(tally.effects) == 1
    assert effect in tally.effects[0]
    assert (tmp_path / "kept" / "one-0000" / "effect.txt").is_file()
