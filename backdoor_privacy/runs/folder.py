"""Write and read the files of a run folder."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.utils import save_image

from backdoor_privacy.attacks.chance import rank_p
from backdoor_privacy.attacks.idia import IdiaResult
from backdoor_privacy.config.identity import identifying, identity
from backdoor_privacy.config.stored import read_stored
from backdoor_privacy.data.cells import csv_text, safe_cell
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import private_folder, write_bytes, write_text
from backdoor_privacy.system.reading import MIB, JsonObject, read_ordinary

SCHEMA = 1
_REMOVES = "# removes "  # stands before each name in the claim of a folder (`checkpoints/config.yaml`)


class DamagedMetricsError(InputError):
    """The `metrics.json` of a finished run cannot be read any more."""


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Write `metrics.json`; a run is finished once it exists."""
    write_text(folder / "metrics.json", json.dumps({"schema": SCHEMA, **metrics}, indent=2) + "\n", private=True)


def read_metrics(folder: Path) -> JsonObject | None:
    """Read `metrics.json`; return `None` if the run is not finished.

    Raises:
        DamagedMetricsError: if it cannot be read.
        InputError: if another version of the package wrote it.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        metrics: JsonObject = json.loads(read_ordinary(path, 256 * MIB))
        if not isinstance(metrics, dict):
            raise ValueError(f"a {type(metrics).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise DamagedMetricsError(
            f"{path}: expected the measures of a finished run, got a broken file ({reason}); start the run again, "
            "which measures them anew"
        ) from error
    if metrics.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: expected schema {SCHEMA}, got {metrics.get('schema')}; read it with the version that wrote it"
        )
    return dict(metrics)


def check_links(folder: Path) -> None:
    """Check that no link in the folder of a run leads out of it: it would read or overwrite files of others.

    Raises:
        InputError: naming the link.
    """
    root = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise InputError(
                    f"{path}: expected a run folder that holds all that is in it, got a link to "
                    f"{os.readlink(path)}; put the file or folder itself in its place"
                )


def write_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write `manifest.json`, which describes the data of the run, see `runs.manifest`."""
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n", private=True)


def write_people(
    folder: Path,
    people: Sequence[Person],
    removed: Collection[Person],
    before: IdiaResult,
    after: Mapping[str, IdiaResult],
) -> None:
    """Write `people.csv`: everybody's result before and after, for each audited model; empty if not measured."""
    results = {"before": before, **after}
    header = ["name", "member", "removed", "num_photos", "correct_prompts_before", "inferred_before"]
    header += [f"{column}_{model}" for model in after for column in ("correct_prompts", "inferred")]
    header += [f"{column}_{model}" for model, r in results.items() if r.evidence.chance for column in ("rank", "p")]
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(header)
    measured = {name: row for row, name in enumerate(before.names)}
    for person in people:
        row = measured.get(person.name)
        member = "" if person.member is None else person.member
        num_photos, measured_cells = 0, list[object]()
        if row is not None and before.num_photos[row]:
            num_photos = before.num_photos[row]
            measured_cells += [
                value for one in results.values() for value in (one.correct_prompts[row], one.inferred[person.name])
            ]
            measured_cells += [value for one in results.values() for value in _rank(one, row)]
        cells = [safe_cell(person.name), member, person in removed, num_photos, *measured_cells]
        writer.writerow(cells + [""] * (len(header) - len(cells)))
    write_text(folder / "people.csv", content.getvalue(), private=True)


