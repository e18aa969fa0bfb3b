"""Shipped experiments on two ranks end where one rank does: in float64, where rounding cannot hide a difference."""

import re
from pathlib import Path

import pytest

from tests.commands.test_cli import TINY, TRAINED, configs
from tests.conftest import ROOT
from tests.launch import launched
from tests.runs import adapters, record, relative

WIDE = ("--model.backbone.dtype=float64", "--trainer.precision=64-true", "--trainer.max_steps=2")
#: One experiment for each method: those of other benchmarks differ in data and rates.
METHODS = {re.sub("^(flip|long_sequence|niseq|superni|trace)_", "", path.stem): path.stem for path in TRAINED}


def run(experiment: str, folder: Path, ranks: int) -> Path:
    rank = "--model.adapter.branches.rank=4" if re.search("gainlora|sapt", experiment) else "--model.adapter.rank=4"
    done = launched([*configs(experiment), *TINY, *WIDE, rank, f"--sequence.run_dir={folder}"], ROOT, ranks)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
@pytest.mark.parametrize("experiment", METHODS.values())
def test_two_ranks_end_where_one_does(experiment: str, tmp_path: Path) -> None:
    one, two = (run(experiment, tmp_path / str(ranks), ranks) for ranks in (1, 2))
    assert record(one)["R"] == record(two)["R"]
    branches, others = adapters(one), adapters(two)
    assert branches.keys() == others.keys() != set()
    assert max(relative(branches[task], others[task]) for task in branches) < 1e-9
