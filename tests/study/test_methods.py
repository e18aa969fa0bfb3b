"""Every method of the study trains a sequence, with the options of its own file."""

import json
from pathlib import Path

import pytest

from cl_lightning.commands.experiments import folder
from cl_lightning.sequence.verify import read_record
from cl_lightning.study.collect import row_of
from cl_lightning.study.grid import read_grid
from cl_lightning.study.runner import ability_options, run_command
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


@pytest.mark.long
def test_general_ability_is_measured_before_and_after(tmp_path: Path) -> None:
    """Over 5 s: it imports lm-eval."""
    cell = next(GRID.cells())
    rows = [{"goal": f"open box {i}", "sol1": "lift the lid", "sol2": "sing", "label": i % 2} for i in range(24)]
    (tmp_path / "piqa_val.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = [*ability_options(folder() / "study"), f"--observers.general.data_dir={tmp_path}"]
    made = {}
    for name, more in (("with", options), ("without", [])):
        done = launched([*run_command(cell, tmp_path / name, None, more)[3:], *SMALL], ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        made[name] = row_of(cell, {}, tmp_path / name, "m", "c")
    assert 0 <= made["with"].ability_before <= 100
    assert 0 <= made["with"].ability_after <= 100
    assert made["without"].ability_before is None
    assert made["with"].R == made["without"].R, "it changes no score"
