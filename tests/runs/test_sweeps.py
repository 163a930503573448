from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import OmegaConf

from backdoor_privacy.config.attacks import attack_names
from backdoor_privacy.runs.sweeps import (
    SweepProgress,
    asked_attacks,
    finished_runs,
    job_key,
    jobs,
    missing_runs,
    public_overrides,
    recorded_sweep,
    spoken,
    whole_run,
)
from backdoor_privacy.system.paths import CONFIG_FOLDER

pytestmark = pytest.mark.usefixtures("unchecked_types")

SWEEPS = sorted(path.stem for path in (CONFIG_FOLDER / "sweep").glob("*.yaml"))


def hydras_jobs(arguments: list[str]) -> list[list[str]]:
    return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), None)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=range(3)", "+experiment=names_1,names_2"],
        ["seed=0", "defense.text={num_steps: 7},{distance: mse}"],
        ["defense.text.terms.weight.weight=0.01,0.0", "trigger_set.people=[Ann Lee,Bob Ray]", "~strangers="],
        [],
    ],
)
def test_jobs_are_hydras(arguments: list[str]):
    assert jobs(arguments) == hydras_jobs(arguments)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_recorded_sweep_composes(name: str):
    found = recorded_sweep(name)
    assert len({tuple(job) for job in found}) == len(found)
    for job in {tuple(one for one in job if not one.startswith("seed=")) for job in found}:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            OmegaConf.to_object(compose("config", overrides=["paths.run=run", f"+sweep={name}", *job]))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (11100, "3 h 05 min")]
)
def test_time_spans_are_said_in_words(seconds: float, words: str):
    assert spoken(seconds) == words


def test_sweep_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = [0.0]
    monkeypatch.setattr("backdoor_privacy.runs.sweeps.time.monotonic", lambda: now[0])
    progress = SweepProgress()
    config = OmegaConf.create(
        {"hydra": {"sweeper": {"params": None}, "overrides": {"task": ["seed=range(4)", "clip=embedded"]}}}
    )
    progress.on_multirun_start(config)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "metrics.json").touch()  # this one was finished before and takes no time
    for number, seconds in enumerate([1, 100, 140, 120]):
        hydra = {"runtime": {"output_dir": str(tmp_path / str(number))}, "job": {"num": number}, "mode": "MULTIRUN"}
        job = OmegaConf.create({"hydra": hydra, "quiet": False})
        monkeypatch.setattr(HydraConfig, "get", lambda hydra=hydra: OmegaConf.create({"mode": RunMode.MULTIRUN}))
        progress.on_job_start(job)
        now[0] += seconds
        ended = JobReturn(overrides=["trigger_set.people=[Ann Lee]"])
        progress.on_job_end(job, ended)
        assert ended.overrides == [str(tmp_path / str(number))]  # of one that fails, Hydra shows them
    assert capsys.readouterr().out.splitlines() == [
        f"Run 1 of 4: {tmp_path}/0",
        "Run 1 of 4 has ended",
        f"Run 2 of 4: {tmp_path}/1",
        "Run 2 of 4 has ended; about 3 min left",
        f"Run 3 of 4: {tmp_path}/2",
        "Run 3 of 4 has ended; about 2 min left",
        f"Run 4 of 4: {tmp_path}/3",
        "Run 4 of 4 has ended",
    ]


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("seed=3", True),
        ("+experiment=names_8", True),
        ("clip=vit_b_32", True),
        ("defense.text.optimizer.lr=1e-4", True),
        ("defense/text_target=phrase", True),
        ("trigger_set.num_people=4", True),
        ("trigger_set.people=[Ann Lee]", False),
        ("+experiment=for_ann_lee", False),
        ("people.folder=/data/request", False),
        ("trigger_set={people: [Ann Lee]}", False),
        ("name=lee_ann", False),
    ],
)
def test_missing_run_is_told_without_what_may_say_who_is_removed(override: str, shown: bool, tmp_path: Path):
    job = [override] if override.startswith("trigger_set.people") else [override, "trigger_set.people=[Ann Lee]"]
    line = public_overrides(job, tmp_path)
    assert (override in line) == shown
    assert "Ann" not in line
    assert public_overrides(job, tmp_path) == line  # a digest under the key of these runs


def test_missing_run_names_people_where_its_report_may(tmp_path: Path):
    job = ["seed=1", "trigger_set.people=[Ann Lee]", "report.names=true"]
    assert public_overrides(job, tmp_path) == " ".join(job)


