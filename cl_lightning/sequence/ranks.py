"""The processes of further ranks that Lightning's launcher has started."""

import threading
from collections.abc import Sequence
from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from cl_lightning.common.stopping import Process


def ranks_to_end(launcher: Any) -> Sequence[Process]:
    """Return the processes of a launcher, to be ended together with this one; none for a launcher without any.

    Lightning watches them in a thread, which kills this process as soon as one of them has ended: it watches no more.
    """
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []
    return getattr(launcher, "procs", ())
