"""The interface of a run for its task callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cl_lightning.common import distributed
from cl_lightning.common.files import to_csv
from cl_lightning.common.terminal import inform, say
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.sharding import in_step
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.loggers import RunLogs
from cl_lightning.sequence.media import Grid
from cl_lightning.sequence.record import Record

#: Examples and the factor of each one's summed NLL in the loss.
WeightedSamples = tuple[Sequence[Encoded], Sequence[float]]


class RunContext:
    """The `run` argument of task callbacks. All ranks must call the same methods in the same order.

    Attributes:
        module: the model; `module.adapter` is the strategy, `module.llm` the frozen LLM.
        data: the data module: prepared tasks, encoder, batch size, seed.
        order: names of the trained tasks, in order.
        boundary: the boundary callbacks by slot.
        record: the scores so far, and the stages of the run.
    """

    def __init__(
        self,
        module: ContinualLM,
        data: TaskSequence,
        boundary: Mapping[str, Callback],
        record: Record,
        folder: RunFolder,
        logs: RunLogs,
    ) -> None:
        self.module, self.data, self.order = module, data, data.order
        self.boundary, self.record = boundary, record
        self._folder, self._logs = folder, logs

    def say(self, text: str, warning: bool = False) -> None:
        """Print one line on rank 0; with --quiet, only a warning."""
        if distributed.rank() == 0:
            (say if warning else inform)(f"  warning: {text}" if warning else text)

    def log(self, values: dict[str, Any]) -> None:
        """Log numbers, tables and pictures (`sequence.media`) by name over cl/step, on rank 0."""
        if distributed.rank() == 0:
            self._logs.log(values)

    def write(self, name: str, data: bytes) -> None:
        """Write a file to the run folder on rank 0. It becomes part of the run's state at the next commit."""
        distributed.on_main(lambda: self._folder.write(name, data))

    def write_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Write a table to `<name>.csv` in the run folder and log it, on rank 0."""
        self.write(f"{name}.csv", to_csv(columns, rows))
        if distributed.rank() == 0:
            self._logs.log({name: Grid(columns, rows)})

    def batches(self, examples: Sequence[Encoded], batch_size: int) -> Iterator[dict[str, Any]]:
        """Yield this rank's batches of `examples`, on the model's device."""
        yield from self._batches("inputs", (examples, [1.0] * len(examples)), batch_size)

    def gradient_pass(
        self,
        samples: WeightedSamples,
        batch_size: int,
        loss_on: str = "answer",
        gated: bool = False,
        with_new: bool = False,
    ) -> GradientPass:
        """Make a pass over this rank's batches, to be run as often as needed; nothing is summed over ranks.

        See `ContinualLM.gradient_pass` for the loss, `gated` and `with_new`.
        """
        return self.module.gradient_pass(self._batches("gradients", samples, batch_size, loss_on), gated, with_new)

    def input_moments(
        self, samples: WeightedSamples, batch_size: int, with_new: bool = False, with_padding: bool = False
    ) -> dict[str, Tensor]:
        """Compute C = (1/N) sum of x x^T over the N tokens of `samples` on all ranks: layer name -> (n, n).

        Layers with the same input share a tensor. `with_new`: include the current branch; `with_padding`: include
        padding.
        """
        with self.record.stages.within("inputs"):
            moments = self.module.input_moments(self._batches("inputs", samples, batch_size), with_new, with_padding)
        # Ranks without a batch do not know which layers share an input; take it from one that does.
        owners = next(filter(None, distributed.gather(moments.owners)))
        means: dict[str, Tensor] = {}
        for name in sorted(set(owners.values())):
            layer = self.module.adapter.layers[name]
            n, dtype = layer.in_features, torch.promote_types(torch.float32, self.module.llm.dtype)
            total = moments.totals.get(name, torch.zeros(n, n, dtype=dtype, device=layer.weight.device))
            means[name] = distributed.sum_(total).div_(sum(distributed.gather(moments.tokens.get(name, 0))))
        return {name: means[owner] for name, owner in owners.items()}

    def _batches(self, stage: str, samples: WeightedSamples, batch_size: int, loss_on: str = "answer") -> _Batches:
        return _Batches(self, samples, batch_size, loss_on, partial(self.record.stages.counted, stage))


@dataclass(frozen=True)
class _Batches:
    """This rank's batches of weighted samples, on the model's device; can be iterated again.

    `counted` gets the batches, the number of examples in them, and how to count those of one; it yields them.
    """

    run: RunContext
    samples: WeightedSamples
    batch_size: int
    loss_on: str
    counted: Callable[[Iterable[dict[str, Any]], int, Callable[[Any], int]], Iterable[dict[str, Any]]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        module, (examples, weights) = self.run.module, self.samples
        dtype = torch.promote_types(torch.float32, module.llm.dtype)
        weight = torch.tensor(weights, dtype=torch.float64)
        rank, world_size = distributed.rank(), distributed.world_size()
        loader = self.run.data.boundary_loader(examples, self.batch_size, rank, world_size, self.loss_on)
        starts = range(rank * self.batch_size, len(examples), world_size * self.batch_size)
        mine = sum(min(self.batch_size, len(examples) - start) for start in starts)
        with in_step(module.llm):
            for batch in self.counted(loader, mine, lambda batch: len(batch["index"])):
                batch["sample_weight"] = weight[batch.pop("index")].to(dtype)
                yield module.transfer_batch_to_device(batch, module.llm.device, 0)
