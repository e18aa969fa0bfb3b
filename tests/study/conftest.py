"""A small definition of a study, and rows without runs."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cl_lightning.study.grid import Grid, read_grid
from cl_lightning.study.packed import pack_matrix, pack_scores
from cl_lightning.study.rows import Row
from tests.conftest import ROOT

GRID = """development: dev
sequences: [dev, one, two]
seeds: [1, 2]
rates: [1.0e-3, 1.0e-2]
methods: [plain, replay, joint]
baselines: [plain]
references: [joint]
"""
MakeRow = Callable[..., Row]


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    """The folder of a study of two methods and a reference on sequences of tiny runs."""
    folder = tmp_path / "experiments/study"
    for kind in ("methods", "sequences"):
        (folder / kind).mkdir(parents=True)
    shutil.copy(ROOT / "experiments/_base.yaml", folder.parent)
    smoke = (ROOT / "experiments/smoke.yaml").read_text()
    cheap = "\nobservers: {charts: null, progress: null}\n"
    whole = smoke.replace("data:\n", "data:\n  score_by: both\n").partition("boundary:")[0]
    whole = whole.replace("train_samples: 30", "train_samples: 7")
    (folder / "_base.yaml").write_text(f"{whole}{cheap}sequence: {{wandb: 'off', threads: 1, report: false}}\n")
    (folder / "grid.yaml").write_text(GRID)
    for name in ("dev", "one", "two"):
        (folder / f"sequences/{name}.yaml").write_text(f"# Sequence {name}\ndata: {{test_samples: {len(name) + 4}}}\n")
    (folder / "methods/plain.yaml").write_text("# Plain\nboundary: {}\n")
    (folder / "methods/replay.yaml").write_text("# Replay\nboundary: {memory: {class_path: ReplayBuffer}}\n")
    (folder / "methods/joint.yaml").write_text("# Joint\ndata: {protocol: joint}\nboundary: {}\n")
    return folder


@pytest.fixture
def grid(definition: Path) -> Grid:
    return read_grid(definition)


@pytest.fixture
def row(grid: Grid) -> MakeRow:
    """Make a row, of 20 prompts a task: make("plain", "one", R, rate=.., seed=.., **columns)."""

    def make(
        method: str,
        sequence: str,
        R: Sequence[Sequence[float | None]],
        rate: float = 1e-3,
        seed: int = 1,
        **more: object,
    ) -> Row:
        single = [[None if s is None else [100.0 * (i < s / 5) for i in range(20)] for s in scores] for scores in R]
        columns = {
            "sequence": sequence, "method": method, "rate": rate, "seed": seed,
            "definition": grid.definitions[method, sequence], "options": "", "data": "d", "base": "b", "commit": "c",
            "machine": "m", "tasks": " ".join(f"t{j}" for j in range(len(R[-1]))),
            "examples": " ".join(["20"] * len(R[-1])), "R": pack_matrix(R), "constrained": ";" * (len(R) - 1),
            "seconds": 60.0, "cpu_seconds": 50.0, "peak_bytes": 2**20, "stored_bytes": 2**20, "state_bytes": 0,
            "conflict": None, "fired": None, "cosine": None, "overlap": None, "gate_own": None, "gate_old": None,
            "ability_before": None, "ability_after": None, "scores": pack_scores(single),
            "constrained_scores": ";" * (len(R) - 1),
        }  # fmt: skip
        return Row(**{**columns, **more})

    return make
