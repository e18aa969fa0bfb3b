"""Streamed sketches of a gradient G = sum over batches of dy^T x that is never formed.

A sketch is fed batch by batch (`add`), its sums are reduced over ranks (`tensors`), and after `passes` passes over the
same batches it returns low-rank factors. Test matrices are drawn from (seed, size), so matrices, tasks and ranks share
them and sketches of different gradients combine linearly.

Shapes: G (m, n), dy (N, m), x (N, n), k sketch columns, l co-range rows. PROBES further columns estimate the residual.
They are not used to find the range: columns that were used would lie in it and see no residual.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from cl_lightning.common.seeding import generator
from cl_lightning.linalg.low_rank import LowRank

PROBES = 8


class TestMatrices:
    """Gaussian test matrices by purpose and size, each drawn once and shared."""

    __test__ = False  # not a pytest class

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self.seed, self.dtype, self.device = seed, dtype, device
        self.drawn: dict[tuple[str, int, int], Tensor] = {}

    def gaussian(self, purpose: str, size: int, columns: int) -> Tensor:
        """(size, columns), standard normal."""
        key = (purpose, size, columns)
        if key not in self.drawn:
            rng = generator(self.seed, "sketch", *key)
            self.drawn[key] = torch.randn(size, columns, dtype=self.dtype, generator=rng).to(self.device)
        return self.drawn[key]


class Sketch(ABC):
    """One gradient's sketch. Repeat `passes` times: `add` every batch, sum `tensors()` over ranks, `finish_pass`.

    Attributes:
        basis: multiplied with in the next pass; all ranks must use one rank's basis, since signs may differ.
    """

    passes: ClassVar[int]
    basis: Tensor | None = None

    def __init__(self, shape: tuple[int, int], columns: int, tests: TestMatrices) -> None:
        self.shape, self.tests = shape, tests
        self.columns = min(columns, *shape)
        self._omega = tests.gaussian("range", shape[1], self.columns + PROBES)
        self._left = self._zeros(shape[0], self.columns + PROBES)  # Y = G Omega

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.tests.dtype, device=self.tests.device)

    def _add_range(self, dy: Tensor, x: Tensor) -> None:
        self._left += dy.t() @ (x @ self._omega.to(x.dtype))

    def _split_range(self) -> tuple[Tensor, Tensor]:
        """Compute an orthonormal basis of the range, and the probes G Omega'."""
        return _orthonormal(self._left[:, : self.columns]), self._left[:, self.columns :].clone()

    def _low_rank(self, left: Tensor, right: Tensor, probes: Tensor) -> LowRank:
        """Make G^ with its captured share 1 - ||R||^2 / (||R||^2 + ||G^||^2), R = G - G^.

        The probes give ||R||^2: E ||R Omega'||^2 = PROBES ||R||^2.
        """
        missed = probes - left @ (right.t() @ self._omega[:, self.columns :])
        residual = float(missed.to(torch.float64).square().sum()) / PROBES
        held = float(((left.t() @ left).to(torch.float64) * (right.t() @ right).to(torch.float64)).sum())
        return LowRank(left, right, held / (held + residual) if held + residual > 0 else 1.0)

    @abstractmethod
    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call of the layer."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Return the current pass's sums, which are linear in G."""

    @abstractmethod
    def finish_pass(self) -> LowRank | None:
        """Go to the next pass; after the last pass, return the result."""


class FourPass(Sketch):
    """Range finder with one power iteration, keeping both bases: block Krylov iteration in four passes.

        Y = G Omega, Q = orth(Y)  |  H = G^T Q, P = orth(H)  |  Y' = G P, Q' = orth(Y' outside Q)  |  H' = G^T Q'

        G^ = Q H^T + Q' H'^T, truncated to its `kept` largest singular directions

    Source: block Krylov iteration (Musco and Musco 2015, arXiv 1504.05477) of depth 2. Halko et al. 2011 (arXiv
    0909.4061, algorithms 4.4 and 5.1) make the same passes but keep Y' only, which loses several times as much where
    singular values decay slowly.
    """

    passes = 4

    def __init__(self, shape: tuple[int, int], columns: int, tests: TestMatrices, kept: int) -> None:
        super().__init__(shape, columns, tests)
        self.kept = min(kept, self.streamed_columns(columns, shape))
        self._pass = 0
        self._first = self._probes = self._sum = None

    @staticmethod
    def streamed_columns(columns: int, shape: tuple[int, int]) -> int:
        """Largest number of columns of Q and Q' together."""
        return min(2 * columns, *shape)

    def add(self, dy: Tensor, x: Tensor) -> None:
        if self._pass == 0:
            self._add_range(dy, x)
        else:  # G^T Q, G P, or G^T Q'
            known, other = (dy, x) if self._pass % 2 else (x, dy)
            self._sum += other.t() @ (known @ self.basis.to(known.dtype))

    def tensors(self) -> list[Tensor]:
        return [self._left if self._pass == 0 else self._sum]

    def finish_pass(self) -> LowRank | None:
        if self._pass == 0:
            self.basis, self._probes = self._split_range()
            self._left = None
        elif self._pass == 1:
            self._first = (self.basis, self._sum)
            more = self.streamed_columns(self.columns, self.shape) - self.columns
            self.basis = _orthonormal(self._sum)[:, :more].clone(memory_format=torch.contiguous_format)
        elif self._pass == 2:
            both = _orthonormal(torch.cat([self._first[0], self._sum], 1))
            # A copy: a slice would keep all of `both` alive.
            self.basis = both[:, self.columns :].clone(memory_format=torch.contiguous_format)
        else:
            Q, H = self._first
            left, right = torch.cat([Q, self.basis], 1), torch.cat([H, self._sum], 1)
            V, S, Wh = torch.linalg.svd(right, full_matrices=False)
            return self._low_rank(left @ Wh[: self.kept].t(), V[:, : self.kept] * S[: self.kept], self._probes)
        self._pass += 1
        side = self.shape[self._pass % 2]
        self._sum = self._zeros(side, self.basis.shape[1])
        return None


class SinglePass(Sketch):
    """Sketch range and co-range in one pass:   Y = G Omega = Q R,   Z = Psi G,   G^ = Q (Psi Q)^+ Z.

    Source: Tropp et al. 2017 (arXiv 1609.00048), algorithm 4; l = 2k + 1 makes the first factor of their bound 2.
    """

    passes = 1

    def __init__(self, shape: tuple[int, int], columns: int, tests: TestMatrices, rows: int) -> None:
        super().__init__(shape, columns, tests)
        self._psi = tests.gaussian("co-range", shape[0], rows)  # its transpose
        self._right = self._zeros(rows, shape[1])

    def add(self, dy: Tensor, x: Tensor) -> None:
        self._add_range(dy, x)
        self._right += (dy @ self._psi.to(dy.dtype)).t() @ x

    def tensors(self) -> list[Tensor]:
        return [self._left, self._right]

    def finish_pass(self) -> LowRank:
        Q, probes = self._split_range()
        core = torch.linalg.lstsq(self._psi.t() @ Q, self._right).solution
        return self._low_rank(Q, core.t().contiguous(), probes)


def _orthonormal(columns: Tensor) -> Tensor:
    # LAPACK returns column-major matrices; collectives need contiguous ones.
    return torch.linalg.qr(columns).Q.contiguous()
