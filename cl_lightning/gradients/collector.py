"""Collects the gradients of all matrices for one task, or for memory, over repeated passes: exactly or as sketches.

Gradients are summed over ranks after each pass, so every rank holds the same ones. Inner products of a sketched
gradient with memories are computed while its batches stream by, so only the memory's sketch is approximate in them.
Where that sketch misses more than 0.5 % of the memory's energy, the memory gradient is formed temporarily, for as many
of these matrices at a time as the budget has room for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cl_lightning.common import distributed
from cl_lightning.gradients.accumulate import Exact, InnerProducts, Together, gather_batches
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.memory_plan import Plan
from cl_lightning.gradients.sketch import FourPass, SinglePass, Sketch, TestMatrices
from cl_lightning.linalg.gram import Gradient


class Matrix(Protocol):
    """A layer as the collector sees it: the frozen W (m, n) and its shape."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @property
    def weight(self) -> Tensor:
        """W; only its device is used."""


#: Share c of a memory gradient's energy that its sketch must capture for inner products with the sketch to be trusted:
#: the cosine of two aligned gradients would be off by 1 - sqrt(c).
TRUSTED = 0.995


@dataclass
class Collected:
    """Gradients of all matrices.

    Attributes:
        gradients: name -> G (m, n), dense or low-rank.
        source: the pass they came from, which can be run again.
        inner_by_batch: name -> each batch's inner products with the memories, (batches, memories) float64 on the CPU;
            empty where none were asked for.
        norms: ||G_j||^2 of the memories, (memories,) float64 on the CPU, of the matrices whose memory gradients had to
            be formed temporarily because a sketch captures too little.
        extra_passes: number of passes, over all sets of batches, that forming them took.
    """

    gradients: dict[str, Gradient]
    source: GradientPass
    inner_by_batch: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    extra_passes: int = 0

    @property
    def formed(self) -> list[str]:
        """Matrices whose memories had to be formed for inner products and norms."""
        return list(self.norms)

    @property
    def inner(self) -> dict[str, Tensor]:
        """Inner products <G, G_j> with the memories j: name -> (memories,)."""
        return {name: by_batch.sum(0) for name, by_batch in self.inner_by_batch.items()}


class GradientCollector:
    """Collects gradients in the way that `plan` chose.

    Args:
        layers: matrices by name.
        plan: exact gradients or sketches, and their sizes.
        seed: of the sketches' test matrices.
        dtype: of the sums.
    """

    def __init__(self, layers: Mapping[str, Matrix], plan: Plan, seed: int, dtype: torch.dtype) -> None:
        self.layers, self.plan, self.seed, self.dtype = layers, plan, seed, dtype
        self._tests: dict[torch.device, TestMatrices] = {}

    def collect(self, source: GradientPass, memories: Sequence[Collected] = (), by_batch: bool = False) -> Collected:
        """Run `source` as often as the plan needs.

        Args:
            source: the batches and their loss.
            memories: gradients to compute inner products with.
            by_batch: compute inner products by batch for exact gradients too (sketches always have them).

        Raises:
            ValueError: a sketched gradient is not finite; names the matrix. Exact gradients are not checked.
        """
        if self.plan.mode == "exact":
            return self._exact(source, memories if by_batch else ())
        return self._sketched(source, memories)

    def accumulators(self) -> dict[str, Exact] | dict[str, Sketch]:
        """Make what a first pass, without memories, adds to: one accumulator of each matrix."""
        if self.plan.mode == "exact":
            return {n: Exact(layer.shape, self.dtype, layer.weight.device) for n, layer in self.layers.items()}
        return {name: self._sketch(layer) for name, layer in self.layers.items()}

    def _exact(self, source: GradientPass, memories: Sequence[Collected]) -> Collected:
        sums = {
            name: Exact(layer.shape, self.dtype, layer.weight.device, [m.gradients[name] for m in memories])
            for name, layer in self.layers.items()
        }
        for _ in source.by_batch(sums):
            for one in sums.values():
                one.inner.end_batch()
        gradients = {name: distributed.sum_(one.total) for name, one in sums.items()}
        inner = {name: one.inner for name, one in sums.items()} if memories else {}
        return Collected(gradients, source, gather_batches(inner))

    def _sketched(self, source: GradientPass, memories: Sequence[Collected]) -> Collected:
        sketches = self.accumulators()
        untrusted = [
            name for name in self.layers
            if any(m.gradients[name].captured < TRUSTED for m in memories)
        ]  # fmt: skip
        untrusted = distributed.gather(untrusted)[0]  # all ranks must run the same passes, whatever their rounding
        inner = self._inner_products([name for name in self.layers if name not in untrusted], memories)
        for _ in range(self.plan.passes - 1):
            source.run(sketches)
            self._finish_pass(sketches)
        last = sketches | {name: Together(sketches[name], one) for name, one in inner.items()}
        for _ in source.by_batch(last):
            for one in inner.values():
                one.end_batch()
        del last
        done = Collected(self._finish_pass(sketches), source, gather_batches(inner))
        for group in self._groups(untrusted, len(memories)):
            self._add_formed(done, group, memories)
        done.inner_by_batch = {name: done.inner_by_batch[name] for name in self.layers if memories}
        return done

    def _inner_products(self, names: Sequence[str], memories: Sequence[Collected]) -> dict[str, InnerProducts]:
        """Make accumulators of inner products with the memories; none without memories."""
        return {
            name: InnerProducts([m.gradients[name] for m in memories], self.layers[name].weight.device)
            for name in names
            if memories
        }

    def _finish_pass(self, sketches: dict[str, Sketch]) -> dict[str, Gradient]:
        """Sum the pass over ranks and return the finished sketches' gradients, which leave `sketches`."""
        results: dict[str, Gradient] = {}
        for name in list(sketches):
            for tensor in sketches[name].tensors():
                distributed.sum_(tensor)
                if not tensor.isfinite().all():  # equal on all ranks; LAPACK would fail
                    raise ValueError(f"{name}: the gradient is not finite")
            if (result := sketches[name].finish_pass()) is not None:
                results[name] = result
                del sketches[name]
            elif (basis := sketches[name].basis) is not None:
                distributed.broadcast_(basis, 0)
        return results

    def _sketch(self, layer: Matrix) -> Sketch:
        device = layer.weight.device
        tests = self._tests.setdefault(device, TestMatrices(self.seed, self.dtype, device))
        if self.plan.mode == "four_pass":
            return FourPass(layer.shape, self.plan.columns, tests, self.plan.kept_columns)
        return SinglePass(layer.shape, self.plan.columns, tests, self.plan.rows)

    # ---- inner products with memories whose sketches are not trusted --------------------------------------

    def _groups(self, names: Sequence[str], sets: int) -> Iterator[list[str]]:
        """Group matrices so that their formed memories fit the rest of the budget; at least one in a group."""
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
        """Form the memories of a few matrices temporarily and add their inner products and norms to `done`."""
        exact = GradientCollector({name: self.layers[name] for name in names}, self.plan, self.seed, self.dtype)
        formed = [exact._exact(m.source, ()) for m in memories]
        inner = exact._inner_products(names, formed)
        for _ in done.source.by_batch(inner):
            for one in inner.values():
                one.end_batch()
        done.inner_by_batch.update(gather_batches(inner))
        for name in names:
            squares = [torch.sum(m.gradients[name].square(), dtype=torch.float64) for m in formed]
            done.norms[name] = torch.stack(squares).cpu()
        done.extra_passes += len(memories) + 1
