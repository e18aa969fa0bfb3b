"""Initialises the new branch from gradients of the new task and of memory, after surgery.

With memory, PCGrad and the SLICE initialiser this is SLICE (arXiv 2605.12752); with LoRA-GA's initialiser and without
operator and memory it is LoRA-GA.

    G_new = (1/N) sum over the new task's answer tokens of dNLL/dW,       N answer tokens
    G_mem = (1/(t-1)) sum over past tasks j of (1/N_j) sum over j's memory tokens of dNLL/dW

Both are computed with earlier branches and without the new one. Training afterwards steps on G_new: surgery only
rotates the subspace that the branch starts in. `warm_start`, which is not in the paper, takes the reconciled step
itself before training begins.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from callbacks.branch_init import BranchInit, Factors
from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.common.seeding import generator
from cl_lightning.data.prompt import Encoded
from cl_lightning.gradients.collector import Collected, GradientCollector
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import Plan, plan
from cl_lightning.initializers.base import Initializer, Needs
from cl_lightning.initializers.slice import SLICE
from cl_lightning.initializers.start import Start
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import Table, TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.rehearsal import Rehearsal
from cl_lightning.surgery.base import RangeOperator, SurgeryOperator
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import Scope, SurgeryRecord, blocks_of, decided_together, reconcile
from cl_lightning.surgery.reliability import LEAST_BATCHES, jackknife, null_firing_share, reliable_conflicts
from cl_lightning.surgery.report import BOUNDARY_COLUMNS, COLUMNS, MatrixReport, boundary_row, in_numbers, in_words

MemoryGradient = Literal["mean", "last", "per_task"]


class Gradients(NamedTuple):
    """The new task's gradients, and those of each memory group."""

    new: Collected
    memories: list[Collected]


class Reconciled(NamedTuple):
    """One matrix W, its reconciled gradient, and the record of its surgery."""

    weight: Tensor
    gradient: Tensor | LowRank
    record: SurgeryRecord


