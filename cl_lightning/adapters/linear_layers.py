"""What counts as a linear layer: nn.Linear, plain or quantised, and the Conv1D of GPT-2, which stores W transposed."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

#: Layers that can be adapted.
LINEAR = (nn.Linear, Conv1D)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """Return (m, n), the numbers of outputs and inputs."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def as_linear(layer: nn.Module) -> nn.Linear:
    """Return the layer itself, or a frozen nn.Linear with a Conv1D's weights."""
    if not isinstance(layer, Conv1D):
        return layer
    with torch.device("meta"):
        linear = nn.Linear(layer.nx, layer.nf)
    linear.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
    linear.bias = layer.bias
    return linear


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Return W (m, n) of a layer that is not quantised."""
    return layer.weight.data.t() if isinstance(layer, Conv1D) else layer.weight.data


def set_weight(layer: nn.Module, weight: torch.Tensor) -> None:
    """Replace W (m, n) of a layer that is not quantised."""
    layer.weight.data = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
