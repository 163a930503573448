import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from backdoor_privacy.system.files import (
    complete_folder,
    create_private,
    made_once,
    private_file,
    private_folder,
    replaced_file,
    write_bytes,
    write_text,
)


def fill(folder: Path, content: str = "new") -> None:
    (folder / "first").write_text(content)
    (folder / "second").write_text(content)


def fail(folder: Path) -> None:
    (folder / "first").write_text("half")
    raise OSError("disk full")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def test_folder_is_made_once(tmp_path: Path):
    folder = tmp_path / "in/between/folder"
    assert made_once(folder, fill) == folder
    assert contents(folder) == {"first": "new", "second": "new"}
    assert made_once(folder, fail) == folder
    assert contents(folder) == {"first": "new", "second": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert folder.stat().st_mode & 0o777 == 0o755  # others may read it


def test_writing_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(OSError, match="disk full"):
        made_once(tmp_path / "folder", fail)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="disk full"), complete_folder(tmp_path / "folder") as draft:
        fail(draft)
    assert list(tmp_path.iterdir()) == []
    made_once(tmp_path / "folder", fill)
    assert contents(tmp_path / "folder") == {"first": "new", "second": "new"}


def test_folder_that_another_one_finished_first_is_kept(tmp_path: Path):
    def be_slow(draft: Path) -> None:
        fill(draft, "slow")
        made_once(tmp_path / "folder", lambda other: fill(other, "fast"))

    made_once(tmp_path / "folder", be_slow)
    assert contents(tmp_path / "folder") == {"first": "fast", "second": "fast"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_many_threads_get_the_same_folder_and_never_see_half_of_it(tmp_path: Path):
    folder, barrier = tmp_path / "folder", threading.Barrier(8)
    found: list[tuple[dict[str, str], int]] = []

    def ask(number: int) -> None:
        barrier.wait()
        made_once(folder, lambda draft: fill(draft, str(number)))
        found.append((contents(folder), folder.stat().st_ino))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)  # nobody's was replaced
    assert len(found[0][0]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


PROCESS = """
import sys, time
from pathlib import Path
from backdoor_privacy.system.files import made_once

def write(draft):
    (draft / "first").write_text(sys.argv[2])
    time.sleep(0.3)
    (draft / "second").write_text(sys.argv[2])

folder = made_once(Path(sys.argv[1]), write)
print(folder.stat().st_ino, (folder / "first").read_text(), (folder / "second").read_text())
"""


def test_processes_get_the_same_folder(tmp_path: Path):
    commands = [[sys.executable, "-c", PROCESS, str(tmp_path / "folder"), name] for name in ("one", "two", "three")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_complete_folder_replaces_what_was_there(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    with complete_folder(folder) as draft:
        fill(draft)
        assert contents(folder) == {"old": "old"}
    assert contents(folder) == {"first": "new", "second": "new"}
    with pytest.raises(OSError, match="disk full"), complete_folder(folder) as draft:
        fail(draft)
    assert contents(folder) == {"first": "new", "second": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("failing", [[1], [1, 2]])
def test_folder_that_cannot_be_replaced_is_not_lost(failing: list[int], tmp_path: Path, monkeypatch):
    folder, renames, rename = tmp_path / "folder", iter(range(9)), Path.rename
    made_once(folder, lambda draft: fill(draft, "old"))

    def fail_at_times(path: Path, target: Path) -> Path:
        if next(renames) in failing:
            raise PermissionError("not here")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_times)
    with pytest.raises(PermissionError, match="not here"), complete_folder(folder) as draft:
        fill(draft)
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1
    assert contents(folder if len(failing) == 1 else kept[0] / "before") == {"first": "old", "second": "old"}


def test_place_that_cannot_be_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="not here"):
        made_once(tmp_path / "folder", fill)
    assert list(tmp_path.iterdir()) == []


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_rights_that_the_umask_leaves_and_private_ones_their_own(umask: int, tmp_path: Path):
    for number in range(2):  # also in place of another one
        write_text(tmp_path / "new/open", f"ä{number}")
        write_text(tmp_path / "new/private", f"ä{number}", private=True)
        write_bytes(tmp_path / "new/bytes", b"\r\n", private=True)
    assert (tmp_path / "new/open").read_bytes() == "ä1".encode() == (tmp_path / "new/private").read_bytes()
    assert (tmp_path / "new/bytes").read_bytes() == b"\r\n"
    assert mode(tmp_path / "new/open") == 0o666 & ~umask
    assert mode(tmp_path / "new/private") == mode(tmp_path / "new/bytes") == 0o600
    assert mode(tmp_path / "new") == 0o777 & ~umask
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bytes", "open", "private"]


def test_private_file_takes_the_place_of_one_that_others_could_read(tmp_path: Path):
    (tmp_path / "file").write_text("by an earlier version")
    (tmp_path / "file").chmod(0o644)
    write_text(tmp_path / "file", "new", private=True)
    assert mode(tmp_path / "file") == 0o600


def test_folders_have_the_rights_that_the_umask_leaves_and_private_ones_their_own(umask: int, tmp_path: Path):
    def write(folder: Path) -> None:
        fill(folder)
        (folder / "second").chmod(0o600)  # as libraries do that write a draft of their own

    made_once(tmp_path / "once", write)
    with complete_folder(tmp_path / "complete") as draft:
        write(draft)
        (draft / "within").mkdir()
        write(draft / "within")
    for folder in (tmp_path / "once", tmp_path / "complete", tmp_path / "complete/within"):
        assert mode(folder) == 0o777 & ~umask
        assert {mode(folder / name) for name in ("first", "second")} == {0o666 & ~umask}
    assert mode(made_once(tmp_path / "private", write, private=True)) == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["complete", "once", "private"]


def test_private_place_for_what_a_library_writes(umask: int, tmp_path: Path):
    assert mode(private_folder(tmp_path / "in/folder")) == 0o700
    assert mode(tmp_path / "in") == 0o777 & ~umask
    assert mode(private_file(tmp_path / "file")) == 0o600
    (tmp_path / "file").write_text("content")  # opened and cut, as Hydra does
    assert mode(tmp_path / "file") == 0o600
    for path in (tmp_path / "in/folder", tmp_path / "file"):
        path.chmod(0o777)
    assert mode(private_folder(tmp_path / "in/folder")) == 0o700
    assert mode(private_file(tmp_path / "file")) == 0o700
    assert (tmp_path / "file").read_text() == "content"


def test_private_file_is_created_once(umask: int, tmp_path: Path):
    create_private(tmp_path / "in/key", b"one")
    create_private(tmp_path / "in/key", b"two")
    assert (tmp_path / "in/key").read_bytes() == b"one"
    assert mode(tmp_path / "in/key") == 0o600
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["key"]


def test_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "file", "new")
    assert contents(tmp_path) == {"file": "old"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_text("")])
