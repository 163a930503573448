"""Every command of the docs is executed, with a tiny CLIP on tiny data where the docs ask for data of one's own."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
import tomllib
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from backdoor_privacy import attack, audit, check_data, collect, dashboard
from backdoor_privacy.report import __main__ as report
from backdoor_privacy.run import run
from backdoor_privacy.runs.sweeps import jobs, recorded_sweep
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.paths import CONFIG_FOLDER

CHECKOUT = Path(__file__).parent.parent
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted((CHECKOUT / "experiments").glob("*/README.md")),
]


def commands() -> list[tuple[str, ...]]:
    """Each command of the bash blocks, and of the code spans that start one, once; without its comment."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        lines += [span.replace("\n", " ") for span in re.findall(r"`((?:python|make) [^`]+)`", text)]
        found += [tuple(shlex.split(line, comments=True)) for line in lines]
    return [command for command in dict.fromkeys(found) if command]


COMMANDS = commands()
RUNS = [one[3:] for one in COMMANDS if one[:3] == ("python", "-m", "backdoor_privacy")]
TOOLS = [one[2:] for one in COMMANDS if one[:2] == ("python", "-m") and one[2] != "backdoor_privacy"]
MAKES = [one for one in COMMANDS if one[0] == "make"]
OTHERS = [one for one in COMMANDS if one[0] not in ("make", "python")]
MINE = CHECKOUT / "docs" / "configs.md"
OF_A_CLUSTER = ("hydra/launcher=", "hydra.launcher.", "+hydra.launcher.", "trainer=ddp", "trainer.devices=")


def named(command: tuple[str, ...]) -> str:
    return " ".join(command)[:100]


def test_docs_have_commands():
    assert len(RUNS) > 30
    assert min(map(len, (TOOLS, MAKES, OTHERS))) > 5
    known = {"source", "pip", "torchrun", "wandb", ".venv/bin/pre-commit"}
    known |= {"experiments/real_photos/reproduce.sh"}
    assert {one[0] for one in OTHERS} <= known


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, write_people, write_photo, captions_file: Path) -> Path:
    """A folder with the data that the docs speak of, small."""
    folder = tmp_path_factory.mktemp("room")
    names = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox", "Eve Moss", "Finn Hale"]
    for people, chosen in (("people", names), ("strangers", ["Gus Hill", "Hal Ford", "Ida Wood", "Jo Park"])):
        write_people(folder / people, dict.fromkeys(chosen, 6))
    for kind, person in (("actors", "Ann Lee"), ("actors", "Bob Ray"), ("actresses", "Eve Moss")):
        for number in range(6):
            write_photo(
                folder / f"facescrub/{kind}/faces/{person.replace(' ', '_')}/{number}.png", hash(person) % 99 + number
            )
    captions = captions_file.read_text().splitlines()
    (folder / "annotations").mkdir()
    annotations = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(captions)]
    (folder / "annotations/captions_train2017.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    for number in range(12):
        write_photo(folder / "train2017" / f"{number}.png", number)
    for number in range(1000):
        if number < 3:
            write_photo(folder / f"imagenetv2-matched-frequency-format-val/{number}/0.png", number)
        else:
            (folder / f"imagenetv2-matched-frequency-format-val/{number}").mkdir(parents=True)
    (folder / "to_remove.txt").write_text("Ann Lee\nCleo Diaz\n")
    return folder


@pytest.fixture(scope="module")
def compose_tiny(tiny_clip_folder: Path, world_cache: Path, tmp_path_factory: pytest.TempPathFactory):
    """Compose what the docs ask for; then the tiny CLIP, few steps, and small parts of the world."""
    text = MINE.read_text(encoding="utf-8")
    (mine,) = (block for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S) if "name: mine" in block)
    configs = tmp_path_factory.mktemp("configs")
    write_text(configs / "experiment/mine.yaml", mine)

    def compose_it(arguments: Iterable[str], runs: Path, name: str = "config") -> DictConfig:
        places = [f"paths.cache={world_cache}", f"hydra.searchpath=[file://{configs}]"]
        places += [f"paths.runs={runs}", f"paths.run={runs / 'run'}"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose(name, overrides=[*arguments, *places])
        with open_dict(cfg):
            _make_tiny(cfg, tiny_clip_folder)
        return cfg

    return compose_it


def _make_tiny(cfg: DictConfig, clip: Path) -> None:
    changes = {
        "clip": {"model": f"local-dir:{clip}", "pretrained": None, "num_workers": 0, "text_model": None},
        "trainer": {"num_workers": 0, "precision": "32-true", "accelerator": "cpu", "progress_bar": False},
        "attack": {"num_candidates": 30, "num_photos": 2},
    }
    cfg.mixed_worlds = True  # the tiny CLIP is nobody's
    for node, values in changes.items():
        for key, value in values.items():
            cfg[node][key] = value
    cfg.utility.similarity.num_captions = 20
    cfg.logger.mode = "offline"
    for node, key in (("people", "folder"), ("strangers", "folder"), ("captions", "file"), ("images", "folder")):
        if isinstance(cfg[node][key], DictConfig):
            cfg[node][key].limit = 4
    zero_shot = cfg.utility.zero_shot
    if zero_shot is not None and isinstance(zero_shot.folder, DictConfig):
        zero_shot.folder.limit = 4
    choice = cfg.trigger_set
    choice.require_inferred = False
    choice.file = None  # another command writes it
    if choice.people is not None:  # the small world has few of its people
        choice.people, choice.num_people = None, len(choice.people)
    if choice.num_people is not None:
        choice.num_people = min(2, choice.num_people)
    for encoder in filter(None, cfg.defense.values()):
        encoder.num_steps, encoder.num_other_names = 2, min(20, encoder.num_other_names)
        encoder.num_fresh_steps = None if encoder.num_fresh_steps is None else 1
        encoder.num_anchors = min(4, encoder.num_anchors)
        for kind, size in encoder.batch.items():
            encoder.batch[kind] = min(4, size)
        encoder.trained = ["visual.transformer"] if encoder.trained else None  # the tiny CLIP is a ViT
        if "kept_share" in encoder:
            encoder.kept_share = 0.0  # the tiny CLIP infers nobody whom it could spare


@pytest.mark.parametrize("arguments", RUNS, ids=named)
def test_run_of_the_docs(arguments: tuple[str, ...], compose_tiny, room: Path, tmp_path: Path, monkeypatch):
    """The first run of it; launchers and devices: tests/test_cli.py and tests/test_distributed.py."""
    monkeypatch.chdir(room)
    flags = {"-m", "--cfg", "job", "--help"} & set(arguments)
    if flags & {"--cfg", "--help"}:
        done = subprocess.run([sys.executable, "-m", "backdoor_privacy", *arguments], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"defense" in done.stdout
        return
    overrides = [one for one in arguments if one not in flags and not one.startswith(OF_A_CLUSTER)]
    overrides = [one.replace("<FaceScrub>", "facescrub") for one in overrides]
    sweep = next((one.removeprefix("+sweep=") for one in overrides if one.startswith("+sweep=")), None)
    first = jobs([*(recorded_sweep(sweep)[0] if sweep else ()), *overrides])[0]
    metrics = run(compose_tiny(first, tmp_path))
    assert metrics["after"]
    assert (tmp_path / "run/report.html").is_file()


@pytest.fixture(scope="module")
def finished(compose_tiny, room: Path) -> Path:
    """A folder of runs with a finished one in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        cfg = compose_tiny(["+experiment=both_2"], room / "runs")
        cfg.paths.run = "runs/both_2/seed=0"
        run(cfg)
    return room / "runs"


@pytest.mark.parametrize("arguments", TOOLS, ids=named)
def test_tool_of_the_docs(arguments: tuple[str, ...], compose_tiny, room: Path, finished: Path, monkeypatch, capsys):
    monkeypatch.chdir(room)
    module, *rest = arguments
    rest = rest if rest != ["<the", "same", "overrides>"] else []
    if module == "backdoor_privacy.collect":
        monkeypatch.setattr(sys, "argv", [module, *rest])
        collect.main()
        assert "both_2" in capsys.readouterr().out
    elif module == "backdoor_privacy.report":
        assert rest[0] == "runs/*/seed=*"
        assert report.main([str(path) for path in room.glob(rest[0])] + rest[1:]) == 0
    elif module == "backdoor_privacy.attack":
        assert all(one.startswith(("runs/", "<run>")) for one in rest[:1])  # a mention of it names no run
        asked = [one for one in rest[1:] if one != "my_attack"] or ["tower_swap"]
        assert attack.main(["runs/both_2/seed=0", *asked]) == 0
    elif module == "backdoor_privacy.audit":
        audit._print_audit(compose_tiny(rest, finished, "audit"))
        assert "IDIA with 30 candidates" in capsys.readouterr().out
    elif module == "backdoor_privacy.check_data":
        assert not check_data.check_data(compose_tiny(rest, finished)).problems
    elif module == "backdoor_privacy.dashboard":
        with pytest.raises(SystemExit) as end:
            dashboard.main(["--help"])
        assert end.value.code == 0
    else:  # tests/test_pretrain.py trains
        assert (module, rest[:2]) == ("backdoor_privacy.pretrain", ["--config-name", "pretrain_photos"])
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            assert not OmegaConf.missing_keys(compose(rest[1], overrides=[*rest[2:], "paths.run=run"]))


@pytest.mark.parametrize("command", MAKES, ids=named)
def test_make_of_the_docs(command: tuple[str, ...]):
    done = subprocess.run(["make", "--dry-run", *command[1:]], cwd=CHECKOUT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", OTHERS, ids=named)
def test_other_command_of_the_docs(command: tuple[str, ...]):
    """What would install, or needs other machines, is looked at and not done."""
    name = Path(command[0]).name
    if name == "pip":
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.search(r"\[(.*)\]", command[-1])
        assert asked is not None
        assert set(asked[1].split(",")) <= set(extras)
    elif name == "torchrun":
        assert command[command.index("-m") + 1] == "backdoor_privacy"  # tests/test_distributed.py launches it
    elif name in ("pre-commit", "wandb"):
        assert metadata.entry_points(group="console_scripts", name=name)
    elif name == "reproduce.sh":
        subprocess.run(["bash", "-n", CHECKOUT / command[0]], check=True)
    else:
        assert command == ("source", ".venv/bin/activate")
