"""The command: twice as a process of its own and from a foreign working directory, else in this process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from omegaconf import OmegaConf

from backdoor_privacy.__main__ import main
from backdoor_privacy.system import paths

pytestmark = pytest.mark.usefixtures("unchecked_types")
CHECKOUT = Path(paths.__file__).parents[2]


class Outcome(NamedTuple):
    folder: Path  # where the command was called
    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


@pytest.fixture(scope="module")
def call(tiny_overrides: list[str]) -> Callable[..., Outcome]:
    def call_it(folder: Path, *arguments: str) -> Outcome:
        command = [sys.executable, "-m", "backdoor_privacy", *arguments_of(tiny_overrides, *arguments)]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "ignore", "COLUMNS": "120"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return Outcome(folder, done.returncode, done.stdout, done.stderr)

    return call_it


def arguments_of(tiny_overrides: list[str], *arguments: str) -> list[str]:
    flags = [argument for argument in arguments if argument == "-m"]
    overrides = ["+experiment=smoke", *tiny_overrides, *(each for each in arguments if each not in flags)]
    if "+experiment=nowhere" in overrides:
        overrides.remove("+experiment=smoke")
    return [*flags, *overrides]


# Back to the defaults that `tiny_overrides` makes simpler.
DEFAULTS = ["trainer.precision=bf16-mixed", "trainer.num_workers=1", "clip.num_workers=1"]
BAD_INPUT = {
    "unknown experiment": ["+experiment=nowhere"],
    "unknown key": ["trigger_set.num_persons=3"],
    "value of another type": ["seed=many"],
    "appended key": ["+trigger_set.num_persons=3"],
    "unknown person": ["trigger_set.people=[Nobody Here]"],
    "more people than exist": ["trigger_set.num_people=13"],
    "empty trigger set": ["trigger_set.people=[]"],
    "person not inferred": ["attack.threshold=21", "trigger_set.require_inferred=true", "trigger_set.file=people.txt"],
    "captions without a space": ["captions.file=words.txt"],
    "weights of another architecture": ["clip.model=local-dir:other"],
    "no such folder": ["people.folder=nowhere"],
    "run folder of another config": ["paths.run=claimed"],
    "loss that is not finite": ["defense.text.optimizer.lr=1e30", "defense.text.optimizer.schedule=step"],
}


@pytest.fixture(scope="module")
def outcomes(
    call: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Outcome]"]]:
    """The two processes, at the same time, because most of it is the import of torch."""
    real = {"smoke": DEFAULTS, "unknown person": BAD_INPUT["unknown person"]}
    with ThreadPoolExecutor(2) as pool:
        yield {
            title: pool.submit(call, tmp_path_factory.mktemp(title.replace(" ", "-")), *arguments)
            for title, arguments in real.items()
        }


@pytest.fixture
def call_here(tiny_overrides: list[str], call_command, tmp_path: Path) -> Callable[..., Outcome]:
    """Call the command in this process, in the test's own folder."""
    return lambda *arguments: Outcome(tmp_path, *call_command(main, *arguments_of(tiny_overrides, *arguments)))


@pytest.fixture
def call_wrongly(call_here: Callable[..., Outcome], world_cache: Path, write_clip, tmp_path: Path):
    """Call the command in this process with bad input, by its title."""

    def call_it(title: str) -> Outcome:
        prepare(tmp_path, title, world_cache, write_clip)
        return call_here(*BAD_INPUT[title])

    return call_it


def prepare(folder: Path, title: str, world_cache: Path, write_clip) -> None:
    """Write what a command with bad input finds where it is called."""
    (somebody, *_) = sorted(path.name for path in world_cache.glob("*/*/people-4/*_*"))
    (folder / "words.txt").write_text("dog\ntree\n")
    (folder / "people.txt").write_text(f"{somebody}\n")
    if title == "weights of another architecture":
        config = write_clip(folder / "other") / "open_clip_config.json"
        changed = json.loads(config.read_text())
        changed["model_cfg"]["text_cfg"]["width"] = 32
        config.write_text(json.dumps(changed))
    if title == "run folder of another config":
        (folder / "claimed/checkpoints").mkdir(parents=True)
        (folder / "claimed/checkpoints/config.yaml").write_text("seed: 99\n")
        (folder / "claimed/checkpoints/last.ckpt").touch()


@pytest.fixture(scope="module")
def smoke(outcomes) -> Outcome:
    return outcomes["smoke"].result()


