"""Designs A outside the subspaces of earlier tasks' inputs at each task boundary, and grows these subspaces.

Before a task, A of its branch is designed outside the subspace M of earlier tasks' inputs (InfLoRA); after it, M grows
by the directions with the new inputs' energy. Both use covariances that are streamed in one forward pass over at most
`samples` examples: no data is kept. Layers with the same input share one M; keys and values of
cross-attention have their own, of the encoder's states. See `cl_lightning.linalg.subspaces` for the equations.
"""

from __future__ import annotations

import statistics
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callbacks.grown_subspaces import GrownSubspaces
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.layer_names import query_of
from cl_lightning.common import distributed
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.linalg.subspaces import Count, Design, Energy, Subspace, captured_energy, design, empty
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal

COLUMNS = [
    "after", "share to hold", "dimensions %, median", "highest",
    "new inputs' energy outside before, median %", "lowest", "energy held after, lowest %",
]  # fmt: skip
#: Share of a new task's input energy outside earlier subspaces below which its branch can hardly learn.
LITTLE = 0.01


class InputSubspaces(GrownSubspaces):
    """Design A outside earlier tasks' inputs, and grow the subspaces of these inputs.

    Args:
        share: of the inputs' energy that M captures after the first task, (0, 1]; rises linearly towards 1.
        tasks: number of tasks of that rise; null: the sequence's (15 in the published code).
        energy: "eigen": of sum ||x||^2; "eigen_squared": the published code's, which is much weaker.
        count: "reach" that share; "below": the first task stops one direction short, as in the published code.
        design: "pca" of the new inputs' part outside M, "pca_one_sided" (the published code's), or "random".
        chunks: blocks of coordinates with a subspace each, see `cl_lightning.linalg.subspaces`.
        positions: the inputs that count: "tokens", or "all", with the padding, as in the published code.
        cross: inputs of cross-attention's keys and values: their "own", or those of the "query", as in the published
            code, which leaves them unprotected.
        samples: examples per task for the covariances, drawn by (seed, task).
        batch_size: examples per forward pass on each rank.
    """

    phase = 20

    def __init__(
        self,
        share: Finite = 0.995,
        tasks: Integer | None = None,
        energy: Energy = "eigen",
        count: Count = "reach",
        design: Design = "pca",
        chunks: Integer = 1,
        positions: Literal["tokens", "all"] = "tokens",
        cross: Literal["own", "query"] = "own",
        samples: Integer = 256,
        batch_size: Integer = 8,
    ) -> None:
        super().__init__("subspaces", share, tasks, energy, count, chunks, samples, batch_size)
        self.design, self.positions, self.cross = design, positions, cross
        self.seen: dict[str, Subspace] = {}  # by the first layer of each input, on the CPU
        self.rows: list[list[Any]] = []
        self._outside: list[float] = []
        self._by_complement: dict[str, bool] = {}

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if "A" in adapter.trainable_factors:
            return [
                f"boundary.subspaces designs A, but {type(adapter).__name__} trains it; "
                "use cl_lightning.adapters.InfLoRA, or boundary.subspaces=null"
            ]
        return []

    def check_run(self, run: RunContext) -> None:
        super().check_run(run)
        self.check_chunks({name: layer.in_features for name, layer in run.module.adapter.layers.items()})

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Sum a batch's covariances; the subspaces are on the CPU."""
        if rehearsal.last:
            rehearsal.module.input_moments([rehearsal.batch(self.batch_size)])

    # ---- the boundary ------------------------------------------------------------------------------------

    def on_task_start(self, run: RunContext, task: int) -> None:
        name, adapter = run.order[task], run.module.adapter
        owned = self._covariances(run, task, with_new=False)
        self._outside = []

        def one(owner: str, item: tuple[Tensor, list[str]]) -> list[Tensor]:
            C, layers = item
            M = self._basis(owner, C)
            return [design(M, C, adapter.layers[layer].lora_A, self.design, self.chunks) for layer in layers]

        for owner, (C, _) in owned.items():
            self._outside.append(1.0 - captured_energy(self._basis(owner, C), C, self.energy))
        advice = "; lower boundary.subspaces.share or model.adapter.rank"
        designed, owners = distributed.deal(owned.items(), one, f"boundary of task {name}, layer", advice)
        for owner, (_, layers) in owned.items():
            for layer, A in zip_longest(layers, designed.pop(owner, [])):
                start = adapter.layers[layer].lora_A
                A = torch.empty_like(start) if A is None else A.to(start)
                A = distributed.broadcast_(A.contiguous(), owners[owner])
                adapter.set_factors(layer, A, torch.zeros_like(adapter.layers[layer].lora_B))
        if (least := min(self._outside)) < LITTLE:
            run.say(
                f"in one layer only {100 * least:.2g} % of {name}'s input energy lies outside earlier "
                "tasks' subspaces: its branch can hardly learn. Lower boundary.subspaces.share to protect less",
                warning=True,
            )

    def on_task_end(self, run: RunContext, task: int) -> None:
        share = self.share_after(run, task)
        covariances = {owner: C for owner, (C, _) in self._covariances(run, task, with_new=True).items()}
        sizes, kept = [], []
        chunks = dict.fromkeys(covariances, self.chunks)
        for owner, M in self.grow_all(covariances, lambda name: self._basis(name, covariances[name]), share, chunks):
            self.seen[owner] = Subspace.spanned_by(M, self.chunks).to(torch.device("cpu"))
            sizes.append(100 * M.shape[1] / len(M))
            kept.append(100 * captured_energy(M, covariances[owner], self.energy))
        new = [100 * part for part in self._outside]
        row = [share, statistics.median(sizes), max(sizes), statistics.median(new), min(new), min(kept)]
        self.rows.append([run.order[task], *row])
        keys = ("share", "dimensions_median", "dimensions_max", "outside_median", "outside_min", "held_min")
        run.log({f"subspaces/{key}": value for key, value in zip(keys, row, strict=True)})

    def _covariances(self, run: RunContext, task: int, with_new: bool) -> dict[str, tuple[Tensor, list[str]]]:
        """Compute the covariance (n, n) of each input: its first layer -> C and all layers with that input."""
        examples = self.examples(run, task)
        weighted = (examples, [1.0] * len(examples))
        by_layer = run.input_moments(weighted, self.batch_size, with_new, self.positions == "all")
        if self.cross == "query":
            by_layer = {name: by_layer[query_of(name)] for name in by_layer}
        owned: dict[int, tuple[str, Tensor, list[str]]] = {}
        for layer in run.module.adapter.layers:
            C = by_layer[layer]
            owned.setdefault(id(C), (layer, C, []))[2].append(layer)
        return {owner: (C, layers) for owner, C, layers in owned.values()}

    def _basis(self, owner: str, C: Tensor) -> Tensor:
        """Return M (n, k) in float64 on C's device."""
        return self.seen[owner].to(C.device).full() if owner in self.seen else empty(len(C), C.device)

    # ---- state -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "by_complement": {owner: self.seen[owner].by_complement for owner in sorted(self.seen)},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.rows, self._by_complement = state["rows"], state["by_complement"]

    def tensors(self) -> dict[str, Tensor]:
        return {owner: s.basis.contiguous() for owner, s in self.seen.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.seen = {
            owner: Subspace(basis, self._by_complement[owner], self.chunks) for owner, basis in tensors.items()
        }

    def tables(self) -> list[Table]:
        return [Table("input subspaces after each task (energy by the chosen rule)", COLUMNS, self.rows)]
