"""Files that are not ours: a folder is a run's by its record alone; nothing is deleted that no record accounts for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.commands.compare import render
from cl_lightning.common.errors import StateError, UserError
from cl_lightning.results.report import tables
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence.folder import RunFolder, read_record
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.run_files import LOCK, PREVIOUS, RECORD, SCRATCH, split_files
from tests.commands.test_bad_input import SMALL
from tests.commands.test_bad_runs import go_on, intact
from tests.commands.test_cli import Result, launch
from tests.runs import put_record

BEGIN = {
    "unfinished": None,
    "identity": "0123456789ab", "order": ["A", "B"], "done": 0, "R": [], "zero_shot": None, "clock": {}, "attempts": 0,
    "metrics": {
        "metric_of_task": dict.fromkeys("AB", "accuracy"), "by_likelihood": [], "trained": [], "intervals": {},
        "majority": None, "copy_prompt": None, "baseline_intervals": {}, "further": {}, "budgets": {},
    },
    "columns": ["A", "B"], "protocol": "sequential", "tables": {}, "experiment": "x", "data": "x", "benchmark": "x",
    "base": "x", "seed": 0, "fingerprints": dict.fromkeys("AB", "x"), "sources": dict.fromkeys("AB", "x"),
    "adapter": {}, "template": {}, "continues": None, "versions": {},
}  # fmt: skip
#: What people keep, the first of which look like temporary files of some program.
PRECIOUS = (
    ".git-credentials", ".pre-commit-config.yaml", "a/.b-c", "config.yaml", "matrix.csv", "thesis.tex", ".lock",
    ".sequence.json-x1y2", "adapters/mine.bin", "logs/attempt_0/metrics.csv", "deep/er/.env-local",
)  # fmt: skip


def fill(folder: Path, names: tuple[str, ...] = PRECIOUS) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"precious {name}")


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Everything in a folder: files with their bytes, links with their targets, folders."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a wandb log and two views, one of them of the other."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = go_on(run, "--sequence.wandb=offline", "--data.order=[FOMC]")
    assert result.code == 0, result.err
    rescore(rescore(run, "own"), "own")
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def afresh(run: Path) -> RunFolder:
    folder = RunFolder(run)
    folder.open("another", fresh=True, begin={**BEGIN, "identity": "another"})
    folder.close()
    return folder


# ---- a folder that is no run's -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRECIOUS)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_files_and_no_record_is_refused_untouched(tmp_path: Path, name: str, fresh: bool) -> None:
    fill(tmp_path, (name,))
    before = contents(tmp_path)
    with pytest.raises(StateError, match=r"holds files but no run \(.*\); nothing was touched\. .*RUN_DIR="):
        RunFolder(tmp_path).open("x", fresh, BEGIN)
    assert contents(tmp_path) == before


def test_the_command_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    fill(tmp_path)
    before = contents(tmp_path)
    for options in ((), ("--sequence.fresh=true",)):
        result = launch(*SMALL, f"--sequence.run_dir={tmp_path}", "--model.backbone.config={hidden_size: 1}", *options)
        assert result.code == 2
        assert result.line == (
            f"{tmp_path}: holds files but no run (.git-credentials, .lock, .pre-commit-config.yaml and 8 more); "
            "nothing was touched. Choose an empty or a new folder (RUN_DIR=), or move them away"
        )
    assert contents(tmp_path) == before


def test_an_empty_folder_and_one_with_our_scratch_files_alone_are_taken(tmp_path: Path) -> None:
    for name in (LOCK, SCRATCH):
        (tmp_path / name).write_text("")
    folder = RunFolder(tmp_path)
    folder.open("0123456789ab", False, BEGIN)
    assert read_record(tmp_path)["done"] == 0
    folder.close()
    assert {p.name for p in tmp_path.iterdir()} <= {LOCK, RECORD}


def test_a_link_where_we_write_is_neither_followed_nor_taken(tmp_path: Path) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    (run := tmp_path / "run").mkdir()
    (run / SCRATCH).symlink_to(victim)
    folder = RunFolder(run)
    folder.open("0123456789ab", False, BEGIN)
    folder.write("a.csv", b"1")
    folder.close()
    assert (victim.read_text(), (run / "a.csv").read_bytes()) == ("precious", b"1")
    (other := tmp_path / "other").mkdir()
    (other / LOCK).symlink_to(victim)
    with pytest.raises(StateError, match="is a link"):
        RunFolder(other).open("0123456789ab", False, BEGIN)
    assert victim.read_text() == "precious"


# ---- the record comes first --------------------------------------------------------------------------------


class Killed(BaseException):
    """As far as the program got."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the program at its `step`-th renaming of a scratch file: just before it, or just after it for a negative."""
    real, left = os.replace, [abs(step)]

    def replace(*names: Any) -> None:
        left[0] -= 1
        if left[0] == 0 and step > 0:
            raise Killed
        real(*names)
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("step", [*range(1, 14), *range(-13, 0)])
def test_killed_at_any_moment_the_record_accounts_for_all_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, R = RunFolder(tmp_path / "run"), []

    def work() -> None:
        folder.open("0123456789ab", False, BEGIN)
        for task in ("A", "B"):
            folder.write(f"predictions/{task}_A.jsonl", b"1")
            folder.write(f"adapters/{task}/adapter.safetensors", task.encode())
            R.append([1.0, None] if task == "A" else [1.0, 1.0])
            folder.commit({**BEGIN, "done": len(R), "R": R})
            folder.export({"matrix.csv": b""})

    with monkeypatch.context() as patched:
        killed_at(step, patched)
        with pytest.raises(Killed):
            work()
            raise Killed  # it had fewer steps
    folder.close()
    there = set(os.listdir(tmp_path / "run"))
    if RECORD not in there:
        assert there <= {LOCK, SCRATCH}
        return
    state = read_record(tmp_path / "run")
    assert len(state["R"]) == state["done"], "what was done since is not told before it is whole"
    assert split_files(tmp_path / "run", state, lambda _: None)[1] == []
    assert intact(tmp_path / "run")
    again = RunFolder(tmp_path / "run")
    again.open("0123456789ab", False, BEGIN)
    again.close()
    files = {n for n, data in contents(tmp_path / "run").items() if data is not None}
    assert files - {LOCK, PREVIOUS, "matrix.csv"} == {RECORD, *again.files}, "what was begun is gone"
    afresh(tmp_path / "run")
    assert set(os.listdir(tmp_path / "run")) <= {RECORD, LOCK}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its first task."""
    run = tmp_path_factory.mktemp("begun") / "run"
    result = go_on(run, "--model.lr=1e30")
    assert result.code == 1
    return run


def test_what_reads_runs_reads_one_with_nothing_done(begun: Path, tmp_path: Path) -> None:
    assert read_record(begun)["done"] == 0
    (table,) = tables(begun)
    assert "0 of 2 tasks done" in str(table.title)
    assert load_run(begun).matrix == load_run(begun, 0).matrix == []
    with pytest.raises(StateError, match=r"no finished run to compare; left out: .*, 0 of 2 tasks done"):
        render([str(begun)])
    with pytest.raises(StateError, match="holds no predictions to score"):
        rescore(begun, "own")
    result = launch(*SMALL, f"--sequence.run_dir={tmp_path / 'new'}", f"--sequence.continue_from={begun}")
    assert re_line(result) == f"sequence.continue_from: {begun} has 0 of 2 tasks done; finish it first"
    assert not (tmp_path / "new").exists()


def re_line(result: Result) -> str:
    assert result.code == 2
    return result.line


def test_a_run_stopped_before_its_configuration_was_kept(tmp_path: Path, begun: Path) -> None:
    state = {**read_record(begun), "files": {}, "writing": []}
    put_record(tmp_path, state)
    assert "0 of 2 tasks done" in str(tables(tmp_path)[0].title)
    for act in (lambda: load_run(tmp_path), lambda: rescore(tmp_path, "own")):
        with pytest.raises(StateError, match="was stopped before it began; run its command again"):
            act()
    folder = RunFolder(tmp_path)
    folder.open(state["identity"], False, BEGIN)
    folder.close()
    assert folder.files == {}


# ---- starting over -----------------------------------------------------------------------------------------


def test_starting_over_deletes_the_run_its_logs_and_its_views(run: Path) -> None:
    assert (run / "wandb").is_dir() and (run / "rescored/own/rescored/own" / RECORD).exists()
    afresh(run)
    assert {n for n, data in contents(run).items() if data is not None} <= {RECORD, LOCK}
    assert {p.name for p in run.iterdir() if p.is_dir()} <= {"wandb"}, "wandb leaves an empty folder"


def link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/hostname")


OTHERS: dict[str, Callable[[Path], object]] = {
    "notes.txt": lambda p: p.write_text("mine"),
    ".gitignore": lambda p: p.write_text("mine"),
    ".sequence.json-abc12345": lambda p: p.write_text("mine"),
    "predictions/notes.txt": lambda p: p.write_text("mine"),
    "adapters/FOMC/merged.bin": lambda p: p.write_text("mine"),
    "logs/notes.txt": lambda p: p.write_text("mine"),
    "logs/attempt_0/notes.txt": lambda p: p.write_text("mine"),
    "logs/attempt_7/metrics.csv": lambda p: p.write_text("mine"),
    "wandb/sweep.yaml": lambda p: p.write_text("mine"),
    "wandb/offline-run-20260101_000000-abcdefabcdef/files/a": lambda p: p.write_text("mine"),
    "rescored/own/notes.txt": lambda p: p.write_text("mine"),
    "rescored/f1/matrix.csv": lambda p: p.write_text("mine"),
    "evaluated/adapters.bin": lambda p: p.write_text("mine"),
    "surgery/table.tex": lambda p: p.write_text("mine"),
    "adapters/FOMC/adapter.safetensors": link,
    "elsewhere": link,
    "predictions/more": link,
}


@pytest.mark.parametrize("name", OTHERS)
def test_starting_over_deletes_nothing_where_the_folder_holds_more(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    OTHERS[name](run / name)
    before = {n: data for n, data in contents(run).items() if n != LOCK}
    with pytest.raises(StateError) as error:
        afresh(run)
    assert str(error.value) == (
        f"{run}: holds files that are not the run's ({name}); nothing was deleted. Move them away, then start over"
    )
    assert {n: data for n, data in contents(run).items() if n != LOCK} == before
    (run / name).unlink()
    afresh(run)  # and so it can be done
    assert read_record(run)["done"] == 0


def test_more_than_three_are_counted(run: Path) -> None:
    fill(run, tuple("abcde"))
    with pytest.raises(StateError, match=r"\(a, b, c and 2 more\)"):
        afresh(run)


def test_a_folder_behind_a_link_is_not_emptied(run: Path, tmp_path: Path) -> None:
    shutil.move(run / "predictions", tmp_path / "predictions")
    (run / "predictions").symlink_to(tmp_path / "predictions")
    before = contents(tmp_path / "predictions")
    with pytest.raises(StateError, match=r"not the run's \(predictions\)"):
        afresh(run)
    assert contents(tmp_path / "predictions") == before


def test_a_damaged_record_accounts_for_nothing(run: Path) -> None:
    file = run / RECORD
    file.write_bytes(file.read_bytes()[:-9])
    before = {n: data for n, data in contents(run).items() if n != LOCK}
    with pytest.raises(StateError) as error:
        afresh(run)
    assert str(error.value) == (
        f"{file}: damaged; restore it, or move the folder away and run again. FRESH=1 deletes nothing here, since "
        "the run's files are not known"
    )
    assert {n: data for n, data in contents(run).items() if n != LOCK} == before


@pytest.mark.parametrize("victim", ["../victim", "/{tmp}/victim", "a/../../victim", "..", "."])
@pytest.mark.parametrize("key", ["files", "writing"])
def test_a_record_that_names_what_lies_outside_is_damaged(run: Path, tmp_path: Path, victim: str, key: str) -> None:
    victim = victim.format(tmp=str(tmp_path)[1:])
    (tmp_path / "victim").write_text("precious")
    state = read_record(run)
    state[key] = {**state["files"], victim: "0" * 64} if key == "files" else [victim]
    put_record(run, state)
    for fresh in (False, True):
        with pytest.raises(StateError, match="damaged"):
            RunFolder(run).open(state["identity"], fresh, BEGIN)
    assert (tmp_path / "victim").read_text() == "precious"


def test_killed_while_starting_over_it_is_not_a_whole_run_and_the_rest_goes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Path.unlink, [4]

    def unlink(path: Path, missing_ok: bool = False) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            afresh(run)
    assert read_record(run)["done"] == 0
    assert (run / "rescored/own" / RECORD).exists(), "or nothing was left to delete"
    folder = RunFolder(run)
    folder.open("another", False, BEGIN)
    folder.close()
    assert {n for n, data in contents(run).items() if data is not None} <= {RECORD, LOCK}


# ---- views -------------------------------------------------------------------------------------------------


def test_a_view_replaces_a_view_and_nothing_else(run: Path) -> None:
    rescore(run, "own")
    (run / "rescored/own/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"rescored/own: holds files that are not the run's \(notes\.txt\)"):
        rescore(run, "own")
    (run / "rescored/f1").mkdir()
    (run / "rescored/f1/mine.csv").write_text("mine")
    with pytest.raises(UserError, match=r"rescored/f1: holds files but no run \(mine\.csv\)"):
        rescore(run, "f1")
    assert (run / "rescored/own/notes.txt").read_text() == (run / "rescored/f1/mine.csv").read_text() == "mine"


def test_a_view_half_written_is_not_a_finished_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        killed_at(5, patched)
        with pytest.raises(Killed):
            rescore(run, "f1")
    assert read_record(run / "rescored/f1")["done"] == 0
    rescore(run, "f1")
    assert read_record(run / "rescored/f1")["done"] == 1


def test_a_view_is_not_written_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    shutil.rmtree(run / "rescored")
    (run / "rescored").symlink_to(tmp_path / "victim")
    with pytest.raises(StateError, match="rescored: is a link"):
        rescore(run, "own")
    assert contents(tmp_path / "victim") == {}