def test_smoke_run_ends_with_a_table_and_its_folder(smoke: Outcome):
    assert smoke.code == 0, smoke.text
    (metrics_file,) = smoke.folder.rglob("metrics.json")
    metrics = json.loads(metrics_file.read_text())
    assert set(metrics["after"]) == {"text", "image", "both"}
    for title in ("removed people inferred by IDIA", "kept people inferred by IDIA", "zero-shot top-1"):
        assert title in smoke.stdout
    assert smoke.folder / smoke.stdout.rpartition("Results: ")[2].strip() == metrics_file.parent
    assert "Traceback" not in smoke.text


def test_quiet_run_says_only_where_its_results_are(call_here):
    quiet = call_here("quiet=true")
    assert quiet.code == 0, quiet.text
    (metrics_file,) = quiet.folder.rglob("metrics.json")
    assert quiet.text.split() == [str(metrics_file.parent.relative_to(quiet.folder))]


def test_seed_and_overrides_stand_in_the_name_of_the_folder(smoke: Outcome):
    (metrics_file,) = smoke.folder.rglob("metrics.json")
    runs, experiment, overrides, seed, _ = metrics_file.relative_to(smoke.folder).parts
    assert (runs, experiment, seed) == ("runs", "smoke", "seed=0")
    assert overrides.startswith("overrides=")


def test_composed_config_lies_in_the_run_folder(smoke: Outcome):
    (config,) = smoke.folder.rglob(".hydra/config.yaml")
    saved = OmegaConf.load(config)
    assert (saved.name, saved.trigger_set.num_people, saved.defense.text.num_steps) == ("smoke", 2, 6)
    assert not [path for path in smoke.folder.iterdir() if path.name != "runs" and path.suffix != ".txt"]


def assert_fails(outcome: Outcome, message: str) -> None:
    assert outcome.code == 1, outcome.text
    assert re.search(message, outcome.text), outcome.text
    finished = [path for path in outcome.folder.rglob("metrics.json") if path.parent.name != "audit"]
    assert not finished  # the audit of somebody who is not inferred is a result of its own
    assert not list(outcome.folder.rglob("defended"))


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("appended key", r"config: expected only keys of the schema, got trigger_set\.num_persons"),
        ("more people than exist", r"trigger_set\.num_people: expected at most 12 .* got 13"),
        ("empty trigger set", "trigger_set: expected at least one person to remove, got an empty list"),
        ("person not inferred", r"does not infer \w+ \w+; set trigger_set\.require_inferred=false"),
        ("captions without a space", "captions: expected 2 different ones or more of two words or more"),
        ("weights of another architecture", r"clip\.model=local-dir:other.* expected weights of this architecture"),
        ("no such folder", r"people\.folder: expected a folder .* got nowhere"),
        ("run folder of another config", "claimed: expected a new folder or one of the same config"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(title: str, message: str, call_wrongly):
    assert_fails_in_one_line(call_wrongly(title), message)


def test_bad_input_of_a_process_is_one_line_and_exit_code_1(outcomes):
    outcome = outcomes["unknown person"].result()
    assert_fails_in_one_line(outcome, r"trigger_set\.people: expected .* got 'Nobody Here'")


def assert_fails_in_one_line(outcome: Outcome, message: str) -> None:
    assert_fails(outcome, message)
    assert "Traceback" not in outcome.text
    assert len([line for line in outcome.text.splitlines() if "expected" in line]) == 1
    assert re.search(message, outcome.text.splitlines()[-1])


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("unknown experiment", "experiment: expected one of .*, got .*nowhere"),
        ("unknown key", r"trigger_set\.num_persons: expected an existing key .*; did you mean num_people\?"),
        ("value of another type", "seed: expected .*'many'"),
    ],
)
def test_what_does_not_compose_is_an_error_that_names_the_key(title: str, message: str, call_wrongly):
    outcome = call_wrongly(title)
    assert re.search(message, outcome.text.splitlines()[-1]), outcome.text
    assert_fails(outcome, message)
    assert "Traceback" not in outcome.text
    assert not (outcome.folder / "runs").exists()


def test_loss_that_is_not_finite_names_the_learning_rate_in_one_line(call_wrongly):
    outcome = call_wrongly("loss that is not finite")
    assert_fails(
        outcome, r"expected a finite loss, got (nan|inf) at step \d; lower defense\.\w+\.optimizer\.lr, which is"
    )
    assert "Traceback" not in outcome.text
    (log,) = outcome.folder.rglob("backdoor_privacy.log")
    assert "expected a finite loss" in log.read_text()
    assert not list(outcome.folder.rglob("defended"))


