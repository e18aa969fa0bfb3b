"""Precision of the base: float64 throughout for comparisons with exact references, and the dtype a base is held in.

transformers' models compute norms, softmaxes, position angles and biases in float32 whatever the model's dtype, which
suits 16-bit models but costs a float64 model half its digits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Widened(TorchFunctionMode):
    """Replaces float32 by float64 in the arguments of torch functions."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **named)


#: Modes entered and not yet left; only the first is active.
_entered: list[_Widened] = []


def _enter(*_: Any) -> None:
    _entered.append(_Widened())
    if len(_entered) == 1:
        _entered[0].__enter__()


def _leave(*_: Any) -> None:
    left = _entered.pop()
    if not _entered:
        left.__exit__(None, None, None)


@contextmanager
def widened() -> Iterator[None]:
    """Inside, code that asks for float32 gets float64. Can be nested."""
    _enter()
    try:
        yield
    finally:
        _leave()


def keep_float64(llm: nn.Module) -> None:
    """Make every forward pass of a float64 transformers model, or of a part of it, run inside `widened`."""
    for module in llm.modules():
        if type(module).__module__.startswith("transformers."):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


@cache
def cpu_multiplies_bf16() -> bool:
    """Return whether this CPU has bf16 multiply units (AVX512-BF16, AMX, Arm BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(unit)) for unit in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def held_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which to hold a base of `dtype`: float32 for bf16 on a machine without bf16 units.

    Without a GPU and without bf16 units a bf16 model runs about thirty times slower than a float32 one
    (SmolLM2-135M, AVX2: 8 against 260 tokens/s). There the weights are rounded to bf16, then held and multiplied in
    float32: the same weights, more exact activations, twice the memory.
    """
    if dtype == torch.bfloat16 and not torch.accelerator.is_available() and not cpu_multiplies_bf16():
        return torch.float32
    return dtype
