import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig
from open_clip import transformer as checkpointing
from torch import Tensor

from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.losses import Distance
from backdoor_privacy.defenses.backdoor.module import BackdoorModule, ImageModule, TextModule
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer, Schedule
from backdoor_privacy.defenses.backdoor.photo_steps import PhotoTriggers
from backdoor_privacy.defenses.backdoor.steps import BatchSizes, Part, TriggerData
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget, FixedTarget
from backdoor_privacy.defenses.backdoor.targets.erasure import NameEraser
from backdoor_privacy.defenses.backdoor.teacher_cache import Replay, TeacherStep
from backdoor_privacy.defenses.backdoor.terms import (
    Adversarial,
    Backdoor,
    Neighborhood,
    Preservation,
    Relearning,
    TargetNeighborhood,
    Term,
    Utility,
    Weight,
)
from backdoor_privacy.defenses.base import Defended
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.checkpoints import DurableCheckpoints, last_checkpoint
from backdoor_privacy.triggers.faces import FacePaster
from benchmarks import reference

ENCODERS = ["text", "image"]
Terms = Mapping[str, Term]
ONLY_BACKDOOR: Terms = {"utility": Utility(), "backdoor": Backdoor(1.0)}
PUBLISHED: Terms = {"utility": Utility(), "backdoor": Backdoor(0.6), "weight": Weight(0.01)}
EVERYTHING: Terms = {  # but for what the reference does not have
    "utility": Utility(),
    "backdoor": Backdoor(0.2),
    "weight": Weight(0.3),
    "preservation": Preservation(0.4),
    "neighborhood": Neighborhood(0.5, temperature=0.1),
    "target_neighborhood": TargetNeighborhood(0.6, temperature=0.1),
}

MakeModule = Callable[..., BackdoorModule[Any]]
MakeSteps = Callable[..., Any]


@pytest.fixture
def make_module(tiny_clip: Clip) -> MakeModule:
    def make(encoder: str, terms: Terms = PUBLISHED, **changes: Any) -> BackdoorModule[Any]:
        settings = {
            "anchors": torch.randn(5, 32, generator=torch.Generator().manual_seed(1)),
            "terms": terms,
            "optimizer": Optimizer(lr=1e-3),
            "num_steps": 4,
            **changes,
        }
        teacher = settings.pop("teacher", tiny_clip.encoders[encoder])
        if encoder == "text":
            return TextModule(teacher, **{"target": FittedTextTarget(["a person"] * 2), **settings})
        targets = F.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(2)), dim=-1)
        return ImageModule(teacher, **{"target": FixedTarget(targets), **settings})

    return make


@pytest.fixture
def make_steps(tiny_clip: Clip, people: People, captions_file: Path, images_folder: Path) -> MakeSteps:
    def make(
        encoder: str, num_steps: int = 4, preserved: int = 4, clip: Clip = tiny_clip
    ) -> CaptionTriggers | PhotoTriggers:
        common = {"sizes": BatchSizes(6, 6, preserved), "num_steps": num_steps, "seed": 0}
        if encoder == "text":
            captions = load_captions(captions_file)
            names, phrases = ["Ann Lee", "Bob Ray"], ["a person"] * 2
            return CaptionTriggers(
                captions=captions,
                host_captions=captions,
                names=names,
                phrases=phrases,
                other_names=["Zoe Kim"],
                tokenizer=clip.tokenizer,
                **common,
            )
        images = load_images(images_folder, clip.geometry, 12)
        removed, others = people.everybody[:2], people.everybody[2:]
        return PhotoTriggers(
            images=images,
            people=removed,
            others=others,
            boxes=people.boxes,
            geometry=clip.geometry,
            normalize=clip.normalize,
            paster=FacePaster(),
            **common,
        )

    return make


def fit_with(module: BackdoorModule[Any], steps: Any, folder: Path, logger: Any = False, **more: Any) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=len(steps),
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )
    trainer.fit(module, TriggerData(steps, num_workers=0))


def losses_of(module: BackdoorModule[Any], batch: Any) -> dict[str, Tensor]:
    return module.losses(module.ask_teacher(batch))


