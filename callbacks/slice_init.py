"""At each task boundary: gradients of the new task and of memory, surgery, and the chosen initialiser.

SLICE (arXiv 2605.12752) is this with memory, PCGrad and the SLICE initialiser; LoRA-GA is the same without
operator and memory. Exact version: two accumulators (m, n) per matrix, whatever the number of tasks.

    G_new = (1/N) sum over the new task's answer tokens of dNLL/dW,       N answer tokens
    G_mem = (1/(t-1)) sum over past tasks j of (1/N_j) sum over j's memory tokens of dNLL/dW

Both are taken with earlier branches in place and the new one out. Training afterwards steps on G_new: where
surgery fired it has turned the subspace the branch starts in, no more.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Literal

import torch

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning import distributed
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.data.prompt import Encoded
from cl_lightning.errors import ConfigError, TrainingError
from cl_lightning.gradients.surgery import PCGrad, Scope, SurgeryOperator, SurgeryRecord, reconcile
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.slice import SLICE
from cl_lightning.initializers.spectral import subspace_overlap, top_singular
from cl_lightning.seeding import generator
from cl_lightning.state import to_csv
from cl_lightning.task_callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence import SequenceRun

COLUMNS = ["matrix", "cosine", "fired", "coefficient", "norm_new", "norm_memory", "overlap_with_loraga"]


class SliceInit(TaskCallback):
    """Start each task's branch where `initializer` says.

    Args:
        initializer: factors from a gradient (or from what else it needs).
        operator: reconciles the new task's gradient with memory's; null: none (LoRA-GA).
        strength: 0..1, how much of the operator's correction is applied.
        scope: conflicts are decided per "matrix", or once for all ("global", the paper's runs).
        samples: examples of the new task, drawn by (seed, task).
        memory_samples: memory examples per boundary in all, divided among the past tasks.
        batch_size: examples per forward and backward pass on each rank.
        loss_on: "answer" tokens only, or "full" sequences (parity with the authors' code).
    """

    phase = 40

    def __init__(
        self,
        initializer: Initializer = SLICE(),  # noqa: B008
        operator: SurgeryOperator | None = PCGrad(),  # noqa: B008
        strength: float = 1.0,
        scope: Scope = "matrix",
        samples: int = 32,
        memory_samples: int = 32,
        batch_size: int = 8,
        loss_on: Literal["answer", "full"] = "answer",
    ) -> None:
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"boundary.init.strength: {strength} must lie in 0..1")
        for name, value in (("samples", samples), ("memory_samples", memory_samples), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"boundary.init.{name}: {value} must be 1 or more")
        self.initializer, self.operator, self.strength, self.scope = initializer, operator, strength, scope
        self.samples, self.memory_samples, self.batch_size, self.loss_on = samples, memory_samples, batch_size, loss_on
        self.boundaries: list[list[Any]] = []

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        reasons = []
        if self.operator is not None and not isinstance(slots.get("memory"), ReplayBuffer):
            reasons.append(
                "boundary.init.operator needs earlier tasks' examples: add boundary.memory (callbacks.ReplayBuffer), "
                "or set boundary.init.init_args.operator=null"
            )
        if adapter.trainable_factors != {"A", "B"}:
            strategy = type(adapter).__name__
            reasons.append(f"boundary.init sets A and B, {strategy} trains only one; set boundary.init=null")
        if self.operator is not None and self.initializer.needs != "gradients":
            kind = type(self.initializer).__name__
            reasons.append(f"boundary.init.operator: {kind} uses no gradient to reconcile; set operator=null")
        if self.initializer.needs == "inputs":
            kind = type(self.initializer).__name__
            reasons.append(f"boundary.init.initializer: {kind} needs an input pass, not gradients")
        return reasons

    def on_task_start(self, run: SequenceRun, task: int) -> None:
        started = time.monotonic()
        new: dict[str, torch.Tensor] = {}
        memory: dict[str, torch.Tensor] = {}
        if self.initializer.needs == "gradients":
            run.say(f"boundary {task + 1}/{len(run.order)} {run.order[task]}: gradients")
            new = self._new_gradient(run, task)
            memory = self._memory_gradient(run)
        records = self._initialize(run, task, new, memory)
        seconds = time.monotonic() - started
        if records:
            self._report(run, task, records, seconds)

    # ---- gradients ---------------------------------------------------------------------------------------

    def _new_gradient(self, run: SequenceRun, task: int) -> dict[str, torch.Tensor]:
        train = run.data.tasks[task].train
        order = torch.randperm(len(train), generator=generator(run.seed, "gradient", run.order[task])).tolist()
        examples = [train[i] for i in order[: self.samples]]
        return self._gradient(run, {run.order[task]: examples})

    def _memory_gradient(self, run: SequenceRun) -> dict[str, torch.Tensor]:
        memory = run.boundary.get("memory")
        if self.operator is None or not isinstance(memory, ReplayBuffer) or not memory.examples:
            return {}
        return self._gradient(run, memory.draw(run, self.memory_samples))

    def _gradient(self, run: SequenceRun, by_task: dict[str, list[Encoded]]) -> dict[str, torch.Tensor]:
        """Mean over tasks of each task's token mean."""
        examples, weights = [], []
        for chosen in by_task.values():
            full = self.loss_on == "full"
            # A full sequence of length L has L - 1 predicted tokens.
            tokens = sum(e.length - 1 if full else len(e.answer_ids) for e in chosen)
            examples += chosen
            weights += [1.0 / (len(by_task) * tokens)] * len(chosen)
        return run.gradients(examples, weights, self.batch_size, self.loss_on)

    # ---- surgery and start -------------------------------------------------------------------------------

    def _initialize(
        self, run: SequenceRun, task: int, new: dict[str, torch.Tensor], memory: dict[str, torch.Tensor]
    ) -> dict[str, tuple[SurgeryRecord, float]]:
        """Set every layer's factors; each matrix is decomposed on one rank and broadcast.

        Returns the surgery record and the overlap with plain LoRA-GA's subspace of every matrix.
        """
        adapter, world = run.module.adapter, distributed.world_size()
        operator = self.operator or PCGrad()
        statistics_of = reconcile(new, memory, operator, self.strength, self.scope) if new else _nothing(adapter.layers)
        records: dict[str, tuple[SurgeryRecord, float]] = {}
        mine: list[tuple[str, tuple[SurgeryRecord, float]]] = []
        told: str | None = None
        for index, (name, statistic, record) in enumerate(statistics_of):
            layer = adapter.layers[name]
            A, B = torch.empty_like(layer.lora_A), torch.empty_like(layer.lora_B)
            owner = index % world
            if owner == distributed.rank():
                rng = generator(run.seed, "init", run.order[task], name)
                try:
                    a, b = self.initializer.factors(layer.dense_weight(), statistic, adapter.rank, adapter.scaling, rng)
                except ValueError as error:
                    # The other ranks wait for this matrix: tell them after the last one.
                    told, a, b, record = told or f"matrix {name}: {error}", A.zero_(), B.zero_(), None
                A.copy_(a)
                B.copy_(b)
                if record is not None:
                    mine.append((name, (record, self._overlap(new[name], statistic, adapter.rank, record))))
            adapter.set_factors(name, distributed.broadcast_(A, owner), distributed.broadcast_(B, owner))
            new.pop(name, None)
            memory.pop(name, None)
        if found := next(filter(None, distributed.gather(told)), None):
            raise TrainingError(f"boundary of task {run.order[task]}, {found}")
        for part in distributed.gather(mine):
            records.update(part)
        return {name: records[name] for name in adapter.layers if name in records}

    def _overlap(self, new: torch.Tensor, reconciled: torch.Tensor, rank: int, record: SurgeryRecord) -> float:
        """Of the top-2r column spaces; 1 where surgery left the gradient alone."""
        if not record.fired:
            return 1.0
        spaces = [top_singular(g, 2 * rank, generator("overlap"))[0] for g in (new, reconciled)]
        return subspace_overlap(*spaces)

    # ---- what it did -------------------------------------------------------------------------------------

    def _report(
        self, run: SequenceRun, task: int, records: dict[str, tuple[SurgeryRecord, float]], seconds: float
    ) -> None:
        rows = [
            [name, r.cosine, int(r.fired), *(r.coefficients[1:] or [None]), r.norm_new, r.norm_memory, overlap]
            for name, (r, overlap) in records.items()
        ]
        run.write(f"surgery/{run.order[task]}.csv", to_csv(COLUMNS, rows))
        compared = [r for r, _ in records.values() if len(r.coefficients) > 1]
        fired = sum(r.fired for r in compared) / len(compared) if compared else None
        cosine = statistics.median(abs(r.cosine) for r in compared) if compared else None
        overlap = statistics.median(o for _, o in records.values()) if compared else None
        lowest = min(o for _, o in records.values()) if compared else None
        boundary = [run.order[task], None if fired is None else 100 * fired, cosine, overlap, lowest, seconds]
        self.boundaries.append(boundary)
        names = ("fired", "median_abs_cosine", "median_overlap", "lowest_overlap", "seconds")
        run.log({f"surgery/{k}": v for k, v in zip(names, boundary[1:], strict=True) if v is not None})
        told = "no memory yet, so LoRA-GA's subspace" if fired is None else (
            f"surgery fired in {100 * fired:.0f} % of {len(compared)} matrices, median |cos| {cosine:.3f}, "
            f"overlap with LoRA-GA's subspace median {overlap:.4f}, lowest {lowest:.4f}"
        )  # fmt: skip
        run.say(f"  {told} ({seconds:.0f} s)")

    def state(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries}

    def load(self, state: dict[str, Any]) -> None:
        self.boundaries = state["boundaries"]

    def tables(self) -> list[Table]:
        columns = [
            "boundary before", "matrices fired %", "median |cos|", "overlap with LoRA-GA, median", "lowest", "seconds",
        ]  # fmt: skip
        return [Table("what surgery did at each boundary (empty: no memory to compare with)", columns, self.boundaries)]


def _nothing(layers: dict[str, Any]) -> Any:
    """An initialiser without gradients: every matrix, no statistic, no record."""
    return ((name, None, None) for name in layers)
