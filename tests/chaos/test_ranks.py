"""Several ranks: one is killed, the others end; the run goes on, with as many ranks or another number."""

import time
from pathlib import Path

import pytest

from tests.chaos.traces import traces
from tests.runs import adapters, record, relative, smoke

OPTIONS = ("--sequence.save_every=1 step", "--sequence.wandb=off", "--data.train_samples=21")


def lost(run: Path, step: int, rank: int = 1) -> None:
    """Run with two ranks until one is killed."""
    once = run.parent / "died"
    die = [f"--observers.die.rank={rank}", f"--observers.die.step={step}", f"--observers.die.once={once}"]
    begun = time.monotonic()
    done = smoke(run, *OPTIONS, "--observers.die=tests.recorder.Die", *die, ranks=2, check=False)
    assert time.monotonic() - begun < 60
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("task ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith(
        f"error: another rank has ended, so rank {1 - rank} cannot go on; what was saved is kept"
    )


@pytest.mark.long
def test_a_lost_rank_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    smoke(tmp_path / "whole", *OPTIONS, ranks=2)
    run = tmp_path / "run"
    lost(run, step=3)
    assert record(run)["unfinished"]["step"] == 2
    assert "after step 2" in smoke(run, *OPTIONS, ranks=2).stdout
    assert traces(run) == traces(tmp_path / "whole")


@pytest.mark.long
def test_where_rank_0_is_lost_the_others_say_so(tmp_path: Path) -> None:
    lost(tmp_path / "run", step=3, rank=0)


@pytest.mark.long
def test_it_goes_on_with_one_rank(tmp_path: Path) -> None:
    """The steps are those of two ranks; sums over ranks are rounded in another order."""
    smoke(tmp_path / "whole", *OPTIONS)
    run = tmp_path / "run"
    lost(run, step=3)
    smoke(run, *OPTIONS)
    assert record(run)["R"] == record(tmp_path / "whole")["R"]
    branches, whole = adapters(run), adapters(tmp_path / "whole")
    assert max(relative(branches[task], whole[task]) for task in whole) < 1e-4
