"""Every method goes on inside a task to the same end: what it keeps for its training is saved, or made again."""

from pathlib import Path

import pytest

from tests.chaos.doomed import events_of, killed_at
from tests.chaos.traces import traces
from tests.commands.test_cli import TINY, configs
from tests.conftest import ROOT
from tests.launch import launched

METHODS = (
    "superni_ewc", "superni_gainlora_inflora", "superni_inflora", "superni_lwf", "superni_migu", "superni_olora",
    "superni_sapt", "trace_corda", "trace_lora_sb", "trace_protected", "trace_slao", "trace_slice_4bit",
    "trace_slice_warm",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("experiment", METHODS)
def test_a_method_goes_on_inside_a_task(experiment: str, tmp_path: Path) -> None:
    gated = any(name in experiment for name in ("gainlora", "sapt"))
    rank = "--model.adapter.branches.rank=4" if gated else "--model.adapter.rank=4"
    options = (*configs(experiment), *TINY, rank, "--data.batch_size=4", "--sequence.save_every=1 step")
    events, run = events_of(tmp_path / "whole", *options, base=()), tmp_path / "run"
    last = [k for k, event in enumerate(events, start=1) if event == "after optimiser step"][-1]
    killed_at(run, last - 1, *options, base=())  # before the last step of the last task
    done = launched([*options, f"--sequence.run_dir={run}"], ROOT)
    assert "after step 3" in done.stdout, done.stderr
    assert traces(run) == traces(tmp_path / "whole")
