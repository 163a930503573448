"""Each attack that asks for names finds people whom the embedded CLIP knows well, and nobody whom it has never seen."""

from pathlib import Path

import pytest

from backdoor_privacy.attacks.choice import load_attacks, make_attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.loading import embedded_clip, load_clip
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.personas import world


@pytest.fixture(scope="module")
def untouched(world_cache: Path) -> AttackContext:
    """The original in the place of defended models, too; those whom it saw most often in the place of removed ones."""
    clip = load_clip(embedded_clip())
    people: People = load_people(world.world_part("people", str(world_cache), limit=4))
    known = [person.name for person in people.everybody if person.num_web_photos == 36]
    idia = Idia(num_candidates=200, num_photos=3, threshold=1, seed=0, templates=TEMPLATES[:3])
    return AttackContext({"before": clip, "both": clip}, people, known, idia, seed=0)


@pytest.mark.parametrize(
    ("name", "settings", "kinds"),
    [
        ("tower_swap", [], ["nothing swapped"]),
        ("variants", ["variants.num_prompts=3"], ["lower case", "possessive", "title Professor"]),
        ("compression", [], ["fp16", "int8", "pruned 10 %"]),
        ("benign", ["benign.steps=[1]", "benign.batch_size=4", "benign.num_candidates=100"], ["1 steps"]),
        ("relearning", ["relearning.steps=[0]", "relearning.num_photos=[1]"], ["1 photos, 0 steps"]),
        ("idia_sweep", [], ["tau 1", "10 candidates", "100 candidates"]),
    ],
)
def test_attack_by_names_succeeds_where_it_must_and_fails_where_it_must(
    untouched: AttackContext, name: str, settings: list[str], kinds: list[str]
):
    found = make_attack(load_attacks([name], settings)[name]).run(untouched)
    rates = {(one.kind, one.group): one.value for one in found if (one.model, one.measure) == ("before", "TPR")}
    for kind in kinds:
        assert rates[kind, "removed"] >= 0.75, kind
        # With one prompt enough, one of four is inferred now and then.
        assert rates[kind, "never seen"] <= 0.25, kind


def test_soft_token_comes_near_to_the_names_of_known_people_only(untouched: AttackContext):
    changes = ["inversion.num_tokens=0", "inversion.num_steps=60", "inversion.max_people=4"]
    found = make_attack(load_attacks(["inversion"], changes)["inversion"]).run(untouched)

    def closeness(group: str) -> Score:
        (one,) = (one for one in found if (one.model, one.group, one.measure) == ("before", group, "closeness"))
        return one

    assert closeness("removed").low > 0.2
    assert closeness("never seen").value < 0.15
