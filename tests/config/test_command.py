"""Whatever is wrong with a command line ends in one line, before anything is imported that takes time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig

from backdoor_privacy.config.command import run_command
from backdoor_privacy.system.paths import CONFIG_FOLDER


def never(cfg: DictConfig) -> None:
    raise AssertionError("the command ran")


WRONG = [
    (["trigger_set.num_persons=3"], r"trigger_set.num_persons: expected an existing key .*did you mean num_people\?"),
    (["foo=bar"], r"foo: expected an existing key \(.*trigger_set.*\), got foo"),
    (["seed=many"], r"seed: expected .*'many'.*Integer"),
    (["clip.precision=fp8"], r"clip.precision: expected .*'fp8', expected one of \[fp32"),
    (["people.box=[1,2,x,4]"], r"people.box\[2\]: expected .*'x'"),
    (["trigger_set.people=Jane Doe"], r"trigger_set.people: expected .*write 'trigger_set.people=\[\"Jane Doe\"\]'"),
    (["+experiment=nowhere"], r"experiment: expected one of both_1, .*smoke, got nowhere"),
    (["experiment=smoke"], r"command line: expected .*use \+experiment=smoke"),
    (["clip=vit"], r"clip: expected one of embedded, .*vit_l_14, got vit"),
    (["seed=0,1"], r"command line: expected .*add --multirun"),
    (["seed"], r"command line: expected key=value in Hydra's syntax, got seed;"),
    (["~nothing"], r"command line: expected .*'nothing' does not exist"),
    (["people.folder=${nowhere}"], r"expected a value that can be resolved, got: .*'nowhere'"),
    (["hydra/launcher=nope", "seed=0"], r"hydra/launcher: expected one of basic, .*got nope"),
    (["--nope"], r"command line: expected settings as key=value .*named above; see --help"),
    (["--config-name", "nope"], r"command line: expected .*'nope'"),
    (["--resolve"], r"command line: expected .*--resolve"),
    (["paths.run=/dev/null"], r"/dev/null: expected a path .*paths.run"),
    (["paths.runs=/proc/x"], r"/proc/x: expected a path .*paths.runs"),
    (["paths.runs=/proc/x", "trigger_set.people=[Jane Doe]"], r"/proc/x: expected a path .*paths.runs"),
    (["trigger_set.people.x=x"], r"command line: expected settings .*, got: trigger_set\.people\.x=x: "),
    (["defense.image.faces=${oc.env:NOT_THERE}"], r"^defense\.image\.faces: expected a value that can be resolved"),
    (["seed=${oc.env:NOT_THERE}"], r"^seed: expected a value that can be resolved"),
    (["people=folder", "people.folder=${x.y}"], r"^people\.folder: .*'x\.y' not found"),
    (["trigger_set.people=[glob(*)]"], r"^trigger_set\.people: expected a list of names, .* quotes"),
    (["trigger_set.people=${x}"], r"^trigger_set\.people: expected a value"),
    (["name=" + "a" * 300], r"name: expected names .*255 bytes"),
]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_command(never, "config")
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.rstrip().splitlines()[-1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[" ".join(one)[:40] for one, _ in WRONG])
def test_mistake_on_the_command_line_is_one_line(arguments: list[str], line: str, capsys, monkeypatch):
    assert re.search(line, told(arguments, capsys, monkeypatch))


@pytest.mark.parametrize("name", ["Zoë Ångström", "Sinead O'Farrin", "Havel Holtrup (II)", "李 小明"])
def test_name_that_hydra_does_not_read_is_shown_as_it_is_to_be_written(name: str, capsys, monkeypatch, tmp_path: Path):
    line = told([f"trigger_set.people=[{name}]"], capsys, monkeypatch)
    shown = re.search(r"write ('trigger_set.*\]'), each name in quotes", line)
    assert shown is not None
    assert "trigger_set.file=names.txt" in line
    (argument,) = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shown[1]}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", argument])
    seen: list[list[str]] = []
    run_command(lambda cfg: seen.append(list(cfg.trigger_set.people)), "config")
    assert seen == [[name]]


def test_slurm_launcher_without_slurm_is_one_line(capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    line = told(["-m", "hydra/launcher=submitit_slurm", "seed=0,1"], capsys, monkeypatch)
    assert "expected Slurm on this machine, found no srun" in line


def test_error_of_the_program_has_its_traceback_and_a_last_line(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy"])
    with pytest.raises(SystemExit) as caught:
        run_command(never, "config")
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().splitlines()[-1].startswith("This is a bug")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("config", "Remove people's names and faces"),
        ("audit", "Attack a CLIP with the Identity Inference Attack"),
        ("check_data", "Look over the data of a run"),
        ("pretrain", "Train a small CLIP"),
    ],
)
def test_help_of_every_command_is_its_own(config: str, words: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", "--help"])
    with pytest.raises(SystemExit) as caught:
        run_command(never, config)
    assert not caught.value.code
    out = capsys.readouterr().out
    assert out.startswith(words)
    assert (CONFIG_FOLDER / f"{config}.yaml").is_file()


def test_help_and_mistakes_need_no_torch():
    code = "import sys, backdoor_privacy.__main__ as m; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