def _rank(result: IdiaResult, row: int) -> list[int | str]:
    """Return a person's rank among random names and its p-value, empty where no photo could be read."""
    chance = result.evidence.chance
    if chance is None:
        return []
    if not result.num_photos[row]:
        return ["", ""]
    rank = int(chance.ranks[row])
    return [rank, f"{rank_p(rank, chance.num_random):.5g}"]


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table as `<name>.csv`, for the owner of the run alone."""
    write_text(folder / f"{name}.csv", csv_text(table, float_format="%.5g"), private=True)


def write_photos(path: Path, photos: Float[Tensor, "photo 3 side side"]) -> None:
    """Write a sheet of photos, pixels in [0, 1], as PNG, for the owner of the run alone."""
    content = io.BytesIO()
    save_image(photos, content, format="png", nrow=8, padding=2, pad_value=1.0)
    write_bytes(path, content.getvalue(), private=True)


def write_losses(folder: Path, encoders: Sequence[str]) -> None:
    """Write `losses.csv`: every loss at every step of every encoder's training, resumed trainings joined.

    A defence that is not trained logs nothing; if no defence of the run is trained, there is no file.
    """
    tables = []
    for encoder in encoders:
        parts = sorted(
            (folder / "checkpoints" / encoder / "losses").glob("version_*/metrics.csv"),
            key=lambda path: int(path.parent.name.removeprefix("version_")),
        )
        rows = pd.concat([pd.DataFrame(columns=["step", "loss"]), *(_losses(path, encoder) for path in parts)])
        rows = rows.drop_duplicates("step", keep="last").sort_values("step")
        rows.insert(0, "encoder", encoder)
        tables += [rows] if len(rows) else []
    if tables:
        write_text(folder / "losses.csv", pd.concat(tables).to_csv(index=False), private=True)


def _losses(path: Path, encoder: str) -> pd.DataFrame:
    """Read the losses of one training, without a last row that a kill has cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].replace(b"\0", b"")
    if not whole:
        return pd.DataFrame()
    rows = pd.read_csv(io.BytesIO(whole), on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    rows.columns = rows.columns.str.removeprefix(f"{encoder}/")
    return rows.dropna(subset="step") if "step" in rows else pd.DataFrame()


def claim_folder(folder: Path, cfg: DictConfig, named: Sequence[str] | None = None) -> None:
    """Record in the folder of a run what it computes, so that only the same run resumes there.

    Args:
        folder: of the run.
        cfg: of the run.
        named: the people to remove, if they are named and not drawn; recorded since a file of names may change.

    Raises:
        InputError: if another run has begun in the folder.
    """
    path = folder / "checkpoints" / "config.yaml"
    finished = (folder / "metrics.json").is_file()
    begun = finished or any((folder / "checkpoints").rglob("*.ckpt"))
    if begun and path.is_file() and not _is_claimed_by(path, cfg, named):
        raise InputError(
            f"{folder}: expected a new folder or one of the same config, got a run of another config; "
            "delete it or choose another name=..."
        )
    if finished:
        return
    claim = OmegaConf.to_yaml(OmegaConf.create(identifying(cfg)))
    private_folder(path.parent)  # with all that Lightning writes into it
    write_text(path, claim + "".join(f"{_REMOVES}{name}\n" for name in named or ()), private=True)
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg), private=True)
    if HydraConfig.initialized():
        overrides = OmegaConf.to_yaml(HydraConfig.get().overrides.task)
        write_text(folder / ".hydra" / "overrides.yaml", overrides, private=True)


def claimed_names(folder: Path) -> list[str]:
    """Return the people whom a run's config names, whom nothing may show; nobody if its report may name them."""
    config = folder / ".hydra" / "config.yaml"
    with contextlib.suppress(InputError):  # a config that cannot be read names nobody
        if config.is_file() and OmegaConf.select(read_stored(config), "report.names") is True:
            return []
    claim = folder / "checkpoints" / "config.yaml"
    lines = claim.read_text(encoding="utf-8", errors="replace").splitlines() if claim.is_file() else []
    return [line.removeprefix(_REMOVES) for line in lines if line.startswith(_REMOVES)]


def _is_claimed_by(path: Path, cfg: DictConfig, named: Sequence[str] | None) -> bool:
    """Return whether a claim was made by a run that computes the same."""
    text = read_ordinary(path, MIB).decode()
    names = [line.removeprefix(_REMOVES) for line in text.splitlines() if line.startswith(_REMOVES)]
    claimed = read_stored(path)
    before, now = identity(claimed, names or None), identity(cfg, named)
    if "trainer" not in claimed:  # earlier versions did not record it
        now = {key: value for key, value in now.items() if not key.startswith("trainer.")}
    return before == now
