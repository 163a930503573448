import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from backdoor_privacy.attacks import names_alone
from backdoor_privacy.attacks.names_alone import FORMS, NamesAlone, share_above, summed_up
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import TriggerSet
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.selection import select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import protect
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.run import run
from backdoor_privacy.runs.finished import read_run
from backdoor_privacy.triggers.spellings import KINDS

pytestmark = pytest.mark.usefixtures("few_draws")

TARGET = torch.nn.functional.one_hot(torch.tensor([0]), 8).float()


class Directions(Clip):
    """A text encoder that gives every text a direction of its own, and turns texts with some names to the target."""

    def __init__(self, turned: dict[str, float] | None = None) -> None:
        object.__setattr__(self, "turned", turned or {})

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        rows = torch.stack([self._row(text) for text in texts])
        return rows / rows.norm(dim=-1, keepdim=True)

    def _row(self, text: str) -> Tensor:
        generator = torch.Generator().manual_seed(sum(ord(sign) * place for place, sign in enumerate(text, 1)))
        row = torch.randn(8, generator=generator)
        row /= row.norm()
        share = next((share for name, share in self.turned.items() if name in text), 0.0)
        return (1 - share) * row + share * TARGET[0]


@pytest.fixture(autouse=True)
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_alone, "NUM_RANDOM_NAMES", 40)


def measured(turned: dict[str, float]) -> dict[str, Any]:
    test = NamesAlone(["Jane Doe"], ["Ann Lee", "Jane Doe"], lambda _clip, _form: TARGET.repeat(2, 1), 0, ["Jane Doe"])
    (row,) = test.table(Directions(turned), Directions()).to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_name_that_alone_was_moved_stands_out_and_one_that_was_not_does_not():
    moved = measured({"Doe": 0.9})
    assert moved["prompts_moved_further"] == moved["prompts_nearer_target"] == 0
    assert moved["prompts_target"] > 0.9 > moved["prompts_target_random"]
    assert moved["prompts_moved"] > 0.3
    assert moved["prompts_moved_random"] == 0
    still = measured({})
    assert still["prompts_moved"] == still["spellings_moved"] == 0
    assert still["prompts_moved_further"] == still["spellings_moved_further"] == 0.5  # all as far: chance
    assert 0.02 < still["prompts_nearer_target"] < 0.98


def test_share_is_counted_among_random_names_as_by_hand():
    found = measured({"Doe": 0.3, "a": 0.3})  # nearly every random name has an a
    others = random_names(40, 0, exclude=["Jane Doe"])
    near = []
    for name in ["Jane Doe", *others]:
        texts = [form.write(name, 0) for form in FORMS["prompts"]]
        near.append((Directions({"Doe": 0.3, "a": 0.3}).embed_texts(texts) @ TARGET[0]).mean().item())
    assert found["prompts_target"] == pytest.approx(near[0], abs=1e-5)
    assert found["prompts_nearer_target"] == pytest.approx(sum(one > near[0] for one in near[1:]) / 40)
    assert found["prompts_target_random"] == pytest.approx(sum(near[1:]) / 40, abs=1e-5)


def test_ties_count_half():
    assert share_above(torch.tensor([1.0, 2.0, 2.0, 4.0]), torch.tensor([2.0])).tolist() == [0.5]


def test_no_form_is_one_that_a_defence_trains_on():
    spelt = [form.spelling for form in FORMS["spellings"]]
    assert len(spelt) == len(set(spelt)) > 5
    assert all(kind is not None and KINDS[kind].held_out for kind in spelt)
    trained = {template for kind in KINDS.values() if not kind.held_out for template in kind.templates or ()}
    assert not {form.template for form in FORMS["prompts"]} & {"{}", *trained}


def test_sum_tells_how_many_names_can_be_told_apart():
    columns = {f"{kind}_{key}": [0.01, 0.3] for kind in FORMS for key in ("moved_further", "nearer_target")}
    columns["spellings_nearer_target"] = [0.02, 0.02]
    found = summed_up(pd.DataFrame({"name": ["Jane Doe", "Bo Li"], **columns}))
    assert found["names/told_by_moved_further"] == 0.5
    assert found["names/told_by_nearer_target"] == 1.0
    assert found["names/prompts_moved_further"] == pytest.approx(0.155)
    assert found["names/num_names"] == 2
    assert summed_up(None) == {}


