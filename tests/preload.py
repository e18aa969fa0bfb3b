"""What the process begins with from which runs are forked: imports that runs do late, and what spares the machine.

Nothing here may run anything: what is in the parent, no test of a run can notice.
"""

from importlib import import_module

import callbacks
from cl_lightning import adapters, data, initializers, surgery
from tests.machine import never_wait, one_thread

for package in (callbacks, adapters, data, initializers, surgery):
    for name in package.__all__:
        getattr(package, name)  # all are imported on first use, and every run asks for all
for module in (
    "attrs.converters",
    "attrs.validators",
    "cl_lightning.commands.composition",
    "cl_lightning.commands.run",
    "fsspec.implementations.chained",
    "torch.profiler._cupti_monitor",
):
    import_module(module)
never_wait()
one_thread()
