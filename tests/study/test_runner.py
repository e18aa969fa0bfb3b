"""Running cells: rows of finished ones, a second attempt, a report of failures, and the limit of time."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cl_lightning.commands import study
from cl_lightning.common.errors import ConfigError, StateError, TrainingError
from cl_lightning.common.jobs import Here
from cl_lightning.sequence.verify import read_record
from cl_lightning.study.collect import row_of
from cl_lightning.study.grid import Cell, Grid, read_grid
from cl_lightning.study.rows import Row, read_rows
from cl_lightning.study.runner import Sitting, run_command
from tests.conftest import ROOT
from tests.launch import launched
from tests.study.conftest import MakeRow

COPY = "import shutil, sys; shutil.copytree(*sys.argv[1:])"


def first(grid: Grid, method: str = "plain") -> Cell:
    return next(cell for cell in grid.cells() if cell.method == method)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of a cell of each method, made by the command that the study runs."""
    from tests.study import conftest

    folder = tmp_path_factory.mktemp("study")
    grid = read_grid(conftest.definition.__wrapped__(folder))
    made = {}
    for method in grid.methods:
        run = folder / method
        done = launched(run_command(first(grid, method), run, None)[3:], ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        made[method] = run
    return made


class Commands:
    """Commands that copy finished run folders, or fail. `fails`: how often a method fails first."""

    def __init__(self, finished: dict[str, Path], **fails: int) -> None:
        self.finished, self.fails, self.called = finished, fails, []

    def __call__(self, cell: Cell, run: Path) -> Sequence[str]:
        self.called.append(cell.method)
        if self.called.count(cell.method) <= self.fails.get(cell.method, 0):
            return [sys.executable, "-c", "print('began'); raise SystemExit('error: no luck')"]
        return [sys.executable, "-c", COPY, str(self.finished[cell.method]), str(run)]


def sitting(grid: Grid, folder: Path, command: Commands, **more: object) -> Sitting:
    return Sitting(grid, folder / "results.csv", folder / "runs", "m", "c", command, Here(), **more)


def test_a_row_holds_what_the_run_found(finished: dict[str, Path], grid: Grid) -> None:
    for method, run in finished.items():
        record, cell = read_record(run), first(grid, method)
        row = row_of(cell, grid.differing[method], run, "m", "c", 12.34)
        assert row.key == cell.key
        assert row.matrix == [[pytest.approx(s, abs=1e-4) if s is not None else None for s in r] for r in record["R"]]
        assert row.cpu_seconds == 12.3
        means = [[each and sum(each) / len(each) for each in scores] for scores in row.single]
        assert means == [[pytest.approx(s, abs=0.2) if s is not None else None for s in r] for r in record["R"]]
        further = record["metrics"]["further"][record["order"][-1]]["FOMC"]["constrained"]["score"]
        at = record["columns"].index("FOMC")
        assert row.constrained_matrix[-1][at] == pytest.approx(further, abs=1e-4)
        other = 1 - at
        assert row.constrained_matrix[-1][other] == row.matrix[-1][other], "no labels: its generated answers"
    assert row_of(first(grid, "replay"), {}, finished["replay"], "m", "c").state_bytes > 100
    assert row_of(first(grid, "plain"), {}, finished["plain"], "m", "c").state_bytes == 0


def test_an_unfinished_run_makes_no_row(finished: dict[str, Path], grid: Grid, tmp_path: Path) -> None:
    shutil.copytree(finished["plain"], tmp_path / "run")
    (tmp_path / "run/previous.json").replace(tmp_path / "run/sequence.json")
    with pytest.raises(StateError, match="1 of 2 tasks are done"):
        row_of(first(grid), {}, tmp_path / "run", "m", "c")


def test_finished_cells_are_rows_and_their_folders_go(finished: dict[str, Path], grid: Grid, tmp_path: Path) -> None:
    cells = [first(grid, method) for method in grid.methods]
    done = sitting(grid, tmp_path, Commands(finished))
    done.run(cells, [], processes=2)
    rows = read_rows(tmp_path / "results.csv")
    assert {row.key for row in rows} == {cell.key for cell in cells}
    assert all(row.cpu_seconds is not None for row in rows)
    assert (done.done, done.failed, done.late) == (3, {}, 0)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_folders_are_kept_if_asked(finished: dict[str, Path], grid: Grid, tmp_path: Path) -> None:
    sitting(grid, tmp_path, Commands(finished), keep=True).run([first(grid)], [], 1)
    assert (tmp_path / "runs" / first(grid).name / "sequence.json").is_file()


def test_a_failed_cell_is_tried_once_more_and_others_go_on(
    finished: dict[str, Path], grid: Grid, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = Commands(finished, plain=1, replay=2)
    done = sitting(grid, tmp_path, command)
    done.run([first(grid, method) for method in grid.methods], [], 1)
    assert command.called == ["plain", "plain", "replay", "replay", "joint"]
    assert [row.method for row in read_rows(tmp_path / "results.csv")] == ["joint", "plain"]
    assert [cell.method for cell in done.failed] == ["replay"]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("failed: exit code 1: error: no luck" in line for line in lines)


def test_no_cell_begins_that_would_end_too_late(
    finished: dict[str, Path], grid: Grid, tmp_path: Path, row: MakeRow
) -> None:
    import time

    slow: list[Row] = [row("plain", "dev", [[50.0]], seconds=1e6)]
    for deadline, count in ((time.monotonic() + 60, 0), (time.monotonic() + 2e6, 1), (time.monotonic() - 1, 0)):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        (tmp_path / "results.csv").unlink(missing_ok=True)
        done = sitting(grid, tmp_path, Commands(finished), deadline=deadline)
        done.run([first(grid)], slow, 1)
        assert (done.done, done.late) == (count, 1 - count)


def test_the_command_runs_what_is_left(
    finished: dict[str, Path],
    definition: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = Commands(finished, replay=9)
    monkeypatch.setattr(study, "run_command", lambda cell, run, data, more: command(cell, run))
    monkeypatch.setattr(study, "machine_kind", lambda: "m")
    monkeypatch.setattr("cl_lightning.common.jobs.machine_kind", lambda: "m")
    files = [
        f"--data={tmp_path}",
        f"--definition={definition}",
        f"--results={tmp_path / 'r.csv'}",
        f"--runs={tmp_path / 'runs'}",
    ]
    few = ["--sequences", "dev", "--seeds", "1", "--rates", "0.01"]
    study.main(["run", *files, *few, "--methods", "plain", "--dry-run"])
    assert capsys.readouterr().out.splitlines() == [
        "study: 1 cells, 0 finished, 1 left",
        "  time     time unknown: no finished cell on m",
        "dev plain lr=0.01 seed=1",
    ]
    assert not command.called
    study.main(["run", *files, *few, "--methods", "plain"])
    assert command.called == ["plain"]
    with pytest.raises(TrainingError, match="failed twice: dev replay"):
        study.main(["run", *files, *few])
    assert command.called == ["plain", "replay", "replay", "joint"], "finished cells are skipped"
    capsys.readouterr()
    study.main(["status", *files, *few])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("2 of 3 cells are finished; about 0.0 hours on m, from 2 finished cells")
    assert out[1] == "  dev: 2 of 3: plain 1, joint 1"
    study.main(["status", *files, "--chosen", "--seeds", "1", "--methods", "plain"])
    assert capsys.readouterr().out.startswith("1 of 2 cells"), "nothing on other sequences before all rates were tried"
    study.main(["table", *files, f"--out={tmp_path / 'out'}"])
    assert capsys.readouterr().out == (tmp_path / "out/tables.md").read_text()
    assert (tmp_path / "out/plane_dev.svg").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "plan"], "--methods: the grid has no 'plan'; did you mean plain"),
        (["--seeds", "7"], "--seeds: the grid has no 7; valid: 1, 2"),
        (["--rates", "0.5"], "--rates: the grid has no 0.5"),
        (["--max-hours", "0"], "0 must be a number above 0"),
        (["--data", "nowhere"], "--data: nowhere is not a folder"),
        ([], "--data: the study compares methods on real data"),
    ],
)
def test_bad_options_are_one_line(definition: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        study.main(["run", f"--definition={definition}", f"--results={tmp_path / 'r.csv'}", *options])
    assert message in str(found.value)
    assert not (tmp_path / "r.csv").exists()
