"""Gradients of frozen linear layers from forward inputs and output gradients: G += dy^T x.

Works where `weight.grad` does not exist (4-bit, frozen), never touches it, and needs one accumulator per
matrix in max(float32, input dtype). dy is taken at the adapted layer's output with all earlier branches in
place, so G is the gradient with respect to the effective weight. A layer called several times in a forward
adds up; under gradient checkpointing only the recomputed forward, which carries gradients, counts.

Shapes: x (..., n), dy (..., m), G (m, n).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_lightning.arithmetic import add_outer_


@contextmanager
def capture_gradients(layers: Mapping[str, nn.Module], embedding: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect dLoss/dW of `layers` over every backward pass inside the context.

    Args:
        layers: modules by name, each with `in_features`, `out_features`; input first, one output.
        embedding: the model's input embedding; its output is made to require grad, since nothing else may.

    Yields:
        name -> G (m, n), filled as backward passes run. A layer that no loss depends on has no entry.
    """
    totals: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def forward_hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            x = inputs[0].detach()

            def backward_hook(dy: Tensor) -> None:
                if name not in totals:
                    dtype = torch.promote_types(torch.float32, x.dtype)
                    totals[name] = torch.zeros(dy.shape[-1], x.shape[-1], dtype=dtype, device=x.device)
                add_outer_(totals[name], dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]))

            output.register_hook(backward_hook)

        return forward_hook

    def require_grad(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output.requires_grad_(True)

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(watch(name)).remove)
        hooks.callback(embedding.register_forward_hook(require_grad).remove)
        yield totals


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
