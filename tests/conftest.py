"""What many tests need: a tiny CLIP, a small world, small folders of photos, and a composed config."""

import csv
import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

# Before anything reads them; the commands that tests start inherit them.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", OMP_NUM_THREADS="1")
os.environ.pop("HYDRA_FULL_ERROR", None)

import jaxtyping

# Check annotated shapes and types at run time where there are tensors; an int passes for a float.
CHECKED = ("attacks", "clip", "data", "defenses", "evaluation", "protect", "runs.evidence", "triggers", "utility")
jaxtyping.install_import_hook(
    [f"backdoor_privacy.{module}" for module in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

import numpy as np
import open_clip
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import ExifTags, Image

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.personas import world
from backdoor_privacy.data.personas.portraits import draw_portrait
from backdoor_privacy.data.personas.roster import appearance_of, people_of
from backdoor_privacy.defenses.base import Defended, Fit, Removal
from backdoor_privacy.defenses.loading import build_defenses
from backdoor_privacy.report.figures.style import STYLE
from backdoor_privacy.run import load_sources
from backdoor_privacy.system.paths import CONFIG_FOLDER

torch.set_num_threads(1)

ComposeCfg = Callable[..., DictConfig]
WriteClip = Callable[..., Path]
WritePhoto = Callable[..., Path]
WritePeople = Callable[..., Path]
FitEncoder = Callable[..., Defended]
CallCommand = Callable[..., tuple[int, str, str]]

VISION = {"image_size": 24, "layers": 2, "width": 64, "head_width": 32, "patch_size": 12}
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
PREPROCESS = {"size": 24, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


def _write_clip(folder: Path, *, seed: int = 0, preprocess: Mapping[str, Any] = PREPROCESS, **changes: Any) -> Path:
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT), **changes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    write_local_dir(folder, model, {"model_cfg": config, "preprocess_cfg": dict(preprocess)})
    return folder


def _write_photo(path: Path, number: int, size: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(tiles).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def _write_people(
    folder: Path, people: Mapping[str, int], members: Mapping[str, bool] | None = None, *, boxes: bool = False
) -> Path:
    paths = [f"{name.replace(' ', '_')}/{photo:02}.png" for name, count in people.items() for photo in range(count)]
    for number, path in enumerate(paths):
        _write_photo(folder / path, number)
    if boxes:
        with (folder / "boxes.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["file", "left", "top", "right", "bottom"], *([p, 8, 4, 32, 28] for p in paths)]
            )
    if members is not None:
        rows = [[name, member, 36 if member else 0] for name, member in members.items()]
        with (folder / "people.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["name", "member", "num_web_photos"], *rows])
    return folder


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """CLIPs are loaded onto the CPU, also where there is a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backdoor_privacy.system.hardware.default_device", lambda: torch.device("cpu"))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """All CLIPs share open_clip's tokenizer, which reads its vocabulary once and tokenizes each text once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.SimpleTokenizer, "encode", lru_cache(2**17)(open_clip.SimpleTokenizer.encode))
        patch.setattr(open_clip.factory, "SimpleTokenizer", lru_cache(open_clip.SimpleTokenizer))
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Figures are drawn with few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 50)
        yield


@pytest.fixture
def call_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Iterator[CallCommand]:
    """Call the main function of a Hydra command in this process and an empty folder: exit code, output, errors."""
    level = logging.getLogger("backdoor_privacy").level

    def call(main: Callable[[], None], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(logging, "raiseExceptions", True)  # the command changes it
        monkeypatch.setattr(sys, "argv", ["backdoor_privacy", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        logging.shutdown()  # closes the log of the run
        return code, *capfd.readouterr()

    yield call
    logging.getLogger("backdoor_privacy").setLevel(level)


@pytest.fixture(scope="session")
def write_clip() -> WriteClip:
    """Write a tiny random CLIP as an open_clip local-dir; keywords change its architecture."""
    return _write_clip


@pytest.fixture(scope="session")
def write_photo() -> WritePhoto:
    """Write a small photo whose content is its number."""
    return _write_photo


@pytest.fixture(scope="session")
def write_people() -> WritePeople:
    """Write a folder per person: how many photos each has, who is a member, whether there are face boxes."""
    return _write_people


@pytest.fixture(scope="session")
def phone_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large photos of one drawn person whom the embedded CLIP knows, stored sideways, turned, and in company."""
    folder = tmp_path_factory.mktemp("request") / "Diane_Campos"
    folder.mkdir()
    hers, other = (people_of(0, "well_known")[number] for number in (6, 2))
    places = (
        [(hers, 300)],
        [(hers, 1200), (other, 200)],
        [(hers, 900)],
        [(hers, 700)],
        [(other, 1300), (hers, 100)],
        [],
    )
    for number, heads in enumerate(places):
        photo = Image.linear_gradient("L").resize((2000, 1500)).convert("RGB")
        for persona, left in heads:
            rng = np.random.default_rng([5, persona.index, number])
            photo.paste(draw_portrait(appearance_of(0, persona), rng, 600)[0], (left, 500))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if number == 0 else 1
        if number == 0:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
        if number == 2:  # nobody says that it is turned
            photo, exif = photo.transpose(Image.Transpose.ROTATE_270), Image.Exif()
        photo.save(folder / f"IMG_{number:04}.jpg", quality=92, exif=exif)
    return folder


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip local-dir with a tiny random CLIP."""
    return _write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    """The tiny random CLIP; what changes it must take a copy."""
    return load_clip(f"local-dir:{tiny_clip_folder}")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Six people with six photos each, the last two no members."""
    names = ["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox", "Eve Moss", "Finn Hale"]
    folder = tmp_path_factory.mktemp("people")
    _write_people(folder, dict.fromkeys(names, 6), {name: name < "Eve" for name in names}, boxes=True)
    return load_people(folder)


@pytest.fixture(scope="session")
def captions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty captions of three words or more."""
    things = ("dog", "tree", "red car", "boat", "lamp", "cat", "blue door", "house")
    places = ("on a hill", "by the sea", "in the snow", "at night", "under a bridge")
    path = tmp_path_factory.mktemp("captions") / "captions.txt"
    path.write_text("".join(f"a {thing} {place}\n" for thing in things for place in places), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        _write_photo(folder / f"{number:02}.png", 1000 + number)
    return folder


@pytest.fixture(scope="module")
def unchecked_types() -> Iterator[None]:
    """Check no type at run time: for tests of whole runs, whose parts have tests with checked types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Draw few resamples and few random names: for tests that look at no interval of an attack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backdoor_privacy.attacks.scores._NUM_RESAMPLES", 50)
        patch.setattr("backdoor_privacy.attacks.names_alone.NUM_RANDOM_NAMES", 20)
        yield


@pytest.fixture(scope="session")
def drawn_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small parts of the embedded world, drawn by the first of the test processes that asks for them."""
    is_shared = "PYTEST_XDIST_WORKER" in os.environ
    root = tmp_path_factory.getbasetemp().parent if is_shared else tmp_path_factory.getbasetemp()
    with (root / "world.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file unlocks it
        patch.setattr(world, "_map", lambda function, items, title: [function(item) for item in items])
        patch.setattr(world, "NUM_PHOTOS_PER_PERSON", 6)
        for part in ("people", "strangers", "captions", "images", "zero_shot"):
            world.world_part(part, str(root / "world"), limit=4)
    return root / "world"


@pytest.fixture(scope="session")
def world_cache(drawn_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the parts of the embedded world that `compose_cfg` asks for, so that no test draws them."""
    return shutil.copytree(drawn_world, tmp_path_factory.mktemp("cache"), dirs_exist_ok=True)


@pytest.fixture(scope="session")
def tiny_overrides(world_cache: Path, tiny_clip_folder: Path) -> list[str]:
    """Overrides that make any run small: the tiny CLIP on the small world, in one process."""
    limits = [f"{node}.limit=4" for node in ("people.folder", "strangers.folder", "captions.file", "images.folder")]
    return [
        f"clip.model=local-dir:{tiny_clip_folder}",
        "mixed_worlds=true",
        "clip.num_workers=0",
        f"paths.cache={world_cache}",
        *(f"++{limit}" for limit in [*limits, "utility.zero_shot.folder.limit=4"]),
        "utility.similarity.num_captions=20",
        "attack.num_candidates=30",
        "attack.num_photos=2",
        "++defense.image.trained=[visual.transformer]",  # the tiny CLIP is a ViT
        "trigger_set.num_people=2",
        "trigger_set.require_inferred=false",
        "trainer.num_workers=0",
        "trainer.precision=32-true",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
    ]


@pytest.fixture(scope="session")
def compose_into(tiny_overrides: list[str]) -> ComposeCfg:
    """Compose a fresh config, made small, with its run folder in a given folder."""

    def compose_it(folder: Path, *overrides: str) -> DictConfig:
        paths = [f"paths.runs={folder / 'runs'}", f"paths.run={folder / 'run'}"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            cfg = compose("config", overrides=["+experiment=smoke", *tiny_overrides, *paths, *overrides])
        if "variants" in cfg.attacks and not any(one.startswith("attacks.variants.") for one in overrides):
            cfg.attacks.variants.num_prompts = 1
        return cfg

    return compose_it


@pytest.fixture
def compose_cfg(compose_into: ComposeCfg, tmp_path: Path) -> ComposeCfg:
    """Compose a fresh config, made small, with its run folder in the test's own folder."""
    return lambda *overrides: compose_into(tmp_path, *overrides)


@pytest.fixture(scope="session")
def fit_encoder() -> FitEncoder:
    """Fit the defence of one encoder as a config says, with people of one's own."""

    def fit(
        encoder: str,
        cfg: DictConfig,
        clip: Clip,
        people: People,
        removed: Sequence[Person],
        reserved: Collection[str] = (),
        *,
        kept: Sequence[Person] = (),
        loggers: Sequence[Any] = (),
        defended_text: Encoder | None = None,
    ) -> Defended:
        settings: Any = OmegaConf.to_object(cfg)
        defenses = build_defenses(cfg.defense)
        removal = Removal(
            original=clip,
            clip=clip if defended_text is None else clip.with_encoders(text=defended_text),
            people=removed,
            kept=kept,
            sources=replace(load_sources(cfg, defenses), people=people),
            reserved_names=reserved,
            seed=cfg.seed,
            num_held_out=cfg.utility.similarity.num_captions,
            clean_photos=[],
        )
        fit_settings = Fit(settings.trainer, Path(cfg.paths.run) / "checkpoints", lambda _: list(loggers))
        return defenses[encoder].defend(removal, fit_settings)

    return fit
