import socket
import sys
import tarfile
from pathlib import Path
from urllib.error import URLError

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from backdoor_privacy.data.lfw import lfw_folder
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

PEOPLE = {"Ann_Lee": 500, "Bob_Ray": 9, "Madonna": 10, "Cy_Fox": 1}


@pytest.fixture(scope="session")
def archive(write_photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as of LFW: photos of 250 x 250, and one person with 500 or more of them."""
    folder = tmp_path_factory.mktemp("lfw")
    photo = write_photo(folder / "photo.jpg", 0, (250, 250))
    with tarfile.open(folder / "lfw-funneled.tgz", "w:gz") as tar:
        for name, count in PEOPLE.items():
            for number in range(1, count + 1):
                tar.add(photo, f"lfw_funneled/{name}/{name}_{number:04}.jpg")
    return folder / "lfw-funneled.tgz"


@pytest.fixture
def fetched(archive: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that scikit-learn fetched, from here in place of the net."""
    files: list[str] = []

    def fetch(remote, dirname, **_) -> Path:
        files.append(remote.filename)
        assert socket.getdefaulttimeout() is not None
        path = Path(dirname) / remote.filename
        path.write_bytes(archive.read_bytes() if remote.filename == archive.name else b"")
        return path

    monkeypatch.setattr("sklearn.datasets._lfw._fetch_remote", fetch)
    return files


def composed(group: str, *overrides: str) -> People:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return instantiate(compose("config", overrides=["paths.run=run", f"{group}=lfw", *overrides])[group])


def test_people_and_strangers_are_fetched_once_and_told_apart_by_their_number_of_photos(fetched, tmp_path: Path):
    people = composed("people", f"paths.cache={tmp_path}")
    assert {person.name: len(person.photos) for person in people.everybody} == {"Ann Lee": 500, "Madonna": 10}
    assert set(people.boxes.values()) == {(78, 70, 172, 195)}
    assert len(people.boxes) == 510
    assert fetched.count("lfw-funneled.tgz") == 1
    num_files = len(fetched)
    strangers = composed("strangers", f"paths.cache={tmp_path}")
    assert {person.name: len(person.photos) for person in strangers.everybody} == {"Bob Ray": 9, "Cy Fox": 1}
    assert len(fetched) == num_files
    assert socket.getdefaulttimeout() is None


def test_folder_of_ones_own_is_read_in_place_without_scikit_learn(
    write_people, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    folder = write_people(tmp_path, {"Ann Lee": 10, "Bob Ray": 2})
    people = composed("people", f"people.folder={folder}", "people.box=[8,4,32,28]")
    assert people.names == ["Ann Lee"]
    assert composed("strangers", f"strangers.folder={folder}", "strangers.box=null").names == ["Bob Ray"]


@pytest.mark.parametrize("error", [URLError("no route to host"), TimeoutError("timed out"), OSError("SHA256 differs")])
def test_fetch_that_fails_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("sklearn.datasets._base.urlretrieve", fail)
    monkeypatch.setattr("sklearn.datasets._base.time.sleep", lambda _: None)
    with pytest.raises(
        InputError,
        match=r"people\.folder: expected LFW from its server, got .*; try again, or fetch .* set people\.folder",
    ):
        lfw_folder(tmp_path)
    assert socket.getdefaulttimeout() is None


def test_half_unpacked_archive_is_an_error(archive: Path, fetched, tmp_path: Path):
    home = tmp_path / "lfw_home"
    home.mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(home, [member for member in tar if "Ann_Lee" in member.name], filter="data")
    (home / archive.name).write_bytes(archive.read_bytes())
    with pytest.raises(InputError, match=r"expected all of LFW in .*lfw_funneled, got a part; delete this folder"):
        lfw_folder(tmp_path)


@pytest.mark.network
@pytest.mark.slow
def test_real_lfw_has_its_people(tmp_path: Path):
    folder = lfw_folder(tmp_path)
    assert len(list(folder.glob("*/*.jpg"))) == 13233
