"""Attack what docs/run_folder.md calls shareable, as somebody would who suspects a few people.

The outsider has everybody's name and photos and the original CLIP. The weights are left out: what they tell is what the
forget-set attack (`attacks.erased`) measures.
"""

import hashlib
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.attacks.choice import load_attacks
from backdoor_privacy.attacks.record import read_scores
from backdoor_privacy.data.people import People
from backdoor_privacy.evaluation import null_rates
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.run import run
from backdoor_privacy.runs.attacks import load_context, run_attacks
from backdoor_privacy.system.keys import key_of_run

pytestmark = pytest.mark.usefixtures("unchecked_types")

DOCS = Path(__file__).parents[2] / "docs" / "run_folder.md"
ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")
_ROW = re.compile(r"^\| (`.*`) \| (private|shareable) \| .* \|$", re.MULTILINE)


def listed(table: int) -> list[tuple[str, bool]]:
    """The patterns of files of a run (0), the folder of runs (1) or the cache (2), and whether each is shareable."""
    tables = re.split(r"^\| file \| share \| holds \|$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(tables) == 3
    found = [(names, share == "shareable") for names, share in _ROW.findall(tables[table].partition("\n\n")[0])]
    return [(pattern, share) for names, share in found for pattern in re.findall(r"`([^`]+)`", names)]


def is_shareable(file: Path, patterns: Iterable[tuple[str, bool]]) -> bool:
    """What the docs say of a file; exactly one row must be about it."""
    told = [share for pattern, share in patterns if _fits(file.as_posix(), pattern)]
    assert len(told) == 1, f"{file}: {len(told)} rows of docs/run_folder.md"
    return told[0]


def _fits(file: str, pattern: str) -> bool:
    is_as_deep = pattern.endswith("**") or file.count("/") == pattern.count("/")
    return is_as_deep and fnmatchcase(file, pattern)


def files_in(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def shared(folder: Path, patterns: Iterable[tuple[str, bool]], place: Path) -> Path:
    """A copy of what is shareable but for the weights."""
    for file in files_in(folder):
        if is_shareable(file, patterns) and file.suffix != ".safetensors":
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, place / file)
    return place


class Outsider:
    """Somebody with the original CLIP, everybody's photos, and the settings of the run."""

    def __init__(self, cfg: DictConfig, people: People, weights: str) -> None:
        self.people, self.weights = people, weights
        self.settings: Any = OmegaConf.to_object(cfg)

    def names(self) -> Iterator[str]:
        """Everybody's name as a text might have it, in lower case."""
        for name in self.people.names:
            words = name.lower().split()
            for order in (words, words[::-1]):
                yield from (
                    joint.join(order) for joint in (" ", "_", "-", "", "+", "%20", ", ", ".", "\\u0020", "&#32;")
                )

    def places(self) -> Iterator[str]:
        """Where photos lie."""
        for person in self.people.everybody:
            for photo in person.photos:
                yield str(photo)
                yield f"{photo.parent.name}/{photo.name}"
            yield str(person.photos[0].parent)
        yield str(self.people.everybody[0].photos[0].parents[1])

    def texts(self) -> Iterator[bytes]:
        """What a digest of single people, or of two, might be over."""
        seed, defense = self.settings.seed, self.settings.defense
        for person in self.people.everybody:
            yield from (spelt.encode() for spelt in (person.name, person.name.lower(), person.name.replace(" ", "_")))
            yield from (photo.read_bytes() for photo in person.photos)
            hashes = sorted(person.hashes.values())
            for joint in ("", "\n", "\t", ","):
                yield joint.join(hashes).encode()
            content = "".join(f"{one}\n" for one in hashes).encode()
            yield content
            yield f"{person.name}\t{hashlib.sha256(content).hexdigest()}\n".encode()
        for size in (1, 2):
            for names in map(list, itertools.permutations(self.people.names, size)):
                yield f"{self.weights} {names} {seed} {defense}".encode()
                yield from (shown.encode() for shown in (repr(names), repr(tuple(names)), json.dumps(names)))
                yield json.dumps(names, separators=(",", ":")).encode()
                for joint in ("\n", ",", ", ", " ", ""):
                    yield joint.join(names).encode()
                yield "".join(f"{name}\n" for name in names).encode()

    def finds(self, folder: Path) -> list[str]:
        """What tells of people in a folder: the file, and how."""
        digests = {hashlib.new(one, text).hexdigest()[:12] for text in self.texts() for one in ALGORITHMS}
        found = []
        for file in files_in(folder):
            content = (folder / file).read_bytes().decode(errors="replace")
            shown = f"{file} {content} {html.unescape(content)}"
            found += [f"{file}: {name}" for name in self.names() if name in shown.lower()]
            found += [f"{file}: {place}" for place in self.places() if place in shown]
            found += [
                f"{file}: {one}" for one in re.findall(r"(?<![0-9a-f])[0-9a-f]{12,}", shown) if one[:12] in digests
            ]
        return found


@pytest.fixture(scope="module")
def cfg(compose_into, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """Of a finished run of two named people, with all that a run may write, made where nothing is private by itself."""
    folder = tmp_path_factory.mktemp("shared")
    overrides = ["attack=tower_swap", "logger=wandb", "+defense.text.budget={every: 1}", "utility.zero_shot=null"]
    first = compose_into(folder)
    names = instantiate(first.people).names[:2]
    made: DictConfig = compose_into(folder, *overrides, f"trigger_set.people={json.dumps(names)}", "name=shared")
    before = os.umask(0o000)
    try:
        run(made)
    finally:
        os.umask(before)
    return made


@pytest.fixture(scope="module")
def folder(cfg: DictConfig) -> Path:
    return Path(cfg.paths.run)


@pytest.fixture(scope="module")
def outsider(cfg: DictConfig, folder: Path) -> Outsider:
    weights = json.loads((folder / "metrics.json").read_text())["weights_sha256"]["before"]
    return Outsider(cfg, instantiate(cfg.people), weights)


def test_every_file_of_a_run_is_listed_and_private_ones_are_closed(folder: Path, cfg: DictConfig):
    patterns = listed(0)
    files = files_in(folder)
    assert len(files) > 30
    for file in files:
        open_to = (folder / file).stat().st_mode & 0o777
        if is_shareable(file, patterns):
            assert open_to == 0o666, file  # the umask took nothing away
        else:
            ways = [folder / file, *(folder / parent for parent in file.parents if parent != Path())]
            assert any(not way.stat().st_mode & 0o077 for way in ways), file
    key = Path(cfg.paths.runs) / ".key"
    assert (key.stat().st_mode & 0o777, (key / "key").stat().st_mode & 0o777) == (0o700, 0o600)
    assert files_in(Path(cfg.paths.runs)) == [Path(".key/key")]


def test_a_file_that_is_not_listed_is_noticed():
    with pytest.raises(AssertionError, match=r"new\.csv: 0 rows"):
        is_shareable(Path("new.csv"), listed(0))
    with pytest.raises(AssertionError, match="0 rows"):
        is_shareable(Path("figures/new.svg"), listed(0))


def test_every_folder_of_the_cache_is_listed(cfg: DictConfig):
    found = {file: is_shareable(file, listed(2)) for file in files_in(Path(cfg.paths.cache))}
    assert {file.parts[0] for file, share in found.items() if not share} == {"features"}
    assert not any(share for file, share in found.items() if "key" in file.name)


def test_what_is_shareable_tells_nobody(folder: Path, outsider: Outsider, tmp_path: Path):
    place = shared(folder, listed(0), tmp_path / "shared")
    given = {file.as_posix() for file in files_in(place)}
    assert {"report.html", "defended/README.md", "figures/idia.svg", "figures/losses.png"} <= given
    assert not {"people.csv", "metrics.json", "manifest.json", "attacks/tower_swap.json"} & given
    assert outsider.finds(place) == []


PLANTED = {
    "a name": lambda outsider: outsider.people.names[0],
    "a name in HTML": lambda outsider: outsider.people.names[0].replace(" ", "&#32;"),
    "a folder": lambda outsider: outsider.people.everybody[1].photos[0].parent.name,
    "a surname first": lambda outsider: ", ".join(outsider.people.names[0].split()[::-1]),
    "a photo": lambda outsider: str(outsider.people.everybody[0].photos[0]),
    "a digest of a name": lambda outsider: hashlib.sha1(outsider.people.names[3].encode()).hexdigest(),
    "a part of a digest of a photo": lambda outsider: hashlib.sha256(
        outsider.people.everybody[2].photos[1].read_bytes()
    ).hexdigest()[:16],
    "what earlier versions called a fit": lambda outsider: hashlib.sha256(
        f"{outsider.weights} {outsider.people.names[:2]} {outsider.settings.seed} {outsider.settings.defense}".encode()
    ).hexdigest(),
    "a list of names": lambda outsider: hashlib.blake2b(json.dumps(outsider.people.names[1:3]).encode()).hexdigest(),
}


@pytest.mark.parametrize("what", PLANTED)
def test_the_outsider_finds_what_is_planted(what: str, outsider: Outsider, tmp_path: Path):
    (tmp_path / "report.html").write_text(f"<p>{PLANTED[what](outsider)}</p>")
    assert outsider.finds(tmp_path)


def test_no_digest_of_a_run_can_be_tested_not_even_a_private_one(folder: Path, outsider: Outsider, tmp_path: Path):
    """Names stand in some of these files, so only their digests are looked at."""
    digests = {
        "fit": (folder / "checkpoints/fit").read_text(),
        "attack": read_scores(folder / "attacks/tower_swap.json")[0],
        "manifest": " ".join(re.findall(r'sha256": "(\w+)"', (folder / "manifest.json").read_text())),
        "key": (folder / "checkpoints/report_key").read_text(),
        "features": " ".join(path.stem for path in (Path(outsider.settings.paths.cache) / "features").rglob("*-*")),
    }
    assert all(len(text) >= 64 for text in digests.values())
    for name, text in digests.items():
        (tmp_path / name).write_text(text)
    assert outsider.finds(tmp_path) == []


@pytest.fixture
def plain_digest(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an attack was known by before digests had keys: whoever has the photos can compute it."""
    with monkeypatch.context() as patch:
        patch.setattr("backdoor_privacy.runs.attacks.keyed", lambda digest, key: digest)
        run_attacks(load_context(folder), load_attacks(["tower_swap"]), tmp_path / "plain")
    return read_scores(tmp_path / "plain/attacks/tower_swap.json")[0]


def test_an_attack_is_known_by_a_digest_that_nobody_else_can_compute(folder: Path, plain_digest: str):
    assert read_scores(folder / "attacks/tower_swap.json")[0] != plain_digest


def test_what_an_earlier_version_found_is_known_and_gets_a_keyed_digest(
    folder: Path, plain_digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "run/attacks").mkdir(parents=True)
    seen, settings = load_context(folder), load_attacks(["tower_swap"])
    record = json.loads((folder / "attacks/tower_swap.json").read_text())
    del record["keyed"]
    former = tmp_path / "run/attacks/tower_swap.json"
    former.write_text(json.dumps({**record, "digest": plain_digest}))
    monkeypatch.setattr("backdoor_privacy.runs.attacks.make_attack", lambda *_: pytest.fail("computed again"))
    found = run_attacks(seen, settings, tmp_path / "run")
    assert found["tower_swap"] == read_scores(folder / "attacks/tower_swap.json")[1]
    digest = read_scores(former)[0]
    assert digest not in (plain_digest, record["digest"])  # under this folder's own key
    assert json.loads(former.read_text()) == {**record, "digest": digest, "keyed": True}
    run_attacks(seen, settings, tmp_path / "run")
    assert read_scores(former)[0] == digest
    assert key_of_run(tmp_path / "run/checkpoints") != key_of_run(folder / "checkpoints")


def test_numbers_of_single_people_are_in_nothing_shareable(folder: Path, tmp_path: Path):
    """Exact numbers of single people, as the original CLIP and photos give them to anybody."""
    place = shared(folder, listed(0), tmp_path / "shared")
    told = set()
    for file in files_in(place):
        if file.suffix in (".html", ".md", ".svg"):
            told |= set(re.findall(r"\d\.\d{3,}", (place / file).read_text(encoding="utf-8")))
    votes, places = pd.read_csv(folder / "votes.csv"), pd.read_csv(folder / "map.csv")
    numbers = [*votes["margin"], *places["x"], *places["y"]]
    metrics = json.loads((folder / "metrics.json").read_text())
    removed = ("null_rate", "similarity/backdoored", "similarity/removed")
    numbers += [value for key, value in metrics["before"].items() if key.endswith(removed)]
    assert len(numbers) > 50
    exact = {f"{abs(number):.{digits}f}" for number in numbers for digits in (4, 5, 6)}
    assert not told & exact


def test_exact_measures_tell_who_was_removed_and_are_private(folder: Path, cfg: DictConfig, outsider: Outsider):
    """Why `metrics.json` is private: the outsider measures all pairs of suspects on the original CLIP, and compares."""
    told = json.loads((folder / "metrics.json").read_text())["before"]
    found = instantiate(cfg.attack).run(instantiate(cfg.clip), outsider.people.everybody)
    pairs = list(itertools.combinations(outsider.people.names, 2))
    measured = {pair: null_rates(found, set(pair))["idia/null_rate"] for pair in pairs}
    alike = [pair for pair in pairs if measured[pair] == pytest.approx(told["idia/null_rate"], abs=1e-9)]
    assert tuple(cfg.trigger_set.people) in alike
    assert len(alike) < len(pairs) / 3  # by one number, with a CLIP of random weights and few candidates
    assert not is_shareable(Path("metrics.json"), listed(0))


def test_a_report_with_names_is_private(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "run", symlinks=True)
    write_report(copy, names=True)
    assert not (copy / "report.html").stat().st_mode & 0o077


@pytest.mark.slow
def test_every_file_of_a_sweep_of_the_command_is_listed(tiny_overrides: list[str], tmp_path: Path, cfg: DictConfig):
    """With what Hydra writes: the log, the command and its sweep; in a folder named after people."""
    runs, names = tmp_path / "runs", list(cfg.trigger_set.people)
    command = [
        sys.executable,
        "-m",
        "backdoor_privacy",
        "-m",
        "+experiment=smoke",
        *tiny_overrides,
        f"paths.runs={runs}",
    ]
    command += [f"trigger_set.people={json.dumps(names)}", "seed=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, umask=0o022, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run(
        [sys.executable, "-m", "backdoor_privacy.collect", str(runs)], check=True, capture_output=True, umask=0o022
    )
    (place,) = (path.parent for path in runs.rglob("metrics.json"))
    outside = [file for file in files_in(runs) if not (runs / file).is_relative_to(place)]
    closed = {file.as_posix() for file in outside if not is_shareable(file, listed(1))}
    assert closed == {".key/key", "multirun.yaml"}
    for root, table in ((runs, listed(1)), (place, listed(0))):
        for file in outside if root == runs else files_in(place):
            ways = [root / file, *(root / parent for parent in file.parents if parent != Path())]
            is_closed = any(not way.stat().st_mode & 0o077 for way in ways)
            assert is_closed != is_shareable(file, table), file
    assert "backdoor_privacy.log" in map(str, files_in(place))
    assert not any(name in str(file).lower() for file in files_in(runs) for name in map(str.lower, names))
