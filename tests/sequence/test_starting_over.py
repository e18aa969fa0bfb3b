"""Starting over: the advice never leads to deleting what was saved, and no other run is deleted."""

import copy
import sys
from pathlib import Path

import pytest
import yaml

from cl_lightning.commands.parser import make_cli
from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.sequence import status
from cl_lightning.sequence.continuation import check_apart
from cl_lightning.sequence.folder import RunFolder, read_record
from cl_lightning.sequence.run_files import LOCK
from tests.commands.test_bad_input import SMALL
from tests.commands.test_cli import launch
from tests.commands.test_user_files import BEGIN, contents
from tests.runs import put_record


def begun(path: Path, **record: object) -> RunFolder:
    """Open a run's folder."""
    folder = RunFolder(path)
    folder.open("0123456789ab", False, {**copy.deepcopy(BEGIN), **record})
    return folder


def without_lock(folder: Path) -> dict[str, bytes | str | None]:
    return {name: data for name, data in contents(folder).items() if Path(name).name != LOCK}


def test_after_starting_over_the_advice_is_to_resume_without_fresh() -> None:
    order = ["a", "b", "c"]
    afresh = "run the same command again without FRESH=1 (sequence.fresh=true) to"
    messages = [status.saved(Path("x"), done, order, fresh=True) for done in range(4)]
    assert messages == [
        "none of 3 tasks was finished; run the same command again to begin",
        f"task 1 of 3 is saved in x; {afresh} continue from there",
        f"tasks 1 to 2 of 3 are saved in x; {afresh} continue from there",
        f"tasks 1 to 3 of 3 are saved in x; {afresh} see the result",
    ]
    assert status.resume_advice(False) == "run the same command again"


def test_starting_over_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cl-lightning", *SMALL, "--sequence.fresh=true", "--sequence.run_dir=x"])
    cli = make_cli()
    stored = yaml.safe_load(cli.resolved())["sequence"]
    assert (stored["fresh"], stored["run_dir"]) == (False, "x")
    assert cli.config_init.sequence.fresh is True, "the control: this command itself does"


@pytest.mark.parametrize(
    ("parent", "folder"),
    [("a", "a"), ("a", "./b/../a"), ("link", "a"), ("a", "link"), ("a", "a/b"), ("a/b", "a"), ("a/b", "link")],
)
def test_a_run_cannot_continue_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str, folder: str
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^sequence\.continue_from: .* are the same, or one contains the other; "):
        check_apart(parent, Path(folder))
    check_apart(parent, Path("ab"))
    check_apart(None, Path(folder))


def test_continuing_from_the_folder_that_is_started_over_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    before = without_lock(tmp_path)
    at = (f"--sequence.run_dir={tmp_path}/run", f"--sequence.continue_from={tmp_path}/x/../run")
    result = launch(*SMALL, *at, "--sequence.fresh=true", "--data.order+=Sentiment")
    assert result.code == 2
    assert result.line.startswith("sequence.continue_from: ")
    assert without_lock(tmp_path) == before


@pytest.mark.parametrize("key", ["files", "writing"])
def test_another_run_with_no_task_done_is_refused_unchanged(tmp_path: Path, key: str) -> None:
    begun(tmp_path).close()
    (tmp_path / "thesis.tex").write_text("precious")
    claim = {"files": {"thesis.tex": "0" * 64}, "writing": ["thesis.tex"]}[key]
    put_record(tmp_path, {**read_record(tmp_path), key: claim})
    before = without_lock(tmp_path)
    with pytest.raises(StateError, match=r"another configuration, data or model; choose another RUN_DIR="):
        RunFolder(tmp_path).open("another", False, {**BEGIN, "identity": "another"})
    assert without_lock(tmp_path) == before


def test_a_run_does_not_overwrite_other_files(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    (tmp_path / "notes.md").write_text("precious")
    with pytest.raises(StateError, match=r"notes\.md: exists, but is not a file of the run; move it away"):
        folder.write("notes.md", b"1")
    assert (tmp_path / "notes.md").read_text() == "precious"
    assert "notes.md" not in read_record(tmp_path)["writing"], "or the next start deletes it"
    for text in (b"1", b"2"):
        folder.write("own.md", text)
    folder.commit({**BEGIN})
    folder.write("own.md", b"3")
    folder.close()
    assert (tmp_path / "own.md").read_bytes() == b"3"
