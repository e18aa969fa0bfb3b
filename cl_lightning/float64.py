"""A float64 model that computes in float64 throughout, for comparisons with exact references.

transformers' models take norms, softmaxes, position angles and biases in float32 whatever the model's dtype. That is
right for 16-bit models and costs a float64 one half its digits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Widened(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **named)


#: Those entered and not yet left; the first of them does the work.
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
    """Inside, code that asks for float32 gets float64. May be nested."""
    _enter()
    try:
        yield
    finally:
        _leave()


def keep_float64(llm: nn.Module) -> None:
    """Let every forward pass of a float64 model of transformers, or of a part of it, run inside `widened`."""
    for module in llm.modules():
        if type(module).__module__.startswith("transformers."):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)
