"""A method of another kind than backdoors: it goes through everything that a run does."""

from pathlib import Path

import pytest
import torch

from backdoor_privacy.checkup import check_data
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import load_trainer
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import Defended, Fit, Removal
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.defenses.projection import Projection
from backdoor_privacy.run import run
from backdoor_privacy.triggers.names import NAME_FORMS

CAPTIONS = ["a dog on a hill", "two red boats", "a photo of Ann Lee", "a tree"]


def defend(clip: Clip, people: People, **changes: float) -> tuple[Projection, Removal, Defended]:
    settings = {"num_other_names": 20, "max_captions": 4, "ridge": 1e-3, **changes}
    method = load_defense("projection", projection=settings)["projection"]
    assert isinstance(method, Projection)
    sources = Sources(people, captions=CAPTIONS)
    removal = Removal(clip, clip, people.everybody[:2], (), sources, set(people.names), 0, 5, ())
    return method, removal, method.defend(removal, Fit(load_trainer(progress_bar=False)))


def inputs(clip: Clip, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return clip.text.projection_inputs(clip.tokenizer(texts)).double()


@pytest.mark.parametrize("preservation", [0.1, 3.0])
def test_edited_projection_is_where_the_objective_is_least(tiny_clip: Clip, people: People, preservation: float):
    method, removal, defended = defend(tiny_clip, people, preservation=preservation)
    others = random_names(20, 0, exclude={*people.names, *removal.names})
    forms = [form.format(name) for name in others for form in NAME_FORMS]
    kept = inputs(tiny_clip, [*forms, "a dog on a hill", "two red boats", "a tree"])  # no caption with a removed name
    removed = inputs(tiny_clip, [form.format(name) for name in removal.names for form in NAME_FORMS])
    target = inputs(tiny_clip, [form.format("a person") for _ in removal.names for form in NAME_FORMS])
    original = tiny_clip.text.projection().double()
    weight = defended.encoders["text"].projection().double().clone().requires_grad_()
    loss = (removed @ weight.T - target @ original.T).square().sum() / len(removed)
    loss = loss + preservation * (kept @ (weight - original).T).square().sum() / len(kept)
    loss = loss + method.ridge * (weight - original).square().sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-4
    assert (weight - original).abs().max() > 1e-3


def test_only_the_projection_of_the_text_encoder_changes(tiny_clip: Clip, people: People):
    before = {name: tensor.clone() for name, tensor in tiny_clip.text.tensors().items()}
    _, _, defended = defend(tiny_clip, people)
    assert list(defended.encoders) == ["text"]
    after = defended.encoders["text"].tensors()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"text_projection"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_clip.text.tensors().items())


def test_names_come_to_mean_the_phrase_and_others_stay(tiny_clip: Clip, people: People):
    _, removal, defended = defend(tiny_clip, people, preservation=0.1)
    student = tiny_clip.with_encoders(**defended.encoders)
    phrase = tiny_clip.embed_texts(["a person"])
    nearness = [(clip.embed_texts(removal.names) @ phrase.T).mean() for clip in (tiny_clip, student)]
    assert nearness[1] > nearness[0] + 0.1
    names = people.names[2:]
    assert (student.embed_texts(names) * tiny_clip.embed_texts(names)).sum(-1).mean() > 0.85


def test_method_without_training_goes_through_a_run(compose_cfg, tmp_path: Path):
    overrides = ["defense=projection", "defense.text=null", "defense.image=null"]
    cfg = compose_cfg(*overrides, "defense.projection.num_other_names=20", "defense.projection.max_captions=20")
    assert check_data(cfg).problems == []
    metrics = run(cfg)
    assert list(metrics["after"]) == ["text"]
    assert metrics["defenses"]["projection"]["encoders"] == ["text"]
    assert not (tmp_path / "run/losses.csv").exists()
    page, card = ((tmp_path / "run" / file).read_text() for file in ("report.html", "defended/README.md"))
    for text in (page, card):
        assert "Unified Concept Editing" in text
        assert "backdoors" not in text
    assert {path.stem for path in (tmp_path / "run/attacks").glob("*.json")} == {"tower_swap", "variants"}
