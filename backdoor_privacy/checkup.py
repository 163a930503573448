"""Look over the data of a run: what is there, what is wrong with it, and whether the run could start."""

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from textwrap import shorten

from omegaconf import DictConfig
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from backdoor_privacy.clip.loading import tokenizer_at_hand
from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.images import read_images
from backdoor_privacy.data.inspection import Decoded, names_in, num_different, photo_sizes
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import list_photos
from backdoor_privacy.data.problems import Data, Photos, Problem
from backdoor_privacy.data.shards import find_shards, holds_shards
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.problems import Plan, all_problems
from backdoor_privacy.system.terminal import VisibleConsole
from backdoor_privacy.triggers.names import read_to_the_end
from backdoor_privacy.utility.base import Contents, Measure, build_measures

Rows = dict[str, tuple[str, ...]]
_MAX_SHEETS = 10  # that are named on the screen
_NUM_EXAMPLES, _MAX_CAPTION = 3, 60
_MAX_CAPTIONS_TO_COUNT = 20_000


@dataclass(frozen=True)
class Checkup:
    """Tables of the data of a run, and its problems, as `check_data` shows them."""

    people: Rows  # of people and of strangers
    clean: Rows  # of everything else
    use: Rows  # what the run does with them
    all_problems: list[Problem]
    sheets: dict[str, Path] = field(default_factory=dict)  # contact sheets of the faces found, by name

    @property
    def problems(self) -> list[str]:
        """The problems that stop the run."""
        return [problem.text for problem in self.all_problems if problem.stops]

    @property
    def warnings(self) -> list[str]:
        """The problems that do not stop it."""
        return [problem.text for problem in self.all_problems if not problem.stops]


def check_data(cfg: DictConfig) -> Checkup:
    """Read everything that a run of this config reads except its CLIP, and look for problems.

    Raises:
        InputError: if something cannot be read at all.
    """
    from hydra.utils import instantiate

    from backdoor_privacy.attacks.choice import check_attacks
    from backdoor_privacy.attacks.idia import Idia
    from backdoor_privacy.config.build import build
    from backdoor_privacy.config.schema import load_config
    from backdoor_privacy.run import check_run, load_sources

    defenses = check_run(cfg)
    settings = load_config(cfg)
    sources = load_sources(cfg, defenses)
    measures = build_measures(cfg.utility)
    everybody = [*sources.people.everybody, *(sources.strangers.everybody if sources.strangers else ())]
    decoded = photo_sizes([path for person in everybody for path in person.photos], cfg.clip.num_workers)
    clean = _captions(sources.captions, sources.people.names)
    if sources.captions is not None:
        model = cfg.clip.model  # of the embedded CLIP, a node that says where it lies
        clean |= _long_captions(sources.captions, instantiate(model) if isinstance(model, DictConfig) else str(model))
    others, rows = _clean_photos(sources, measures, cfg.clip.num_workers)
    data = Data(sources, decoded, others)
    idia, attacks = build(cfg.attack, Idia), check_attacks(cfg.attacks, 1)
    plan = Plan(sources, idia, defenses, settings.trigger_set, settings.trainer, settings.seed, attacks)
    return Checkup(_people(data), clean | rows, _use(plan), all_problems(plan, data), _contact_sheets(sources))


def _contact_sheets(sources: Sources) -> dict[str, Path]:
    """Write a contact sheet of everybody whose faces were looked for; return the sheets by name."""
    from backdoor_privacy.data.contact_sheet import write_contact_sheet

    groups = [people for people in (sources.people, sources.strangers) if people is not None]
    return {faces.name: write_contact_sheet(faces) for people in groups for faces in people.faces}


def _captions(captions: Sequence[str] | None, names: Sequence[str]) -> Rows:
    if captions is None:
        return {}
    with_names, mentions = names_in(captions, names)
    first = "\n".join(shorten(caption, _MAX_CAPTION, placeholder=" ...") for caption in captions[:_NUM_EXAMPLES])
    counts = some(f"{name} ({count:,})" for name, count in mentions.most_common())
    return {
        "captions": (f"{len(captions):,}",),
        "first captions": (first,),
        "with a person's name": (f"{len(with_names):,}, left out if everybody is removed",),
        "names in them": (f"{len(mentions):,}" + (f": {counts}" if counts else ""),),
    }


