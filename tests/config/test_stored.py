"""A config from a folder may be a stranger's: it runs nothing but what this package ships."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from backdoor_privacy.attack import main
from backdoor_privacy.config.identity import run_key
from backdoor_privacy.config.stored import for_this_machine, own_targets, read_stored, targets_of
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.attacks import load_context
from backdoor_privacy.runs.sweeps import finished_runs, missing_runs

Write = Callable[..., Path]


class Canary:
    """Whoever unpickles it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def stored(compose_cfg) -> dict[str, Any]:
    """What a run keeps of its config."""
    found: Any = OmegaConf.to_container(compose_cfg(), resolve=False, enum_to_str=True)
    return found


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a folder that looks as one of a finished run, with this config."""

    def write_it(content: Any) -> Path:
        run = tmp_path / "sent"
        for folder in (".hydra", "defended", "checkpoints"):
            (run / folder).mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (run / ".hydra/config.yaml").write_text(text)
        (run / "metrics.json").write_text(json.dumps({"schema": 1, "before": {}, "after": {"text": {}}}))
        (run / "people.csv").write_text("name,removed\nAnn Lee,True\n")
        (run / "defended/open_clip_config.json").write_text("{}")
        (run / "checkpoints/fit.bin").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
        return run

    return write_it


def changed(content: Any, place: str, value: Any) -> Any:
    """A config with a value at a dotted place."""
    *parents, last = place.split(".")
    node = content
    for parent in parents:
        node[parent] = node.get(parent) if isinstance(node.get(parent), dict) else {}
        node = node[parent]
    node[last] = value
    return content


def test_what_the_shipped_configs_call_is_allowed_and_nothing_else():
    assert "backdoor_privacy.clip.load_clip" in own_targets()
    assert "backdoor_privacy.defenses.backdoor.targets.text.Nameless" in own_targets()
    assert not [target for target in own_targets() if not target.startswith("backdoor_privacy.")]
    assert "backdoor_privacy.system.files.write_text" not in own_targets()


@pytest.mark.parametrize("place", ["clip", "clip.model", "people", "people.folder", "strangers", "attack", "x.y.z"])
@pytest.mark.parametrize(
    ("target", "argument"),
    [("joblib.load", "filename"), ("pandas.read_pickle", "filepath_or_buffer"), ("numpy.load", "file")],
)
def test_a_pickle_beside_the_config_is_not_opened(
    place: str, target: str, argument: str, stored: dict[str, Any], write: Write, capsys: pytest.CaptureFixture[str]
):
    pickled = str(write("") / "checkpoints/fit.bin")
    node = {"_target_": target, argument: pickled, **({"allow_pickle": True} if target == "numpy.load" else {})}
    run = write(changed(stored, place, node))
    assert main([str(run), "tower_swap"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"got {place}._target_='{target}'" in error
    assert f"'allow=[{target}]'" in error
    assert not (run.parent / "ran").exists()


def test_the_canary_would_sing(tmp_path: Path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("people", [{"_target_": "os.system"}]),
        ("people._target_", "${name}"),
        ("people._target_", ["os", "system"]),
        ("people._target_", None),
        ("people", "${oc.create:'{_target_: os.system}'}"),
        ("people.folder", "${oc.decode:'[1]'}"),
        ("people.folder", "${oc.env:HOME}"),
        ("people.folder", "https://example.com/${oc.env:SECRET,''}/{0..1}.tar"),
        ("people.folder", "${${name}:HOME}"),
        ("people.folder", "${ oc.env : HOME }"),
        ("people.folder", "${hydra:runtime.cwd}"),
        ("people.folder", "${people}"),
        ("people.folder", "${.folder}"),
        ("people._args_", ["x"]),
        ("people._partial_", True),
        ("people._recursive_", False),
        ("people._convert_", "all"),
        ("people._target_", "backdoor_privacy.data.pairs.write_pairs"),
        ("people._target_", "backdoor_privacy.clip.load_clip.__globals__"),
        ("people.min_photos", [1]),
        ("people", None),
        ("clip", {}),
        ("clip", 3),
        ("attack", "x"),
        ("attack.num_candidates", float("nan")),
        ("seed", True),
        ("seed", -1),
        ("clip.no_such_key", 1),
    ],
)
def test_what_is_no_plain_config_of_a_run_is_one_line(place: str, value: Any, stored: dict[str, Any], write: Write):
    run = write(changed(stored, place, value))
    with pytest.raises(InputError, match=re.escape(str(run / ".hydra/config.yaml"))) as caught:
        load_context(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: [*a, *a]\n",
        "[" * 20_000,
        "a: " * 500,
        "people: !!python/object/apply:os.system [touch x]",
        "- 1\n",
        "",
        "a: b: c",
        "1: 2\n",
        "a: " + "x" * 2**21,
        "\0",
    ],
)
def test_what_is_no_config_at_all_is_one_line(text: str, write: Write):
    run = write(text)
    with pytest.raises(InputError, match=re.escape(str(run / ".hydra/config.yaml"))):
        load_context(run)


def test_references_in_chains_and_circles_end(stored: dict[str, Any], write: Write):
    for number in range(60):
        stored[f"a{number}"] = f"${{a{number + 1}}}${{a{number + 1}}}"
    run = write(changed(stored, "people.layout", "${a0}"))
    with pytest.raises(InputError, match="to refer to a plain value"):
        load_context(run)
    run = write(changed(stored, "people.layout", "${people.layout}"))
    with pytest.raises(InputError, match="to refer to a plain value"):
        load_context(run)


def test_a_target_is_allowed_by_its_name(stored: dict[str, Any], write: Write, tmp_path: Path):
    run = write(changed(stored, "clip.model", {"_target_": "os.path.expanduser", "path": "local-dir:/nowhere"}))
    with pytest.raises(InputError, match=r"clip\.model\._target_='os\.path\.expanduser'"):
        load_context(run)
    with pytest.raises(Exception, match="local-dir:/nowhere"):  # what the target said came to the CLIP's loader
        load_context(run, allow=["os.path.expanduser"])


def test_the_flag_takes_several_targets(stored: dict[str, Any], write: Write, capsys: pytest.CaptureFixture[str]):
    run = write(changed(stored, "clip.model", {"_target_": "os.path.expanduser", "path": "local-dir:/nowhere"}))
    assert main([str(run), "tower_swap", "allow=[my.own.Class, os.path.expanduser]"]) == 1
    assert "local-dir:/nowhere" in capsys.readouterr().err


def test_targets_of_the_users_own_command_line_may_stand_in_the_folder(compose_cfg):
    cfg = compose_cfg("people._target_=my.own.people")
    assert "my.own.people" in targets_of(cfg)


def test_what_a_run_stores_is_read_as_it_was(stored: dict[str, Any], write: Write, compose_cfg):
    path = write(stored) / ".hydra/config.yaml"
    read = read_stored(path)
    cfg = compose_cfg()
    assert run_key(read) == run_key(cfg)
    made = for_this_machine(read, path)
    assert made.people.cache == cfg.paths.cache  # it is a cache already
    assert made.clip.precision == cfg.clip.precision
    assert made.paths.run == str(path.parent.parent)


def test_nothing_is_written_where_a_stranger_says(stored: dict[str, Any], write: Write, tmp_path: Path):
    victim = tmp_path / "victim"
    (victim / "photos").mkdir(parents=True)
    for place in ("paths.cache", "paths.runs", "paths.run", "clip.store", "people.cache", "people.folder.cache"):
        changed(stored, place, str(victim))
    path = write(stored) / ".hydra/config.yaml"
    made = OmegaConf.to_container(for_this_machine(read_stored(path), path), resolve=True)
    assert isinstance(made, dict)
    del made["paths"]["runs"]  # no attack writes there
    assert str(victim) not in json.dumps(made, default=str)


@pytest.mark.parametrize("place", ["attacks", "figures", "figures/triggers.png", "defended", "people.csv"])
def test_links_that_lead_out_of_a_run_folder_are_refused(place: str, write: Write, stored: dict[str, Any], tmp_path):
    run, outside = write(stored), tmp_path / "outside"
    outside.mkdir()
    link = run / place
    link.parent.mkdir(exist_ok=True)
    moved = tmp_path / "moved"
    if link.exists():
        link.rename(moved)
    link.symlink_to(moved if moved.exists() else outside)
    with pytest.raises(InputError, match=re.escape(f"{link}: expected a run folder that holds all that is in it")):
        load_context(run)
    assert list(outside.iterdir()) == []


def test_a_hostile_config_among_runs_is_no_run_of_a_sweep(write: Write, stored: dict[str, Any], tmp_path: Path):
    write(changed(stored, "people.folder", "${oc.env:HOME}"))
    assert finished_runs(tmp_path) == {}


@pytest.mark.parametrize("params", [{"seed": "range(1000000000)"}, {f"a{n}": "1,2" for n in range(60)}])
def test_a_sweep_without_end_is_one_line(params: dict[str, str], tmp_path: Path):
    sweep = {"hydra": {"sweeper": {"params": params}, "overrides": {"task": []}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(sweep))
    with pytest.raises(InputError, match="sweep: expected 100,000 runs at most"):
        missing_runs(tmp_path)
