"""Uncentred covariances of the inputs of frozen linear layers: C = (1/N) sum over N tokens of x x^T.

They are streamed, exclude padding and keep no data. Layers that share their input (q, k, v; gate, up) share one sum.
Shapes: x (B, L, n), C (n, n).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class InputMoments:
    """Sums of x x^T over every forward pass inside `watch`.

    Attributes:
        owners: layer name -> the layer whose name its sum is stored under: itself, or one with the same input.
        totals: owner -> (n, n), float32 or wider.
        tokens: owner -> number of inputs in the sum.
    """

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.totals: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self._last: tuple[Any, str] = (None, "")

    @contextmanager
    def watch(self, layers: Mapping[str, nn.Module], wanted: Callable[[str], Tensor]) -> Iterator[None]:
        """Sum over the forward passes inside the context. `wanted`: layer name -> (B, L), nonzero where x counts."""

        def watch_one(name: str) -> Any:
            def forward_hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                self._add(name, inputs[0], wanted(name))

            return forward_hook

        with ExitStack() as hooks:
            for name, layer in layers.items():
                hooks.callback(layer.register_forward_hook(watch_one(name)).remove)
            yield
        self._last = (None, "")

    def _add(self, name: str, x: Tensor, wanted: Tensor) -> None:
        source, owner = self._last
        if source is x and owner != name:
            self.owners[name] = owner
            return
        self._last, self.owners[name] = (x, name), name
        tokens = x.detach()[wanted.bool()]
        if name not in self.totals:
            dtype = torch.promote_types(torch.float32, x.dtype)
            self.totals[name] = torch.zeros(x.shape[-1], x.shape[-1], dtype=dtype, device=x.device)
        wide = tokens.to(self.totals[name].dtype)
        self.totals[name] += wide.t() @ wide
        self.tokens[name] = self.tokens.get(name, 0) + len(tokens)
