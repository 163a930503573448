"""Keys: who may read them, that all processes agree on one, and that nothing but a key is used as one."""

import hashlib
import hmac
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.keys import key_of_folder, key_of_run, keyed_digest, keyed_place

PLACES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "run": (key_of_run, "report_key"),
    "folder": (key_of_folder, ".key/key"),
}
each_key = pytest.mark.parametrize(("key_of", "file"), PLACES.values(), ids=PLACES)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@each_key
def test_a_key_is_made_once_for_its_owner_alone(key_of, file: str, umask: int, tmp_path: Path):
    key = key_of(tmp_path / "new")
    assert re.fullmatch(rb"[0-9a-f]{64}", key)
    assert key_of(tmp_path / "new") == key == (tmp_path / "new" / file).read_bytes()
    assert mode(tmp_path / "new" / file) == 0o600
    assert mode((tmp_path / "new" / file).parent) == 0o700
    assert [path.name for path in (tmp_path / "new" / file).parent.iterdir()] == [Path(file).name]


def test_two_folders_have_two_keys(tmp_path: Path):
    assert key_of_folder(tmp_path / "one") != key_of_folder(tmp_path / "two")


@each_key
def test_a_key_that_others_can_read_is_closed_to_them(key_of, file: str, tmp_path: Path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text("ab" * 32)  # as earlier versions wrote it
    path.chmod(0o644)
    assert key_of(tmp_path) == b"ab" * 32
    assert mode(path) == 0o600
    if path.parent != tmp_path:  # a folder that somebody gave is left as it is
        assert mode(path.parent) == 0o700


@each_key
@pytest.mark.parametrize(
    "content", [b"", b" \n", b"\0" * 64, b"ab" * 15, b"not a key at all, but a text of so many letters"]
)
def test_what_is_no_key_is_refused_and_kept(key_of, file: str, content: bytes, tmp_path: Path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"^.*key: expected a key of 64 digits .*; restore it .*, or delete it: [^\n]*$"
    ):
        key_of(tmp_path)
    assert path.read_bytes() == content  # a copy of the right one may be put back
    path.unlink()
    assert len(key_of(tmp_path)) == 64


@each_key
def test_a_folder_a_pipe_or_a_dangling_link_is_no_key(key_of, file: str, tmp_path: Path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.mkdir()
    with pytest.raises(InputError, match="got no file"):
        key_of(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match="got no file"):  # and nobody waits for it
        key_of(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="got no file"):
        key_of(tmp_path)


@each_key
def test_a_key_that_cannot_be_read_is_told(key_of, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key_of(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="expected a key that can be read, got Permission denied"):
        key_of(tmp_path)


@each_key
def test_a_line_end_that_an_editor_added_is_no_part_of_a_key(key_of, file: str, tmp_path: Path):
    key = key_of(tmp_path)
    (tmp_path / file).write_bytes(key + b"\n")
    assert key_of(tmp_path) == key


@each_key
@pytest.mark.parametrize("can_link", [True, False])
def test_all_threads_get_one_key(key_of, file: str, can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
        assert len(key_of(tmp_path)) == 64
    barrier, found = threading.Barrier(8), list[bytes]()

    def ask() -> None:
        barrier.wait()
        found.append(key_of(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {(tmp_path / file).read_bytes()}


PROCESS = """
import sys
from pathlib import Path
from backdoor_privacy.system.keys import key_of_folder, key_of_run
sys.stdin.read()  # until all have started
print((key_of_run if sys.argv[1] == "run" else key_of_folder)(Path(sys.argv[2])).decode())
"""


@each_key
def test_all_processes_get_one_key(key_of, file: str, tmp_path: Path):
    kind = "run" if key_of is key_of_run else "folder"
    command = [sys.executable, "-c", PROCESS, kind, str(tmp_path / "new")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    keys = set()
    for process in processes:
        with process:
            assert process.stdout is not None
            keys.add(process.stdout.read().strip())
    assert [process.returncode for process in processes] == [0] * 4
    assert keys == {(tmp_path / "new" / file).read_text()}


def test_a_keyed_digest_is_an_hmac():
    assert keyed_digest(b"key", "Zoë") == hmac.new(b"key", "Zoë".encode(), "sha256").hexdigest()
    assert keyed_digest(b"key", "Zoë") == keyed_digest(b"key", "Zoë".encode())


def test_a_place_in_a_cache_is_named_under_its_key(tmp_path: Path):
    digest = hashlib.sha256(b"Ann Lee").hexdigest()
    plain = tmp_path / "clip" / f"photos-{digest}.safetensors"
    place = keyed_place(plain, tmp_path)
    assert re.fullmatch(r"photos-[0-9a-f]{64}\.safetensors", place.name)
    assert place.parent == plain.parent
    assert place == keyed_place(plain, tmp_path) != plain
    assert keyed_place(tmp_path / "clip" / digest[:16], tmp_path) != keyed_place(
        tmp_path / "clip" / digest[16:32], tmp_path
    )
    assert place.name != keyed_place(tmp_path / "other" / plain.name, tmp_path / "other").name


def test_what_an_earlier_version_cached_is_moved_to_its_keyed_place(tmp_path: Path):
    plain = tmp_path / ("0123456789abcdef")
    plain.mkdir()
    (plain / "faces.csv").write_text("corrected by hand")
    place = keyed_place(plain, tmp_path)
    assert (place / "faces.csv").read_text() == "corrected by hand"
    assert not plain.exists()
    assert len(place.name) == 16
    assert keyed_place(plain, tmp_path) == place


def test_a_cache_that_can_only_be_read_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    plain = tmp_path / "photos-0a.safetensors"
    plain.write_text("features")
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert keyed_place(plain, tmp_path) == plain
    with pytest.raises(PermissionError):  # nothing new is kept under a name that can be tested
        keyed_place(tmp_path / "photos-0b.safetensors", tmp_path)
