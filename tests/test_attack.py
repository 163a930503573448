import json
import re
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.attack import main
from backdoor_privacy.attacks.base import Approach, Attack, Headline, above_chance
from backdoor_privacy.attacks.choice import check_attacks, load_attacks, make_attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.headlines import headlines, headlines_of
from backdoor_privacy.attacks.record import read_scores
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.config.attacks import ATTACK_SETTINGS, attack_names, attack_options, attacks_of
from backdoor_privacy.data.people import load_people
from backdoor_privacy.errors import InputError
from backdoor_privacy.report.html import render
from backdoor_privacy.run import run
from backdoor_privacy.runs.attacks import attack_finished, load_context, missing_attacks, run_attacks
from backdoor_privacy.runs.finished import read_run

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(scope="module")
def cfg(compose_into, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """Of a finished run with both encoders defended."""
    made: DictConfig = compose_into(tmp_path_factory.mktemp("attacked"), "attack=tower_swap", "attack.num_photos=2")
    run(made)
    return made


@pytest.fixture(scope="module")
def folder(cfg: DictConfig) -> Path:
    return Path(cfg.paths.run)


def test_run_with_an_attack_writes_what_it_found(folder: Path):
    digest, findings = read_scores(folder / "attacks/tower_swap.json")
    assert len(digest) == 64
    assert {(one.model, one.kind) for one in findings} == {
        ("before", "nothing swapped"),
        ("both", "nothing swapped"),
        ("text", "original image encoder"),
        ("image", "original text encoder"),
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    for model in ("before", "text", "image", "both"):
        measures = metrics["before"] if model == "before" else metrics["after"][model]
        (removed,) = (one for one in findings if one[1:4] == (model, "removed", "TPR"))
        assert removed.value == pytest.approx(measures["idia/tpr_removed"])
    assert "tower swap: original image encoder" in (folder / "report.html").read_text()


def test_scene_of_a_finished_run_is_what_the_run_saw(folder: Path, cfg: DictConfig):
    seen = load_context(folder)
    assert list(seen.clips) == ["before", "text", "image", "both"]
    assert len(seen.removed) == 2
    before, both = seen.clips["before"], seen.clips["both"]
    hashes = json.loads((folder / "metrics.json").read_text())["weights_sha256"]
    assert (before.sha256(), both.sha256()) == (hashes["before"], hashes["after"])
    text = seen.clips["text"]
    assert text.text is both.text
    assert text.image is before.image
    assert seen.clips["image"].text is before.text
    assert seen.idia.num_photos == 2


def test_what_is_known_is_not_computed_again(folder: Path, cfg: DictConfig, monkeypatch: pytest.MonkeyPatch):
    path = folder / "attacks/tower_swap.json"
    before = path.read_bytes()
    seen = load_context(folder)
    monkeypatch.setattr("backdoor_privacy.runs.attacks.make_attack", lambda *_: pytest.fail("computed again"))
    found = run_attacks(seen, load_attacks(["tower_swap"]), folder)
    assert path.read_bytes() == before
    assert found["tower_swap"] == read_scores(path)[1]


class Counter(Attack):
    """An attack that counts how often it was run."""

    runs = 0
    headlines = (Headline("how often it was run", "removed", "TPR", "count"),)
    approach = Approach.others

    def __init__(self, step: int = 1) -> None:
        self.step = step

    def run(self, context: AttackContext) -> list[Score]:
        """Find the count."""
        Counter.runs += self.step
        return [Score("count", context.fullest, "removed", "TPR", 0.5, 0.25, 0.75, 2)]


@pytest.mark.parametrize("change", ["settings", "seed", "removed", "weights"])
def test_another_question_is_computed(change: str, folder: Path, tmp_path: Path):
    seen = load_context(folder)
    settings: Any = {"_target_": f"{__name__}.Counter", "step": 1}
    run_attacks(seen, {"counter": OmegaConf.create(settings)}, tmp_path)
    count = Counter.runs
    run_attacks(seen, {"counter": OmegaConf.create(settings)}, tmp_path)
    assert Counter.runs == count
    changed: dict[str, Any] = dict(vars(seen))
    if change == "settings":
        settings["step"] = 2
    if change == "seed":
        changed["seed"] = 99
    if change == "removed":
        changed["removed"] = changed["removed"][:1]
    if change == "weights":
        text = seen.clips["both"].text.copy()
        with torch.no_grad():
            next(text.parameters()).mul_(2)
        changed["clips"] = {**seen.clips, "both": seen.clips["both"].with_encoders(text=text)}
    fields = {key: changed[key] for key in AttackContext.__dataclass_fields__}
    run_attacks(AttackContext(**fields), {"counter": OmegaConf.create(settings)}, tmp_path)
    assert Counter.runs > count


def test_finished_run_is_only_attacked(cfg: DictConfig, folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "attacks/tower_swap.json").unlink()
    monkeypatch.setattr("backdoor_privacy.run.protect", lambda *_, **__: pytest.fail("trained again"))
    run(cfg)
    assert (folder / "attacks/tower_swap.json").is_file()


def test_several_processes_run_the_default_attacks_and_refuse_others(
    compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    check_attacks(load_attacks(attacks_of("default")), num_processes=2)
    check_attacks(load_attacks(attack_names()), num_processes=1)
    monkeypatch.setattr("backdoor_privacy.run.num_processes", lambda: 2)
    message = "attack: expected attack=default or attack=idia in a run of 2 processes, got probe; attack the finished"
    with pytest.raises(InputError, match=message):
        run(compose_cfg("attack=probe"))
    assert list(tmp_path.iterdir()) == []


def test_every_run_ends_with_what_the_verdict_needs(compose_cfg):
    assert attacks_of("default") == ["tower_swap", "variants"]
    assert list(compose_cfg().attacks) == attacks_of("default")
    assert not compose_cfg("attack=idia").attacks


def test_default_attacks_look_for_removed_and_never_seen_people_only(folder: Path):
    seen = load_context(folder)
    _, findings = read_scores(folder / "attacks/tower_swap.json")
    assert {one.group for one in findings} == {"removed", "never seen", "random names"}
    counts = {one.group: one.num_people for one in findings}
    assert counts == {"removed": 2, "never seen": len(seen.groups["never seen"]), "random names": 2}
    (ranks,) = (one for one in findings if (one.model, one.measure) == ("both", "rank p"))
    people = pd.read_csv(folder / "people.csv")
    assert list(ranks.outcomes) == pytest.approx(people.loc[people["removed"], "p_both"].tolist(), abs=5e-5)


def test_finished_run_of_before_is_only_read_where_its_data_is_gone(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    moved = tmp_path / "run"
    shutil.copytree(folder, moved)
    shutil.rmtree(moved / "attacks")
    config = OmegaConf.load(moved / ".hydra/config.yaml")
    OmegaConf.update(config, "clip.model", "local-dir:/nowhere")
    OmegaConf.save(config, moved / ".hydra/config.yaml")
    assert not attack_finished(load_attacks(attacks_of("default")), moved)
    assert "tower_swap, variants: not measured: " in caplog.text
    with pytest.raises((InputError, InstantiationException), match="nowhere"):
        attack_finished(load_attacks(["probe"]), moved)


def test_finished_run_is_attacked_by_what_it_lacks(folder: Path):
    assert missing_attacks(load_attacks(["tower_swap"]), folder) == []
    assert missing_attacks(load_attacks(["tower_swap", "variants"]), folder) == ["variants"]
    path = folder / "attacks/tower_swap.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": 3}))
    assert missing_attacks(load_attacks(["tower_swap"]), folder) == ["tower_swap"]
    path.write_text(json.dumps(record))


def test_command_prints_the_worst_first(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(folder), "tower_swap"]) == 0
    printed = capsys.readouterr().out
    assert "Worst first" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("│ worst tower swap (TPR)"))
    _, findings = read_scores(folder / "attacks/tower_swap.json")
    swapped = [one for one in findings if one[2:4] == ("removed", "TPR") and one.kind.startswith("original")]
    worst = max(one.value for one in swapped)
    assert float(line.split("│")[5].split()[0]) == pytest.approx(worst, abs=5e-4)


