"""Uncentred covariances of the inputs of frozen linear layers: C = (1/N) sum over N tokens of x x^T.

They are streamed, exclude padding and keep no data. Layers that share their input (q, k, v; gate, up) share one sum.
Shapes: x (B, L, n), flattened (B L, n), or with further dimensions of size 1; C (n, n).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_lightning.common.errors import ConfigError


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
        tokens = x.detach().reshape(-1, x.shape[-1])[_counted(name, x, wanted)]
        if name not in self.totals:
            dtype = torch.promote_types(torch.float32, x.dtype)
            self.totals[name] = torch.zeros(x.shape[-1], x.shape[-1], dtype=dtype, device=x.device)
        wide = tokens.to(self.totals[name].dtype)
        self.totals[name] += wide.t() @ wide
        self.tokens[name] = self.tokens.get(name, 0) + len(tokens)


def _counted(name: str, x: Tensor, wanted: Tensor) -> Tensor:
    """Return which rows of x, flattened to (B L, n), count. Raises ConfigError unless they are each sample's tokens."""
    rows = [size for size in x.shape[:-1] if size != 1]
    if rows not in ([size for size in wanted.shape if size != 1], [wanted.numel()]):
        raise ConfigError(
            f"model.adapter.targets: the input of {name}, of shape {tuple(x.shape)}, is not each sample's tokens in "
            "order (routed experts), so that padding cannot be left out; leave the layer out"
        )
    return wanted.flatten().bool()