def write_run(folder: Path, overrides: list[str], *, finished: bool = True) -> None:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(overrides, folder / ".hydra/overrides.yaml")
    if finished:
        (folder / "metrics.json").touch()


def note_sweep(runs: Path, params: dict[str, str], task: list[str]) -> None:
    hydra = {"sweeper": {"params": params}, "overrides": {"task": task}}
    OmegaConf.save({"hydra": hydra, "paths": {"run": "${nowhere:x}"}}, runs / "multirun.yaml")


def test_missing_runs_are_those_of_the_last_sweep_that_are_not_finished(tmp_path: Path):
    assert missing_runs(tmp_path) == {}
    note_sweep(tmp_path, {"+experiment": "names_1,names_2"}, ["seed=range(2)", "clip=vit_b_32"])
    write_run(tmp_path / "x/0", ["seed=0", "+experiment=names_2", "clip=vit_b_32"])
    write_run(tmp_path / "x/1", ["clip=vit_b_32", "+experiment=names_1", "seed=1"], finished=False)
    assert finished_runs(tmp_path) == {job_key(("+experiment=names_2", "clip=vit_b_32", "seed=0")): "x/0"}
    missing = [("names_1", 0), ("names_1", 1), ("names_2", 1)]
    assert missing_runs(tmp_path) == {
        "the last sweep": [[f"+experiment={name}", f"seed={seed}", "clip=vit_b_32"] for name, seed in missing]
    }


def test_missing_runs_are_also_those_of_recorded_sweeps_that_were_begun(tmp_path: Path):
    first, *others = recorded_sweep("faces_500")
    write_run(tmp_path / "x/0", [*first, "quiet=true"])
    note_sweep(tmp_path, {}, ["+experiment=faces_500", "seed=range(3)"])  # says nothing that faces_500 does not
    assert missing_runs(tmp_path) == {"faces_500": others}
    for number, job in enumerate(others):
        write_run(tmp_path / f"y/{number}", job)
    assert missing_runs(tmp_path) == {}


def test_run_whose_attacks_are_not_done_is_missing(tmp_path: Path):
    first, *others = recorded_sweep("hardening")
    write_run(tmp_path / "x", first)
    assert missing_runs(tmp_path)["hardening"] == [first, *others]
    assert ["seed=0", "+experiment=both_64"] not in missing_runs(tmp_path)["both"]  # the same run, without attacks
    attacks = asked_attacks(first)
    for name in attacks:
        (tmp_path / "x/attacks").mkdir(exist_ok=True)
        (tmp_path / f"x/attacks/{name}.json").touch()
    assert missing_runs(tmp_path)["hardening"] == others
    (tmp_path / f"x/attacks/{attacks[-1]}.json").unlink()
    assert missing_runs(tmp_path)["hardening"] == [first, *others]


@pytest.mark.parametrize(
    "chosen", ["all", "default", "idia", "quick", *attack_names(), "[probe,tower_swap]", "[quick,inversion]", "[idia]"]
)
def test_attacks_that_overrides_ask_for_are_those_of_the_config(chosen: str):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", overrides=["paths.run=run", f"attack={chosen}"])
    assert asked_attacks(["seed=1", f"attack={chosen}"]) == list(map(str, cfg.attacks))
    assert cfg.attack == OmegaConf.load(CONFIG_FOLDER / "attack/idia.yaml")


def test_run_with_a_list_of_attacks_is_whole_with_all_of_them(tmp_path: Path):
    job = ["+experiment=names_8", "attack=[probe,tower_swap]", "seed=1"]
    write_run(tmp_path / "x", job)
    finished = finished_runs(tmp_path)
    (tmp_path / "x/attacks").mkdir()
    (tmp_path / "x/attacks/probe.json").touch()
    assert whole_run(job, finished, tmp_path) is None
    (tmp_path / "x/attacks/tower_swap.json").touch()
    assert whole_run(job, finished, tmp_path) == "x"
    assert jobs(["attack=[probe,tower_swap],all"]) == [["attack=[probe,tower_swap]"], ["attack=all"]]


def test_attacks_of_settings_elsewhere_are_not_known():
    assert asked_attacks(["seed=1"]) == asked_attacks(["attack=mine", "attack.num_photos=3"]) == []
