"""Initialises and updates GainLoRA's new gate orthogonally to the features of earlier tasks' prompts.

    M_l: basis of the inputs of the gates' weight l on earlier tasks' prompts (p_{l-1}; p_L for the key)
    start:   G_l <- the last gate's,  key <- outside span M_{L+1}
    updates: W <- W_start + (W~ - W_start)(I - M M^T) after every optimiser step, for every weight

Then p_1 .. p_L of an old prompt do not change and key . p_L = 0, so a = f(0) = 0: exactly if the M_l capture all energy
(share 1), otherwise approximately. After each task the gates are measured on all tasks' prompts and written to
`gates/<task>.csv`. Source: GainLoRA (NeurIPS 2025), Proposition 3.1; the published code restores row norms after
projecting, which violates it (`row_norms`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.grown_subspaces import GrownSubspaces
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.gates import constrain
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.linalg.subspaces import Count, Design, Energy, add_to_mean, captured_energy, complement, design, empty
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal

COLUMNS = ["after", "gate of", "prompts of", "mean a", "largest a"]
SUMMARY = [
    "after", "share to hold", "dimensions held % (M_1, .., key)", "key's energy outside before %",
    "new gate on its own prompts, mean", "on old prompts, mean", "largest",
]  # fmt: skip
#: Energy share of the new prompts' features outside old ones below which the new gate can hardly open.
LITTLE = 0.01


class GateOrthogonalization(GrownSubspaces):
    """Orthogonality constraints on GainLoRA's new gate.

    Args:
        share: of the features' energy that each M_l captures after the first task, (0, 1]; rises linearly towards 1.
        tasks: number of tasks of that rise; null: the sequence's.
        energy, count: see `InputSubspaces`; the published code has eigen_squared and below.
        key: direction of the key's start: the leading one of the new prompts' features outside M ("pca";
            "pca_one_sided": the published code of May 2025), or "random" (that of November 2025).
        key_norm: norm of a key's start from the second task on; null: the drawn key's. 64 / sqrt 3 in the published
            Llama code, which is the mean norm of a drawn key at an embedding width of 4096.
        chunks: blocks of coordinates with a subspace each (of embeddings and of the key's features).
        counting: "equal": each prompt has the same weight in the features' covariances; "published": the covariance of
            the second weight's features is a running mean whose count is ahead by a batch, as in the published code.
        samples: training prompts per task for the covariances, drawn by (seed, task).
        probes: held-out prompts of each task on which gates are measured.
        batch_size: prompts at a time on each rank.
        ablation: leave out the start ("no_init"), the updates' projection ("no_update"), or both ("none").
        row_norms: project each update separately and then restore each row's norm, as the published T5 code: this
            loses the guarantee.
    """

    phase = 30

    def __init__(
        self,
        share: Finite = 0.995,
        tasks: Integer | None = None,
        energy: Energy = "eigen",
        count: Count = "reach",
        key: Design = "pca",
        key_norm: Finite | None = None,
        chunks: Integer = 1,
        counting: Literal["equal", "published"] = "equal",
        samples: Integer = 256,
        probes: Integer = 32,
        batch_size: Integer = 32,
        ablation: Literal["no_init", "no_update", "none"] | None = None,
        row_norms: bool = False,
    ) -> None:
        super().__init__("gates", share, tasks, energy, count, chunks, samples, batch_size)
        if probes < 1:
            raise ConfigError(f"boundary.gates.probes: {probes} must be 1 or more")
        if key_norm is not None and not key_norm > 0:
            raise ConfigError(f"boundary.gates.key_norm: {key_norm} must be positive")
        self.key, self.key_norm, self.counting, self.probes = key, key_norm, counting, probes
        self.starts_outside = ablation not in ("no_init", "none")
        self.moves_outside = ablation not in ("no_update", "none")
        self.row_norms = row_norms
        self.bases: list[Tensor] = []  # M_1 .. M_L, and the key's
        self.rows: list[list[Any]] = []
        self._outside = 1.0
        self._started: list[Tensor] = []
        self._handle: Any = None

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if not isinstance(adapter, GainLoRA):
            return [
                f"boundary.gates keeps gates orthogonal, but {type(adapter).__name__} has none; "
                "use cl_lightning.adapters.GainLoRA, or boundary.gates=null"
            ]
        return []

    def check_run(self, run: RunContext) -> None:
        super().check_run(run)
        self.check_chunks({"the embedding": run.module.adapter.embedding_size})

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Hold subspaces as large as earlier prompts can make them, take a batch's covariances, and set the start."""
        adapter = rehearsal.module.adapter
        if rehearsal.last:
            sizes = [w.shape[1] for w in adapter.gates.new]
            most = rehearsal.task * self.samples
            means = self._no_covariances(adapter)
            self.bases = [mean.new_empty(size, min(size - 1, most)) for mean, size in zip(means, sizes, strict=True)]
            self._add(adapter, [rehearsal.batch(self.batch_size)], means)
            if self.key != "random":
                outer = complement(self.bases[-1])
                torch.linalg.eigh(outer.t() @ means[-1] @ outer)
            self._started = [w.detach().clone() for w in adapter.gates.new]

    def _chunks(self, count: int) -> list[int]:
        """Return each weight's number of chunks: embeddings and the key's features are divided, hidden layers not."""
        divided = {0, count - 1} if count > 2 else {0}
        return [self.chunks if index in divided else 1 for index in range(count)]

    # ---- start -------------------------------------------------------------------------------------------

    def on_task_start(self, run: RunContext, task: int) -> None:
        gates, name = run.module.adapter.gates, run.order[task]
        if not self.bases:
            self.bases = [empty(w.shape[1], w.device) for w in gates.new]
        self.bases = [M.to(w.device) for M, w in zip(self.bases, gates.new, strict=True)]
        C = self._covariances(run, task)[-1]
        M, key = self.bases[-1], gates.new[-1]
        self._outside = 1.0 - captured_energy(M, C, self.energy)
        if self.starts_outside:
            try:
                direction = design(M, C, key.detach(), self.key, self._chunks(len(gates.new))[-1])
            except ValueError:
                raise TrainingError(
                    f"boundary of task {name}: earlier prompts fill all {len(M)} dimensions of the gate's features, "
                    "so no key is orthogonal to them; lower boundary.gates.share"
                ) from None
            norm = self.key_norm if self.key_norm is not None and M.shape[1] else float(key.detach().norm())
            direction = direction.to(key) * (norm / direction.norm())
            key.data.copy_(distributed.broadcast_(direction.contiguous(), 0))
        if self._outside < LITTLE:
            run.say(
                f"only {100 * self._outside:.2g} % of the energy of {name}'s gate features lies outside "
                "earlier tasks' subspace: its gate can hardly open. Lower boundary.gates.share to protect less",
                warning=True,
            )
        self._started = [w.detach().clone() for w in gates.new]

    # ---- updates -----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Project after every applied update, not after accumulated micro-steps or skipped steps."""
        if self.moves_outside:
            new = pl_module.adapter.gates.new
            self._handle = trainer.optimizers[0].register_step_post_hook(lambda *_: self._project(new))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook on the optimiser."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @torch.no_grad()
    def _project(self, new: torch.nn.ParameterList) -> None:
        for weight, start, M in zip(new, self._started, self.bases, strict=True):
            if not M.shape[1]:
                continue
            norms = weight.norm(dim=1, keepdim=True)
            weight.copy_(constrain(weight, start, M))
            if self.row_norms:
                weight.mul_(norms / weight.norm(dim=1, keepdim=True))
                start.copy_(weight)

    # ---- growth and measurement --------------------------------------------------------------------------

    def on_task_end(self, run: RunContext, task: int) -> None:
        name, share = run.order[task], self.share_after(run, task)
        measured = [
            [name, run.order[k], run.order[j], float(a[:, k].mean()), float(a[:, k].max())]
            for j in range(task + 1)
            for a in [self._coefficients(run, j)]
            for k in range(task + 1)
        ]
        run.write_table(f"gates/{name}", COLUMNS, measured)
        covariances = self._covariances(run, task)
        named = {str(index): C for index, C in enumerate(covariances)}
        bases = self.bases
        chunks = dict(zip(named, self._chunks(len(bases)), strict=True))
        self.bases = [M for _, M in self.grow_all(named, lambda index: bases[int(index)], share, chunks)]
        of_new = {source: (mean, most) for _, gate, source, mean, most in measured if gate == name}
        old = [of_new[j] for j in run.order[:task]]
        row = [
            name, share, " ".join(f"{100 * M.shape[1] / len(M):.0f}" for M in self.bases), 100 * self._outside,
            of_new[name][0], sum(m for m, _ in old) / len(old) if old else None, max((m for _, m in old), default=None),
        ]  # fmt: skip
        self.rows.append(row)
        keys = ("own_mean", "old_mean", "old_max")
        run.log({f"gates/{key}": v for key, v in zip(keys, row[-3:], strict=True) if v is not None})

    def _covariances(self, run: RunContext, task: int) -> list[Tensor]:
        """Compute the covariances of the newest gate's inputs on the task's prompts, all ranks: (in, in) float64."""
        adapter, examples = run.module.adapter, self.examples(run, task)
        means = self._no_covariances(adapter)
        seen = self._add(adapter, run.batches(examples, self.batch_size), means)
        return [distributed.sum_(mean * seen) / len(examples) for mean in means]

    @staticmethod
    def _no_covariances(adapter: GainLoRA) -> list[Tensor]:
        new = adapter.gates.new
        return [torch.zeros(w.shape[1], w.shape[1], dtype=torch.float64, device=w.device) for w in new]

    @torch.no_grad()
    def _add(self, adapter: GainLoRA, batches: Iterable[dict[str, Any]], means: list[Tensor]) -> int:
        """Add batches of prompts to the mean covariances, and return the number of prompts."""
        seen = 0
        for batch in batches:
            for index, p in enumerate(adapter.gates.features(adapter.pooled(batch))):
                twice = self.counting == "published" and index == 1
                means[index] = add_to_mean(means[index], seen, p.double(), twice)
            seen += len(batch["input_ids"])
        return seen

    @torch.no_grad()
    def _coefficients(self, run: RunContext, source: int) -> Tensor:
        """Compute a (prompts, gates) on held-out prompts of a task, all ranks, on the CPU."""
        adapter, probes = run.module.adapter, run.data.tasks[source].test[: self.probes]
        mine = [adapter.gates(adapter.pooled(batch)).cpu() for batch in run.batches(probes, self.batch_size)]
        return torch.cat([a for part in distributed.gather(mine) for a in part])

    # ---- state -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state inside a task, for a checkpoint: with `row_norms`, the weights after the last update."""
        return {"started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        for weight, stored in zip(self._started, state["started"], strict=True):
            weight.copy_(stored)

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def tensors(self) -> dict[str, Tensor]:
        return {f"M{index + 1}": M.cpu().contiguous() for index, M in enumerate(self.bases)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.bases = [tensors[f"M{index + 1}"] for index in range(len(tensors))]

    def tables(self) -> list[Table]:
        return [
            Table("gates: a on held-out prompts, and the subspaces of earlier prompts' features", SUMMARY, self.rows)
        ]