@pytest.mark.slow
def test_smoke_experiment_draws_its_world_and_removes_people_that_the_embedded_clip_knows(tmp_path: Path):
    command = [sys.executable, "-m", "backdoor_privacy", "+experiment=smoke", "paths.cache=cache"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "runs/smoke/seed=0/metrics.json").read_text())
    assert (metrics["before"]["idia/tpr_removed"], metrics["before"]["idia/num_tpr_removed"]) == (1.0, 2.0)
    assert len(list((tmp_path / "cache").glob("personas-v*/seed=0/*"))) == 5


@pytest.mark.slow
def test_sweep_runs_every_seed(call: Callable[..., Outcome], tmp_path: Path):
    outcome = call(tmp_path, "-m", "seed=0,1")
    assert outcome.code == 0, outcome.text
    found = {path.parent.name: json.loads(path.read_text())["seed"] for path in tmp_path.rglob("metrics.json")}
    assert found == {"seed=0": 0, "seed=1": 1}
    again = call(tmp_path, "-m", "seed=0,1")
    assert again.code == 0
    assert again.text.count("is finished already") == 2
    assert "Run 1 of 2 has ended; about" in outcome.text
    assert "Run 2 of 2 has ended" in again.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=submitit_local"]],
    ids=["basic", "joblib", "submitit"],
)
def test_failing_jobs_of_a_sweep_leave_their_reason_and_the_others(
    launcher: tuple[str, ...], call: Callable[..., Outcome], tmp_path: Path
):
    """One job asks for what cannot be, one fails while it computes, one is fine."""
    jobs = "trigger_set.num_people=13,2", "defense.text.optimizer.lr=1e-4,1e30"
    outcome = call(tmp_path, "-m", *launcher, *jobs)
    assert outcome.code == 1
    (metrics,) = tmp_path.rglob("metrics.json")
    assert json.loads(metrics.read_text())["before"]["idia/num_tpr_removed"] == 2
    logs = [log.read_text() for log in tmp_path.rglob("backdoor_privacy.log")]
    assert len(logs) == 4
    assert sum("expected at most 12" in log for log in logs) == 2
    assert sum("expected a finite loss" in log for log in logs) == 1
    found = subprocess.run(
        [sys.executable, "-m", "backdoor_privacy.collect", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "300"},
    )
    assert found.stdout.count("not finished") == 3
    assert found.stdout.count("expected at most 12") == 2
    assert found.stdout.count("expected a finite loss") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib"], ["hydra/launcher=submitit_local"]])
def test_sweep_names_nobody_in_the_terminal_and_its_logs(
    launcher: list[str], call: Callable[..., Outcome], tmp_path: Path
):
    """Neither whom a job removes, nor whom one asks for that fails, nor the last one that is missing then."""
    outcome = call(tmp_path, "-m", *launcher, "trigger_set.people=[Nobody Here],[Somebody Else]", "attack=idia")
    assert outcome.code == 1
    logs = [path for path in tmp_path.rglob("*log*") if path.is_file()]
    assert len([path for path in logs if path.name == "backdoor_privacy.log"]) == 2
    command = [sys.executable, "-m", "backdoor_privacy.collect", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "300"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "missing of the last sweep: 2 runs: +experiment=smoke" in found.stdout
    assert found.stdout.count("got 'person 1 of 1'") == 2
    told = [outcome.text, found.stdout, found.stderr, *(path.read_text() for path in logs)]
    assert not [text for text in told if re.search("nobody.?here|somebody.?else", text, re.IGNORECASE)]


@pytest.mark.slow
def test_several_devices_in_a_sweep_are_refused(call: Callable[..., Outcome], tmp_path: Path):
    outcome = call(tmp_path, "-m", "trainer.devices=2", "seed=0,1")
    assert outcome.code == 1
    assert "trainer.devices: expected 1 for each job of a sweep" in outcome.text
    assert not list(tmp_path.rglob("metrics.json"))


def test_help_of_no_command_loads_torch():
    commands = ["__main__", "check_data", "audit", "attack", "report.__main__", "collect", "pretrain", "dashboard"]
    imports = "; ".join(f"import backdoor_privacy.{command}" for command in commands)
    helped = "backdoor_privacy.attack.main(['--help'])"
    script = f"import sys\n{imports}\ntry: {helped}\nexcept SystemExit: print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
