"""A pass over batches that hands the gradients of frozen layers to accumulators."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from cl_lightning.gradients.accumulate import Accumulator
from cl_lightning.gradients.capture import capture_into

Batch = dict[str, Any]


@dataclass(frozen=True)
class GradientPass:
    """Forward and backward over this rank's batches, as often as it is run. Nothing is summed over ranks.

        for _ in gradient_pass.by_batch({"layers.0.q_proj": Exact(shape, dtype, device)}):
            ...  # after each batch

    Attributes:
        layers: the frozen layers whose gradients can be taken, by name.
        model: holds them.
        batches: iterated anew in each pass.
        backward: computes the loss of a batch and backpropagates it; the loss of the pass is the sum over batches.
    """

    layers: Mapping[str, nn.Module]
    model: nn.Module
    batches: Iterable[Batch]
    backward: Callable[[Batch], None]

    def by_batch(self, accumulators: Mapping[str, Accumulator]) -> Iterator[None]:
        """Run the pass, adding every call of the layers named in `accumulators`; yield after each batch."""
        layers = {name: self.layers[name] for name in accumulators}
        for batch in self.batches:
            with capture_into(accumulators, layers, self.model):
                self.backward(batch)
            yield

    def run(self, accumulators: Mapping[str, Accumulator]) -> None:
        """Run the pass to its end, adding every call of the layers named in `accumulators`."""
        for _ in self.by_batch(accumulators):
            pass
