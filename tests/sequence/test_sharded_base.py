"""Runs whose base two ranks share (trainer.strategy=model_parallel) end where one process does, and are resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.tensor import DTensor

from cl_lightning.common import distributed
from cl_lightning.model.strategies import SHARDED
from cl_lightning.sequence.callback import TaskCallback
from tests.chaos.traces import traces
from tests.runs import adapters, record, relative, smoke

WIDE = ("--model.backbone.dtype=float64", "--trainer.precision=64-true")
#: Test and memory examples, and batches of a boundary, that two ranks cannot share evenly.
RAGGED = (
    "--data.test_samples=5",
    "--data.train_samples=25",
    "--boundary.init.samples=11",
    "--boundary.init.batch_size=4",
)


class Resident(TaskCallback):
    """Writes what each rank holds of the base when a task ends: parameters of blocks, and of all of it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_task_scored(self, run: Any, task: int) -> None:
        base = {n: p for n, p in run.module.llm.named_parameters() if ".lora_" not in n and ".stack_" not in n}
        held = {n: p.to_local().numel() if isinstance(p, DTensor) else p.numel() for n, p in base.items()}
        blocks = [n for n in base if ".layers." in n]
        found = [sum(held[n] for n in blocks), sum(base[n].numel() for n in blocks), sum(held.values())]
        (self.folder / f"{distributed.rank()}-{task}.json").write_text(json.dumps(found))


def test_slice_on_two_halves_ends_where_it_does_on_a_whole_base(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    smoke(one, *WIDE, *RAGGED)
    count = ("--observers.count=tests.sequence.test_sharded_base.Resident", f"--observers.count.folder={tmp_path}")
    smoke(two, *WIDE, *RAGGED, *count, ranks=2, strategy=SHARDED)
    assert record(two)["world_size"] == 2
    assert record(one)["R"] == record(two)["R"]
    branches, others = adapters(one), adapters(two)
    assert branches.keys() == others.keys() == {"FOMC", "NumGLUE-cm"}
    assert max(relative(others[task], branches[task]) for task in branches) < 1e-9
    for file in one.glob("predictions/*.jsonl"):
        assert (two / "predictions" / file.name).read_text() == file.read_text()
    for task in (0, 1):
        (blocks, whole, all_0), (others, _, all_1) = (
            json.loads((tmp_path / f"{rank}-{task}.json").read_text()) for rank in (0, 1)
        )
        assert blocks == others == whole // 2
        assert all_0 == all_1 < 0.65 * (all_0 + whole - blocks), "the tiny model's embedding is whole"


def lost(run: Path, *options: str) -> None:
    """Run on two halves until rank 1 is killed after the third optimiser step, the second of which is saved."""
    die = ("--observers.die=tests.recorder.Die", "--observers.die.rank=1", "--observers.die.step=3")
    once = f"--observers.die.once={run.parent / 'died'}"
    done = smoke(run, *options, *die, once, ranks=2, strategy=SHARDED, check=False)
    assert done.returncode
    assert "another rank has ended" in done.stderr
    assert record(run)["unfinished"]["step"] == 2


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    options = (*WIDE, *RAGGED, "--sequence.save_every=1 step")
    smoke(tmp_path / "whole", *options, ranks=2, strategy=SHARDED)
    run = tmp_path / "run"
    lost(run, *options)
    assert "after step 2" in smoke(run, *options, ranks=2, strategy=SHARDED).stdout
    assert traces(run) == traces(tmp_path / "whole")


@pytest.mark.long
def test_it_goes_on_with_a_whole_base(tmp_path: Path) -> None:
    """The state of a run does not say who held the base."""
    options = (*WIDE, *RAGGED, "--sequence.save_every=1 step")
    smoke(tmp_path / "whole", *options)
    run = tmp_path / "run"
    lost(run, *options)
    assert "after step 2" in smoke(run, *options).stdout
    assert record(run)["R"] == record(tmp_path / "whole")["R"]
    branches, whole = adapters(run), adapters(tmp_path / "whole")
    assert max(relative(branches[task], whole[task]) for task in whole) < 1e-9
