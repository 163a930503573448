import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.losses import Distance
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer, Schedule
from backdoor_privacy.defenses.backdoor.steps import BatchSizes
from backdoor_privacy.defenses.backdoor.targets.image import Anonymous
from backdoor_privacy.defenses.backdoor.targets.text import Phrase
from backdoor_privacy.defenses.backdoor.terms import Backdoor, Utility, Weight
from backdoor_privacy.defenses.loading import build_defenses
from backdoor_privacy.errors import InputError
from backdoor_privacy.system import paths
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.utility.zero_shot import ZeroShot

PACKAGE = Path(paths.__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (CONFIG_FOLDER / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    f"{path.parent.relative_to(CONFIG_FOLDER)}={path.stem}"
    for path in CONFIG_FOLDER.glob("*/**/*.yaml")
    if path.parent.name
    not in ("ablation", "experiment", "local", "sweep", "also")  # sweeps: test_sweeps.py; attacks: test_attack.py
)


def composed(*overrides: str, name: str = "config") -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(name, overrides=["paths.run=run", *overrides])


def test_published_sizes_are_experiments():
    sizes = [1, 2, 4, 8, 16, 32, 64]
    expected = {f"{kind}_{size}" for kind in ("names", "faces", "both") for size in sizes} | {"faces_500", "smoke"}
    assert expected <= set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_composes_to_what_its_name_says(experiment: str):
    cfg = composed(f"+experiment={experiment}")
    assert OmegaConf.missing_keys(cfg) == set()
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert cfg.name == experiment
    kind, _, size = experiment.partition("_")
    assert ("text" in cfg.defense) == (kind != "faces")
    assert ("image" in cfg.defense) == (kind != "names")
    assert build_defenses(cfg.defense)
    assert not size or cfg.trigger_set.num_people == int(size)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option: str):
    group, _, name = option.partition("=")
    is_of_pretrain = group == "data"
    is_added = group.endswith("_term")  # to the terms that there are
    cfg = composed(f"+{option}" if is_added else option, name="pretrain" if is_of_pretrain else "config")
    # What only the user knows is missing, and nowhere else.
    missing = OmegaConf.missing_keys(cfg)
    assert all(key.startswith(f"{group.replace('/', '.')}.") for key in missing)
    assert not missing or "???" in (CONFIG_FOLDER / group.replace("strangers", "people") / f"{name}.yaml").read_text()


def test_pretrain_config_composes():
    assert OmegaConf.missing_keys(composed(name="pretrain")) == set()


def test_default_is_both_64_with_seed_0():
    cfg = composed()
    assert (cfg.name, cfg.seed, cfg.trigger_set.num_people) == ("both_64", 0, 64)
    assert list(cfg.defense) == ["text", "image"]


def test_published_defenses_have_the_papers_numbers():
    defenses: dict[str, Any] = build_defenses(composed("defense=both_published").defense)
    text, image = defenses["text"], defenses["image"]
    assert (text.target, text.num_steps) == (Phrase("a person"), 400)
    assert text.batch == image.batch == BatchSizes(128, 128, 0)
    assert text.used_terms == {"utility": Utility(1.0), "backdoor": Backdoor(0.6), "weight": Weight(0.01)}
    assert text.optimizer == Optimizer(1e-4, 0.0, Schedule.step, [200, 300], 0.5)
    assert (image.target, image.num_steps) == (Anonymous(include_removed=False), 100)
    assert image.used_terms == {"utility": Utility(1.0), "backdoor": Backdoor(0.8), "weight": Weight(0.005)}
    assert image.optimizer == Optimizer(1e-4, 0.0, Schedule.step, [25, 50], 0.1)
    assert (image.faces.min_size * 224, image.faces.max_size * 224) == (56, 112)
    assert (image.faces.flip_probability, image.faces.max_degrees) == (0.5, 30)
    assert (image.faces.max_colour_change, image.faces.max_hue_change) == (0.5, 0.1)
    assert (image.whole_photo_share, text.bare_share, image.num_fresh_steps) == (0, 0, None)
    assert text.distance is image.distance is Distance.cosine


def test_nodes_instantiate(compose_cfg):
    cfg = compose_cfg()
    kinds = {"clip": Clip, "people": People, "strangers": People, "attack": Idia}
    for node, kind in kinds.items():
        assert isinstance(instantiate(cfg[node]), kind), node
    assert isinstance(instantiate(cfg.utility.zero_shot), ZeroShot)
    assert len(instantiate(cfg.captions)) == 200
    assert instantiate(cfg.images.folder).is_dir()


