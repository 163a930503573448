import pytest

from backdoor_privacy.checks import check
from backdoor_privacy.errors import InputError


def test_what_an_experiment_says_is_fine(compose_cfg):
    check(compose_cfg())
    check(compose_cfg("defense=both_published"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("defense.text.num_steps=0", r"defense\.text\.num_steps: expected 1 or more, got 0"),
        ("defense.image.num_fresh_steps=0", r"defense\.image\.num_fresh_steps: expected 1 or more, got 0"),
        ("defense.image.batch.triggered=0", r"defense\.image\.batch\.triggered: expected 1 or more, got 0"),
        ("defense.image.num_other_names=0", r"defense\.image\.num_other_names: expected 1 or more, got 0"),
        ("defense.text.num_other_names=0", r"defense\.text\.num_other_names: expected 1 or more, got 0"),
        ("defense.text.loss_weights.neighborhood=1", r"defense\.text\.num_anchors: expected 1 or more, got 0"),
        ("utility.similarity.num_captions=0", r"utility\.similarity\.num_captions: expected 1 or more, got 0"),
        ("attack.num_photos=0", r"attack\.num_photos: expected 1 or more, got 0"),
        ("defense.text.min_nearer_names=2", r"defense\.text\.min_nearer_names: expected a number from 0 to 1, got 2.0"),
        ("defense.image.kept_share=-0.1", r"defense\.image\.kept_share: expected a number from 0 to 1, got -0.1"),
        ("trainer.devices=2", r"trainer\.devices: expected 1, .*; got 2"),
    ],
)
def test_a_setting_that_cannot_work_is_found_before_anything_is_computed(override: str, message: str, compose_cfg):
    with pytest.raises(InputError, match=f"^{message}$"):
        check(compose_cfg(override))


def test_a_setting_of_a_defence_that_is_not_made_does_not_matter(compose_cfg):
    check(compose_cfg("defense.text.num_steps=0", "defense.text=null", "utility.similarity.num_captions=0"))
