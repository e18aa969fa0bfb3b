"""Counts the floating-point operations of matrix products, by PyTorch's own formulas."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
#: Formulas by operation; PyTorch's registry lacks products in place and the CPU's attention.
FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten.addmm_: flop_registry[aten.addmm],
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}


class Products(TorchDispatchMode):
    """Counts what products inside take, in floating-point operations: `count`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in FORMULAS:
            self.count += FORMULAS[func.overloadpacket](*args, **(kwargs or {}), out_val=made)
        return made

    def take(self) -> int:
        """Return the count, and begin a new one."""
        count, self.count = self.count, 0
        return count