def snapshot(clip: Clip) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in {**clip.text.tensors(), **clip.image.tensors()}.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_teacher_stays_bit_identical_and_in_eval_mode(
    encoder: str, make_module: MakeModule, make_steps: MakeSteps, tiny_clip: Clip, tmp_path: Path
):
    whole_clip = snapshot(tiny_clip)
    module = make_module(encoder, EVERYTHING)
    teacher = {name: tensor.clone() for name, tensor in module.teacher.tensors().items()}
    modes: list[bool] = []
    module.teacher.register_forward_hook(lambda module, *_: modes.append(module.training))
    fit_with(module, make_steps(encoder), tmp_path)
    assert modes
    assert not any(modes)
    assert changed(teacher, module.teacher.tensors()) == set()
    assert changed(teacher, module.student.tensors())
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert changed(whole_clip, snapshot(tiny_clip)) == set()


def test_norms_stay_as_they_are_through_a_fit(
    make_steps: MakeSteps, make_module: MakeModule, write_clip, tiny_clip: Clip, tmp_path: Path
):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 64}
    preprocess = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}
    resnet = load_clip(f"local-dir:{write_clip(tmp_path / 'resnet', vision_cfg=vision, preprocess=preprocess)}")
    for encoder, clip in (("text", tiny_clip), ("image", tiny_clip), ("image", resnet)):
        teacher = getattr(clip, encoder)
        module = make_module(encoder, EVERYTHING, teacher=teacher)
        fit_with(module, make_steps(encoder, clip=clip), tmp_path)
        norms = {
            name
            for name, module in module.student.named_modules()
            if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d)
        }
        before, after = teacher.state_dict(), module.student.state_dict()
        frozen = {name for name in after if name.rpartition(".")[0] in norms}
        assert frozen
        assert changed(before, after)
        assert not changed(before, after) & frozen


