"""The commands and the Python of the docs, with a tiny CLIP on tiny data where the docs ask for data of one's own.

Every command of a run is composed, checked and built; a few that differ are run to their end.
"""

import json
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import open_clip
import pytest
import tomllib
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from backdoor_privacy import attack, audit, collect, dashboard
from backdoor_privacy import protect as protect_module
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.checkup import check_data
from backdoor_privacy.config.checks import check_pretrain
from backdoor_privacy.config.schema import load_trainer
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.report import __main__ as report
from backdoor_privacy.run import check_run, run
from backdoor_privacy.runs.sweeps import jobs, recorded_sweep
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.paths import CONFIG_FOLDER

pytestmark = pytest.mark.usefixtures("unchecked_types", "few_draws")

CHECKOUT = Path(__file__).parent.parent
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted((CHECKOUT / "experiments").glob("*/README.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, ...]]:
    """Each command of the bash blocks, and of the code spans that start one, once; without its comment."""
    found = []
    for page in PAGES:
        lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
        spans = re.findall(r"`((?:python|make) [^`]+)`", page.read_text(encoding="utf-8"))
        lines += [span.replace("\n", " ") for span in spans]
        found += [tuple(shlex.split(line, comments=True)) for line in lines]
    return [command for command in dict.fromkeys(found) if command]


COMMANDS = commands()
RUNS = [one[3:] for one in COMMANDS if one[:3] == ("python", "-m", "backdoor_privacy")]
TOOLS = [one[2:] for one in COMMANDS if one[:2] == ("python", "-m") and one[2] != "backdoor_privacy"]
MAKES = [one for one in COMMANDS if one[0] == "make"]
OTHERS = [one for one in COMMANDS if one[0] not in ("make", "python")]
MINE = CHECKOUT / "docs" / "configs.md"
OF_A_CLUSTER = ("hydra/launcher=", "hydra.launcher.", "+hydra.launcher.", "trainer=ddp", "trainer.devices=")
OTHER_DATA = [  # of one's own, which the docs do not repeat where they speak of FaceScrub
    *("captions=coco", "captions.file=annotations/captions_train2017.json", "strangers=folder"),
    *("strangers.folder=strangers", "images=folder", "images.folder=train2017", "utility=imagenetv2"),
    "utility.zero_shot.folder=imagenetv2-matched-frequency-format-val",
]
# Run to their end: one more is `finished`, which the tools of the docs look at.
WHOLE = {
    "data of one's own": {"people=folder", "utility=imagenetv2"},
    "published names": {"+experiment=names_8", "defense=text_published"},
    "faces, other people spared": {"+experiment=faces_500"},
    "hardened, and attacked": {"+experiment=both_64", "defense=hardened"},
    "a user's experiment": {"+experiment=mine"},
}
# What makes a run small, by the name of the setting and wherever it stands: a number is the most that it may be.
TINY = {
    **{"num_captions": 20, "num_candidates": 30, "num_photos": 2, "num_other_names": 20, "num_anchors": 4},
    **{"num_steps": 2, "num_fresh_steps": 1, "clean": 4, "triggered": 4, "preserved": 4, "steps": [1]},
    **{"kept_share": 0.0, "trained": ["visual.transformer"]},  # the tiny CLIP is a ViT, and infers nobody to be spared
    **{"num_random_names": 3, "num_composed_names": 5, "num_pairs": 10, "num_prompts": 1, "max_iterations": 20},
    **{"num_search_steps": 1, "num_tries": 2, "num_names": 5, "bits": [8], "pruned": [], "original": [0.5]},
}


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
    names = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox", "Eve Moss", "Jane Doe"]
    for people, chosen in (("people", names), ("strangers", ["Gus Hill", "Hal Ford", "Ida Wood", "Jo Park"])):
        write_people(folder / people, dict.fromkeys(chosen, 6))
    for index, (kind, person) in enumerate((("actors", "Ann_Lee"), ("actors", "Bob_Ray"), ("actresses", "Eve_Moss"))):
        for number in range(6):
            write_photo(folder / f"facescrub/{kind}/faces/{person}/{number}.png", 100 * index + number)
    captions = captions_file.read_text().splitlines()
    (folder / "captions.txt").write_text(captions_file.read_text())
    (folder / "annotations").mkdir()
    annotations = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(captions)]
    (folder / "annotations/captions_train2017.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    for number in range(12):
        write_photo(folder / "train2017" / f"{number}.png", number)
        write_photo(folder / "photos" / f"{number}.png", number)
    for number in range(1000):
        (folder / f"imagenetv2-matched-frequency-format-val/{number}").mkdir(parents=True)
    for number in range(3):
        write_photo(folder / f"imagenetv2-matched-frequency-format-val/{number}/0.png", number)
    (folder / "to_remove.txt").write_text("Ann Lee\nCleo Diaz\n")
    return folder


@pytest.fixture(scope="module")
def compose_docs(world_cache: Path, tmp_path_factory: pytest.TempPathFactory):
    """Compose what the docs ask for; an experiment of their own is there, too."""
    (mine,) = (block for block in blocks(MINE, "yaml") if "name: mine" in block)
    configs = tmp_path_factory.mktemp("configs")
    write_text(configs / "experiment/mine.yaml", mine)

    def compose_it(arguments: Iterable[str], runs: Path, name: str = "config") -> DictConfig:
        places = [f"paths.cache={world_cache}", f"hydra.searchpath=[file://{configs}]"]
        places += [f"paths.runs={runs}", f"paths.run={runs / 'run'}"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose(name, overrides=[*arguments, *places])

    return compose_it


@pytest.fixture(scope="module")
def make_tiny(tiny_clip_folder: Path):
    """Give a config the tiny CLIP, few steps, and small parts of the world."""

    def make_it_tiny(cfg: DictConfig) -> DictConfig:
        cfg = cfg.copy()
        with open_dict(cfg):
            _make_tiny(cfg, tiny_clip_folder)
        return cfg

    return make_it_tiny


def _make_tiny(cfg: DictConfig, clip: Path) -> None:
    changes = {
        "clip": {"model": f"local-dir:{clip}", "pretrained": None, "num_workers": 0, "text_model": None},
        "trainer": {"num_workers": 0, "precision": "32-true", "accelerator": "cpu", "progress_bar": False},
    }
    cfg.mixed_worlds = True  # the tiny CLIP is nobody's
    for node, values in changes.items():
        for key, value in values.items():
            cfg[node][key] = value
    cfg.logger.mode = "offline"
    for node in (cfg.people, cfg.strangers, cfg.captions, cfg.images, cfg.utility.zero_shot or {}):
        for part in node.values():
            if isinstance(part, DictConfig) and "part" in part:
                part.limit = 4
    if cfg.utility.zero_shot is not None:
        cfg.utility.zero_shot.templates = ["a photo of a {}"]
    choice = cfg.trigger_set
    choice.require_inferred = False
    choice.file = None  # another command writes it
    if choice.people is not None:  # the small world has few of its people
        choice.people, choice.num_people = None, len(choice.people)
    if choice.num_people is not None:
        choice.num_people = min(2, choice.num_people)
    for part in (cfg.attack, cfg.utility, cfg.defense, cfg.get("attacks")):
        _shrink(part)


def _shrink(node: DictConfig | None) -> None:
    for key, value in (node or {}).items():
        if isinstance(value, DictConfig):
            _shrink(value)
        elif value is not None and key in TINY:
            small: Any = TINY[key]
            if isinstance(value, ListConfig):
                node[key] = small if isinstance(small, list) else [small]
            else:
                node[key] = min(small, value)


def first_job(arguments: Iterable[str]) -> list[str]:
    """The overrides of a run, or of the first one of a sweep; launchers and devices have tests of their own."""
    overrides = [one for one in arguments if one != "-m" and not one.startswith(OF_A_CLUSTER)]
    if "people.folder=<FaceScrub>" in overrides:
        overrides = [one.replace("<FaceScrub>", "facescrub") for one in [*overrides, *OTHER_DATA]]
    sweep = next((one.removeprefix("+sweep=") for one in overrides if one.startswith("+sweep=")), None)
    return list(jobs([*(recorded_sweep(sweep)[0] if sweep else ()), *overrides])[0])


@pytest.mark.parametrize("arguments", [one for one in RUNS if "--help" not in one], ids=named)
def test_run_of_the_docs_is_composed_checked_and_built(
    arguments: tuple[str, ...], compose_docs, make_tiny, room: Path, tmp_path: Path, monkeypatch, built: set[str]
):
    monkeypatch.chdir(room)
    cfg = compose_docs(first_job(one for one in arguments if one not in ("--cfg", "job")), tmp_path)
    check_run(cfg)
    tiny = make_tiny(cfg)
    tiny.seed, tiny.paths.runs, tiny.paths.run = 0, "runs", "run"
    if OmegaConf.to_yaml(tiny) not in built:  # once made small, many are the same
        assert not check_data(tiny).problems
        assert instantiate(tiny.clip).embed_texts(["a dog"]).isfinite().all()
        built.add(OmegaConf.to_yaml(tiny))


@pytest.fixture(scope="module")
def built() -> set[str]:
    """The configs that were built already."""
    return set()


@pytest.mark.parametrize("tokens", WHOLE.values(), ids=list(WHOLE))
def test_run_of_the_docs_comes_to_its_end(
    tokens: set[str], compose_docs, make_tiny, room: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(room)
    arguments = next(one for one in RUNS if tokens <= set(one))
    metrics = run(make_tiny(compose_docs(first_job(arguments), tmp_path)))
    assert metrics["after"]
    assert (tmp_path / "run/report.html").is_file()


@pytest.fixture(scope="module")
def finished(compose_docs, make_tiny, room: Path) -> Path:
    """A folder of runs with a finished one in it, also under the names that the docs speak of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        cfg = make_tiny(compose_docs(["+experiment=both_2"], room / "runs"))
        cfg.paths.run = "runs/both_2/seed=0"
        run(cfg)
    (room / "runs/both_64").symlink_to("both_2")
    return room / "runs"


@pytest.mark.parametrize("arguments", TOOLS, ids=named)
def test_tool_of_the_docs(
    arguments: tuple[str, ...], compose_docs, make_tiny, room: Path, finished: Path, monkeypatch, capsys
):
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
        asked = [one for one in rest[1:] if one != "my_attack"]
        if asked != ["tower_swap", "variants"]:  # the settings of all are built, and these are run
            monkeypatch.setattr("backdoor_privacy.runs.attacks.run_attacks", lambda seen, attacks, folder: {})
        assert attack.main(["runs/both_2/seed=0", *asked]) == 0
    elif module == "backdoor_privacy.audit":
        cfg = make_tiny(compose_docs(rest, finished, "audit"))
        monkeypatch.setattr("backdoor_privacy.audit.run_command", lambda task, name: task(cfg))
        audit.main()
        assert "IDIA with 30 candidates" in capsys.readouterr().out
    elif module == "backdoor_privacy.check_data":
        assert not check_data(make_tiny(compose_docs(rest, finished))).problems
    elif module == "backdoor_privacy.dashboard":
        with pytest.raises(SystemExit) as end:
            dashboard.main(["--help"])
        assert end.value.code == 0
    else:  # tests/test_pretrain.py trains
        assert module == "backdoor_privacy.pretrain"
        name, overrides = (rest[1], rest[2:]) if rest[:1] == ["--config-name"] else ("pretrain", rest)
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose(name, overrides=[*overrides, "paths.run=run"])
        check_pretrain(cfg)


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


PYTHON = [block for page in PAGES for block in blocks(page, "python")]
PROTECTS, LOADS, DIFFUSES = "wrap_clip", "local-dir:", "StableDiffusionPipeline"  # a word of each


def executed(word: str) -> dict[str, Any]:
    """Execute the one Python block of the docs with this word, and return what it defines."""
    (block,) = (one for one in PYTHON if word in one)
    names: dict[str, Any] = {}
    exec(compile(block, word, "exec"), names)
    return names


def test_every_python_block_of_the_docs_is_executed():
    assert (
        [sum(word in block for word in (PROTECTS, LOADS, DIFFUSES)) for block in PYTHON] == [1] * len(PYTHON) == [1] * 3
    )


@pytest.fixture
def small_open_clip(monkeypatch: pytest.MonkeyPatch, tiny_clip_folder: Path) -> None:
    """Let open_clip make the tiny CLIP where the docs ask for the one of the paper."""
    create = open_clip.create_model_and_transforms
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setattr(
        open_clip, "create_model_and_transforms", lambda *_, **__: create(f"local-dir:{tiny_clip_folder}")
    )
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", config)


def test_python_of_the_readme_protects(small_open_clip: None, room: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """With few steps, candidates and photos, and in one process."""
    protect = protect_module.protect
    sizes = {"num_steps": 2, "num_other_names": 5, "batch": {"clean": 4, "triggered": 4, "preserved": 0}}

    def protect_fast(*arguments: Any, defense: str, **options: Any) -> Any:
        small = load_defense(defense, text=sizes, image={**sizes, "trained": ["visual.transformer"]})
        fast = {
            "attack": Idia(num_candidates=20, num_photos=2, threshold=1, seed=0),
            "trainer": load_trainer(progress_bar=False, accelerator="cpu", precision="32-true", num_workers=0),
        }
        remove = protect_module.TriggerSet(people=options.pop("remove"), require_inferred=False)
        return protect(*arguments, defense=small, remove=remove, **options, **fast)

    monkeypatch.setattr(protect_module, "protect", protect_fast)
    monkeypatch.chdir(room)
    names = executed(PROTECTS)
    assert [person.name for person in names["done"].removed] == ["Jane Doe"]
    assert capsys.readouterr().out.count("idia/tpr_removed") == 2
    assert type(names["defended"]) is type(names["model"])


def test_python_of_the_readme_loads_a_defended_clip(finished: Path, room: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(room)
    names = executed(LOADS)
    assert isinstance(names["model"], open_clip.CLIP)
    assert names["preprocess"] is not None


def test_python_of_the_docs_gives_a_pipeline_the_defended_text_encoder(monkeypatch: pytest.MonkeyPatch):
    """With stand-ins for the two libraries; tests/clip/test_hugging_face.py has the real ones."""
    calls = []

    def stand_in(name: str) -> Any:
        def from_pretrained(source: str, **options: Any) -> str:
            calls.append((name, source, options))
            return f"the {name}"

        return types.SimpleNamespace(from_pretrained=from_pretrained)

    for library, name in (("transformers", "CLIPTextModel"), ("diffusers", "StableDiffusionPipeline")):
        monkeypatch.setitem(sys.modules, library, types.SimpleNamespace(**{name: stand_in(name)}))
    assert executed(DIFFUSES)["pipeline"] == "the StableDiffusionPipeline"
    (_, folder, _), (_, _, options) = calls
    assert folder.endswith("/defended")
    assert options == {"text_encoder": "the CLIPTextModel"}