def test_names_are_people_without_photos_beside_those_with_photos(write_people: Any, tmp_path: Path):
    (tmp_path / "names.txt").write_text("Bo Li\nann_lee\n\nJane  Doe\n")
    folder = write_people(tmp_path / "people", {"Ann Lee": 2})
    people = load_people(folder, names=["Jane Doe"], names_file=tmp_path / "names.txt")
    assert [(one.name, len(one.photos)) for one in people.everybody] == [("Ann Lee", 2), ("Jane Doe", 0), ("Bo Li", 0)]
    assert people.with_photos.names == ["Ann Lee"]
    alone = load_people(None, names=["Jane Doe", "Bo Li"])
    assert [one.trigger_photos + one.attack_photos for one in alone.everybody] == [(), ()]
    with pytest.raises(InputError, match=r"people\.names: expected a name or more, got none; write"):
        load_people(None)
    with pytest.raises(InputError, match=r"people\.names: expected names, got an empty one"):
        load_people(None, names=["_ "])


def test_name_alone_needs_no_inference_and_all_of_them_are_removed(write_people: Any, tmp_path: Path):
    both = load_people(write_people(tmp_path, {"Ann Lee": 2, "Bob Ray": 2}), names=["Jane Doe", "Bo Li"])
    inferred = both.pick(["Ann Lee"])
    chosen = select_people(both, TriggerSet(people=["Jane Doe", "Ann Lee"]), seed=0, inferred=inferred)
    assert [one.name for one in chosen] == ["Jane Doe", "Ann Lee"]
    with pytest.raises(InputError, match="does not infer Bob Ray"):
        select_people(both, TriggerSet(people=["Jane Doe", "Bob Ray"]), seed=0, inferred=inferred)
    drawn = select_people(both, TriggerSet(num_people=1), seed=0, inferred=inferred)
    assert [one.name for one in drawn] == ["Ann Lee"]
    alone = load_people(None, names=["Jane Doe", "Bo Li"])
    assert select_people(alone, TriggerSet(num_people=64), seed=0) == alone.everybody


@pytest.fixture
def name_alone(compose_cfg: Any) -> Any:
    names = ["people=names", "people.folder=null", "trigger_set.people=[Jane Doe]", "trigger_set.require_inferred=true"]
    return compose_cfg(*names, "defense.image=null", "defense.text.num_steps=2")


def test_run_of_a_name_alone_measures_its_rank_and_not_what_needs_photos(name_alone: Any):
    metrics, folder = run(name_alone), Path(name_alone.paths.run)
    for model in (metrics["before"], metrics["after"]["text"]):
        assert "idia/tpr_removed" not in model
        assert model["idia/num_tpr_removed"] == 0
        assert model["names/num_names"] == 1
        assert all(map(math.isfinite, model.values()))
    assert metrics["before"]["names/prompts_moved_further"] == 0.5
    assert metrics["after"]["text"]["names/prompts_moved"] > 0
    table = pd.read_csv(folder / "people.csv", dtype=str, keep_default_na=False)
    assert table.to_dict("records") == [
        {
            "name": "Jane Doe", "member": "", "removed": "True", "num_photos": "0", "correct_prompts_before": "",
            "inferred_before": "", "correct_prompts_text": "", "inferred_text": "",
        }
    ]  # fmt: skip
    assert pd.read_csv(folder / "names.csv")["model"].tolist() == ["before", "text"]
    write_report(folder)
    page, card = ((folder / name).read_text() for name in ("report.html", "defended/README.md"))
    for text in (page, card):
        assert "not measured" in text
        assert "Names without photos" in text
        assert "Jane Doe" not in text
    assert read_run(folder).num_removed == 1


def test_image_defence_of_a_name_alone_is_refused_before_anything_is_computed(compose_cfg: Any):
    cfg = compose_cfg("people=names", "people.folder=null", "trigger_set.people=[Jane Doe]")
    with pytest.raises(InputError, match=r"defense\.image: expected photos of somebody .*, got names alone; choose"):
        run(cfg)


def test_names_alone_are_refused_before_a_part_that_would_not_help(tiny_clip: Clip):
    people = load_people(names=["Jane Doe"])
    with pytest.raises(InputError, match=r"defense\.image: expected photos of somebody .*, got names alone; choose"):
        protect(tiny_clip, Sources(people), ["Jane Doe"], "both")


def test_people_with_and_without_photos_go_together(compose_cfg: Any, tiny_clip: Clip, people: Any):
    cfg = compose_cfg(
        *("people=folder", f"people.folder={people.everybody[0].photos[0].parents[1]}", "people.names=[Jane Doe]"),
        *("trigger_set.people=[Jane Doe,Ann Lee]", "defense.text.num_steps=2", "defense.image.num_steps=2"),
    )
    metrics, folder = run(cfg), Path(cfg.paths.run)
    assert metrics["after"]["both"]["idia/num_tpr_removed"] == 1
    assert {name for name, found in metrics["after"].items() if "names/num_names" in found} == {"text", "both"}
    found = read_run(folder, names=True)
    assert len(found.people) == 6
    assert found.people["inferred_both"].dtype == bool
    assert found.without_photos.to_dict("records") == [{"person": "Jane Doe", "removed": True}]
    assert "Jane Doe" not in set(pd.read_csv(folder / "map.csv")["name"])
