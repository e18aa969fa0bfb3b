"""Collects one task's (or memory's) gradients of all matrices over repeated passes, exactly or as sketches.

Sums over ranks after each pass; every rank then holds the same gradients. Inner products of a sketched gradient
with memories are taken while its batches stream by, so that only the memory's sketch error is in them; where that
sketch misses more than 0.5 % of the memory's energy, the memory is formed after all for those few matrices, as many
at a time as the budget has room for, and let go again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cl_lightning.common import distributed
from cl_lightning.gradients.accumulate import Exact, inner_product
from cl_lightning.gradients.capture import TakeProduct
from cl_lightning.gradients.memory_plan import Plan
from cl_lightning.gradients.sketch import SinglePass, Sketch, TestMatrices, TwoPass
from cl_lightning.linalg.gram import Gradient


class Matrix(Protocol):
    """What the collector needs to know of a layer: the frozen W (m, n) and its shape."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @property
    def weight(self) -> Tensor:
        """W, for its device."""


#: One pass over this rank's batches: calls the first with each layer's dy and x, the second after each batch.
RunPass = Callable[[TakeProduct, Callable[[], None]], None]

#: Share c of a memory gradient's energy that its sketch must hold if inner products with the sketch are to be trusted:
#: the cosine of two aligned gradients would be off by 1 - sqrt(c).
TRUSTED = 0.995


@dataclass
class Collected:
    """Gradients of all matrices.

    Attributes:
        gradients: name -> G (m, n), dense or low-rank.
        run_pass: repeats the pass they came from.
        products: name -> each batch's inner products with the memories, (batches, memories) float64 on the CPU;
            empty where none were asked for.
        norms: ||G_j||^2 of the memories, (memories,) float64 on the CPU, of matrices in which a memory's sketch holds
            too little: there they are formed for a moment.
        extra_passes: over the batches of all, that forming them took.
    """

    gradients: dict[str, Gradient]
    run_pass: RunPass
    products: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    extra_passes: int = 0

    @property
    def formed(self) -> list[str]:
        """Matrices whose memories had to be formed for inner products and norms."""
        return list(self.norms)

    @property
    def inner(self) -> dict[str, Tensor]:
        """name -> <G, G_j> over the memories j, (memories,)."""
        return {name: by_batch.sum(0) for name, by_batch in self.products.items()}


