"""The term of the loss after DELETE: who is seen in a name goes, and nobody else comes."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.delete import Delete
from backdoor_privacy.defenses.backdoor.module import TextModule
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.steps import BatchSizes, Part
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.teacher_cache import TeacherStep
from backdoor_privacy.defenses.loading import build_defenses
from backdoor_privacy.errors import InputError
from backdoor_privacy.run import check_run

TEMPERATURE = 0.1
MakeModule = Callable[..., TextModule]


@pytest.fixture
def make_module(tiny_clip: Clip) -> MakeModule:
    """A module with no other term."""

    def make(num_anchors: int = 5) -> TextModule:
        return TextModule(
            tiny_clip.text,
            target=FittedTextTarget(["a person"] * 2),
            terms={"delete": Delete(1.0, TEMPERATURE)},
            optimizer=Optimizer(lr=1e-3),
            num_steps=25,
            anchors=torch.randn(num_anchors, 32, generator=torch.Generator().manual_seed(1)),
        )

    return make


@pytest.fixture
def steps(tiny_clip: Clip, captions_file: Path) -> CaptionTriggers:
    """Steps with two names."""
    captions = load_captions(captions_file)
    return CaptionTriggers(
        captions=captions,
        host_captions=captions,
        names=["Ann Lee", "Bob Ray"],
        phrases=["a person"] * 2,
        other_names=["Zoe Kim"],
        tokenizer=tiny_clip.tokenizer,
        sizes=BatchSizes(6, 6, 6),
        num_steps=4,
        seed=0,
    )


def snapshot(clip: Clip) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in {**clip.text.tensors(), **clip.image.tensors()}.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def original_of(module: TextModule, inputs: TeacherStep) -> Tensor:
    return module.teacher.head(inputs.triggered.trunk, module.num_shared).detach()


def shares_of(features: Tensor, anchors: Tensor) -> Tensor:
    return (F.normalize(features, dim=-1) @ F.normalize(anchors, dim=-1).T / TEMPERATURE).softmax(-1)


def slow_loss(student: Tensor, teacher: Tensor, anchors: Tensor) -> float:
    """The divergence of the student's softmax from the teacher's without its nearest anchor, input by input."""
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        found, wanted = (
            [math.exp(F.cosine_similarity(one, anchor, dim=0).item() / TEMPERATURE) for anchor in anchors]
            for one in (own, other)
        )
        wanted[wanted.index(max(wanted))] = 0.0
        pairs = [(q / sum(found), p / sum(wanted)) for q, p in zip(found, wanted, strict=True)]
        total += sum(p * math.log(p / q) for q, p in pairs if p)
    return total / len(student)


def test_loss_is_that_of_plain_python_and_falls_on_one_batch_and_the_teacher_stays(
    make_module: MakeModule, steps: CaptionTriggers
):
    module = make_module()
    teacher = {name: tensor.clone() for name, tensor in module.teacher.tensors().items()}
    inputs, optimizer = module.ask_teacher(steps[0]), module.configure_optimizers()["optimizer"]
    original = original_of(module, inputs)
    own = shares_of(original, module.anchors).argmax(1, keepdim=True)
    losses, shares = [], []
    for _ in range(25):
        triggered = module.step(inputs).triggered.detach()
        loss = module.losses(inputs)["delete"]
        assert loss.item() == pytest.approx(slow_loss(triggered, original, module.anchors), rel=1e-3, abs=1e-5)
        losses.append(loss.item())
        shares.append(shares_of(triggered, module.anchors).gather(1, own).mean().item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert shares[-1] < 0.5 * shares[0]
    assert changed(teacher, module.teacher.tensors()) == set()


def test_loss_of_a_student_that_is_the_teacher_is_what_the_nearest_anchor_holds(
    make_module: MakeModule, steps: CaptionTriggers
):
    # What stays is scaled by 1 / (1 - share), so that the divergence is the logarithm of that.
    module = make_module()
    inputs = module.ask_teacher(steps[0])
    held = shares_of(original_of(module, inputs), module.anchors).amax(-1)
    assert module.losses(inputs)["delete"].item() == pytest.approx(-(1 - held).log().mean().item(), rel=1e-4)


def test_loss_of_kept_inputs_and_of_parts_is_that_of_the_step(make_module: MakeModule, steps: CaptionTriggers):
    module = make_module()
    whole = module.losses(module.ask_teacher(steps[1]))["delete"].item()
    cache = TeacherStep.collect([module.ask_teacher(steps[0]), module.ask_teacher(steps[1])], 2)
    rows = torch.arange(6, 12)
    assert module.losses(cache.take((rows, rows, rows), Part(0)))["delete"].item() == pytest.approx(whole, abs=1e-5)
    parts = [module.losses(module.ask_teacher(steps[Part(1, number, 2)]))["delete"].item() for number in range(2)]
    assert sum(parts) / 2 == pytest.approx(whole, abs=1e-5)


def test_one_anchor_is_an_error(make_module: MakeModule, steps: CaptionTriggers):
    module = make_module(num_anchors=1)
    with pytest.raises(InputError, match="num_anchors: expected 2 or more for the term Delete, got 1"):
        module.losses(module.ask_teacher(steps[0]))


def test_one_anchor_is_refused_before_a_run_starts(compose_cfg):
    with pytest.raises(InputError, match=r"defense\.text\.num_anchors: expected 2 or more for the term delete, got 1"):
        check_run(compose_cfg("+defense/text_term=delete", "defense.text.num_anchors=1"))


def test_fit_as_chosen_on_the_command_line_changes_the_text_encoder_alone(
    compose_cfg, fit_encoder, tiny_clip: Clip, people: People, tmp_path: Path
):
    before = snapshot(tiny_clip)
    cfg = compose_cfg("+defense/text_term=delete", "defense.text.num_anchors=4")
    loggers = [CSVLogger(tmp_path, name="losses")]
    student = fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], loggers=loggers).encoders["text"]
    (path,) = tmp_path.glob("losses/version_*/metrics.csv")
    assert pd.read_csv(path)["text/delete_loss"].notna().all()
    assert changed(before, snapshot(tiny_clip)) == set()
    after = changed(before, snapshot(tiny_clip.with_encoders(text=student)))
    assert after
    assert after <= set(student.tensors())


def test_temperature_of_zero_is_a_problem(compose_cfg):
    cfg = compose_cfg("+defense/text_term=delete", "defense.text.terms.delete.temperature=0")
    (term,) = [term for name, term in build_defenses(cfg.defense)["text"].used_terms.items() if name == "delete"]
    assert list(term.problems(None, "key")) == ["key.temperature: expected more than 0, got 0"]