def _long_captions(captions: Sequence[str], model: str) -> Rows:
    """Count captions that are longer than the CLIP reads; of many, a sample at even distances."""
    tokenizer = tokenizer_at_hand(model)
    if tokenizer is None:
        return {"too long for the CLIP": ("not counted: its tokenizer is not on this machine",)}
    sample = captions[:: -(-len(captions) // _MAX_CAPTIONS_TO_COUNT)]
    num_long = sum(not fits for fits in read_to_the_end(sample, tokenizer))
    share = num_long / len(sample)
    about = "" if len(sample) == len(captions) else "about "
    use = ", shortened around a name that would be cut off" if num_long else ""
    return {"too long for the CLIP": (f"{about}{round(share * len(captions)):,} ({share:.0%}){use}",)}


def _clean_photos(
    sources: Sources, measures: Mapping[str, Measure], num_workers: int
) -> tuple[dict[str, Photos], Rows]:
    """Decode the clean photos and those of the utility measures, by key, and return them with the rows about them."""
    photos: dict[str, Photos] = {}
    rows: Rows = {}
    if sources.images is not None:
        photos["images"], rows = _images(sources.images, sources.max_images)
    for key, measure in measures.items():
        contents = measure.contents()
        if contents is not None:
            photos[f"utility.{key}"], own = _of_measure(contents, num_workers)
            rows |= own
    return photos, rows


def _images(source: str | Path, max_images: int) -> tuple[Photos, Rows]:
    """Decode the clean photos that a run reads, and return them with the rows about them."""
    left_out: Counter[str] = Counter()
    read = read_images(source, max_images, left_out)
    tracked = track(read, "Decoding clean photos", total=max_images, transient=True, disable=not sys.stdout.isatty())
    decoded = {file: None if photo is None else Decoded.of(photo) for file, photo in tracked}
    if not decoded:
        raise InputError(f"images.folder: expected WebDataset shards (*.tar) or photos in {source}, found none")
    place = (
        f"{len(find_shards(source, 'images.folder')):,} shards"
        if holds_shards(source)
        else f"{len(list_photos(source).photos):,} files"
    )
    return Photos(decoded, left_out), {
        "clean photos that the run reads": (f"{len(decoded):,}, of {place}",),
        "first clean photos": (_examples(decoded),),
    }


def _of_measure(contents: Contents, num_workers: int) -> tuple[Photos, Rows]:
    """Decode the photos of a utility measure, and return them with the rows about them."""
    photos = Photos(_decode(list(contents.texts), num_workers), contents.left_out)
    return photos, {
        contents.title: (contents.summary,),
        f"first {contents.title}": (_examples(photos.decoded, contents.texts),),
    }


def _decode(files: Sequence[Path], num_workers: int) -> dict[Path, Decoded | None]:
    decoded = photo_sizes(files, num_workers)
    return {file: decoded.get(file) for file in files}


def _examples(decoded: Mapping[Path, Decoded | None], texts: Mapping[Path, str] | None = None) -> str:
    """Return the first photos, a line each: file name, width and height in pixels, and the text of the photo."""
    return "\n".join(
        f"{path.name} ({'does not decode' if size is None else f'{size.width} x {size.height}'})"
        + (f": {shorten(texts[path], _MAX_CAPTION, placeholder=' ...')}" if texts else "")
        for path, size in islice(decoded.items(), _NUM_EXAMPLES)
    )


def _people(data: Data) -> Rows:
    groups = data.groups.values()

    def row(tell: Callable[[Sequence[Person]], str]) -> tuple[str, ...]:
        return tuple(map(tell, groups))

    def members(people: Sequence[Person]) -> str:
        counts = [sum(person.member is value for person in people) for value in (True, False, None)]
        return " / ".join(f"{count:,}" for count in counts)

    def photos(people: Sequence[Person]) -> str:
        first = chain(*(person.photos for person in people[:_NUM_EXAMPLES]))
        return _examples({path: data.decoded.get(path) for path in first})

    return {
        "people": row(lambda people: f"{len(people):,}"),
        "first names": row(lambda people: "\n".join(person.name for person in people[:_NUM_EXAMPLES])),
        "members / non-members / unknown": row(members),
        "photos": row(lambda people: f"{sum(len(person.photos) for person in people):,}"),
        "first photos": row(photos),
        "of a person: fewest / median / most": row(lambda people: _spread([len(person.photos) for person in people])),
        "that do not decode": row(
            lambda people: f"{sum(path not in data.decoded for person in people for path in person.photos):,}"
        ),
        "that repeat another of the person": row(
            lambda people: f"{sum(len(person.photos) - num_different(person) for person in people):,}"
        ),
        "with a face box": tuple(
            f"{len(people.boxes):,}" for people in (data.sources.people, data.sources.strangers) if people
        ),
    }


def _spread(counts: Sequence[int]) -> str:
    if not counts:
        return "none"
    return f"{min(counts)} / {statistics.median(counts):g} / {max(counts)}"


def _use(plan: Plan) -> Rows:
    """Return what the run does with the data."""
    attack, num_people = plan.attack, len(plan.everybody)
    num_shown_people = len(plan.sources.people.with_photos.everybody)
    num_shown = sum(len(person.attack_photos[: attack.num_photos]) for person in plan.everybody)
    rows = {
        "people to remove": f"{plan.choice.num_people} of {num_people:,}, drawn among those that IDIA infers",
        "training photos of a person": _spread([len(person.trigger_photos) for person in plan.everybody]),
        "people to attack": f"{num_shown_people:,}, with {num_shown:,} photos, {attack.num_photos} each at most",
        "candidates": f"{attack.num_candidates:,} names, those of the people and random ones",
    }
    if not plan.is_drawn:
        try:
            removed = plan.select()
        except InputError:  # a problem says why
            del rows["people to remove"]
        else:
            rows["people to remove"] = f"{len(removed):,} of {num_people:,}: {some(person.name for person in removed)}"
            counts = [len(person.trigger_photos) for person in removed]
            rows["training photos of a person"] = f"{_spread(counts)}, together {sum(counts):,}"
            if plan.sources.captions is not None:
                left_out = sum(map(name_matcher([person.name for person in removed]), plan.sources.captions))
                rows["captions left out"] = f"{left_out:,}"
    rows |= {f"{name} defence": defense.summary() for name, defense in plan.defenses.items()}
    return {title: (text,) for title, text in rows.items()}


def print_checkup(checkup: Checkup) -> None:
    """Print tables of the data, then warnings and problems, one a line."""
    console = VisibleConsole(highlight=False)
    num_groups = len(checkup.people["people"])
    for columns, rows in (
        (("", "people", "strangers")[: 1 + num_groups], checkup.people),
        (("", "clean data"), checkup.clean),
        (("", "the run"), checkup.use),
    ):
        if rows:
            table = Table(*columns, width=min(console.width, 100))
            table.columns[0].width = 37  # the same for all tables
            for column in table.columns[1:]:
                column.ratio = 1
                column.justify = "right" if len(columns) > 2 else "left"
            for title, cells in rows.items():
                table.add_row(title, *map(escape, cells))
            console.print(table)
    for name, sheet in islice(checkup.sheets.items(), _MAX_SHEETS):
        console.print(
            f"Contact sheet of {escape(name)}, beside the table faces.csv: {escape(str(sheet))}", soft_wrap=True
        )
    if len(checkup.sheets) > _MAX_SHEETS:
        place = next(iter(checkup.sheets.values())).parents[1]
        console.print(
            f"{len(checkup.sheets) - _MAX_SHEETS:,} more contact sheets in {escape(str(place))}", soft_wrap=True
        )
    for kind, colour, texts in (("Warning", "yellow", checkup.warnings), ("Problem", "red", checkup.problems)):
        for text in texts:
            console.print(f"[{colour}]{kind}:[/] {escape(text)}", soft_wrap=True)
