"""Capture of the inputs x and output gradients dy of frozen linear layers, hence of G = sum of dy^T x.

Works where `weight.grad` does not exist (4-bit, frozen) and never touches it. dy is taken at the adapted layer's
output with all earlier branches in place, so G is the gradient with respect to the effective weight. A layer
called several times in a forward adds up; under gradient checkpointing only the recomputed forward, which carries
gradients, counts.

Shapes: x (..., n), dy (..., m), G (m, n); N tokens.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cl_lightning.gradients.accumulate import Accumulator, add_outer_


@contextmanager
def capture_into(
    accumulators: Mapping[str, Accumulator], layers: Mapping[str, nn.Module], model: nn.Module
) -> Iterator[None]:
    """Add dy and x of every call of `layers` to their accumulators, over every backward pass inside the context.

    Inputs are kept from the forward to the backward pass, once where layers share one (q, k, v; gate, up), and freed
    layer by layer; a graph can be passed once.

    Args:
        accumulators: by layer name; used in the backward pass. Layers that do not affect the loss are never added.
        layers: modules by name; input first, one output.
        model: holds the layers; the outputs of its embeddings are made to require grad, since nothing else may.
    """

    def watch(accumulator: Accumulator) -> Any:
        def forward_hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            # Released on use: the graph keeps its hooks, and what they refer to, until the end.
            held = [inputs[0].detach()]
            output.register_hook(lambda dy: accumulator.add(_by_token(dy), _by_token(held.pop())))

        return forward_hook

    def require_grad(module: Any, inputs: Any, output: Tensor) -> Tensor:
        # Not a leaf, for models that scale it in place (CTRL).
        return output if output.requires_grad else output.requires_grad_(True).clone()

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(watch(accumulators[name])).remove)
        for embedding in model.modules():  # an encoder-decoder has two
            if isinstance(embedding, nn.Embedding):
                hooks.callback(embedding.register_forward_hook(require_grad).remove)
        yield


@contextmanager
def capture_gradients(layers: Mapping[str, nn.Module], model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect dLoss/dW of `layers`, exactly, over every backward pass inside the context.

    Yields:
        name -> G (m, n) in max(float32, input dtype), filled as backward passes run.
    """
    totals: dict[str, Tensor] = {}
    with capture_into({name: _Total(name, totals) for name in layers}, layers, model):
        yield totals


@dataclass(frozen=True)
class _Total:
    """Adds a layer's gradient to `totals`, whose entry is made by the first call."""

    name: str
    totals: dict[str, Tensor]

    def add(self, dy: Tensor, x: Tensor) -> None:
        if self.name not in self.totals:
            dtype = torch.promote_types(torch.float32, x.dtype)
            self.totals[self.name] = torch.zeros(dy.shape[-1], x.shape[-1], dtype=dtype, device=x.device)
        add_outer_(self.totals[self.name], dy, x)


def _by_token(tensor: Tensor) -> Tensor:
    """(..., n) -> (N, n)."""
    return tensor.reshape(-1, tensor.shape[-1])


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Set every dropout probability to 0 but keep train mode, which gradient checkpointing needs."""
    saved: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        names = ("p",) if isinstance(module, nn.modules.dropout._DropoutNd) else ("dropout", "attention_dropout")
        for name in names:
            value = module.__dict__.get(name)
            if isinstance(value, float) and value > 0:
                saved.append((module, name, value))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)