def test_clip_precision_reaches_the_clip(compose_cfg):
    for precision in ("fp32", "bf16"):
        clip = instantiate(compose_cfg(f"clip.precision={precision}").clip)
        dtypes = []
        clip.text.register_forward_hook(lambda _module, _inputs, output, seen=dtypes: seen.append(output.dtype))
        clip.embed_texts(["a dog"])
        assert [str(dtype) for dtype in dtypes] == [{"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision]]


def test_embedded_clip_comes_with_the_package():
    clip = instantiate(composed().clip)
    assert clip.embed_texts(["a dog"]).shape == (1, clip.config["model_cfg"]["embed_dim"])
    files = [path for path in (paths.ASSETS_FOLDER / "embedded_clip").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6


@pytest.mark.parametrize(
    "typo",
    [
        "sed=1",
        "clip.pretraind=x",
        "people.folders=x",
        "captions.files=x",
        "images.max_image=3",
        "trigger_set.num_persons=3",
        "defense.txt=null",
        "defense.text.num_step=3",
        "defense.text.batch.cleen=3",
        "defense.text.optimizer.learning_rate=3",
        "defense.text.terms.backdoor.wieght=3",
        "defense.image.faces.size=3",
        "defense.image.target.phrase=x",
        "attack.num_candidate=3",
        "utility.zero_shots=x",
        "utility.similarity.num_caption=3",
        "trainer.device=2",
        "logger.wnadb=true",
        "paths.cach=x",
    ],
)
def test_typo_on_the_command_line_is_an_error_that_names_the_key(typo: str):
    with pytest.raises(ConfigCompositionException, match=re.escape(typo.partition("=")[0])):
        composed(typo)


@pytest.mark.parametrize(
    "value",
    [
        "seed=many",
        "defense/text_target=nobody",
        "defense/text_target=anonymous",
        "defense/image_target=phrase",
        "clip.precision=fp8",
        "trainer.devices=auto",
        "logger.wandb=perhaps",
    ],
)
def test_value_of_another_type_is_an_error(value: str):
    with pytest.raises(ConfigCompositionException):
        composed(value)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("sed: 1", "sed"),
        ("trainer: {device: 2}", "device"),
        ("paths: {cach: x}", "cach"),
        ("trigger_set: {num_persons: 3}", "num_persons"),
    ],
)
def test_typo_in_a_users_experiment_file_is_an_error(content: str, key: str, tmp_path: Path):
    def compose_mine() -> DictConfig:
        return composed("+experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")

    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment/mine.yaml"
    file.write_text("# @package _global_\nseed: 7\n")
    assert compose_mine().seed == 7
    file.write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(ConfigCompositionException, match=f"Key '{key}' not in"):
        compose_mine()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["+defense.text.num_step=3"], r"^defense\.text\.num_step: expected one of the settings num_steps, "),
        (["+defense.text.optimizer.learning_rate=3"], r"^defense\.text\.optimizer\.learning_rate: expected one of"),
        (["+defense.image.terms.backdoor.x=3"], r"^defense\.image\.terms\.backdoor\.x: expected one of .* weight"),
        (["defense.text.num_steps=few"], r"^defense\.text\.num_steps: expected a value of the right type, got: "),
        (["defense.text.distance=euclid"], r"^defense\.text\.distance: .*'euclid', expected one of \[cosine, mse"),
        (["defense.image.optimizer.schedule=cosine"], r"^defense\.image\.optimizer\.schedule: .*one of \[step, one_"),
        (["defense.image.target._target_=no.such.Target"], r"^defense\.image\.target\._target_: expected the path of"),
        (
            ["defense.text._target_=builtins.dict"],
            r"^defense\.text\._target_: expected a class or function with annotated",
        ),
        (["~defense.text.num_steps"], r"^defense\.text\.num_steps: expected a value, got none"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_setting_that_a_class_does_not_take_is_an_error_that_names_the_key(overrides: list[str], told: str):
    with pytest.raises(InputError, match=told) as caught:
        build_defenses(composed(*overrides).defense)
    assert "\n" not in str(caught.value)


def test_typo_below_a_target_is_an_error_when_built(compose_cfg):
    with pytest.raises(InstantiationException, match="limti"):
        instantiate(compose_cfg("+people.folder.limti=3").people)


def test_configs_are_found_in_a_checkout_and_in_an_installed_package(tmp_path: Path):
    assert (CONFIG_FOLDER / "config.yaml").is_file()
    (tmp_path / "backdoor_privacy/conf").mkdir(parents=True)
    (tmp_path / "backdoor_privacy/system").mkdir()
    shutil.copy(PACKAGE / "system/paths.py", tmp_path / "backdoor_privacy/system")
    spec = importlib.util.spec_from_file_location("installed_paths", tmp_path / "backdoor_privacy/system/paths.py")
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert tmp_path / "backdoor_privacy/conf" == installed.CONFIG_FOLDER


@pytest.mark.parametrize(
    ("launcher", "plugin", "settings"),
    [
        ("basic", "hydra", []),
        ("joblib", "hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=4"]),
        (
            "submitit_slurm",
            "hydra_plugins.hydra_submitit_launcher",
            [
                "hydra.launcher.partition=gpu",
                "hydra.launcher.gpus_per_node=1",
                "hydra.launcher.cpus_per_task=8",
                "hydra.launcher.mem_gb=32",
                "hydra.launcher.timeout_min=120",
                "hydra.launcher.array_parallelism=8",
            ],
        ),
        (
            "ray",
            "hydra_plugins.hydra_ray_launcher",
            ["+hydra.launcher.ray.init.num_gpus=4", "+hydra.launcher.ray.remote.num_gpus=1"],
        ),
    ],
)
def test_sweeps_compose_with_every_launcher_of_the_docs(launcher: str, plugin: str, settings: list[str]):
    pytest.importorskip(plugin)
    overrides = [*([] if launcher == "basic" else [f"hydra/launcher={launcher}"]), *settings]
    assert set(overrides) <= set((PACKAGE.parent / "docs/cluster.md").read_text().split())
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", overrides=["+experiment=names_8", *overrides], return_hydra_config=True)
    for setting in settings:
        path, _, value = setting.removeprefix("+").partition("=")
        assert str(OmegaConf.select(cfg, path)) == value
    assert cfg.hydra.launcher._target_.startswith(("hydra._internal", "hydra_plugins."))
