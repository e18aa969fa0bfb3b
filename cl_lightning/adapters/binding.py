"""How each sample's gate coefficients reach the adapted layers: as an argument of the model's own forward pass.

    llm(input_ids=.., gates=g)   ->   each decoder (encoder) layer(.., gates=g)   ->   its AdaptedLinears, for that call

transformers hands keyword arguments down to its layers, not to their linears, and calls a layer's `forward` again under
gradient checkpointing. So each layer becomes an instance of a subclass whose forward binds `gates` to the adapted
linears inside it and lets go again. Nothing stays behind: a pass without gates finds none, whatever came before it, and
is refused once there are branches in place.
The model's class gets an explicit `gates` parameter, so that `generate` accepts it, repeats it for beams and passes it
on at every step.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError

#: Subclasses made so far, by the class they extend.
_BOUND: dict[type, type] = {}


def bind_gates(llm: PreTrainedModel) -> None:
    """Make `llm`, already adapted, take `gates` (B, T).

    Raises:
        ConfigError: an adapted linear lies outside the model's layers, where no argument reaches it.
    """
    layers = [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]
    reached = {id(linear) for layer in layers for linear in _adapted(layer)}
    for name, module in llm.named_modules():
        if not isinstance(module, AdaptedLinear):
            continue
        if id(module) not in reached:
            raise ConfigError(
                f"model.adapter.targets: gates cannot reach {name}, which is in none of the model's layers; "
                "leave it out"
            )
        module.gated = True
    for layer in layers:
        layer.__class__ = _bound(type(layer), _layer_forward)
    llm.__class__ = _bound(type(llm), _model_forward)


def _adapted(layer: nn.Module) -> list[AdaptedLinear]:
    return [module for module in layer.modules() if isinstance(module, AdaptedLinear)]


def _bound(kind: type, make: Any) -> type:
    if kind not in _BOUND:
        # The name stays: checkpoints, error messages and device maps know the class by it.
        _BOUND[kind] = type(kind.__name__, (kind,), {"forward": make(kind), "__module__": kind.__module__})
        _BOUND[_BOUND[kind]] = _BOUND[kind]  # binding twice is binding once
    return _BOUND[kind]


def _layer_forward(kind: type) -> Any:
    def forward(self: nn.Module, *args: Any, gates: Tensor | None = None, **kwargs: Any) -> Any:
        linears = _adapted(self)
        for linear in linears:
            linear.gates = gates
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            for linear in linears:
                linear.gates = None

    return forward


def _model_forward(kind: type) -> Any:
    def forward(self: nn.Module, *args: Any, gates: Tensor | None = None, **kwargs: Any) -> Any:
        return kind.forward(self, *args, **kwargs, **({} if gates is None else {"gates": gates}))

    # `generate` reads it: whether to make position ids, to keep all logits, to take these gates.
    signature = inspect.signature(kind.forward)
    *plain, rest = signature.parameters.values()
    own = inspect.Parameter("gates", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*plain, own, rest] if rest.kind is inspect.Parameter.VAR_KEYWORD else [*plain, rest, own]
    forward.__signature__ = signature.replace(parameters=parameters)
    return forward
