"""What depends on the machine: in which dtype a bf16 base is held, how products are summed, when memory goes back."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 multiply units (AVX512-BF16, AMX, Arm BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(unit)) for unit in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def held_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a base asked for in `dtype` is held: the same, or float32 for bf16 without any bf16 unit.

    Without a GPU and without bf16 units a bf16 model runs some thirty times slower than a float32 one
    (SmolLM2-135M, AVX2: 8 against 260 tokens/s). There the weights are rounded to bf16, as everywhere, and then
    held and multiplied in float32: the same model, more exact activations, twice the memory.
    """
    if dtype == torch.bfloat16 and not torch.accelerator.is_available() and not cpu_multiplies_bf16():
        return torch.float32
    return dtype


def add_outer_(total: Tensor, dy: Tensor, x: Tensor) -> None:
    """total += dy^T x: the product in the tensors' dtype, the sum in `total`'s.

    Shapes: total (m, n); dy (N, m); x (N, n). The product is formed on its own, not accumulated inside the
    kernel, so that a batch adds the same bits whatever was summed before it (and on whichever rank).
    """
    total.add_(dy.t() @ x)


@contextmanager
def loaded_stays() -> Iterator[None]:
    """Keep the garbage collector from looking through what is loaded already, time and again."""
    give_back_memory()  # what is garbage now would stay, too
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what a boundary's accumulators and scoring's caches leave behind.

    Looks through all objects (0.3 s after torch and transformers are loaded, unless `loaded_stays`): once a task.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
