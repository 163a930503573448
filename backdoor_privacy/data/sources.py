"""Hold what a run reads: people, and clean captions and photos that keep the rest of the CLIP as it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backdoor_privacy.data.people import People
from backdoor_privacy.data.people_tables import folded_name
from backdoor_privacy.errors import InputError

_ALTERNATIVES = {
    "captions": "(captions=plain needs no data)",
    "images": "(some hundred photos of anything), or defense=text, which needs none",
    "strangers": "(photos of one other person are enough for the target anonymous), or "
    "defense/image_target=nameless defense.image.num_other_names=1000, which needs none",
}


@dataclass(frozen=True)
class Sources:
    """The data of a run; a defence says which parts it needs."""

    people: People  # who is attacked, and among them those to remove
    captions: Sequence[str] | None = None  # clean ones, of anything
    images: str | Path | None = None  # clean photos of anything, see `data.images.load_images`
    max_images: int = 4000  # to keep in memory
    strangers: People | None = None  # others, neither removed nor attacked

    def check(self, needed: Iterable[str]) -> None:
        """Check that these parts are there, and that nobody is both attacked and a stranger.

        Raises:
            InputError: if a part is missing, or somebody is both.
        """
        for part in needed:
            if getattr(self, part) is None:
                raise InputError(
                    f"{part}: expected some to hold the rest of the CLIP in place, got none; choose {part}=... "
                    f"{_ALTERNATIVES[part]}"
                )
        attacked = set(map(folded_name, self.people.names))
        both = [name for name in (self.strangers.names if self.strangers else ()) if folded_name(name) in attacked]
        if both:
            raise InputError(
                f"strangers: expected people who are not attacked, got {', '.join(sorted(both)[:5])}; choose "
                "others, or delete their folders"
            )