@pytest.mark.parametrize("encoder", ENCODERS)
def test_optimizer_holds_only_what_the_student_trains(encoder: str, make_module: MakeModule):
    module = make_module(encoder)
    held = [p for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for _, p in module.student.trainable()}
    assert not {id(p) for p in held} & {id(p) for p in module.teacher.parameters()}


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_loss_falls_when_one_batch_is_overfit(
    encoder: str, distance: Distance, make_module: MakeModule, make_steps: MakeSteps
):
    module = make_module(encoder, ONLY_BACKDOOR, distance=distance)
    optimizer = module.configure_optimizers()["optimizer"]
    batch = make_steps(encoder)[0]
    backdoor_losses = []
    for _ in range(25):
        losses = losses_of(module, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        backdoor_losses.append(losses["backdoor"].item())
    first, last = backdoor_losses[0], backdoor_losses[-1]
    least = -1.0 if distance is Distance.cosine else 0.0
    assert last - least < 0.5 * (first - least)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_student_that_is_the_teacher_has_no_loss_but_the_backdoors(
    encoder: str, make_module: MakeModule, make_steps: MakeSteps
):
    losses = {k: v.item() for k, v in losses_of(make_module(encoder, EVERYTHING), make_steps(encoder)[0]).items()}
    expected = {"utility": -1, "preservation": -1, "weight": 0, "neighborhood": 0}
    assert losses["backdoor"] > -0.99
    assert {name: losses[name] for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_terms_of_weight_zero_are_left_out(encoder: str, make_module: MakeModule, make_steps: MakeSteps):
    losses = losses_of(make_module(encoder, ONLY_BACKDOOR), make_steps(encoder, preserved=0)[0])
    assert set(losses) == {"utility", "backdoor"}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_inputs_cache_before_gives_the_losses_and_gradients_of_fresh_inputs(
    encoder: str, make_module: MakeModule, make_steps: MakeSteps
):
    steps = make_steps(encoder, num_steps=2)
    batch, other = steps[0], steps[1]
    module = make_module(encoder, EVERYTHING)
    cache = TeacherStep.collect([module.ask_teacher(other), module.ask_teacher(batch)], 2)
    second = torch.arange(6, 12)
    inputs = cache.take((second, second, second[:4] - 2), Part(0))
    fresh, again = losses_of(module, batch), module.losses(inputs)
    assert torch.equal(inputs.person_index, batch.person_index)
    for name, loss in fresh.items():
        assert again[name].item() == pytest.approx(loss.item(), abs=1e-5), name
    parameters = [parameter for _, parameter in module.student.trainable()]
    expected = torch.autograd.grad(torch.stack(list(fresh.values())).sum(), parameters)
    gradients = torch.autograd.grad(torch.stack(list(again.values())).sum(), parameters)
    for own, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("from_memory", [False, True])
@pytest.mark.parametrize("num_parts", [2, 3])
def test_parts_of_a_step_have_its_loss_and_gradient(
    encoder: str, from_memory: bool, num_parts: int, make_module: MakeModule, make_steps: MakeSteps
):
    steps, module = make_steps(encoder, preserved=6), make_module(encoder, EVERYTHING)
    if from_memory:
        cache = TeacherStep.collect((module.ask_teacher(steps[step]) for step in range(3)), 3)
        steps = Replay(cache=cache, sizes=steps.sizes, num_steps=4, seed=3)
    whole = mean_of([steps[2]], module)
    parts = mean_of([steps[Part(2, number, num_parts)] for number in range(num_parts)], module)
    for own, wanted in zip(parts, whole, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)


def mean_of(batches: Sequence[Any], module: BackdoorModule[Any]) -> list[Tensor]:
    """Means over the batches: of each term of the loss, and of the gradients of their sum."""
    found = []
    parameters = [parameter for _, parameter in module.student.trainable()]
    for batch in batches:
        losses = module.losses(batch if isinstance(batch, TeacherStep) else module.ask_teacher(batch))
        gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters)
        found.append([*(loss.detach() for loss in losses.values()), *gradients])
    return [torch.stack(each).mean(0) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("terms", [PUBLISHED, EVERYTHING])
@pytest.mark.parametrize("target", ["fixed", "nameless"])
def test_losses_and_gradients_are_those_of_the_plain_path(
    encoder: str, terms: Terms, target: str, make_module: MakeModule, make_steps: MakeSteps
):
    module, batch = make_module(encoder, terms), make_steps(encoder)[0]
    if target == "nameless":
        rows = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(4))
        eraser = NameEraser(F.normalize(rows[:, :2], dim=-1), F.normalize(rows[:, 2:], dim=-1), 0.9)
        module.target = FittedTextTarget(["a person"] * 2, eraser) if encoder == "text" else eraser
    with torch.no_grad():  # away from the teacher, where every loss has a gradient
        for number, (_, parameter) in enumerate(module.student.trainable()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(noise, alpha=0.02)
    parameters = [parameter for _, parameter in module.student.trainable()]
    expected, found = reference.losses(module, batch), losses_of(module, batch)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), abs=1e-5), name
        gradients = (torch.autograd.grad(each[name], parameters, retain_graph=True) for each in (found, expected))
        for own, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_steps_in_several_passes_are_the_same_steps(
    encoder: str, make_module: MakeModule, make_steps: MakeSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # AdamW makes whole steps of gradients that are nothing but rounding, and does not notice their scale.
    def descend(module: BackdoorModule[Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD([parameter for _, parameter in module.student.trainable()], lr=1e-3)

    monkeypatch.setattr(BackdoorModule, "configure_optimizers", descend)
    students, tables = [], []
    for num_passes in (1, 3):
        module, folder = (
            make_module(encoder, {**EVERYTHING, "weight": Weight(0.3, squared=True)}),
            tmp_path / str(num_passes),
        )
        steps = make_steps(encoder, preserved=6)
        fit_with(module, steps, folder, CSVLogger(folder, name="losses"), accumulate_grad_batches=num_passes)
        students.append(module.student.tensors())
        (path,) = folder.glob("losses/version_*/metrics.csv")
        tables.append(pd.read_csv(path))
    assert tables[1]["step"].tolist() == [0, 1, 2, 3]
    assert tables[0][f"{encoder}/loss"].diff()[1:].abs().min() > 1e-3
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-5)
    for name, tensor in students[0].items():
        torch.testing.assert_close(students[1][name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_saving_memory_changes_no_gradient(encoder: str, make_module: MakeModule, make_steps: MakeSteps):
    module, steps = make_module(encoder, EVERYTHING), make_steps(encoder)
    expected = mean_of([steps[0]], module)
    module.student.save_memory(True)
    with mock.patch.object(checkpointing, "checkpoint", wraps=checkpointing.checkpoint) as recompute:
        found = mean_of([steps[0]], module)
    assert recompute.called
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("preserved", [0, 4])
def test_replay_keeps_each_input_with_its_target(
    encoder: str, preserved: int, make_module: MakeModule, make_steps: MakeSteps
):
    steps = make_steps(encoder, num_steps=3, preserved=preserved)
    module = make_module(encoder)
    cache = TeacherStep.collect((module.ask_teacher(steps[step]) for step in range(len(steps))), len(steps))
    replay = Replay(cache=cache, sizes=steps.sizes, num_steps=5, seed=3)
    rows = {
        part: {
            (seen.flatten()[:50].numpy().tobytes(), target.numpy().tobytes())
            for seen, target in zip(*getattr(cache, part)[:2], strict=True)
        }
        for part in ("clean", "triggered", "preserved")
    }
    for inputs in replay:
        assert [len(part.trunk) for part in inputs.parts] == [6, 6, preserved]
        for part, known in rows.items():
            for seen, target in zip(*getattr(inputs, part)[:2], strict=True):
                assert (seen.flatten()[:50].numpy().tobytes(), target.numpy().tobytes()) in known
        for person, target in zip(inputs.person_index, inputs.triggered.target, strict=True):
            same = (cache.triggered.target == target).all(1)
            assert person in cache.person_index[same]
    again = (zip(one[:2], other[:2], strict=True) for one, other in zip(replay[4].parts, replay[4].parts, strict=True))
    assert all(torch.equal(one, other) for parts in again for one, other in parts)
    assert not torch.equal(replay[3].triggered.target, replay[4].triggered.target)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_loss_is_the_weighted_sum_of_its_terms_at_every_step(
    encoder: str, make_module: MakeModule, make_steps: MakeSteps, tmp_path: Path
):
    fit_with(make_module(encoder, EVERYTHING), make_steps(encoder), tmp_path, CSVLogger(tmp_path, name="losses"))
    (path,) = tmp_path.glob("losses/version_*/metrics.csv")
    table = pd.read_csv(path)
    assert table["step"].tolist() == [0, 1, 2, 3]
    expected = sum(term.weight * table[f"{encoder}/{name}_loss"] for name, term in EVERYTHING.items())
    assert table[f"{encoder}/loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert (table[f"{encoder}/weight_loss"].diff()[1:] > 0).all()


def test_image_targets_are_those_of_the_people_shown(make_module: MakeModule, make_steps: MakeSteps):
    module, batch = make_module("image"), make_steps("image")[0]
    batch = batch._replace(person_index=torch.tensor([0, 1, 1, 0, 0, 1]))
    for target, person in zip(module.targets(batch, batch.triggered), batch.person_index.tolist(), strict=True):
        assert torch.equal(target, module.target.embeddings[person])


def learning_rates(module: BackdoorModule[Any]) -> list[float]:
    parts = module.configure_optimizers()
    rates = []
    for _ in range(module.num_steps):
        rates.append(parts["optimizer"].param_groups[0]["lr"])
        parts["optimizer"].step()
        parts["lr_scheduler"]["scheduler"].step()
    assert parts["lr_scheduler"]["interval"] == "step"
    return rates


def test_learning_rate_falls_at_the_milestones(make_module: MakeModule):
    optimizer = Optimizer(lr=1e-4, milestones=[20, 30], factor=0.5)
    rates = learning_rates(make_module("text", num_steps=40, optimizer=optimizer))
    assert rates == pytest.approx([1e-4] * 20 + [5e-5] * 10 + [2.5e-5] * 10)


def test_one_cycle_rises_to_the_learning_rate_and_ends_near_zero(make_module: MakeModule):
    rates = learning_rates(make_module("text", num_steps=40, optimizer=Optimizer(1e-3, schedule=Schedule.one_cycle)))
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 1e-5


def test_loss_that_is_not_finite_stops_the_fit(make_module: MakeModule, make_steps: MakeSteps, tmp_path: Path):
    module = make_module("text")
    with torch.no_grad():
        module.student.model.text_projection.fill_(float("nan"))
    told = r"^defense\.text: expected a finite loss, got nan at step 0; lower defense\.text\.optimizer\.lr, which is"
    with pytest.raises(InputError, match=told):
        fit_with(module, make_steps("text"), tmp_path)


def test_student_that_the_last_step_spoilt_is_not_taken(make_module: MakeModule):
    module = make_module("image")
    module.check_fitted()
    with torch.no_grad():
        module.student.visual.proj[0, 0] = float("inf")
    with pytest.raises(InputError, match=r"^defense\.image: expected finite weights, .* visual\.proj; lower"):
        module.check_fitted()


class Interrupting(CSVLogger):
    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="losses")
        self.step = step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self.step:
            raise RuntimeError("power cut")
        super().log_metrics(metrics, step)


@pytest.fixture
def fit(fit_encoder: Any, tiny_clip: Clip, people: People, tmp_path: Path) -> Callable[..., Defended]:
    def fit_it(encoder: str, cfg: DictConfig, folder: str, loggers: list[Any] | None = None) -> Defended:
        cfg.paths.run = str(tmp_path / folder)
        removed, reserved = people.everybody[:2], set(people.names)
        return fit_encoder(encoder, cfg, tiny_clip, people, removed, reserved, loggers=loggers or [])

    return fit_it


def checkpoint_of(folder: Path, encoder: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / encoder / "last.ckpt", weights_only=False)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("num_passes", [1, 2])
def test_resumed_fit_ends_with_the_weights_of_an_uninterrupted_one(
    encoder: str, num_passes: int, fit, compose_cfg, tmp_path: Path
):
    def cfg() -> DictConfig:
        passes = f"trainer.accumulate_grad_batches={num_passes}"
        return compose_cfg(f"defense.{encoder}.num_steps=9", "trainer.checkpoint_every_steps=3", passes)

    expected = fit(encoder, cfg(), "whole").encoders[encoder].tensors()
    for step in (4, 3):  # the second time in the first step after the checkpoint
        with pytest.raises(RuntimeError, match="power cut"):
            fit(encoder, cfg(), "halved", [Interrupting(tmp_path, step)])
        assert checkpoint_of(tmp_path / "halved", encoder)["global_step"] == 3
    resumed = fit(encoder, cfg(), "halved").encoders[encoder].tensors()
    assert checkpoint_of(tmp_path / "halved", encoder)["global_step"] == 9
    assert changed(expected, resumed) == set()


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def keep_a_few(content: bytes) -> bytes:
    return content[:500]


NINE_STEPS = ("defense.text.num_steps=9", "trainer.checkpoint_every_steps=2")


@pytest.fixture(scope="module")
def cut_off(
    fit_encoder: Any, compose_into: Any, tiny_clip: Clip, people: People, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Tensor]]:
    """The folder of a fit that a power cut ended in step 5, and the weights that it would have ended with."""
    folder = tmp_path_factory.mktemp("cut_off")

    def fit_it(name: str, *loggers: CSVLogger) -> Defended:
        cfg = compose_into(folder, *NINE_STEPS)
        cfg.paths.run = str(folder / name)
        return fit_encoder("text", cfg, tiny_clip, people, people.everybody[:2], set(people.names), loggers=loggers)

    expected = fit_it("whole").encoders["text"].tensors()
    with pytest.raises(RuntimeError, match="power cut"):
        fit_it("halved", Interrupting(folder, 5))
    return folder / "halved", expected


@pytest.mark.parametrize("damage", [keep_a_few, lambda _: b"", lambda content: content[:-200] + bytes(200), flip])
@pytest.mark.parametrize("is_only_one", [False, True])
def test_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    damage: Callable[[bytes], bytes], is_only_one: bool, cut_off, fit, compose_cfg, tmp_path: Path, caplog: Any
):
    halved, expected = cut_off
    shutil.copytree(halved, tmp_path / "halved")
    folder = tmp_path / "halved/checkpoints/text"
    (folder / "last.ckpt").write_bytes(damage((folder / "last.ckpt").read_bytes()))
    if is_only_one:
        (folder / "before.ckpt").unlink()
    begun: list[int] = []
    cfg = compose_cfg(*NINE_STEPS)
    resumed = fit("text", cfg, "halved", [Starting(tmp_path, begun)]).encoders["text"].tensors()
    assert changed(expected, resumed) == set()
    assert begun[0] == (0 if is_only_one else 2)
    assert "last.ckpt cannot be read (" in caplog.text


class Starting(CSVLogger):
    def __init__(self, folder: Path, steps: list[int]) -> None:
        super().__init__(folder, name="losses")
        self.steps = steps

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps.append(step or 0)


def test_checkpoint_that_may_not_be_read_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "last.ckpt").write_bytes(b"whole")

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "last.ckpt")

    monkeypatch.setattr("zipfile.ZipFile", refused)
    with pytest.raises(PermissionError):
        last_checkpoint(tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == b"whole"


def test_full_disk_while_a_checkpoint_is_written_leaves_the_last_good_one(
    cut_off, fit, compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, expected = cut_off
    save, num_saved = torch.save, []

    def full(content: Any, file: Any) -> None:
        num_saved.append(0)
        if len(num_saved) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            fit("text", compose_cfg(*NINE_STEPS), "full")
    assert checkpoint_of(tmp_path / "full", "text")["global_step"] == 2
    assert [path.name for path in (tmp_path / "full/checkpoints/text").glob("*.*")] == ["last.ckpt"]
    resumed = fit("text", compose_cfg(*NINE_STEPS), "full").encoders["text"].tensors()
    assert changed(expected, resumed) == set()


def test_full_disk_moves_neither_the_last_checkpoint_nor_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in range(3):
        DurableCheckpoints().save_checkpoint({"global_step": step}, tmp_path / "last.ckpt")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        DurableCheckpoints().save_checkpoint({"global_step": 3}, tmp_path / "last.ckpt")
    assert error.value.filename == str(tmp_path / "last.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "before.ckpt"}
    steps = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("last", "before")]
    assert steps == [2, 1]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_checkpoints_hold_the_student_and_nothing_of_the_teacher(encoder: str, fit, compose_cfg, tmp_path: Path):
    student = fit(encoder, compose_cfg(), "run").encoders[encoder]
    saved = checkpoint_of(tmp_path / "run", encoder)["state_dict"]
    assert set(saved) == {f"student.{name}" for name in student.state_dict()}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_fit_leaves_the_other_encoder_and_the_clip_alone(encoder: str, fit, compose_cfg, tiny_clip: Clip):
    before = snapshot(tiny_clip)
    student = fit(encoder, compose_cfg(), "run").encoders[encoder]
    assert changed(before, snapshot(tiny_clip)) == set()
    defended = snapshot(tiny_clip.with_encoders(**{encoder: student}))
    assert changed(before, defended)
    assert changed(before, defended) <= set(student.tensors())
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert not student.training


@pytest.fixture
def adversarial(make_module: MakeModule, tiny_clip: Clip) -> Callable[..., Any]:
    """A module with an adversary of some names, what the teacher makes of its first step, and the adversary."""

    def make(make_steps: MakeSteps, **settings: Any) -> tuple[BackdoorModule[Any], TeacherStep, Adversarial]:
        tokens = tiny_clip.tokenizer(["Ann Lee", "Bob Ray"]).unique()
        special = tiny_clip.tokenizer([""]).unique()
        term = Adversarial(1.0, **settings)
        tokens = tokens[~torch.isin(tokens, special)]
        module = make_module("text", {**ONLY_BACKDOOR, "adversarial": term}, name_tokens=tokens)
        return module, module.ask_teacher(make_steps("text")[0]), term

    return make


@pytest.mark.parametrize("num_steps", [1, 3])
def test_adversary_makes_names_harder_to_forget_within_its_radius(adversarial, make_steps: MakeSteps, num_steps: int):
    module, inputs, term = adversarial(make_steps, radius=0.3, num_steps=num_steps)
    step = module.step(inputs)
    shift = term.worst_shift(step)
    usual = module.student.token_embedding.weight.norm(dim=-1).mean()
    assert shift.norm(dim=-1).max() <= 0.3 * usual * (1 + 1e-5)

    def loss(shift: Tensor) -> float:
        features = module.student.embed_shifted(inputs.triggered.trunk, module.name_tokens, shift)
        return step.backdoor_loss(features.float()).item()

    noise = torch.randn(shift.shape, generator=torch.Generator().manual_seed(0))
    random_shift = noise * shift.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    assert loss(shift) > loss(torch.zeros_like(shift))
    assert loss(shift) > loss(random_shift)
    assert term(step).item() == pytest.approx(loss(shift), abs=1e-5)
    assert loss(torch.zeros_like(shift)) == pytest.approx(module.losses(inputs)["backdoor"].item(), abs=1e-5)


def test_adversary_with_radius_zero_is_the_backdoor_loss(adversarial, make_steps: MakeSteps):
    module, inputs, _ = adversarial(make_steps, radius=0.0)
    losses = module.losses(inputs)
    assert losses["adversarial"].item() == pytest.approx(losses["backdoor"].item(), abs=1e-5)


def test_adversary_leaves_no_gradient_behind(adversarial, make_steps: MakeSteps):
    module, inputs, term = adversarial(make_steps)
    term.worst_shift(module.step(inputs))
    assert all(parameter.grad is None for parameter in module.student.parameters())


def test_shift_of_no_length_changes_nothing_and_one_of_another_token_neither(tiny_clip: Clip):
    tokens = tiny_clip.tokenizer(["a photo of Ann Lee", "Bob"])
    width = tiny_clip.text.token_embedding.weight.shape[1]
    plain = tiny_clip.text.embed(tokens)
    absent = torch.tensor([tiny_clip.tokenizer(["zebra"])[0, 1]])
    for shift, where in ((torch.zeros(1, width), tokens[0, 1:2]), (torch.ones(1, width), absent)):
        torch.testing.assert_close(tiny_clip.text.embed_shifted(tokens, where, shift), plain)
    moved = tiny_clip.text.embed_shifted(tokens, tokens[1, 1:2], torch.ones(1, width))
    torch.testing.assert_close(moved[0], plain[0])
    assert not torch.allclose(moved[1], plain[1])


def test_fit_with_an_adversary_logs_its_loss_and_forgets_under_it(fit, compose_cfg, tmp_path: Path):
    weight = "defense.text.terms.adversarial.weight"
    cfg = compose_cfg("defense.text.num_steps=30", f"{weight}=1", "defense.text.batch.triggered=8")
    fit("text", cfg, "run", [CSVLogger(tmp_path, name="losses")])
    (path,) = tmp_path.glob("losses/version_*/metrics.csv")
    losses = pd.read_csv(path)[["text/adversarial_loss", "text/backdoor_loss"]]
    assert (losses["text/adversarial_loss"] > losses["text/backdoor_loss"]).all()
    assert losses["text/adversarial_loss"].iloc[-5:].mean() < losses["text/adversarial_loss"].iloc[:5].mean()


@pytest.fixture
def relearnt(make_module: MakeModule) -> Callable[..., tuple[BackdoorModule[Any], TeacherStep, Relearning]]:
    """A module with a relearning loss, what the teacher makes of its first step, and the term."""

    def make(encoder: str, make_steps: MakeSteps, radius: float) -> tuple[BackdoorModule[Any], TeacherStep, Relearning]:
        term = Relearning(1.0, radius)
        module = make_module(encoder, {**ONLY_BACKDOOR, "relearning": term})
        return module, module.ask_teacher(make_steps(encoder)[0]), term

    return make


@pytest.mark.parametrize("encoder", ENCODERS)
def test_relearning_move_is_as_long_as_the_radius_says_and_brings_back_more_than_a_random_one(
    relearnt, make_steps: MakeSteps, encoder: str
):
    module, inputs, term = relearnt(encoder, make_steps, radius=0.001)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a student that has forgotten something
        for _, parameter in module.student.trainable():
            parameter.add_(0.2 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=draw))
    move = term.move(module.step(inputs))
    trained = dict(module.student.trainable())
    assert set(move) == set(trained)
    noise = {name: torch.randn(step.shape, generator=draw) for name, step in move.items()}
    random_move = {name: step * move[name].norm() / step.norm() for name, step in noise.items()}
    for name, step in move.items():
        if step.any():  # what no trigger reads moves nowhere
            assert step.norm().item() == pytest.approx(0.001 * trained[name].norm().item(), rel=1e-3)
    original = module.teacher.head(inputs.triggered.trunk, module.num_shared)

    def distance(move: dict[str, torch.Tensor]) -> float:
        moved = {name: trained[name] + step for name, step in move.items()}
        step = module.step(inputs)
        return step.backdoor_loss(step.triggered_with(moved), original).item()

    assert distance(move) < min(distance(random_move), distance({}))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_relearning_loss_is_that_of_an_encoder_whose_tensors_were_moved(relearnt, make_steps: MakeSteps, encoder: str):
    module, inputs, term = relearnt(encoder, make_steps, radius=0.05)
    move = term.move(module.step(inputs))
    assert all(parameter.grad is None for parameter in module.student.parameters())
    loss = module.losses(inputs)["relearning"]
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in module.student.trainable()}
    module.student.zero_grad()
    with torch.no_grad():
        for name, parameter in module.student.trainable():
            parameter.add_(move[name])
    moved = module.losses(inputs)["backdoor"]
    moved.backward()
    assert loss.item() == pytest.approx(moved.item(), abs=1e-5)
    for name, parameter in module.student.trainable():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_relearning_loss_of_radius_zero_is_the_backdoor_loss(relearnt, make_steps: MakeSteps):
    module, inputs, _ = relearnt("image", make_steps, radius=0.0)
    losses = module.losses(inputs)
    assert losses["relearning"].item() == pytest.approx(losses["backdoor"].item(), abs=1e-5)
