"""Where the home folder cannot be written to, wandb writes into the run folder."""

import os
from pathlib import Path

import pytest

from cl_lightning.sequence.wandb_folders import USUAL, choose_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (*USUAL, "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        # Set first, so that what the test sets is taken back.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_home_that_cannot_be_written_to_is_replaced_by_the_run_folder(home: Path, tmp_path: Path) -> None:
    home.write_text("a file")
    os.environ["WANDB_CACHE_DIR"] = "/mine"
    choose_folders(tmp_path / "run" / "wandb")
    assert os.environ["WANDB_CACHE_DIR"] == "/mine"
    assert {os.environ["WANDB_DATA_DIR"], os.environ["WANDB_CONFIG_DIR"]} == {str(tmp_path / "run" / "wandb")}


def test_the_control_a_usual_home_is_used(home: Path, tmp_path: Path) -> None:
    choose_folders(tmp_path / "run" / "wandb")
    assert not any(variable in os.environ for variable in USUAL)
