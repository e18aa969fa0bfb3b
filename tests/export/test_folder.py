"""What is left of an export that ends early."""

import subprocess
import sys
from pathlib import Path

import pytest

from cl_lightning.export.folder import written_whole

#: A process that writes into `sys.argv[1]` and gets Ctrl-C half-way; no torch is imported.
STOPPED = """
import signal, sys, time
from pathlib import Path
from cl_lightning.common import stopping
stopping.end_on_signals()
from cl_lightning.export.folder import written_whole
with written_whole(Path(sys.argv[1])) as scratch:
    (scratch / "weights").write_bytes(b"half")
    signal.raise_signal(signal.SIGINT)
    time.sleep(9)
"""


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    command = (sys.executable, "-c", STOPPED, str(tmp_path / "out"))  # a signal ends the process, so it needs its own
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "out") as scratch:
        (scratch / "weights").write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
