import json
from typing import Any

import pytest

from backdoor_privacy import dashboard

pytest.importorskip("wandb_workspaces")


def strings_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return strings_in(list(value.values()))
    if isinstance(value, list):
        return set().union(*map(strings_in, value)) if value else set()
    return {value} if isinstance(value, str) else set()


def test_panels_show_what_runs_log():
    made = dashboard.workspace("someone", "backdoor_privacy")
    titles = [panel.title for section in made.sections for panel in section.panels]
    assert len(titles) == len(set(titles)) == 4 * 3 + 3 + 2 * 3
    shown = strings_in(json.loads(made._to_model().model_dump_json()))
    for model in ("text", "image", "both"):
        for measure in ("idia/tpr_removed", "idia/tpr_kept", "idia/fpr", "zero_shot/top1"):
            assert any(f"after_{model}/{measure}" in each for each in shown)
    for encoder in ("text", "image"):
        assert any(f"{encoder}/backdoor_loss" in each for each in shown)


def test_seeds_of_one_number_of_people_and_one_defence_are_together():
    made = dashboard.workspace("someone", "backdoor_privacy")
    (runs,) = json.loads(made._to_model().model_dump_json())["spec"]["section"]["run_sets"]
    people = {"section": "summary", "name": "before/idia/num_tpr_removed"}
    keys = ("name.value", "setting.value")
    assert runs["grouping"] == [people, *({"section": "config", "name": key} for key in keys)]
    assert runs["sort"]["keys"][0]["key"] == people
    bars, coordinates, losses = (section.panels for section in made.sections)
    for panel in (*bars, *losses):
        assert (panel.groupby, panel.aggregate) == (None, True)  # the groups are those of the runs
        assert (panel.groupby_aggfunc, panel.groupby_rangefunc) == ("mean", "minmax")
    assert all(panel.columns[0].metric.name == people["name"] for panel in coordinates)


@pytest.mark.parametrize("asked", ["project", "/project", "entity/"])
def test_a_project_has_an_entity(asked: str, capsys: pytest.CaptureFixture[str]):
    assert dashboard.main([asked]) == 1
    assert capsys.readouterr().err.startswith(
        f"error: dashboard: expected <entity>/<project>, got {asked}; the address "
    )


def test_without_an_account_the_error_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Any) -> None:
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    assert dashboard.main(["someone/project"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "wandb login" in message
    assert "no API key configured" in message
