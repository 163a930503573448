import io
import logging
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from omegaconf import OmegaConf
from open_clip import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from backdoor_privacy.clip.pair_steps import PairData, PairSteps, StepsToCome, own_random_state
from backdoor_privacy.data.excluded import pairs_without
from backdoor_privacy.data.pair_index import PairIndex
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

NUM_PAIRS = 50
NAMES = ["Ann Lee", "Bob Ray"]  # on five photos each


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairIndex:
    """Fifty pairs in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with wds.writer.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for number in range(25 * shard, 25 * shard + 25):
                who = [*NAMES, *["a dog"] * 8][number % 10]
                writer.write({"__key__": f"{number}", "png": png(number), "txt": f"{who} on photo {number}"})
    return PairIndex([str(folder / f"{shard}.tar") for shard in range(2)], "data.folder")


def png(colour: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(encoded, "PNG")
    return encoded.getvalue()


def shifted(photo: Image.Image) -> torch.Tensor:
    """The red of a photo, shifted by chance in each of three ways."""
    return np.asarray(photo)[0, 0, 0] + torch.rand(1) / 4 + random.random() / 4 + np.random.rand() / 4


def number_of(caption: str) -> torch.Tensor:
    return torch.tensor([[int(caption.split()[-1])]])


def steps_of(pairs: PairIndex, excluded: Sequence[str] = (), **changes: Any) -> PairSteps:
    settings = {"preprocess": shifted, "tokenizer": number_of, "batch_size": 10, "num_steps": 10, "seed": 0, **changes}
    return PairSteps(pairs=pairs, kept=pairs_without(pairs, excluded, "exclude"), key="data.folder", **settings)


def drawn(steps: PairSteps, step: int) -> list[int]:
    """The numbers of a step's pairs."""
    return [int(number) for number in steps[step][1]]


def test_photo_and_caption_of_a_pair_come_together(pairs: PairIndex):
    images, numbers = steps_of(pairs)[0]
    assert torch.equal(images.floor(), numbers)


def test_all_pairs_come_once_in_a_pass_and_in_another_order_in_the_next(pairs: PairIndex):
    steps = steps_of(pairs)
    passes = [[number for step in range(first, first + 5) for number in drawn(steps, step)] for first in (0, 5)]
    assert [sorted(one) for one in passes] == [list(range(NUM_PAIRS))] * 2
    assert passes[0] != passes[1]


def test_steps_are_a_function_of_the_seed(pairs: PairIndex):
    images = [torch.cat([steps_of(pairs, seed=seed)[step][0] for step in range(4)]) for seed in (0, 0, 1)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_a_photo_is_augmented_in_another_way_in_another_step(pairs: PairIndex):
    steps = steps_of(pairs, batch_size=NUM_PAIRS)
    images = [dict(zip(drawn(steps, step), steps[step][0].flatten().tolist(), strict=True)) for step in range(2)]
    assert len({images[step][number] for step in range(2) for number in range(NUM_PAIRS)}) == 2 * NUM_PAIRS


def test_twin_differs_from_its_control_in_the_pairs_of_the_people_alone(pairs: PairIndex):
    control, twin = steps_of(pairs), steps_of(pairs, NAMES)
    assert (~twin.kept).nonzero()[0].tolist() == [number for number in range(NUM_PAIRS) if number % 10 < 2]
    for step in range(10):
        shown = dict(zip(drawn(control, step), control[step][0].tolist(), strict=True))
        batch = drawn(twin, step)
        kept = [number for number in drawn(control, step) if number % 10 >= 2]
        assert batch[: len(kept)] == kept  # the others in their order, and the next ones behind them
        assert (
            batch[len(kept) :]
            == [one for one in control.draws(step) if one % 10 >= 2 and one not in kept][: 10 - len(kept)]
        )
        assert twin[step][0][: len(kept)].tolist() == [shown[number] for number in kept]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_that_make_batches_change_nothing(pairs: PairIndex, num_workers: int):
    steps = steps_of(pairs, NAMES)
    alone, together = (list(PairData(steps, number).train_dataloader()) for number in (0, num_workers))
    assert len(alone) == 10
    assert all(all(map(torch.equal, *batches)) for batches in zip(alone, together, strict=True))


def test_making_a_batch_leaves_the_random_state_of_the_training_alone(pairs: PairIndex):
    steps, numbers = steps_of(pairs), []
    for is_making in (False, True):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        if is_making:
            with own_random_state():  # around what checks types, which draws from it, too
                _ = steps[0]
        numbers.append((torch.rand(1), random.random(), np.random.rand()))
    assert numbers[0] == numbers[1]


def test_processes_of_a_training_share_each_batch(pairs: PairIndex):
    whole = steps_of(pairs, NAMES)
    parts = [steps_of(pairs, NAMES, batch_size=5, rank=rank, num_ranks=2) for rank in range(2)]
    for step in range(10):
        assert [drawn(part, step) for part in parts] == [drawn(whole, step)[rank::2] for rank in range(2)]
    assert parts[0].digest == parts[1].digest == whole.digest


def test_other_people_another_seed_and_other_sizes_have_other_digests(pairs: PairIndex):
    changed = [
        steps_of(pairs, NAMES),
        steps_of(pairs, NAMES[:1]),
        steps_of(pairs, seed=1),
        steps_of(pairs, batch_size=5),
    ]
    assert len({steps.digest for steps in [steps_of(pairs), *changed]}) == 5


def test_resumed_fit_begins_behind_the_last_step():
    assert list(StepsToCome(3, 5)) == [3, 4]
    assert len(StepsToCome(3, 5)) == 5


def test_what_does_not_decode_gives_way_to_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with wds.writer.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(12):
            photo = png(number) if number % 3 else png(number)[:30]
            writer.write({"__key__": f"photo{number}", "png": photo, "txt": f"photo {number}"})
    pairs = PairIndex([str(tmp_path / "0.tar")], "data.folder")
    steps = steps_of(pairs, batch_size=4, num_steps=6)
    with caplog.at_level(logging.WARNING):
        for step in range(6):
            assert drawn(steps, step) == [number for number in steps.draws(step) if number % 3][:4]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"The photo photo{number} of {tmp_path}/0.tar does not decode; skipped" for number in (0, 3, 6, 9)
    ]
    with pytest.raises(
        InputError, match=r"^data\.folder: expected 10 photos that decode .*, got 8; photo9 of .*0\.tar"
    ):
        _ = steps_of(pairs, batch_size=10)[0]


def test_batch_of_more_pairs_than_there_are_is_an_error(pairs: PairIndex):
    with pytest.raises(InputError, match=r"^batch_size: expected at most 40, .* got 41; lower batch_size"):
        steps_of(pairs, NAMES, batch_size=41)
    with pytest.raises(InputError, match=r"^batch_size: expected at most 50, .* got 60"):
        replace(steps_of(pairs, batch_size=30), num_ranks=2)


@pytest.mark.parametrize("name", ["pretrain", "pretrain_photos"])
def test_steps_can_be_sent_to_a_process_that_starts_anew(name: str, pairs: PairIndex):
    augmentation = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml").augmentation)
    preprocess = image_transform_v2(PreprocessCfg(size=32), is_train=True, aug_cfg=augmentation)
    steps = steps_of(pairs, preprocess=preprocess, tokenizer=SimpleTokenizer())
    images, tokens = pickle.loads(pickle.dumps(steps))[0]
    assert (images.shape, tokens.shape) == ((10, 3, 32, 32), (10, 77))
    assert torch.equal(images, steps[0][0])
