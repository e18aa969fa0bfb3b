"""What the device reaches: a large bf16 product of two matrices, the measure of all shares of peak."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from _common import Stopwatch, device, machine
from measure import run

from cl_lightning.model.precision import held_dtype


def peak(_: str, tiny: bool) -> Iterator[dict[str, Any]]:
    size, repeats, dtype = 256 if tiny else 8192, 20, held_dtype(torch.bfloat16)
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    out, watch, best = torch.empty_like(a), Stopwatch("wall"), float("inf")
    for _ in range(4):  # the first prepares the kernel
        watch.start()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        watch.stop()
        best = min(best, watch.seconds / repeats)
    total = torch.accelerator.get_memory_info()[1] / 2**30 if device().type != "cpu" else None
    yield {
        "machine": machine(), "device": device().type, "memory_gib": total, "size": size,
        "dtype": str(dtype).removeprefix("torch."), "flops_per_s": 2 * size**3 / best,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(peak))
