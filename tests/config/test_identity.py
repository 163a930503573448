"""One table: which runs are the same one, for the name of the folder, for resuming it, and for sweeps."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.config.identity import identity, run_key
from backdoor_privacy.config.naming import holds_name
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.folder import claim_folder
from backdoor_privacy.runs.sweeps import job_key
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.paths import CONFIG_FOLDER

NAMES = "trigger_set.people=[Jane Doe, Bo Li]"
MINE = "trigger_set: {people: [Jane Doe, Bo Li]}\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with lists of people."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "Jane_Doe.txt", "Jane Doe\n\n Bo Li \n")
    write_text(tmp_path / "same.txt", "\ufeffJane_Doe\r\nBo Li")
    write_text(tmp_path / "other.txt", "Jane Doe\n")
    experiments = tmp_path / "configs/experiment"
    write_text(experiments / "mine.yaml", "# @package _global_\nname: mine\n" + MINE)
    write_text(experiments / "jane_doe.yaml", "# @package _global_\nname: jane_doe\n" + MINE)
    return tmp_path


@pytest.fixture
def configs(place: Path) -> Callable[..., tuple[DictConfig, str]]:
    """Compose a config as a command does, and its run folder as seen from the folder of all runs."""

    def compose_it(*overrides: str, name: str = "config") -> tuple[DictConfig, str]:
        before = HydraConfig.instance().cfg
        try:
            with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
                cfg = compose(
                    name,
                    overrides=["hydra.searchpath=[file://configs]", *overrides],
                    return_hydra_config=True,
                )
                HydraConfig.instance().set_config(cfg)
                folder = Path(cfg.paths.run).relative_to(cfg.paths.runs).as_posix()
                if name == "config":  # a sweep and a single run have one place
                    assert folder == Path(OmegaConf.select(cfg, "hydra.sweep.subdir")).as_posix()
        finally:
            HydraConfig.instance().cfg = before
        return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), folder

    return compose_it


SAME = [
    ([], ["trainer=gpu"]),
    ([], ["trainer.devices=2", "trainer.accumulate_grad_batches=2", "trainer.gradient_checkpointing=true"]),
    ([], ["logger=wandb", "logger.project=x", "logger.tags=[a]"]),
    ([], ["clip.num_workers=3", "clip.device=cpu", "clip.store=null"]),
    ([], ["paths.cache=elsewhere", "report.names=true", "quiet=true", "mixed_worlds=true"]),
    ([], ["attack=all"]),
    ([], ["attack=[probe,tower_swap]"]),
    ([], ["attack=quick", "attacks.probe.num_neighbors=3"]),
    ([], ["defense=both", "defense.text.num_steps=400"]),
    ([], ["+sweep=names"]),
    (["+experiment=names_8"], ["+experiment=names_8", "defense=text"]),
    (["defense.text={num_steps: 7}"], ["defense.text.num_steps=7"]),
    (["trigger_set.num_people=3", "defense=text"], ["defense=text", "trigger_set={num_people: 3}"]),
    ([NAMES], ["trigger_set={people: [Jane Doe, Bo Li]}"]),
    ([NAMES], ["trigger_set.people=[Jane_Doe,Bo_Li]"]),
    ([NAMES], ['trigger_set.people=["Jane Doe","Bo Li"]', "trigger_set.num_people=3"]),
    ([NAMES], ["trigger_set.file=Jane_Doe.txt"]),
    ([NAMES], ["trigger_set.file=same.txt"]),
    (["+experiment=mine"], ["+experiment=mine", NAMES]),
    (["people=folder", "people.folder=x"], ["people.folder=x", "people=folder", "people.table=null"]),
    (["strangers=folder", "strangers.folder=x"], ["strangers.folder=x", "strangers=folder"]),
]
OTHER = [
    ([], ["seed=1"]),
    ([], ["name=mine"]),
    ([], ["defense=text"]),
    ([], ["defense.image=null"]),
    ([], ["trainer.precision=32-true"]),
    ([], ["attack.num_candidates=50"]),
    ([], ["clip.precision=fp32"]),
    ([], ["utility.zero_shot=null"]),
    ([], ["++people.folder.limit=4"]),
    ([], ["images.max_images=5"]),
    ([], [NAMES]),
    ([NAMES], [NAMES, "trigger_set.require_inferred=false"]),
    ([NAMES], ["trigger_set.people=[Bo Li, Jane Doe]"]),
    ([NAMES], ["trigger_set.file=other.txt"]),
    (["+experiment=mine"], ["+experiment=mine", "trigger_set.people=[Jane Doe]"]),
    (["people=folder", "people.folder=x"], ["people=folder", "people.folder=y"]),
    (["+experiment=names_8", "name=ours"], ["+experiment=both_8", "name=ours"]),
    (["clip=vit_b_32"], ["clip=vit_b_32", "clip.pretrained=/a/b.pt"]),
    (["defense/text_target=phrase"], ["defense/text_target=phrase", "defense.text.target.phrase=human"]),
]


def both(configs, one: list[str], other: list[str]) -> list[tuple[DictConfig, str]]:
    return [configs(*overrides) for overrides in (one, other)]


@pytest.mark.parametrize(("one", "other"), SAME, ids=lambda given: " ".join(given) or "default")
def test_what_computes_the_same_is_one_run(one: list[str], other: list[str], configs, tmp_path: Path):
    (first, folder), (second, other_folder) = both(configs, one, other)
    assert folder == other_folder
    assert run_key(first) == run_key(second)
    write_text(tmp_path / "run/checkpoints/last.ckpt", "")
    for cfg in (first, second, first):
        claim_folder(tmp_path / "run", cfg)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=lambda given: " ".join(given) or "default")
def test_what_computes_something_else_is_another_run(one: list[str], other: list[str], configs, tmp_path: Path):
    (first, folder), (second, other_folder) = both(configs, one, other)
    assert folder != other_folder
    assert run_key(first) != run_key(second)
    write_text(tmp_path / "run/checkpoints/last.ckpt", "")
    claim_folder(tmp_path / "run", first)
    with pytest.raises(InputError, match="got a run of another config"):
        claim_folder(tmp_path / "run", second)


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ([], "both_64/seed=0"),
        (["defense=text", "seed=3"], "both_64/defense=text/seed=3"),
        (["+experiment=names_8", "defense=text_published"], "names_8/defense=text_published/seed=0"),
        (["name=ours", "defense=both_published"], "ours/defense=both_published/seed=0"),
        (["name=ours", "+experiment=both_8"], "ours/experiment=both_8/seed=0"),
        (["trigger_set.num_people=3", "defense=text"], "both_64/defense=text,trigger_set.num_people=3/seed=0"),
        (
            ["defense.text={num_steps: 7, distance: mse}"],
            "both_64/defense.text.distance=mse,defense.text.num_steps=7/seed=0",
        ),
        (["defense.image=null"], "both_64/defense.image=null/seed=0"),
        (["defense/text_target=phrase"], "both_64/defense.text_target=phrase/seed=0"),
        (
            ["+defense/text_term=delete", "defense.text.num_anchors=200"],
            "both_64/defense.text.num_anchors=200,defense.text_term=delete/seed=0",
        ),
        (["clip=vit_b_32", "clip.model=ViT-B-16"], "both_64/clip.model=ViT-B-16,clip=vit_b_32/seed=0"),
    ],
)
def test_folder_of_simple_overrides_can_be_read(overrides: list[str], folder: str, configs, tmp_path: Path):
    assert configs(*overrides)[1] == folder
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        [NAMES],
        ["trigger_set={people: [Jane Doe]}"],
        ["++trigger_set.people=[Jane Doe]"],
        ["trigger_set.file=Jane_Doe.txt"],
        ["trigger_set.file=lists/Jane_Doe.txt"],
        ["trigger_set.file=missing_Jane_Doe.txt"],
        ["+experiment=mine"],
        ["people=folder", "people.folder=/x/request_of_Jane_Doe"],
        ["people=folder", "people.folder=Jane_Doe", "people.layout='Jane*'"],
        ["+people.corrections={Jane: Doe}"],
        ["captions=file", "captions.file=Jane.csv", "captions.column=Jane"],
        ["clip.model=local-dir:clips/Jane", "clip.pretrained=Jane.pt"],
        [NAMES, "defense/text_target=phrase", "defense.text.target.phrase=Jane Doe"],
        [NAMES, "name=Jane_Doe"],
        [NAMES, "name='Doe, Jané'"],
        ["trigger_set.file=same.txt", "name=request-of-janedoe"],
        ["+experiment=jane_doe"],
        ["+experiment=jane_doe", "name=x"],
        ["clip=vit_b_32", "clip.pretrained=Jane_Doe", NAMES],
        ["defense/text_target=phrase", "defense.text.target.phrase=" + "Jane " * 60],
    ],
    ids=" ".join,
)
def test_folder_tells_nobody_who_is_removed(overrides: list[str], configs):
    _, folder = configs(*overrides)
    assert "jane" not in folder.lower()
    assert re.search(r"=[0-9a-f]{12}(,|/)", folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("request_jane_doe_2", True),
        ("Doe, Jane", True),
        ("JaneDoe", True),
        ("José-Müller", True),
        ("jane", False),
        ("both_64", False),  # though somebody is called Bo
        ("names_8", False),
        ("", False),
    ],
)
def test_name_is_found_by_its_words_however_they_are_joined(text: str, told: bool):
    assert holds_name(text, ["Jane Doe", "Jose Muller", "Bo"]) is told


def test_digest_needs_the_key_beside_the_runs(configs):
    here, again, there = (configs(NAMES, f"paths.runs={runs}")[1] for runs in ("here", "here", "there"))
    assert here == again != there
    assert len(Path("here/.key/key").read_text()) == 64


def test_folder_name_is_one_that_every_file_system_takes(configs):
    long = ("defense/text_target=phrase", f"defense.text.target.phrase='{'x' * 300}'", "defense=text")
    _, folder = configs(*long)
    assert re.fullmatch(r"both_64/overrides=[0-9a-f]{12}/seed=0", folder)
    assert configs(*long, "seed=1")[1] == folder[:-1] + "1"


def test_identity_of_what_a_claim_holds_is_that_of_the_run(configs, tmp_path: Path):
    cfg, _ = configs("trigger_set.file=Jane_Doe.txt", "utility/retrieval=coco")
    claim_folder(tmp_path / "run", cfg, ["Jane Doe", "Bo Li"])
    claim = OmegaConf.load(tmp_path / "run/checkpoints/config.yaml")
    assert identity(claim) == identity(cfg)
    assert claim.trainer == {"precision": "auto"}


def test_a_claim_of_an_earlier_version_is_accepted(configs, tmp_path: Path):
    cfg, _ = configs(NAMES)
    aside = {"paths", "logger", "trainer", "report", "quiet", "attacks", "mixed_worlds"}
    former = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in aside]))
    write_text(tmp_path / "run/checkpoints/last.ckpt", "")
    write_text(tmp_path / "run/checkpoints/config.yaml", former + "# removes Jane Doe\n# removes Bo Li\n")
    claim_folder(tmp_path / "run", configs(NAMES, "trainer.precision=32-true")[0], ["Jane Doe", "Bo Li"])
    write_text(tmp_path / "run/checkpoints/config.yaml", former + "# removes Jane Doe\n# removes Bo Li\n")
    with pytest.raises(InputError, match="got a run of another config"):
        claim_folder(tmp_path / "run", configs(NAMES, "seed=1")[0], ["Jane Doe", "Bo Li"])


def test_a_key_that_an_earlier_version_did_not_have_makes_no_other_run(configs):
    cfg, _ = configs()
    former = OmegaConf.create(OmegaConf.to_container(cfg, enum_to_str=True))
    del (
        former["people"]["consenting"],
        former["defense"]["text"]["trained_blocks"],
        former["trigger_set"]["require_inferred"],
    )
    assert run_key(former) == run_key(cfg)


def test_key_of_a_job_is_that_of_its_run(configs):
    cfg, _ = configs("+experiment=names_8", "seed=3", "attack=all")
    assert job_key(("seed=3", "trainer.num_workers=0", "+experiment=names_8", "+sweep=names")) == run_key(cfg)
    assert job_key(("+experiment=nowhere", "seed=1")) == "+experiment=nowhere seed=1"


def test_pretraining_has_a_folder_of_its_own_for_what_it_computes(configs):
    folders = {
        configs(*overrides, name="pretrain")[1]
        for overrides in ([], ["num_workers=3"], ["trainer.devices=2"], ["checkpoint_every_steps=7"])
    }
    assert folders == {"embedded_clip/seed=0"}
    assert configs("num_steps=7", name="pretrain")[1] == "embedded_clip/num_steps=7/seed=0"
    _, folder = configs("data.folder.people=Jane", name="pretrain_photos")
    assert re.fullmatch(r"pretrain_photos/data.folder.people=[0-9a-f]{12}/seed=0", folder)


def test_twin_has_a_folder_of_its_own_for_the_people_that_it_never_sees(configs):
    def folder_of(*overrides: str) -> str:
        folder = configs(*overrides, name="pretrain")[1]
        assert not holds_name(folder, ["Jane Doe", "Bo Li"])
        return folder

    twin = folder_of("exclude.people=Jane_Doe.txt")
    assert re.fullmatch(r"embedded_clip/exclude.people=[0-9a-f]{12}/seed=0", twin)
    assert folder_of("exclude.people=same.txt") == twin
    others = [folder_of(f"exclude.{one}") for one in ("people=other.txt", "people=nowhere.txt", "run=runs/Jane_Doe")]
    assert len({twin, "embedded_clip/seed=0", *others}) == 5
    assert folder_of("exclude.people=Jane_Doe.txt", "name=twin_of_jane_doe").startswith("name=")