def test_command_says_which_attack_is_on(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "attacks/tower_swap.json").unlink()
    assert main([str(folder), "tower_swap"]) == 0
    assert "Attack 1 of 1: tower_swap" in caplog.text


def test_command_writes_the_report_again(folder: Path):
    (folder / "report.html").write_text("before any other attack was run")
    assert main([str(folder), "tower_swap"]) == 0
    assert "only these attacks were run: tower swap." in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "expected the folder of a finished run"),
        (["{folder}", "magic"], "attack: expected some of .*tower_swap.*, got magic"),
        (["{folder}", "all", "probe.num_neighbors=0"], r"probe\.num_neighbors: expected 1 or more, got 0"),
        (["{folder}", "idia_sweep", "idia_sweep.num_candidates=[1]"], r"expected numbers of 2 or more, got \[1\]"),
        (["{folder}", "tower_swap", "tower_swap.strength=3"], "expected a setting of tower_swap, got tower_swap.str"),
        (["{folder}", "tower_swap", "tower_swap=3"], "expected a setting of tower_swap, got tower_swap=3; there are"),
    ],
)
def test_mistake_is_one_line(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([argument.replace("{folder}", str(folder)) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("change", "message"),
    [("people.csv", r"people\.csv: expected who was removed"), ("clip.model", "local-dir:/nowhere")],
)
def test_what_a_run_lost_is_said_in_one_line(
    change: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    moved = tmp_path / "run"
    shutil.copytree(folder, moved)
    if change == "people.csv":
        (moved / "people.csv").unlink()
    else:
        config = OmegaConf.load(moved / ".hydra/config.yaml")
        OmegaConf.update(config, change, message)
        OmegaConf.save(config, moved / ".hydra/config.yaml")
    assert main([str(moved), "tower_swap"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


class Picky(Attack):
    """An attack that cannot be run on this model."""

    def run(self, context: AttackContext) -> list[Score]:
        """Refuse."""
        raise InputError("picky: expected another model")


def test_attack_that_cannot_be_run_is_left_out(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    picky, counter = (OmegaConf.create({"_target_": f"{__name__}.{name}"}) for name in ("Picky", "Counter"))
    assert set(run_attacks(load_context(folder), {"picky": picky, "counter": counter}, tmp_path)) == {"counter"}
    assert "picky is left out: picky: expected another model" in caplog.text
    assert [path.name for path in (tmp_path / "attacks").iterdir()] == ["counter.json"]
    with pytest.raises(InputError, match="picky: expected another model"):
        run_attacks(load_context(folder), {"picky": picky}, tmp_path)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], attack_names()),
        (["all", "probe"], attack_names()),
        (["quick"], ["erased", "neighbors", "probe", "tower_swap", "variants"]),
        (["quick", "inversion"], ["erased", "neighbors", "probe", "tower_swap", "variants", "inversion"]),
        (["variants", "probe"], ["variants", "probe"]),
    ],
)
def test_attacks_may_be_named_or_all_or_quick(
    asked: list[str], expected: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    ran: list[str] = []
    monkeypatch.setattr(
        "backdoor_privacy.runs.attacks.run_attacks", lambda seen, attacks, folder: ran.extend(attacks) or {}
    )
    assert main([str(folder), *asked]) == 0
    assert ran == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 9, "digest": "", "findings": []}'])
def test_broken_findings_are_an_error(content: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"x\.json: expected .* delete it"):
        read_scores(tmp_path / "x.json")


def test_headlines_are_the_worst_of_removed_people_and_then_what_others_pay():
    def finding(kind: str, model: str, group: str, measure: str, value: float) -> Score:
        return Score(kind, model, group, measure, value, 0, 1, 4)

    found = {
        "tower_swap": [
            finding("original image encoder", "text", "removed", "TPR", 0.25),
            finding("original text encoder", "image", "removed", "TPR", 0.5),
            finding("original text encoder", "image", "never seen", "TPR", 0.01),
            finding("original text encoder", "image", "kept", "TPR", 0.9),
            finding("nothing swapped", "both", "removed", "TPR", 0.9),
        ],
        "probe": [
            finding("face verification", "before", "removed", "AUC", 0.95),
            finding("face verification", "both", "removed", "AUC", 0.7),
        ],
        "relearning": [
            finding("5 photos, steps to recover", "both", "removed / never seen", "ratio", 0.2),
        ],
        "neighbors": [
            finding("a removed person's surname", "both", "kept", "wrongly unlearned", 0.99),
        ],
    }
    rows = headlines(found)
    assert [row.score for row in rows] == [
        found["relearning"][0], found["tower_swap"][1], found["probe"][1], found["neighbors"][0],
    ]  # fmt: skip
    assert [above_chance(row.score.measure, row.score.value) for row in rows] == pytest.approx([0.8, 0.5, 0.4, 0.99])
    assert [row.before for row in rows] == [None, None, found["probe"][0], None]
    assert [row.control for row in rows] == [None, found["tower_swap"][2], None, None]


def test_equally_bad_headlines_keep_their_order():
    labels = {name: [headline.label for headline in own] for name, own in headlines_of(attack_names()).items()}
    seen = "who was erased, told from never-seen people"
    assert list(labels) == [
        *("erased", "probe", "inversion", "tower_swap", "variants", "compression", "benign", "relearning"),
        *("idia_sweep", "neighbors"),
    ]
    assert [label for own in labels.values() for label in own] == [
        f"{seen}, with the original at hand (AUC)",
        f"{seen} (AUC)",
        f"{seen} by one score chosen on other people (AUC)",
        f"{seen} by the best score of names (AUC)",
        f"{seen} by the best score of faces (AUC)",
        "who was erased, told from kept people (AUC)",
        "who was erased, told from decoys (AUC)",
        "same person or not, from two photos (AUC)",
        "linear probe of removed faces, over chance",
        "k-NN of removed faces, over chance",
        "a soft token finds the photos (rank 1)",
        "a soft token is nearer to the name than random names' are (closeness)",
        "worst tower swap (TPR)",
        "worst held-out spelling, text encoder alone (TPR)",
        "mean of held-out spellings, text encoder alone (TPR)",
        "worst held-out spelling (TPR)",
        "mean of held-out spellings (TPR)",
        "mean of those that find half of the people before (TPR)",
        "a quarter or half of the original weights mixed in (TPR)",
        "a tenth to a third of the weights pruned (TPR)",
        "4-bit weights (TPR)",
        "benign fine-tuning, worst step (TPR)",
        "relearning with 5 photos, worst step (TPR)",
        "relearning with 5 photos: steps, over those of never-seen people (below 1: easier)",
        "IDIA with other photos or thresholds, the worst (TPR)",
        "namesakes wrongly unlearned",
        "nearest faces wrongly unlearned",
    ]


def test_what_few_candidates_find_by_chance_is_no_headline():
    few, photos = (
        Score(kind, "both", "removed", "TPR", value, 0, 1, 4)
        for kind, value in (("10 candidates", 0.6), ("1 photo", 0.1))
    )
    (row,) = headlines({"idia_sweep": [few, photos]})
    assert row.score == photos


def test_every_attack_has_its_config():
    for name in attack_names():
        assert isinstance(make_attack(load_attacks([name])[name]), Attack)


def test_attack_is_found_by_the_file_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usual, settings = attack_names(), shutil.copytree(ATTACK_SETTINGS, tmp_path / "also")
    (settings / "counter.yaml").write_text(f"_target_: {__name__}.Counter\nstep: 2\n")
    for module in ("config.attacks", "attacks.choice", "attacks.headlines"):
        monkeypatch.setattr(f"backdoor_privacy.{module}.ATTACK_SETTINGS", settings)
    assert attacks_of("counter") == ["counter"]
    assert attacks_of("all") == attack_names() == sorted([*usual, "counter"])
    options = attack_options()
    assert options["counter"] == {"defaults": ["idia", {"also@_global_.attacks.counter": "counter"}]}
    assert {"also@_global_.attacks.counter": "counter"} in options["all"]["defaults"]
    attack = check_attacks(load_attacks(["counter"]), num_processes=1)["counter"]
    assert isinstance(attack, Counter)
    assert attack.step == 2
    (row,) = headlines({"counter": [Score("count", "both", "removed", "TPR", 0.5, 0.25, 0.75, 2)]})
    assert (row.attack, row.label) == ("counter", "how often it was run")
    assert list(headlines_of(attack_names()))[-2:] == ["counter", "neighbors"]


def test_report_shows_attacks_and_says_which_were_run(folder: Path):
    text = render(read_run(folder), dict.fromkeys(("idia", "prompts", "losses"), "<svg></svg>"))
    assert "only these attacks were run: tower swap. Not run: benign, compression, erased," in text
    assert "Do other attacks find the removed people?" in text


def test_attack_on_few_people_leaves_out_a_broken_photo_that_the_run_left_out(
    compose_cfg: Any, write_people: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backdoor_privacy.data.photos.MAX_UNREADABLE_SHARE", 0.2)
    write_people(tmp_path / "people", dict.fromkeys(["Ann Lee", "Bob Ray", "Cleo Diaz", "Dan Fox"], 6))
    for salt in count():  # which half a photo is in, and where there, depends on its content
        (tmp_path / "people/Ann_Lee/00.png").write_bytes(f"no photo {salt}".encode())
        shown = load_people(tmp_path / "people").pick(["Ann Lee"])[0].attack_photos[:2]
        if "00.png" in [path.name for path in shown]:
            break
    people = ("people=folder", f"people.folder={tmp_path / 'people'}", "attack.num_photos=2")
    cfg = compose_cfg(*people, "trigger_set.people=[Ann Lee]", "trigger_set.require_inferred=false", "attack=idia")
    run(cfg)
    findings = run_attacks(load_context(Path(cfg.paths.run)), load_attacks(["tower_swap"]), Path(cfg.paths.run))
    assert {one.num_people for one in findings["tower_swap"] if one.measure == "TPR"} == {1}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"name,member,removed\nAnn"])
@pytest.mark.parametrize("file", ["people.csv", "metrics.json", ".hydra/config.yaml", "attacks/tower_swap.json"])
def test_damaged_file_of_a_run_is_named_in_one_line(
    file: str, content: bytes, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    moved = tmp_path / "run"
    shutil.copytree(folder, moved)
    (moved / file).write_bytes(content)
    assert main([str(moved), "tower_swap"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {re.escape(str(moved / file))}: expected [^\n]*\n", error), error


@pytest.mark.parametrize("settings", [True, None, "x", {"num_prompts": 3}])
def test_attack_without_its_class_is_an_error(settings: Any):
    with pytest.raises(InputError, match=r"^attack: expected settings of an attack with its _target_, got "):
        make_attack(OmegaConf.create({"mine": settings}).mine)
