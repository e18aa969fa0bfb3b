"""Find linear layers that the model's code does not call.

It uses the weights itself (Mamba's dt_proj), or runs the layer for other inputs alone (LED's global attention). A
branch on such a layer would never run, nor get a gradient. A fused kernel may pass over a layer in training, on a GPU
alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from cl_lightning.adapters.roles import ROLES
from cl_lightning.common.errors import TrainingError, first_three


class _Uses(TorchFunctionMode):
    """Notes which of the given tensors torch functions compute with."""

    def __init__(self, tensors: Mapping[int, str]) -> None:
        super().__init__()
        self.tensors, self.found = tensors, set[str]()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):  # not a dtype, a shape, ..
            self.found |= {self.tensors[id(t)] for t in tree_leaves((args, kwargs)) if id(t) in self.tensors}
        return result


@torch.no_grad()
def bypassed(llm: PreTrainedModel, layers: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the layers that a short forward pass does not call.

    Routed experts, which may have had no token, only if their weight is used otherwise.
    """
    called: set[str] = set()
    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, layer in layers.items()]
    ids = torch.arange(1, 9, device=llm.device)[None]
    decoder = {"decoder_input_ids": ids} if llm.config.is_encoder_decoder else {}
    with _evaluating(llm), _Uses({id(layer.weight): name for name, layer in layers.items()}) as uses:
        llm(input_ids=ids, **decoder, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [name for name in layers if name not in called and (name in uses.found or not ROLES["experts"](name))]


def check_gradients(layers: Mapping[str, nn.Module]) -> None:
    """Raise TrainingError if the branch being trained has no gradient on one of the layers.

    Call after the first step's backward passes. Routed experts may have had no token yet, so they are left out.
    """
    trained = {n: [p for p in layer.parameters() if p.requires_grad] for n, layer in layers.items()}
    if unused := [
        name
        for name, factors in trained.items()
        if factors and all(p.grad is None for p in factors) and not ROLES["experts"](name)
    ]:
        raise TrainingError(
            f"{first_three(unused)} got no gradient: in training, the model uses the weight without calling the layer "
            "(a fused kernel); leave such layers out of model.adapter.targets"
        )


@contextmanager
def _evaluating(llm: nn.Module) -> Iterator[None]:
    training = llm.training
    llm.eval()
    yield
    llm.train(training)
