"""Counts the places where the CPU waits for the device, on any machine: reads of a tensor's values, or of its mask.

Seen by the dispatcher, so that `.item()`, `float(tensor)`, `if tensor`, boolean masks and copies to the CPU all count,
whoever calls them. On a CPU nothing waits, but the same operations run.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import ROOT

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class HostReads(TorchDispatchMode):
    """Inside, counts the reads of tensors on `device` as `sites`: "module:function operation" -> number."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.sites = device, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._reads(func, args, out):
            self.sites[f"{caller()} {func.overloadpacket.__name__.strip('_')}"] += 1
        return out

    def _reads(self, func: Any, args: Any, out: Any) -> bool:
        here = [a for a in args if isinstance(a, Tensor) and a.device.type == self.device.type]
        if func in READS:
            return bool(here)
        if func in INDEXED:
            return bool(here) and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        return func is aten._to_copy.default and bool(here) and out.device.type != self.device.type


def caller() -> str:
    """The innermost function of this project on the stack, as file:function; or "backward"."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name == "graph.py" and frame.f_code.co_name == "_engine_run_backward":
            break
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts and path.name != Path(__file__).name:
            return f"{path.stem}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "backward"  # on a GPU in a thread of its own, without a caller


def reads_of(device: torch.device, work: Callable[[], Any]) -> Counter[str]:
    """The reads during `work`."""
    with HostReads(device) as reads:
        work()
    return reads.sites
