from pathlib import Path

import pytest
import torch

from backdoor_privacy.data import photo_memory
from backdoor_privacy.data.photo_memory import PhotoMemory, Views

PATHS = [Path("a"), Path("broken"), Path("b"), Path("c")]


class Decoding:
    """Gives each path its length as pixels, and records what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Path] = []

    def __call__(self, path: Path) -> Views | None:
        self.asked.append(path)
        return None if path.name == "broken" else (torch.full((3, 1, 4), ord(path.name), dtype=torch.uint8),)


def pixels_of(views: Views | None) -> list[list[int]]:
    return [view.flatten().tolist() for view in views or ()]


def test_photos_are_decoded_once_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(photo_memory, "_MAX_BYTES", 30)
    memory, decode = PhotoMemory(), Decoding()
    first = [pixels_of(memory.get(path, decode)) for path in PATHS]
    assert first == [[[97] * 12], [], [[98] * 12], [[99] * 12]]
    assert [pixels_of(memory.get(path, decode)) for path in PATHS] == first
    assert decode.asked == [*PATHS, PATHS[-1]]  # there was no room for the last


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_decoded_before_the_training_is_not_decoded_again(num_workers: int):
    memory, decode = PhotoMemory(), Decoding()
    assert memory.fill(PATHS[:3], decode, num_workers) == {Path("a"), Path("b")}
    decode.asked.clear()
    assert [pixels_of(memory.get(path, decode)) for path in PATHS] == [[[97] * 12], [], [[98] * 12], [[99] * 12]]
    assert decode.asked == PATHS[3:]
