"""What lies in a run folder as its last checkpoint may be a stranger's: nothing in it runs."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People


class Canary:
    """Whoever unpickles it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("encoder", ["text", "image"])
def test_no_code_in_the_last_checkpoint_of_a_fit_runs(
    encoder: str,
    is_whole: bool,
    fit_encoder: Any,
    tiny_clip: Clip,
    people: People,
    compose_cfg,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    cfg = compose_cfg(f"defense.{encoder}.num_steps=4", "trainer.checkpoint_every_steps=2")
    last = Path(cfg.paths.run) / "checkpoints" / encoder / "last.ckpt"
    if is_whole:  # the code is hidden in a checkpoint that has all that belongs there
        fit_encoder(encoder, cfg, tiny_clip, people, people.everybody[:2])
        content = {**torch.load(last, weights_only=True), "more": Canary(tmp_path / "ran")}
    else:
        last.parent.mkdir(parents=True)
        content = Canary(tmp_path / "ran")
    torch.save(content, last)
    hostile = shutil.copy(last, tmp_path / "hostile.ckpt")
    fit_encoder(encoder, cfg, tiny_clip, people, people.everybody[:2])  # it begins anew
    assert "last.ckpt cannot be read (" in caplog.text
    assert not (tmp_path / "ran").exists()
    torch.load(hostile, weights_only=False)
    assert (tmp_path / "ran").is_dir()  # the canary would have sung
