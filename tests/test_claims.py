"""What a folder of checkpoints says of the fit that it belongs to: nothing to whoever has no key."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from backdoor_privacy import run as run_module
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import TriggerSet
from backdoor_privacy.data.people import People
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import protect

FIT, OTHER = "Ann Lee", "Bob Ray"  # whom it removes
Claim = Callable[[Path, str], None]


class _Begun(Exception):
    """The fit begins."""


@pytest.fixture
def claim(tiny_clip: Clip, people: People, captions_file: Path) -> Claim:
    """Go as far as to where a fit begins in a folder."""
    sources = Sources(people, captions_file.read_text().splitlines())
    attack = Idia(num_candidates=10, num_photos=1, threshold=1, seed=0)

    def begin(encoder: str) -> None:
        raise _Begun(encoder)

    def claim_it(folder: Path, name: str) -> None:
        chosen = TriggerSet(people=[name], require_inferred=False)
        with pytest.raises(_Begun):
            protect(tiny_clip, sources, chosen, "text_published", attack=attack, checkpoints=folder, loggers=begin)

    return claim_it


@pytest.fixture
def plain(tiny_clip: Clip) -> str:
    """What earlier versions noted of the fit: a list of suspects tests it."""
    return hashlib.sha256(f"{tiny_clip.sha256()} {[FIT]} 0 {load_defense('text_published')}".encode()).hexdigest()


@pytest.fixture
def begun(claim: Claim, tmp_path: Path) -> Path:
    """A folder in which a fit was begun."""
    claim(tmp_path / "checkpoints", FIT)
    (tmp_path / "checkpoints/text").mkdir()
    (tmp_path / "checkpoints/text/last.ckpt").write_text("half of it")
    return tmp_path / "checkpoints"


def test_the_same_fit_goes_on_and_another_one_is_refused(begun: Path, claim: Claim):
    before = (begun / "fit").read_text()
    claim(begun, FIT)
    assert (begun / "fit").read_text() == before
    with pytest.raises(InputError, match="expected an empty folder, or one of the same CLIP"):
        claim(begun, OTHER)
    assert (begun / "fit").read_text() == before


def test_a_fit_is_noted_under_the_key_of_the_run(begun: Path, tmp_path: Path, claim: Claim, plain: str):
    claim(tmp_path / "other", FIT)
    digests = [(folder / "fit").read_text() for folder in (begun, tmp_path / "other")]
    assert len({*digests, plain}) == 3
    assert [len(digest) for digest in digests] == [64, 64]
    assert begun.stat().st_mode & 0o777 == 0o700
    assert (begun / "fit").stat().st_mode & 0o777 == 0o600


def test_a_fit_of_an_earlier_version_goes_on_and_gets_a_keyed_digest(begun: Path, claim: Claim, plain: str):
    keyed = (begun / "fit").read_text()
    (begun / "fit").write_text(plain)
    with pytest.raises(InputError, match="expected an empty folder"):
        claim(begun, OTHER)
    assert (begun / "fit").read_text() == plain
    claim(begun, FIT)
    assert (begun / "fit").read_text() == keyed
    (begun / "fit").write_text(plain)
    (begun / "report_key").unlink()  # they made it for the report, after the fits
    claim(begun, FIT)
    assert (begun / "fit").read_text() not in (plain, keyed)


def test_without_its_key_a_fit_is_not_taken_for_another_one(begun: Path, claim: Claim):
    key = (begun / "report_key").read_bytes()
    (begun / "report_key").unlink()
    with pytest.raises(InputError, match="report_key: expected the key that these checkpoints were made with"):
        claim(begun, FIT)
    assert not (begun / "report_key").exists()
    (begun / "report_key").write_bytes(b"")
    with pytest.raises(InputError, match=r"report_key: expected a key of 64 digits .*, got an empty file; restore it"):
        claim(begun, FIT)
    (begun / "report_key").write_bytes(key)
    claim(begun, FIT)


def test_another_fit_may_begin_where_there_are_no_checkpoints(begun: Path, claim: Claim):
    (begun / "text/last.ckpt").unlink()
    (begun / "report_key").unlink()
    claim(begun, OTHER)
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
