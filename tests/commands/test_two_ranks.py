"""Shipped experiments on two ranks end where one rank does: in float64, where rounding cannot hide a difference.

The ranks hold the base whole each (DDP), or half of its blocks each.
"""

import re
from pathlib import Path

import pytest

from cl_lightning.model.strategies import SHARDED
from tests.commands.test_cli import TINY, TRAINED, configs
from tests.conftest import ROOT
from tests.launch import launched
from tests.runs import adapters, record, relative

WIDE = ("--model.backbone.dtype=float64", "--trainer.precision=64-true", "--trainer.max_steps=2")
#: One experiment for each method: those of other benchmarks differ in data and rates.
METHODS = {re.sub("^(flip|long_sequence|niseq|superni|trace)_", "", path.stem): path.stem for path in TRAINED}

#: Of these also with a base that the ranks share: one for each way in which a method uses the base.
SHARING = {
    "superni_ewc",
    "superni_lwf",
    "superni_sapt",
    "superni_seqlora",
    "trace_aim_merging",
    "trace_eva",
    "trace_gainlora",
    "trace_inflora",
    "trace_pissa",
    "trace_protected",
    "trace_slao",
    "trace_slice",
    "trace_slice_sketched",
}


def run(experiment: str, folder: Path, ranks: int = 1, strategy: str = "ddp") -> Path:
    rank = "--model.adapter.branches.rank=4" if re.search("gainlora|sapt", experiment) else "--model.adapter.rank=4"
    turn = ["--boundary.merging.turn=1"] if "merging" in experiment else []  # two steps are a turn of each kind
    options = [*configs(experiment), *TINY, *WIDE, rank, *turn, f"--sequence.run_dir={folder}"]
    done = launched(options, ROOT, ranks, strategy)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
@pytest.mark.parametrize("experiment", METHODS.values())
def test_two_ranks_end_where_one_does(experiment: str, tmp_path: Path) -> None:
    one = run(experiment, tmp_path / "one")
    branches = adapters(one)
    for strategy in ("ddp", SHARDED):
        if strategy == SHARDED and experiment not in SHARING:
            continue
        two = run(experiment, tmp_path / strategy, 2, strategy)
        assert record(one)["R"] == record(two)["R"]
        others = adapters(two)
        assert branches.keys() == others.keys() != set()
        assert max(relative(branches[task], others[task]) for task in branches) < 1e-9, strategy
