"""The committed results: the file is whole, and the committed tables and figures are those that follow from it."""

from cl_lightning.commands.experiments import folder
from cl_lightning.study.grid import read_grid
from cl_lightning.study.report import figures, report
from cl_lightning.study.rows import as_csv, read_rows
from tests.conftest import ROOT

STUDY = ROOT / "study"


def test_the_committed_tables_follow_from_the_committed_results() -> None:
    grid, rows = read_grid(folder() / "study"), read_rows(STUDY / "results.csv")
    assert (STUDY / "results.csv").read_bytes() == as_csv(rows), "sorted, and no byte more"
    cells = list(grid.cells())
    again = "cl-lightning study table --out study writes them again"
    assert (STUDY / "tables.md").read_text() == report(grid, folder() / "study", cells, rows), again
    assert {path.name for path in STUDY.glob("*.svg")} == figures(grid, cells, rows).keys(), again