class SliceInit(BranchInit):
    """Start each task's branch from its reconciled gradient.

    Args:
        initializer: one that needs a gradient.
        operator: reconciles the new task's gradient with memory's; null: none (LoRA-GA).
        strength: 0..1, the fraction of the operator's correction that is applied.
        scope: conflicts are decided per "matrix", per "block" of the model, or once for all ("global", the paper's).
        preserve_norm: give the reconciled gradient the new one's norm (if the start depends on the norm).
        memory_gradient: "mean" over the past tasks, the "last" task's, or one "per_task" (GEM, CAGrad).
        reliability: operate only where the inner product over batches is this many standard errors below 0; null:
            everywhere.
        samples: examples of the new task, drawn by (seed, task).
        memory_samples: memory examples per boundary, divided among the past tasks, at least one of each.
        batch_size: examples per forward and backward pass on each rank.
        loss_on: "answer" tokens only, or "full" sequences (parity with the authors' code).
        memory_budget: bytes for gradients between batches; exact gradients if they fit, else sketches. null: exact.
        oversampling: extra sketch columns beyond 2 rank.
        gate_weighting: under gates (GainLoRA), the gradients whose samples are weighted by the new branch's gate: the
            "new" task's, "both", or "none". The gate is near 0 on old prompts, so "both" leaves hardly any memory
            gradient.
        warm_start: tau > 0 moves the start by the reconciled step, s(dB A0 + B0 dA) = -tau [G~]_2r; not in the paper;
            logits then change.
    """

    gives: ClassVar[frozenset[Needs]] = frozenset({"gradients"})

    def __init__(
        self,
        initializer: Initializer = SLICE(),  # noqa: B008
        operator: SurgeryOperator | RangeOperator | None = PCGrad(),  # noqa: B008
        strength: Finite = 1.0,
        scope: Scope = "matrix",
        preserve_norm: bool = False,
        memory_gradient: MemoryGradient = "mean",
        reliability: Finite | None = None,
        samples: Integer = 32,
        memory_samples: Integer = 32,
        batch_size: Integer = 8,
        loss_on: Literal["answer", "full"] = "answer",
        memory_budget: Integer | None = None,
        oversampling: Integer = 10,
        warm_start: Finite = 0.0,
        gate_weighting: Literal["none", "new", "both"] = "new",
    ) -> None:
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"boundary.init.strength: {strength} must lie in 0..1")
        super().__init__(initializer, samples, batch_size)
        if memory_samples < 1:
            raise ConfigError(f"boundary.init.memory_samples: {memory_samples} must be 1 or more")
        for name, value in (("reliability", reliability), ("warm_start", warm_start), ("oversampling", oversampling)):
            if value is not None and not value >= 0:
                raise ConfigError(f"boundary.init.{name}: {value} must not be negative")
        self.operator, self.strength, self.scope = operator, strength, scope
        self.preserve_norm, self.memory_gradient, self.reliability = preserve_norm, memory_gradient, reliability
        self.memory_samples, self.loss_on = memory_samples, loss_on
        self.memory_budget, self.oversampling, self.warm_start = memory_budget, oversampling, warm_start
        self.gate_weighting = gate_weighting
        self.boundaries: list[list[Any]] = []

    # ---- checks ------------------------------------------------------------------------------------------

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        kind, reasons = type(self.initializer).__name__, super().check(slots, adapter)
        if self.operator is not None:
            operator = type(self.operator).__name__
            if not isinstance(slots.get("memory"), ReplayBuffer):
                reasons.append(
                    "boundary.init.operator needs earlier tasks' examples: add boundary.memory "
                    "(callbacks.ReplayBuffer), or set boundary.init.init_args.operator=null"
                )
            if self.operator.memories == "each" and self.memory_gradient != "per_task":
                reasons.append(
                    f"boundary.init.operator: {operator} needs one gradient per past task, but "
                    f"memory_gradient={self.memory_gradient} gives a single one; set memory_gradient=per_task"
                )
            if self.operator.memories == "one" and self.memory_gradient == "per_task":
                reasons.append(
                    f"boundary.init.operator: {operator} takes one memory gradient; set memory_gradient=mean or last"
                )
            if isinstance(self.operator, RangeOperator) and (self.scope != "matrix" or self.strength != 1.0):
                reasons.append(
                    f"boundary.init.operator: {operator} works matrix by matrix at full strength; "
                    "set scope=matrix and strength=1"
                )
        if self.warm_start and not (self.initializer.takes_sketch and self.initializer.directions_per_rank == 2):
            reasons.append(f"boundary.init.warm_start: {kind} does not start at a gradient's directions; set it to 0")
        return reasons

    def check_run(self, run: RunContext) -> None:
        """See the base class."""
        super().check_run(run)
        self._check_samples(run)
        if self.operator is not None and self.memory_gradient == "last":
            run.boundary["memory"].check_keeps_last(run)
        self._plan(run)

    def _check_samples(self, run: RunContext) -> None:
        if self.loss_on == "full" and run.module.encoder_decoder:
            raise ConfigError("boundary.init.loss_on: full needs a decoder; an encoder-decoder predicts answers only")
        for task in run.data.tasks:
            count = min(self.samples, len(task.train))
            if count < self.batch_size:
                raise ConfigError(
                    f"boundary.init.batch_size: {self.batch_size} is more than the {count} examples for the gradient "
                    f"of {task.spec.name}; lower it, or raise boundary.init.samples"
                )
            batches = -(-count // self.batch_size)
            if self.reliability is not None and batches < LEAST_BATCHES:
                raise ConfigError(
                    f"boundary.init.reliability: {count} samples of {task.spec.name} in batches of {self.batch_size} "
                    f"are {batches} batches, but a standard error needs {LEAST_BATCHES}; raise samples or lower "
                    "batch_size"
                )

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Take a batch's gradients, with all sets held, then set the start."""
        if rehearsal.last:
            chosen, before = self._plan(rehearsal), rehearsal.live.now
            sums = self._collector(rehearsal.module, chosen, rehearsal.seed).accumulators()
            rehearsal.hold(chosen.held, rehearsal.live.now - before)
            batch = rehearsal.batch(self.batch_size, self.loss_on)
            rehearsal.module.gradient_pass([batch], self.gate_weighting != "none").run(sums)
        super().rehearse(rehearsal)

    def _plan(self, run: RunContext | Rehearsal) -> Plan:
        """Choose exact gradients or sketches. Raises ConfigError if nothing fits the budget."""
        adapter, most = run.module.adapter, len(run.order) - 1
        sets = 1 + (0 if self.operator is None else most if self.memory_gradient == "per_task" else 1)
        mode = "auto" if self.initializer.takes_sketch else "exact"
        try:
            return plan(
                {name: layer.shape for name, layer in adapter.layers.items()},
                adapter.rank,
                sets,
                self.oversampling,
                self.memory_budget,
                mode=mode,
            )
        except ValueError as error:
            raise ConfigError(f"boundary.init.memory_budget: {error}") from None

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Count the examples of the new task's gradient and of memory's; see the base class."""
        memory = self.memory_samples if task and self.operator is not None and "memory" in run.boundary else 0
        new = min(self.samples, len(run.data.tasks[task].train))
        return {"gradients": (new + memory) / distributed.world_size()}

    # ---- the boundary ------------------------------------------------------------------------------------

    def on_task_start(self, run: RunContext, task: int) -> None:
        """Collect gradients, reconcile them, compute the starts, set them, report."""
        started = time.monotonic()
        with run.record.stages.within("gradients"):
            gradients = self._collect(run, task)
        reconciled = self._reconcile(run, task, gradients)
        factors, owners, reports = self._start_all(run, task, reconciled, gradients)
        self.set(run, factors, owners)
        self._report(run, task, reports, gradients.new, time.monotonic() - started)

    def _memory_groups(self, run: RunContext) -> list[dict[str, list[Encoded]]]:
        """Draw memory examples by task, one group for each memory gradient."""
        memory = run.boundary.get("memory")
        if self.operator is None or not isinstance(memory, ReplayBuffer) or not memory.examples:
            return []
        if self.memory_gradient == "last":
            last = list(memory.examples)[-1]
            return [{last: memory.encoded(run, last, self.memory_samples)}]
        drawn = memory.draw(run, self.memory_samples)
        return [drawn] if self.memory_gradient == "mean" else [{name: kept} for name, kept in drawn.items()]

    def _collect(self, run: RunContext, task: int) -> Gradients:
        """Take the gradients of the new task and of each memory group."""
        chosen = self._plan(run)
        if not self.boundaries:
            run.say(f"  {chosen.line()}")
        collector = self._collector(run.module, chosen, run.data.seed)
        new_gated, memory_gated = self.gate_weighting != "none", self.gate_weighting == "both"
        examples = {run.order[task]: run.data.draw(task, self.samples, "gradient")}
        try:
            memories = [
                collector.collect(self._gradient_pass(run, group, memory_gated)) for group in self._memory_groups(run)
            ]
            new = self._gradient_pass(run, examples, new_gated)
            return Gradients(collector.collect(new, memories, by_batch=self.reliability is not None), memories)
        except ValueError as error:
            raise TrainingError(f"boundary of task {run.order[task]}, {error}") from None

    def _collector(self, module: ContinualLM, chosen: Plan, seed: int) -> GradientCollector:
        dtype = torch.promote_types(torch.float32, module.llm.dtype)
        return GradientCollector(module.adapter.layers, chosen, seed, dtype)

    def _gradient_pass(self, run: RunContext, by_task: dict[str, list[Encoded]], gated: bool) -> GradientPass:
        return run.gradient_pass(self._weighted(by_task), self.batch_size, self.loss_on, gated)

    def _weighted(self, by_task: dict[str, list[Encoded]]) -> tuple[list[Encoded], list[float]]:
        """Weight examples so that the loss is the mean over tasks of each task's token mean."""
        examples: list[Encoded] = []
        weights: list[float] = []
        for chosen in by_task.values():
            full = self.loss_on == "full"
            # A full sequence of length L has L - 1 predicted tokens.
            tokens = sum(e.length - 1 if full else e.labelled for e in chosen)
            examples += chosen
            weights += [1.0 / (len(by_task) * tokens)] * len(chosen)
        return examples, weights

    # ---- surgery and starts ------------------------------------------------------------------------------

    def _reconcile(self, run: RunContext, task: int, gradients: Gradients) -> Iterator[tuple[str, Reconciled]]:
        """Reconcile matrix by matrix, freeing a matrix's gradients when the next one is requested.

        Raises:
            TrainingError: a gradient cannot be reconciled. All ranks hold the same ones, so all find the same fault.
        """
        new, memories = gradients.new, gradients.memories
        blocks = blocks_of(new.gradients)
        reliable = None
        if self.reliability is not None and new.inner_by_batch:
            groups = decided_together(new.inner_by_batch, self.scope, blocks)
            reliable = reliable_conflicts(new.inner_by_batch, groups, self.reliability)
        try:
            for name, gradient, record in reconcile(
                new.gradients,
                [m.gradients for m in memories],
                self.operator or PCGrad(),
                self.strength,
                self.scope,
                blocks,
                self.preserve_norm,
                reliable,
                inner=new.inner or None,
                norms=new.norms,
            ):
                yield name, Reconciled(run.module.adapter.layers[name].dense_weight(), gradient, record)
                for held in (new, *memories):
                    del held.gradients[name]
        except ValueError as error:
            raise TrainingError(f"boundary of task {run.order[task]}, {error}") from None

    def _start_all(
        self, run: RunContext, task: int, reconciled: Iterable[tuple[str, Reconciled]], gradients: Gradients
    ) -> tuple[dict[str, Factors], dict[str, int], dict[str, MatrixReport]]:
        """Compute and describe each matrix's start on one rank.

        Returns:
            This rank's factors by matrix, the rank that has each matrix's factors, and this rank's reports by matrix.
        """

        def one(name: str, found: Reconciled) -> tuple[Factors, MatrixReport]:
            start = self.start(run, task, name, found.weight, found.gradient)
            return start.tensors, self._matrix_report(name, start, found.record, gradients, run.module.adapter.rank)

        made, owners = distributed.deal(reconciled, one, f"boundary of task {run.order[task]}, matrix")
        factors = {name: tensors for name, (tensors, _) in made.items()}
        return factors, owners, {name: report for name, (_, report) in made.items()}

    # ---- report ------------------------------------------------------------------------------------------

    def _matrix_report(
        self, name: str, start: Start, record: SurgeryRecord, gradients: Gradients, rank: int
    ) -> MatrixReport:
        new, error = gradients.new, None
        if self.reliability is not None and name in new.inner_by_batch:
            scale = record.norm_new * record.norm_memory
            errors = [jackknife(column)[1] for column in new.inner_by_batch[name].t()]
            error = max(errors) / scale if scale else None
        after = (start.cosine_with(m.gradients[name]) for m in gradients.memories)
        cosine_after, inner_after = min(after, default=(None, None))
        return MatrixReport(
            record=record,
            captured=getattr(new.gradients[name], "captured", 1.0),
            energy=start.energy,
            overlap=start.overlap_with(new.gradients[name], rank) if record.fired else 1.0,
            cosine_after=cosine_after,
            inner_after=inner_after,
            standard_error=error,
        )

    def _report(
        self, run: RunContext, task: int, mine: dict[str, MatrixReport], new: Collected, seconds: float
    ) -> None:
        name = run.order[task]
        found = {matrix: report for part in distributed.gather(mine) for matrix, report in part.items()}
        reports = {matrix: found[matrix] for matrix in run.module.adapter.layers}
        rows = [report.row(matrix) for matrix, report in reports.items()]
        run.write_table(f"surgery/{name}", COLUMNS, rows)
        numbers = in_numbers(reports)
        if self.reliability is not None and new.inner_by_batch:
            by_matrix = {matrix: by_batch.sum(1) for matrix, by_batch in new.inner_by_batch.items()}
            numbers["fired_by_chance"] = null_firing_share(
                by_matrix, self.reliability, generator(run.data.seed, "halves", name)
            )
        run.log({f"surgery/{k}": v for k, v in numbers.items()} | {"surgery/seconds": seconds})
        self.boundaries.append(boundary_row(name, numbers, seconds))
        formed = f"; {len(new.formed)} memories formed, {new.extra_passes} more passes" if new.formed else ""
        run.say(f"  {in_words(numbers, len(reports))}{formed} ({seconds:.0f} s)")

    def state(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries}

    def load(self, state: dict[str, Any]) -> None:
        self.boundaries = state["boundaries"]

    def tables(self) -> list[Table]:
        title = "surgery at each boundary (empty: no memory to compare with, or reliability is not set)"
        return [Table(title, BOUNDARY_COLUMNS, self.boundaries)] if self.boundaries else []