class GradientCollector:
    """Collects gradients as `plan` says. `layers`: matrices by name; `dtype`: of the sums."""

    def __init__(self, layers: Mapping[str, Matrix], plan: Plan, seed: int, dtype: torch.dtype) -> None:
        self.layers, self.plan, self.seed, self.dtype = layers, plan, seed, dtype
        self._tests: dict[torch.device, TestMatrices] = {}

    def collect(self, run_pass: RunPass, memories: Sequence[Collected] = (), by_batch: bool = False) -> Collected:
        """Run as many passes as it takes.

        Args:
            memories: gradients whose inner products with this one are wanted.
            by_batch: batch-wise inner products also where gradients are exact (sketches always have them).

        Raises:
            ValueError: a sketched gradient is not finite; names the matrix. Exact ones are not looked at.
        """
        if self.plan.mode == "exact":
            return self._exact(run_pass, memories if by_batch else ())
        return self._sketched(run_pass, memories)

    def _exact(self, run_pass: RunPass, memories: Sequence[Collected]) -> Collected:
        sums = {
            name: Exact(layer.shape, self.dtype, layer.weight.device, [m.gradients[name] for m in memories])
            for name, layer in self.layers.items()
        }
        products = _Products(self.layers, len(memories))

        def after_batch() -> None:
            for name, total in sums.items():
                products.now[name] += total.products
                total.products.zero_()
            products.next_batch()

        run_pass(lambda name, dy, x: sums[name].add(dy, x), after_batch if memories else lambda: None)
        gradients = {name: distributed.sum_(total.total) for name, total in sums.items()}
        return Collected(gradients, run_pass, products.gathered())

    def _sketched(self, run_pass: RunPass, memories: Sequence[Collected]) -> Collected:
        sketches = {name: self._sketch(layer) for name, layer in self.layers.items()}
        products = _Products(self.layers, len(memories))
        poorly = [
            name for name in self.layers
            if any(m.gradients[name].captured < TRUSTED for m in memories)
        ]  # fmt: skip
        poorly = distributed.gather(poorly)[0]  # all ranks go through the same passes, whatever their rounding
        trusted = self.layers.keys() - set(poorly)
        results: dict[str, Gradient] = {}
        for left in reversed(range(self.plan.passes)):
            last = left == 0

            def take(name: str, dy: Tensor, x: Tensor, last: bool = last) -> None:
                sketches[name].add(dy, x)
                if last and name in trusted:
                    products.add(name, dy, x, memories)

            run_pass(take, products.next_batch if last and memories else lambda: None)
            for name in list(sketches):
                for tensor in sketches[name].tensors():
                    distributed.sum_(tensor)
                    if not tensor.isfinite().all():  # on all ranks alike; what follows would fail in LAPACK
                        raise ValueError(f"{name}: the gradient is not finite")
                if (result := sketches[name].finish_pass()) is not None:
                    results[name] = result
                    del sketches[name]
                elif (basis := sketches[name].basis) is not None:
                    distributed.broadcast_(basis, 0)
        done = Collected(results, run_pass, products.gathered())
        for group in self._groups(poorly, len(memories)):
            self._add_formed(done, group, memories)
        return done

    def _sketch(self, layer: Matrix) -> Sketch:
        device = layer.weight.device
        tests = self._tests.setdefault(device, TestMatrices(self.seed, self.dtype, device))
        if self.plan.mode == "two_pass":
            return TwoPass(layer.shape, self.plan.columns, tests, self.plan.kept_columns)
        return SinglePass(layer.shape, self.plan.columns, tests, self.plan.rows)

    # ---- inner products with memories that a sketch does not hold well ----------------------------------

    def _groups(self, names: Sequence[str], sets: int) -> Iterator[list[str]]:
        """As many matrices together as fit what the budget leaves, at least one."""
        room = (self.plan.budget or self.plan.exact) - self.plan.kept
        group: list[str] = []
        used = 0
        for name in names:
            m, n = self.layers[name].shape
            size = sets * m * n * self.dtype.itemsize
            if group and used + size > room:
                yield group
                group, used = [], 0
            group.append(name)
            used += size
        if group:
            yield group

    def _add_formed(self, done: Collected, names: Sequence[str], memories: Sequence[Collected]) -> None:
        """Form a few matrices of the memories, add what they tell to `done`, and let them go again."""
        layers = {name: self.layers[name] for name in names}
        exact = GradientCollector(layers, self.plan, self.seed, self.dtype)
        olds = [exact._exact(_only(m.run_pass, layers), ()) for m in memories]
        products = _Products(layers, len(memories))
        _only(done.run_pass, layers)(lambda name, dy, x: products.add(name, dy, x, olds), products.next_batch)
        done.products.update(products.gathered())
        for name in names:
            grams = [torch.sum(old.gradients[name].square(), dtype=torch.float64) for old in olds]
            done.norms[name] = torch.stack(grams).cpu()
        done.extra_passes += len(memories) + 1


class _Products:
    """Inner products with `memories` gradients, batch by batch."""

    def __init__(self, layers: Mapping[str, Matrix], memories: int) -> None:
        self.layers, self.memories = layers, memories
        self.batches: list[dict[str, Tensor]] = []
        self.now = self._zeros()

    def _zeros(self) -> dict[str, Tensor]:
        # On the layer's device: a copy to the CPU for each layer and batch would wait for the GPU each time.
        return {
            name: torch.zeros(self.memories, dtype=torch.float64, device=layer.weight.device)
            for name, layer in self.layers.items()
        }

    def add(self, name: str, dy: Tensor, x: Tensor, memories: Sequence[Collected]) -> None:
        """One call of a layer."""
        for j, memory in enumerate(memories):
            self.now[name][j] += inner_product(dy, x, memory.gradients[name])

    def next_batch(self) -> None:
        self.batches.append(self.now)
        self.now = self._zeros()

    def gathered(self) -> dict[str, Tensor]:
        """name -> (batches of all ranks, memories); empty without memories."""
        if not self.memories:
            return {}
        mine = [{name: values.cpu() for name, values in batch.items()} for batch in self.batches]
        batches = [batch for part in distributed.gather(mine) for batch in part]
        return {name: torch.stack([batch[name] for batch in batches]) for name in self.layers}


def _only(run_pass: RunPass, names: Mapping[str, object]) -> RunPass:
    """The same pass, heard for some layers only."""

    def run(take: TakeProduct, after_batch: Callable[[], None]) -> None:
        run_pass(lambda name, dy, x: take(name, dy, x) if name in names else None, after_batch)

    return run
