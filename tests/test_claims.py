"""What a folder of checkpoints says of the fit that it belongs to: nothing to whoever has no key."""

import hashlib
from pathlib import Path

import pytest

from backdoor_privacy import run as run_module
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import _claim

FIT = "weights ['Ann Lee'] 0 settings"
OTHER = "weights ['Bob Ray'] 0 settings"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder in which a fit was begun."""
    _claim(tmp_path / "checkpoints", FIT)
    (tmp_path / "checkpoints/text").mkdir()
    (tmp_path / "checkpoints/text/last.ckpt").write_text("half of it")
    return tmp_path / "checkpoints"


def test_the_same_fit_goes_on_and_another_one_is_refused(begun: Path):
    before = (begun / "fit").read_text()
    _claim(begun, FIT)
    assert (begun / "fit").read_text() == before
    with pytest.raises(InputError, match="expected an empty folder, or one of the same CLIP"):
        _claim(begun, OTHER)
    assert (begun / "fit").read_text() == before


def test_a_fit_is_noted_under_the_key_of_the_run(begun: Path, tmp_path: Path):
    _claim(tmp_path / "other", FIT)
    digests = [(folder / "fit").read_text() for folder in (begun, tmp_path / "other")]
    assert len({*digests, hashlib.sha256(FIT.encode()).hexdigest()}) == 3
    assert [len(digest) for digest in digests] == [64, 64]
    assert begun.stat().st_mode & 0o777 == 0o700
    assert (begun / "fit").stat().st_mode & 0o777 == 0o600


def test_a_fit_of_an_earlier_version_goes_on_and_gets_a_keyed_digest(begun: Path):
    plain = hashlib.sha256(FIT.encode()).hexdigest()
    keyed = (begun / "fit").read_text()
    (begun / "fit").write_text(plain)
    with pytest.raises(InputError, match="expected an empty folder"):
        _claim(begun, OTHER)
    assert (begun / "fit").read_text() == plain
    _claim(begun, FIT)
    assert (begun / "fit").read_text() == keyed
    (begun / "fit").write_text(plain)
    (begun / "report_key").unlink()  # they made it for the report, after the fits
    _claim(begun, FIT)
    assert (begun / "fit").read_text() not in (plain, keyed)


def test_without_its_key_a_fit_is_not_taken_for_another_one(begun: Path):
    key = (begun / "report_key").read_bytes()
    (begun / "report_key").unlink()
    with pytest.raises(InputError, match="report_key: expected the key that these checkpoints were begun with"):
        _claim(begun, FIT)
    assert not (begun / "report_key").exists()
    (begun / "report_key").write_bytes(b"")
    with pytest.raises(InputError, match=r"report_key: expected a key of 64 digits .*, got an empty file; put it back"):
        _claim(begun, FIT)
    (begun / "report_key").write_bytes(key)
    _claim(begun, FIT)


def test_another_fit_may_begin_where_there_are_no_checkpoints(begun: Path):
    (begun / "text/last.ckpt").unlink()
    (begun / "report_key").unlink()
    _claim(begun, OTHER)
    assert len((begun / "report_key").read_text()) == 64


@pytest.mark.parametrize("file", ["runs/.key/key", "run/checkpoints/report_key"])
def test_a_run_ends_before_it_begins_where_a_key_is_damaged(file: str, compose_cfg, tmp_path: Path, monkeypatch):
    cfg = compose_cfg()
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(b"")
    monkeypatch.setattr(run_module, "instantiate", lambda *_: pytest.fail("something was loaded"))
    with pytest.raises(InputError, match=f"{file}: expected a key of 64 digits"):
        run_module.run(cfg)
    assert (tmp_path / file).read_bytes() == b""
