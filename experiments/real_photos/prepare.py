"""Lay out general photos, `<wnid>_<class>.jpg`, as links in a folder per class.

All are to train a CLIP on; half of them to defend it with, the other half to measure with.

    python experiments/real_photos/prepare.py <folder of photos> <folder to make>
"""

import hashlib
import sys
from pathlib import Path


def main(photos: Path, folder: Path) -> None:
    """Make `classes`, `images` and `zero_shot`, each a folder per class."""
    files = sorted(photos.resolve().glob("*.jpg"), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    for number, file in enumerate(files):
        classname = file.stem.partition("_")[2].replace("_", " ")
        for part in ("classes", "images" if number % 2 else "zero_shot"):
            link = folder / part / classname / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
