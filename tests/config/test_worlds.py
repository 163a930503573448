import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.config.identity import identifying
from backdoor_privacy.config.worlds import check_worlds, mixed_parts
from backdoor_privacy.defenses.base import used_parts
from backdoor_privacy.defenses.loading import build_defenses
from backdoor_privacy.errors import InputError
from backdoor_privacy.run import check_run
from backdoor_privacy.system.paths import ASSETS_FOLDER, CONFIG_FOLDER

OWN_PEOPLE = ["people=folder", "people.folder=people"]
OWN_STRANGERS = ["strangers=folder", "strangers.folder=strangers"]
OWN_CLEAN = ["captions=file", "captions.file=captions.txt", "images=folder", "images.folder=photos"]
OWN_UTILITY = ["utility=imagefolder", "utility.zero_shot.folder=classes"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", overrides=["paths.run=run", "paths.cache=.", *overrides])


@pytest.mark.parametrize(
    ("overrides", "mixed"),
    [
        ([], []),
        (OWN_CLEAN, []),  # the embedded CLIP may read other texts and photos of things
        (OWN_PEOPLE, ["people"]),
        ([*OWN_PEOPLE, *OWN_CLEAN, "defense=text_published"], ["people", "captions"]),
        (OWN_STRANGERS, ["strangers"]),
        (["clip=vit_b_32"], ["people", "captions", "images", "strangers", "utility.zero_shot"]),
        (
            ["clip=vit_b_32", *OWN_PEOPLE, "defense=both_published"],
            ["captions", "images", "strangers", "utility.zero_shot"],
        ),
        (["clip=vit_b_32", *OWN_PEOPLE, "defense=text_published"], ["captions", "utility.zero_shot"]),
        (["clip=vit_b_32", *OWN_PEOPLE, "defense=text_published", "utility.zero_shot=null"], ["captions"]),
        (["clip=vit_b_32", *OWN_PEOPLE, "defense=projection", "utility.zero_shot=null"], ["captions"]),
        (["clip=vit_b_32", *OWN_PEOPLE, "defense=image", "defense.image.num_anchors=0", *OWN_UTILITY],
         ["images", "strangers"]),
        (["clip=vit_b_32", *OWN_PEOPLE, *OWN_STRANGERS, *OWN_CLEAN, *OWN_UTILITY], []),
        (["clip.model=local-dir:mine"], ["people", "captions", "images", "strangers", "utility.zero_shot"]),
        ([f"clip.model='local-dir:{ASSETS_FOLDER}/embedded_clip'"], []),
    ],
)  # fmt: skip
def test_parts_of_another_world_are_those_that_the_run_reads(overrides: list[str], mixed: list[str]):
    cfg = composed(*overrides)
    parts = used_parts(build_defenses(cfg.defense))
    assert mixed_parts(cfg, parts) == mixed
    assert mixed_parts(OmegaConf.create(identifying(cfg)), parts) == mixed  # what a run folder keeps says the same


def test_mixed_worlds_are_an_error_that_names_each_part_unless_they_are_asked_for():
    own = ["clip=vit_b_32", *OWN_PEOPLE, "defense=text_published"]
    with pytest.raises(InputError, match=r"^mixed_worlds: expected .* drawn captions, utility.zero_shot; .*=true"):
        check_run(composed(*own))
    check_run(composed(*own, "mixed_worlds=true"))
    with pytest.raises(InputError, match=r"^mixed_worlds: expected .* embedded CLIP with your people;"):
        check_run(composed(*OWN_PEOPLE))


def test_an_audit_reads_neither_captions_nor_clean_photos():
    own = composed("clip=vit_b_32", *OWN_PEOPLE, "utility.zero_shot=null")
    check_worlds(own, parts=())
    with pytest.raises(InputError, match="drawn captions, images, strangers"):
        check_run(own)
