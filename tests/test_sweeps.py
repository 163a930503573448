from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from backdoor_privacy.paths import CONFIG_FOLDER
from backdoor_privacy.sweeps import SweepProgress, finished_runs, jobs, missing_runs, recorded_sweep, run_key, spoken

SWEEPS = sorted(path.stem for path in (CONFIG_FOLDER / "sweep").glob("*.yaml"))


def hydras_jobs(arguments: list[str]) -> list[list[str]]:
    return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), None)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=range(3)", "+experiment=names_1,names_2"],
        ["seed=0", "defense.text={phrase: a person},{target: fitting}"],
        ["defense.text.loss_weights.weight=0.01,0.0", "trigger_set.people=[Ann Lee,Bob Ray]", "~strangers="],
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
    monkeypatch.setattr("backdoor_privacy.sweeps.time.monotonic", lambda: now[0])
    progress = SweepProgress()
    config = OmegaConf.create(
        {"hydra": {"sweeper": {"params": None}, "overrides": {"task": ["seed=range(4)", "clip=embedded"]}}}
    )
    progress.on_multirun_start(config)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "metrics.json").touch()  # this one was finished before and takes no time
    for number, seconds in enumerate([1, 100, 140, 120]):
        hydra = {"runtime": {"output_dir": str(tmp_path / str(number))}, "job": {"num": number}}
        job = OmegaConf.create({"hydra": hydra, "quiet": False})
        progress.on_job_start(job)
        now[0] += seconds
        progress.on_job_end(job, JobReturn())
    assert capsys.readouterr().out.splitlines() == [
        "Run 1 of 4 has ended",
        "Run 2 of 4 has ended; about 3 min left",
        "Run 3 of 4 has ended; about 2 min left",
        "Run 4 of 4 has ended",
    ]


def test_key_of_a_run_is_what_it_is_and_not_how_it_was_made():
    first = [
        "+experiment=names_8",
        "seed=1",
        "defense.text={phrase:a\\ person}",
        "trainer.num_workers=0",
        "logger=wandb",
    ]
    other = [
        "defense.text={phrase:a person}",
        "+sweep=x",
        "seed=1",
        "+experiment=names_8",
        "paths.runs=there",
        "attack=all",
    ]
    assert run_key(first) == run_key(other)
    assert run_key([*first, "clip=vit_b_32"]) != run_key(first)


def test_missing_runs_are_those_of_the_last_sweep_that_are_not_finished(tmp_path: Path):
    assert missing_runs(tmp_path) == []
    hydra = {"sweeper": {"params": {"+experiment": "names_1,names_2"}}, "overrides": {"task": ["seed=range(2)"]}}
    OmegaConf.save({"hydra": hydra, "paths": {"run": "${nowhere:x}"}}, tmp_path / "multirun.yaml")
    for number, overrides in enumerate((["seed=0", "+experiment=names_2"], ["+experiment=names_1", "seed=1"])):
        folder = tmp_path / f"x/{number}"
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(overrides, folder / ".hydra/overrides.yaml")
        if number == 0:
            (folder / "metrics.json").touch()
    assert finished_runs(tmp_path) == {run_key(["+experiment=names_2", "seed=0"]): "x/0"}
    missing = [["+experiment=names_1", "seed=0"], ["+experiment=names_1", "seed=1"], ["+experiment=names_2", "seed=1"]]
    assert missing_runs(tmp_path) == missing
