"""Names that leave their folder: refused where they are read and where they are written, links included."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, StateError, UserError
from cl_lightning.common.paths import below, name_fault, part_fault
from cl_lightning.results.report import tables
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence.continuation import Parent, adopt
from cl_lightning.sequence.folder import RunFolder, check_names, read_checked, read_record
from cl_lightning.sequence.loggers import About, Clock, RunLogs
from tests.commands.test_bad_input import SMALL
from tests.commands.test_bad_runs import go_on
from tests.commands.test_cli import configs, launch
from tests.commands.test_user_files import BEGIN, contents
from tests.runs import put_record

LEAVING = (
    "../victim", "/victim", "a/../../victim", "..", ".", "", "a//b", "a/", "./a", "a/./b", "...", "C:\\victim",
    "C:victim", "\\\\server\\share", "a\\b", "..\\victim", "a\x00b", "a\nb", "a\x1b[31mb", "a\x85b", "a\u202eb",
    "a\u2028b", "\udc80", "x" * 256, "ä" * 128,
)  # fmt: skip
STAYING = (
    "a",
    "a/b.csv",
    "a b",
    "..a",
    "a..",
    ".a",
    "20Minuten",
    "テスト",
    "ab:c",
    "[/x]",
    "x" * 255,
    "~",
    "$HOME",
    "*",
    "-rf",
)


@pytest.mark.parametrize("name", LEAVING)
def test_a_name_that_leaves_the_folder_is_refused_on_both_sides(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (root := tmp_path / "root").mkdir()
    with pytest.raises(StateError, match=r"only names below the folder are read or written") as caught:
        below(root, name)
    assert "\n" not in str(caught.value)
    folder = RunFolder(root)
    folder.open("0123456789ab", False, BEGIN)
    with pytest.raises(StateError):
        folder.write(name, b"overwritten")
    folder.close()
    checksum = hashlib.sha256(b"precious").hexdigest()
    with pytest.raises(StateError):
        read_checked(root, {"files": {name: checksum}}, name)
    assert contents(tmp_path)["victim"] == b"precious"


@pytest.mark.parametrize("name", STAYING)
def test_valid_names_stay_below_the_folder(tmp_path: Path, name: str) -> None:
    assert name_fault(name) is None
    assert below(tmp_path, name) == tmp_path / name
    folder = RunFolder(tmp_path)
    folder.open("0123456789ab", False, BEGIN)
    folder.write(name, b"1")
    folder.commit(BEGIN)
    assert folder.read(name) == b"1"
    folder.close()


def test_a_path_part_has_no_slash() -> None:
    assert (part_fault("a/b"), part_fault("a")) == ("has a slash", None)
    assert part_fault("..") and part_fault(3) and part_fault(None)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("what", ["file", "folder", "nothing"])
def test_links_are_not_followed(tmp_path: Path, what: str, inside: bool) -> None:
    (root := tmp_path / "root").mkdir()
    target = (root if inside else tmp_path) / "target"
    if what == "folder":
        target.mkdir()
        (target / "a.csv").write_text("precious")
        (root / "f").symlink_to(target)
    else:
        (root / "f").mkdir()
        if what == "file":
            target.write_text("precious")
        (root / "f" / "a.csv").symlink_to(target)
    before = contents(tmp_path)
    folder = RunFolder(root)
    with pytest.raises(StateError, match="is a link, and links are not followed"):
        folder.write("f/a.csv", b"1")
    with pytest.raises(StateError, match="is a link"):
        read_checked(root, {"files": {"f/a.csv": hashlib.sha256(b"precious").hexdigest()}}, "f/a.csv")
    assert contents(tmp_path) == before


def test_the_run_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    folder = RunFolder(tmp_path / "run")
    folder.open("0123456789ab", False, BEGIN)
    folder.write("a/b.csv", b"1")
    folder.close()
    assert (tmp_path / "disk/a/b.csv").read_bytes() == b"1"


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")  # which would wait for a writer
    with pytest.raises(StateError, match="missing"):
        read_checked(tmp_path, {"files": {"a.csv": "0"}}, "a.csv")


@pytest.mark.parametrize("place", ["logs", "logs/attempt_0", "logs/attempt_0/metrics.csv", "wandb"])
def test_loggers_do_not_write_through_links(tmp_path: Path, place: str) -> None:
    (victim := tmp_path / "victim").mkdir()
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(StateError, match="is a link"):
        RunLogs(Clock()).open(tmp_path / "run", 0, About("x", "x"), "off")


# ---- records -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("paths") / "run"
    assert go_on(run, "--data.order=[FOMC]").code == 0
    return run


def edited(whole: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(whole, to)
    state = read_record(to)
    put_record(to, {**state, **changes})
    return to


@pytest.mark.parametrize("name", ["../victim", "/{tmp}/victim", "a/../../victim", "a\\b", "a\x1bb", ""])
def test_continuing_from_a_record_with_names_outside_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    name = name.format(tmp=str(tmp_path)[1:])
    (tmp_path / "victim").write_text("precious")
    checksum = hashlib.sha256(b"precious").hexdigest()
    parent = edited(whole, tmp_path / "parent", files={**read_record(whole)["files"], name: checksum})
    run = tmp_path / "new" / "run"
    argv = [*SMALL, f"--sequence.run_dir={run}", f"--sequence.continue_from={parent}", "--data.order=[FOMC, Py150]"]
    result = launch(*argv)
    assert result.code == 2
    assert result.line.startswith(f"{parent}/sequence.json: damaged (the file name ")
    assert not run.exists() and (tmp_path / "victim").read_text() == "precious"


def test_continuing_copies_no_links(whole: Path, tmp_path: Path) -> None:
    parent = Path(shutil.copytree(whole, tmp_path / "parent"))
    adapter = parent / "adapters/FOMC/adapter.safetensors"
    shutil.move(adapter, tmp_path / "elsewhere")
    adapter.symlink_to(tmp_path / "elsewhere")
    run = tmp_path / "run"
    argv = [*SMALL, f"--sequence.run_dir={run}", f"--sequence.continue_from={parent}", "--data.order=[FOMC, Py150]"]
    result = launch(*argv)
    assert result.code == 2
    assert result.line.startswith(f"{adapter}: is a link")


def test_adopted_files_are_not_written_outside_the_folder(tmp_path: Path) -> None:
    """The folder refuses such names even in a record that was not checked."""
    (tmp_path / "victim").write_text("precious")
    record = {**BEGIN, "files": {"../victim": hashlib.sha256(b"precious").hexdigest()}}
    folder = RunFolder(tmp_path / "run")
    folder.open("0123456789ab", False, BEGIN)
    with pytest.raises(StateError, match=r"the name '\.\./victim'"):
        adopt(Parent(tmp_path / "parent", record), folder, {}, ["A", "B"], b"")
    folder.close()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"files": ["config.yaml"]}, "files has the wrong type"),
        ({"files": {"config.yaml": 3}}, "files has the wrong type"),
        ({"files": {"config.yaml": None}}, "files has the wrong type"),
        ({"order": "FOMC"}, "order has the wrong type"),
        ({"order": ["../x"]}, r"the task name '../x' has an empty part or one of dots only"),
        ({"order": ["a/b"]}, r"the task name 'a/b' has a slash"),
        ({"order": [3]}, "order has the wrong type"),
        ({"columns": ["a\x1b[2J"]}, "has unprintable characters"),
        ({"columns": {"FOMC": 1}}, "columns has the wrong type"),
        ({"writing": "x"}, "writing has the wrong type"),
        ({"done": 2}, "done is 2, order has 1 tasks"),
        ({"done": -1}, "done is -1"),
        ({"metrics": []}, "metrics has the wrong type"),
    ],
)
def test_malformed_records_are_refused(whole: Path, tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    run = edited(whole, tmp_path / "run", **changes)
    for act in (read_record, tables, lambda run: rescore(run, "own")):
        with pytest.raises(StateError) as caught:
            act(run)
        assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_linked_record_is_refused(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "sequence.json").symlink_to(whole / "sequence.json")
    with pytest.raises(StateError, match="is a link"):
        read_record(tmp_path)
    with pytest.raises(StateError, match="is a link"):
        RunFolder(tmp_path).open("x", True, BEGIN)


# ---- names that come from options --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\nb", "a\x1b[2J", "a\u202eb", "a\\b", "x" * 250])
def test_task_names_that_are_not_file_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.order: ") as caught:
        check_names(["FOMC", name], ["FOMC", name])
    assert "\n" not in str(caught.value)


REFUSED = {
    "an experiment outside": (["--sequence.experiment=../x"], "sequence.experiment: the name '../x' has an empty part"),
    "an absolute experiment": (
        ["--sequence.experiment=/x"],
        "the name '/x' is not a plain relative name",
    ),
    "a slot outside": (
        ["--observers={../x: {class_path: callbacks.ScoreMatrix}}"],
        "name '../x' has an empty part",
    ),
    "a slot with a slash": (
        ["--observers={a/b: {class_path: callbacks.ScoreMatrix}}"],
        "the slot name 'a/b' has a slash",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_with_names_outside_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options, expected = REFUSED[name]
    argv = [arg if not arg.startswith("experiments") else os.path.abspath(arg) for arg in SMALL]
    monkeypatch.chdir(tmp_path)
    result = launch(*argv, "--observers={}", *options)
    assert result.code == 2
    assert expected in result.line
    assert contents(tmp_path) == {}


def test_task_names_of_a_user_benchmark(tmp_path: Path) -> None:
    result = launch(
        *SMALL, f"--sequence.run_dir={tmp_path / 'run'}", f"--data.benchmark={__name__}.Outside", "--data.order=null"
    )
    assert result.code == 2
    assert result.line == (
        "data.order: the task name '../victim' has an empty part or one of dots only, but names a file; rename the task"
    )
    assert contents(tmp_path) == {}


def _outside() -> type:
    from dataclasses import replace

    from cl_lightning.data.benchmarks.trace import TRACE

    class Outside(TRACE):
        """One task under a name that leaves every folder."""

        def tasks(self, root: Path | None) -> dict[str, Any]:
            return {"../victim": replace(super().tasks(root)["FOMC"], name="../victim")}

        def default_order(self, root: Path | None) -> list[str]:
            return ["../victim"]

        def load(self, root: Path | None, name: str) -> Any:
            return super().load(root, "FOMC")

    return Outside


Outside = _outside()
Outside.__qualname__ = "Outside"


def test_errors_are_the_users() -> None:
    assert issubclass(StateError, UserError)


@pytest.mark.parametrize("option", ["sequence.run_dir", "sequence.continue_from", "data.root", "model.backbone.name"])
def test_a_home_that_is_not_known_is_one_line(option: str) -> None:
    result = launch(*configs("smoke"), f"--{option}=~nobody-here/x")
    assert result.code == 2
    assert result.line == f"{option}: ~nobody-here/x: no home folder is known for the ~; write the whole path"
