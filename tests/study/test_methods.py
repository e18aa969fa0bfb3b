"""Every method of the study trains a sequence, with the options of its own file."""

from pathlib import Path

import pytest

from cl_lightning.commands.experiments import folder
from cl_lightning.sequence.verify import read_record
from cl_lightning.study.collect import row_of
from cl_lightning.study.grid import read_grid
from cl_lightning.study.runner import run_command
from tests.conftest import ROOT
from tests.launch import launched

GRID = read_grid(folder() / "study")
#: Instead of real data and the pretrained model.
SMALL = (
    "--model.backbone.name=random-llama", "--data.benchmark=TRACE", "--data.order=[FOMC,NumGLUE-cm]",
    "--data.train_samples=16", "--data.test_samples=4", "--data.max_new_tokens=4", "--data.max_prompt_tokens=176",
    "--observers.progress=null",
)  # fmt: skip
#: The others are as quick, but together take a minute.
FIRST = ("slice_gainlora",)


@pytest.mark.parametrize("method", [m if m in FIRST else pytest.param(m, marks=pytest.mark.long) for m in GRID.methods])
def test_it_makes_a_row(method: str, tmp_path: Path) -> None:
    cell = next(cell for cell in GRID.cells() if cell.method == method)
    done = launched([*run_command(cell, tmp_path / "run", None)[3:], *SMALL], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    row = row_of(cell, GRID.differing[method], tmp_path / "run", "m", "c")
    assert read_record(tmp_path / "run")["seed"] == cell.seed
    assert row.tasks == "FOMC NumGLUE-cm"
    assert (row.fired is not None) == (method.startswith("slice"))
    assert (row.gate_old is not None) == ("gainlora" in method)