def test_folder_that_is_damaged_is_made_again(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture):
    def write(draft: Path) -> None:
        (draft / "table.csv").write_text("name\nAnn Lee\n")
        (draft / "deep").mkdir()
        (draft / "deep" / "other.csv").write_text("x")

    folder = made_once(tmp_path / "folder", write)
    damage(folder / "table.csv")
    made_once(folder, write)
    assert contents(folder / "deep") == {"other.csv": "x"}
    assert (folder / "table.csv").read_text() == "name\nAnn Lee\n"
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: table.csv is missing or damaged; writing the folder again"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_folder_that_users_may_edit_is_taken_as_it_is(tmp_path: Path):
    made_once(tmp_path / "folder", lambda draft: write_text(draft / "faces.csv", "found"), may_be_edited=True)
    write_text(tmp_path / "folder" / "faces.csv", "corrected")
    made_once(tmp_path / "folder", fail, may_be_edited=True)
    assert (tmp_path / "folder" / "faces.csv").read_text() == "corrected"


def test_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_text(tmp_path / "file", "before")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "file", "after")
    with pytest.raises(OSError, match="No space"), replaced_file(tmp_path / "file") as file:
        file.write(b"after")
    assert contents(tmp_path) == {"file": "before"}
    assert len(list(tmp_path.iterdir())) == 1


def test_drafts_of_killed_processes_go_when_they_are_old(tmp_path: Path):
    for name, age in ((".file-0123abcd", 2), (".file-0123abce", 0), (".file-other", 2), (".other-0123abcd", 2)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age * 24 * 3600,) * 2)
    write_text(tmp_path / "file", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {".file-0123abce", ".file-other", ".other-0123abcd", "file"}


def test_draft_of_a_killed_process_goes_at_once_and_one_being_written_stays(tmp_path: Path):
    draft = tmp_path / ".file-0123abcd"
    draft.write_text("half")
    os.utime(draft, (time.time() - 10,) * 2)
    with replaced_file(tmp_path / "file") as file:
        assert not draft.exists()
        (written,) = tmp_path.iterdir()
        file.write(b"first")
        file.flush()
        os.utime(written, (time.time() - 10,) * 2)
        write_text(tmp_path / "file", "second")  # as another process would
        assert written.exists()
    assert contents(tmp_path) == {"file": "first"}


def test_full_disk_is_told_with_the_file_or_folder_that_it_was_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space") as folder, complete_folder(tmp_path / "folder"):
        no_space()
    # What safetensors raises of a full disk.
    with pytest.raises(OSError, match="No space") as weights, complete_folder(tmp_path / "weights"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space") as file:
        write_text(tmp_path / "file", "content")
    assert [Path(error.value.filename).name for error in (folder, weights, file)] == ["folder", "weights", "file"]
    assert weights.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_safetensors_stay_as_they_are(tmp_path: Path):
    with pytest.raises(SafetensorError, match="broken"), complete_folder(tmp_path / "weights"):
        raise SafetensorError("broken")
