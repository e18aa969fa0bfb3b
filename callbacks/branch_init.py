"""Initialises the new branch at each task boundary: from W, from the layer's inputs, or at random.

`SliceInit` adds the initialisers that need gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Integer
from cl_lightning.common.seeding import generator
from cl_lightning.initializers.base import Initializer, Needs
from cl_lightning.initializers.kaiming import Kaiming
from cl_lightning.initializers.start import Start, empty_factors, start_of
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.rehearsal import Rehearsal

#: As `Start.tensors`.
Factors = tuple[Tensor, ...]


class BranchInit(TaskCallback):
    """Start each task's branch at the factors of an initialiser.

    Args:
        initializer: one that needs the layer's inputs, W, or nothing.
        samples: examples of the new task, drawn by (seed, task), if inputs are needed.
        batch_size: examples per forward pass on each rank.
    """

    phase = 40
    #: Statistics that this callback can give an initialiser.
    gives: ClassVar[frozenset[Needs]] = frozenset({"none", "weight", "inputs"})
    #: Step taken before training; see `SliceInit`.
    warm_start = 0.0

    def __init__(self, initializer: Initializer = Kaiming(), samples: Integer = 32, batch_size: Integer = 8) -> None:  # noqa: B008
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"boundary.init.{name}: {value} must be 1 or more")
        self.initializer, self.samples, self.batch_size = initializer, samples, batch_size

    def check(self, slots: Mapping[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        """See the base class."""
        kind, reasons = type(self.initializer).__name__, []
        if self.initializer.needs not in self.gives:
            other = "SliceInit" if self.initializer.needs == "gradients" else "BranchInit"
            reasons.append(
                f"boundary.init.initializer: {kind} starts from {self.initializer.needs}, which "
                f"{type(self).__name__} does not collect; use boundary.init=callbacks.{other}"
            )
        if not self.initializer.trains <= adapter.trainable_factors | {"R"}:
            reasons.append(
                f"boundary.init sets A and B, but {type(adapter).__name__} trains only one; set boundary.init=null"
            )
        return reasons

    def check_run(self, run: RunContext) -> None:
        """See the base class."""
        adapter, per_rank = run.module.adapter, self.initializer.directions_per_rank
        for name, layer in adapter.layers.items():
            if per_rank * adapter.rank > min(layer.shape):
                raise ConfigError(
                    f"model.adapter.rank: at {adapter.rank}, {type(self.initializer).__name__} needs "
                    f"{per_rank * adapter.rank} singular directions of {name}, which has {min(layer.shape)}; use at "
                    f"most {min(layer.shape) // per_rank}, or leave the layer out of targets"
                )

    def on_task_start(self, run: RunContext, task: int) -> None:
        """See the base class."""
        statistics: dict[str, Tensor] = {}
        if self.initializer.needs == "inputs":
            examples = run.data.draw(task, self.samples, "gradient")
            statistics = run.input_moments((examples, [1.0] * len(examples)), self.batch_size)
        layers = run.module.adapter.layers

        def factors_of(name: str, of_one: tuple[Tensor, Tensor | None]) -> Factors:
            return self.start(run, task, name, *of_one).tensors

        of_all = ((name, (layer.dense_weight(), statistics.get(name))) for name, layer in layers.items())
        factors, owners = distributed.deal(of_all, factors_of, f"boundary of task {run.order[task]}, matrix")
        self.set(run, factors, owners)

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Sum a batch's inputs, if they are needed, then set the start."""
        if rehearsal.last and self.initializer.needs == "inputs":
            rehearsal.module.input_moments([rehearsal.batch(self.batch_size)])
        self.set(rehearsal, {}, dict.fromkeys(rehearsal.module.adapter.layers, 0))

    def start(self, run: RunContext, task: int, name: str, weight: Tensor, statistic: Tensor | LowRank | None) -> Start:
        """Compute one matrix's start from W and what else its initialiser needs, see `Initializer.needs`."""
        adapter, rng = run.module.adapter, generator(run.data.seed, "init", run.order[task], name)
        return start_of(self.initializer, weight, statistic, adapter.rank, adapter.scaling, rng, self.warm_start)

    def set(self, run: RunContext | Rehearsal, factors: dict[str, Factors], owners: Mapping[str, int]) -> None:
        """Broadcast every matrix's factors and set them, removing them from `factors`."""
        adapter = run.module.adapter
        for name, owner in owners.items():
            layer = adapter.layers[name]
            tensors = empty_factors(layer.lora_A, layer.lora_B, self.initializer, self.warm_start)
            for tensor, value in zip(tensors, factors.pop(name, ()), strict=False):
                tensor.copy_(value)
            for tensor in tensors:
                distributed.broadcast_(tensor, owner)
            count = len(tensors) - (2 if self.warm_start else 0)
            adapter.set_factors(name, *tensors[:count], displaced=self.initializer.displaced)
            if self.warm_start:
                layer.shift_branch(*tensors[count:])
