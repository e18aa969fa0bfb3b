"""What passes through frozen linear layers: forward inputs x and output gradients dy, hence G = sum of dy^T x.

Works where `weight.grad` does not exist (4-bit, frozen) and never touches it. dy is taken at the adapted layer's
output with all earlier branches in place, so G is the gradient with respect to the effective weight. A layer
called several times in a forward adds up; under gradient checkpointing only the recomputed forward, which carries
gradients, counts.

Shapes: x (..., n), dy (..., m), G (m, n); N tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_lightning.gradients.accumulate import add_outer_

#: Takes a layer's name, dy (N, m) and x (N, n) of one call; runs in the backward pass.
TakeProduct = Callable[[str, Tensor, Tensor], None]


@contextmanager
def watch_products(layers: Mapping[str, nn.Module], model: nn.Module, take: TakeProduct) -> Iterator[None]:
    """Hand x and dy of every call of `layers` to `take`, over every backward pass inside the context.

    Inputs are kept from the forward to the backward pass, once where layers share one (q, k, v; gate, up), and freed
    layer by layer; a graph can be passed once.

    Args:
        layers: modules by name; input first, one output.
        model: holds the layers; what its embeddings put out is made to require grad, since nothing else may.
        take: what is done with them. A layer that no loss depends on is never heard of.
    """

    def watch(name: str) -> Any:
        def forward_hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            # Given up when it is used: the graph keeps its hooks, and what they refer to, to the end.
            held = [inputs[0].detach()]
            output.register_hook(lambda dy: take(name, _rows(dy), _rows(held.pop())))

        return forward_hook

    def require_grad(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.requires_grad_(True)

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(watch(name)).remove)
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

    def take(name: str, dy: Tensor, x: Tensor) -> None:
        if name not in totals:
            dtype = torch.promote_types(torch.float32, x.dtype)
            totals[name] = torch.zeros(dy.shape[-1], x.shape[-1], dtype=dtype, device=x.device)
        add_outer_(totals[name], dy, x)

    with watch_products(layers, model, take):
        yield totals


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Set every dropout probability to 0 and leave train mode as it is (gradient checkpointing needs it)."""
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
