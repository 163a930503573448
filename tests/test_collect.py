import sys
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backdoor_privacy.collect import collect, main
from backdoor_privacy.errors import InputError
from backdoor_privacy.files import write_text
from backdoor_privacy.report.figures import pareto_figure, people_figure
from backdoor_privacy.results import read_metrics, write_metrics

ENTRY = {
    "idia/num_tpr_removed": 4.0,
    "idia/tpr_removed": 1.0,
    "idia/num_tpr_kept": 6.0,
    "idia/tpr_kept": 0.75,
    "idia/wrongly_unlearned": 0.0,
    "idia/fpr": 0.25,
    "zero_shot/top1": 0.9,
}


def write_run(folder: Path, seed: int, *, drop: tuple[str, ...] = (), **after: float) -> None:
    write_text(folder / "checkpoints/config.yaml", "seed: 0\n")
    before = {key: value for key, value in ENTRY.items() if key not in drop}
    both = {**before, **{key.replace("__", "/"): value for key, value in after.items()}}
    metrics: dict[str, Any] = {"experiment": "both_4", "seed": seed, "before": before, "after": {"both": both}}
    write_metrics(folder, {**metrics, "seconds": {"load": 1.5, "write": 2.0}, "versions": {"commit": "abc"}})


def test_every_model_of_every_finished_run_has_a_row(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0, idia__tpr_removed=0.0, idia__tpr_kept=0.5, zero_shot__top1=0.85)
    write_run(tmp_path / "both_4/seed=1", 1, idia__tpr_removed=0.5)
    write_text(tmp_path / "both_4/seed=2/checkpoints/config.yaml", "seed: 2\n")
    rows, unfinished = collect(tmp_path)
    assert unfinished == [tmp_path / "both_4/seed=2"]
    assert rows["seed"].tolist() == [0, 1]
    first = rows.iloc[0].to_dict()
    assert (first["experiment"], first["model"], first["commit"]) == ("both_4", "both", "abc")
    assert first["run"] == "both_4/seed=0"
    assert first["seconds"] == 3.5
    assert (first["tpr_removed"], first["fpr"]) == (0.0, 0.25)
    assert first["tpr_kept_loss"] == pytest.approx(0.25)
    assert first["zero_shot_top1_loss"] == pytest.approx(0.05)


def test_recalls_are_in_the_rows_of_runs_that_measured_them(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0)
    write_run(tmp_path / "both_4/seed=1", 1, retrieval__image_to_text_r1=0.5, retrieval__text_to_image_r1=0.75)
    metrics = read_metrics(tmp_path / "both_4/seed=1")
    metrics["before"] |= {"retrieval/image_to_text_r1": 0.75, "retrieval/text_to_image_r1": 0.625}
    write_metrics(tmp_path / "both_4/seed=1", metrics)
    names = ["image_to_text_r1", "image_to_text_r1_loss", "text_to_image_r1", "text_to_image_r1_loss"]
    without, measured = collect(tmp_path)[0][names].to_numpy().tolist()
    assert all(map(isnan, without))
    assert measured == [0.5, 0.25, 0.75, -0.125]


def test_rates_over_nobody_are_left_empty(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0, drop=("idia/fpr", "idia/tpr_kept"))
    (row,) = collect(tmp_path)[0].to_dict("records")
    assert isnan(row["fpr"])
    assert isnan(row["tpr_kept_loss"])
    assert row["tpr_removed"] == 1.0


def test_command_prints_means_over_seeds_and_writes_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for seed, rate in enumerate((0.0, 0.5)):
        write_run(tmp_path / f"both_4/seed={seed}", seed, idia__tpr_removed=rate)
    write_text(tmp_path / "both_4/seed=2/checkpoints/config.yaml", "seed: 2\n")
    # A job that failed before it did anything has only its log.
    write_text(tmp_path / "both_4/seed=3/backdoor_privacy.log", "10:00:00 The run failed\nValueError: no luck\n\n")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    printed = capsys.readouterr().out
    assert "0.25" in printed
    lines = [line.rstrip() for line in printed.splitlines() if "not finished" in line]
    assert len(lines) == 2
    assert lines[0].endswith("both_4/seed=2")
    assert lines[1].endswith("both_4/seed=3: ValueError: no luck")
    assert len(pd.read_csv(tmp_path / "collected.csv")) == 2
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("people", "pareto") for kind in ("svg", "png")
    }


def test_runs_of_other_overrides_are_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path / "both_4/seed=0", 0, idia__tpr_removed=0.125)
    write_run(tmp_path / "both_4/defense=image/seed=0", 0, idia__tpr_removed=0.625)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [("defense=image" in line) for line in lines if "0.125" in line or "0.625" in line] == [False, True]
    assert not [line for line in lines if "0.375" in line]


def test_folder_without_runs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="expected run folders in it, found none"):
        collect(tmp_path)
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1


def test_figures_show_means_and_ranges_over_seeds(tmp_path: Path):
    for seed, rate in enumerate((0.25, 0.75)):
        for size in (2, 8):
            run = tmp_path / f"names_{size}/seed={seed}"
            write_run(run, seed, idia__tpr_removed=rate / size, idia__tpr_kept=0.5, idia__num_tpr_removed=float(size))
    rows, _ = collect(tmp_path)
    before, after = people_figure(rows).axes[0].get_lines()
    assert list(before.get_ydata()) == [1.0, 1.0]
    assert (list(after.get_xdata()), list(after.get_ydata())) == ([2, 8], [0.25, 0.0625])
    (band,) = people_figure(rows).axes[0].collections
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (0.25 / 8, 0.75 / 2)
    kept, zero_shot = pareto_figure(rows).axes
    points = sorted(tuple(point) for point in kept.collections[0].get_offsets().tolist())
    assert points == [(0.0625, 0.25), (0.25, 0.25)]
    assert {text.get_text() for text in zero_shot.texts} == {"1", "2"}
    assert pareto_figure(rows).legends[-1].get_title().get_text() == "1 both_4/names_2\n2 both_4/names_8"
