"""A run whose disk is full from a moment on ends in one line, and goes on to the same end once there is room.

The kernel refuses what the process writes, by its limit on the size of files: whatever writes them, in Python or not,
and in the middle of a file. It says "File too large" where a full disk says "No space left on device".
"""

import random
from pathlib import Path

import pytest

from tests.chaos.doomed import ROOMS, filled_at
from tests.chaos.test_killed import moments, options, whole
from tests.chaos.traces import traces
from tests.runs import smoke


def ends(job: str, moment: int, room: int, run: Path) -> bool:
    """Fill the disk and make room again; return whether the run was stopped by it, rather than done before."""
    at = f"{whole(job)[0][moment - 1]}, event {moment}, room {room}"
    code, shown = filled_at(run, moment, room, *options(job))
    if code:
        assert code in (1, 2), (at, shown)
        assert "Traceback" not in shown, (at, shown)
        assert shown.count("error: ") == 1, (at, shown)
        assert "cannot be written (File too large)" in shown.splitlines()[-1], (at, shown)
    smoke(run, *options(job))
    assert traces(run) == whole(job)[1], at
    return code != 0


#: Moments of each job.
MOMENTS = 3


@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.long), 8000])
def test_a_full_disk_ends_the_run_which_then_goes_on(room: int, tmp_path: Path) -> None:
    """Over 5 s: processes. In the second task's training, where the state of the first is kept beside its own."""
    job = "SLICE and replay"
    steps = [k for k, event in enumerate(whole(job)[0], start=1) if event == "after optimiser step"]
    assert ends(job, steps[-3], room, tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("job", ["SLICE and replay", "GainLoRA", "continued", "validated"])
def test_it_does_at_any_moment(job: str, tmp_path: Path) -> None:
    draw = random.Random(job)
    stopped = [
        ends(job, moment, draw.choice(ROOMS), tmp_path / f"run{k}") for k, moment in enumerate(moments(job, MOMENTS))
    ]
    assert any(stopped)
