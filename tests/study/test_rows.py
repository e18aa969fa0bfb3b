"""The file of results: rows come back, are added whole, and are not mixed with those of other definitions or data."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cl_lightning.common.errors import DataError
from cl_lightning.study.estimate import Estimate
from cl_lightning.study.grid import Grid
from cl_lightning.study.rows import add_row, current, read_rows
from tests.study.conftest import MakeRow

R = [[80.0, None], [50.0, 60.0]]


def test_rows_come_back_sorted(tmp_path: Path, row: MakeRow) -> None:
    file = tmp_path / "study/results.csv"
    assert read_rows(file) == []
    rows = [row("replay", "one", R), row("plain", "one", R, fired=12.5), row("plain", "dev", R, seed=2)]
    for each in rows:
        add_row(file, each)
    assert read_rows(file) == rows[::-1]
    assert read_rows(file)[1].matrix == R


def test_rows_added_at_once_are_all_there(tmp_path: Path, row: MakeRow) -> None:
    file = tmp_path / "results.csv"
    rows = [row("plain", "one", R, seed=seed) for seed in range(1, 13)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda each: add_row(file, each), rows))
    assert read_rows(file) == rows
    assert not list(tmp_path.glob(".*-*")), "no scratch file is left"


def test_a_cell_has_one_row(tmp_path: Path, row: MakeRow) -> None:
    file = tmp_path / "results.csv"
    add_row(file, row("plain", "one", R))
    before = file.read_bytes()
    with pytest.raises(DataError, match="has a row of one plain"):
        add_row(file, row("plain", "one", R, commit="other"))
    assert file.read_bytes() == before
    add_row(file, row("plain", "one", R, data="other"))
    assert len(read_rows(file)) == 2, "on other data it is another row"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sequence,", "sequences,", "is no file of results"),
        ("80;50,60", "80;50,60,70", "line 2: damaged ('80;50,60,70' has more than 2 columns)"),
        ("80;50,60", "80;fifty", "line 2: damaged ('80;fifty' is no matrix"),
        (",60.0,50.0,", ",,50.0,", "line 2: damaged (a number is missing)"),
        (",1,", ",one,", "line 2: damaged (invalid literal"),
        ("one,plain", "one", "line 2: 28 cells, expected 29; remove the line"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, row: MakeRow, old: str, new: str, message: str) -> None:
    file = tmp_path / "results.csv"
    add_row(file, row("plain", "one", R))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as found:
        read_rows(file)
    assert message in str(found.value)
    with pytest.raises(DataError):
        add_row(file, row("plain", "two", R))


def test_a_line_that_is_there_twice_is_damage(tmp_path: Path, row: MakeRow) -> None:
    file = tmp_path / "results.csv"
    add_row(file, row("plain", "one", R))
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="line 3: the cell is there twice"):
        read_rows(file)


def test_other_definitions_and_other_data_are_left_out(grid: Grid, row: MakeRow) -> None:
    rows = [row("plain", "one", R), row("replay", "one", R), row("plain", "one", R, seed=2, data="other")]
    rows.append(replace(row("plain", "two", R), definition="old"))
    kept, notes = current(rows, list(grid.cells()))
    assert kept == rows[:2]
    assert notes == [
        "1 row of another definition left out",
        "one: left out, of other data or another base model: plain lr=0.001 seed=2",
    ]


def test_time_is_estimated_from_this_kind_of_machine_only(grid: Grid, row: MakeRow) -> None:
    cells = [cell for cell in grid.cells() if cell.rate == 1e-3 and cell.seed == 1 and cell.method != "joint"]
    rows = [row("plain", "one", R, seconds=100.0), row("plain", "dev", R, seconds=1e6, machine="slow")]
    assert Estimate(rows, "fast").total(cells, 1) == "time unknown: no finished cell on fast"
    assert Estimate(rows, "fast").seconds(cells[0]) is None
    here = Estimate([*rows, row("replay", "one", R, seconds=300.0)], "m")
    of = {(cell.method, cell.sequence): here.seconds(cell) for cell in cells}
    assert of["plain", "one"] == 100
    assert of["replay", "two"] == 300
    assert here.total(cells, 2) == (
        "about 0.2 hours on m, from 2 finished cells (of 2 cells by their own method and sequence, of 4 by others)"
    )
    assert here.total([], 1) == "nothing to run"
