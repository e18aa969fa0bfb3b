"""`cl-lightning dashboard`: what it makes in wandb, and what it says where it cannot."""

from typing import Any

import pytest

from cl_lightning.commands import dashboard
from cl_lightning.common.errors import ConfigError


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were a wandb key."""
    monkeypatch.setattr(dashboard, "_has_key", lambda: True)
    return monkeypatch


def test_without_a_key_the_panels_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.main(["me/mine"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert "no wandb key" in first and "me/mine" in first
    panels = [panel for section in dashboard.definition().values() for panel in section]
    assert len(lines) == len(panels) + len(dashboard.definition())
    assert "  points    The plane of all runs: cl/ap, cl/fp" in lines


@pytest.mark.parametrize("target", ["mine", "me/", "/mine", "a/b/c"])
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="is not ENTITY/PROJECT"):
        dashboard.main([target])


def test_the_package_that_is_missing_is_named(key: pytest.MonkeyPatch) -> None:
    key.setattr("cl_lightning.common.packages.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install wandb-workspaces$"):
        dashboard.main(["me/mine"])


def test_the_workspace_has_every_panel_with_its_keys() -> None:
    model = dashboard.workspace("me", "mine")._to_model()
    sections = model.spec.section.panel_bank_config.sections
    wanted = dashboard.definition()
    assert [section.name for section in sections][: len(wanted)] == [*wanted]
    for section, panels in zip(sections, wanted.values(), strict=False):
        assert len(section.panels) == len(panels)
        for made, panel in zip(section.panels, panels, strict=True):
            text = str(made)
            assert all(key in text or dashboard.pattern(key) in text.replace("\\\\", "\\") for key in panel.keys)


def test_what_wandb_refuses_is_one_line(key: pytest.MonkeyPatch) -> None:
    class Refused:
        def save(self) -> Any:
            raise ValueError("no such\nproject")

    key.setattr(dashboard, "workspace", lambda entity, project: Refused())
    with pytest.raises(ConfigError, match=r"^dashboard: me/mine: wandb made none \(no such project\)$"):
        dashboard.main(["me/mine"])
