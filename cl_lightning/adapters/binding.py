"""Passes each sample's gates to the adapted layers, as an argument of the model's own forward pass.

    llm(input_ids=.., gates=g)   ->   each decoder (encoder) layer(.., gates=g)   ->   its AdaptedLinears, for that call

The model, each transformers model inside it and each layer become instances of subclasses. A model's forward stores
`gates` in its layers for the length of the call, since modules between them may not pass it on (Falcon, Bloom, Mamba).
A layer receives it as an argument of its own `forward`, which gradient checkpointing calls again after the model's has
returned, and sets it on the adapted linears inside. Afterwards all are reset: a pass without gates finds none, and is
refused once there are branches in place.
A model's class gets an explicit `gates` parameter, so that `generate` accepts it, repeats it for beams and passes it
on at every step.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.token_order import check_token_order
from cl_lightning.common.errors import ConfigError

#: Subclasses made so far, by the class they extend.
_BOUND: dict[type, type] = {}


def bind_gates(llm: PreTrainedModel) -> None:
    """Make an adapted `llm` accept `gates` (B, T).

    Raises:
        ConfigError: an adapted linear lies outside the model's layers, so no argument reaches it, or its input is not
            each sample's tokens in order.
    """
    layers = [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]
    reached = {id(linear) for layer in layers for linear in _of(AdaptedLinear, layer)}
    for name, module in llm.named_modules():
        if not isinstance(module, AdaptedLinear):
            continue
        if id(module) not in reached:
            raise ConfigError(
                f"model.adapter.targets: gates cannot reach {name}, which is in none of the model's layers; "
                "leave it out"
            )
        module.gated_name = name
    check_token_order(llm)
    for layer in layers:
        layer.__class__ = _bound(type(layer), {"__call__": _layer_call, "forward": _layer_forward, "gates": None})
    for model in _of(PreTrainedModel, llm):
        model.__class__ = _bound(type(model), {"forward": _model_forward})


def _of(kind: type, module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, kind)]


def _bound(kind: type, members: dict[str, Any]) -> type:
    if kind not in _BOUND:
        made = {name: make(kind) if callable(make) else make for name, make in members.items()}
        # The name stays: checkpoints, error messages and device maps know the class by it.
        _BOUND[kind] = type(kind.__name__, (kind,), {**made, "__module__": kind.__module__})
        _BOUND[_BOUND[kind]] = _BOUND[kind]  # binding twice is binding once
    return _BOUND[kind]


@contextmanager
def _holding(modules: Iterable[Any], gates: Tensor) -> Iterator[None]:
    """Set `gates` on each module inside the context, then restore the previous value."""
    before = [(module, module.gates) for module in modules]
    try:
        for module, _ in before:
            module.gates = gates
        yield
    finally:
        for module, held in before:
            module.gates = held


def _model_forward(kind: type) -> Any:
    def forward(self: nn.Module, *args: Any, gates: Tensor | None = None, **kwargs: Any) -> Any:
        if gates is None:  # an outer model may have set them
            return kind.forward(self, *args, **kwargs)
        with _holding(_of(GradientCheckpointingLayer, self), gates):
            return kind.forward(self, *args, **kwargs)

    # `generate` reads the signature: for position ids, logits to keep, and gates.
    signature = inspect.signature(kind.forward)
    *plain, last = signature.parameters.values()
    own = inspect.Parameter("gates", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*plain, own, last] if last.kind is inspect.Parameter.VAR_KEYWORD else [*plain, last, own]
    forward.__signature__ = signature.replace(parameters=parameters)
    return forward


def _layer_call(kind: type) -> Any:
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return kind.__call__(self, *args, **kwargs, **({} if self.gates is None else {"gates": self.gates}))

    return __call__


def _layer_forward(kind: type) -> Any:
    def forward(self: nn.Module, *args: Any, gates: Tensor | None = None, **kwargs: Any) -> Any:
        if gates is None:
            return kind.forward(self, *args, **kwargs)
        inner = [layer for layer in _of(GradientCheckpointingLayer, self) if layer is not self]
        linears = _of(AdaptedLinear, self)
        states = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        for linear in linears:
            linear.tokens = states.shape[:-1].numel()
        with _holding([*inner, *linears], gates):
            return kind.forward(self, *args, **kwargs)

    return forward
