"""Further ranks end together with the first one, by its own hand."""

import subprocess
import sys
import time

import pytest
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from cl_lightning.sequence.ranks import ranks_to_end

PERIOD = 0.05


class Launcher:
    """Has started a rank, which runs."""

    def __init__(self) -> None:
        self.procs = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)]


@pytest.mark.parametrize("ending", [True, False], ids=["ending", "the control"])
def test_lightnings_observer_kills_no_process_that_ends_its_ranks(ending: bool) -> None:
    """It would between the end of the ranks and that of the process, if it happened to look then."""
    first, launcher = subprocess.Popen(["sleep", "60"]), Launcher()
    observer = _ChildProcessObserver(first.pid, launcher.procs, PERIOD)
    observer.start()
    (rank,) = ranks_to_end(launcher) if ending else launcher.procs
    rank.kill()
    rank.wait()
    observer.join(10)
    assert not observer.is_alive()
    time.sleep(PERIOD)
    assert first.poll() == (None if ending else -9)
    first.kill()
    first.wait()


def test_a_launcher_without_ranks_has_none() -> None:
    assert list(ranks_to_end(None)) == []
