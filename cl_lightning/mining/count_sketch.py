"""CountSketch: estimates inner products of matrices from a few thousand numbers each.

    S(G)_b = sum over the entries e with h(e) = b of s(e) G_e

h(e) is uniform over `width` buckets and s(e) a fair sign, drawn for every entry on its own, the same for all matrices
of one shape. S is linear, so a gradient can be sketched batch by batch, and over the draws of h and s

    E <S(G), S(H)> = <G, H>
    Var <S(G), S(H)> = (||G||^2 ||H||^2 + <G, H>^2 - 2 sum_e G_e^2 H_e^2) / width

for all G and H, whatever their rank. The standard error of a cosine is about 1 / sqrt(width), sqrt(2 / width) at most.
Source: Charikar, Chen and Farach-Colton 2002; for inner products Weinberger et al. 2009 (arXiv 0902.2206).
"""

import math

import torch
from torch import Tensor

from cl_lightning.common.seeding import generator


class CountSketch:
    """Sketches matrices; sketches of one shape are comparable. On a GPU the last bits vary from call to call.

    Memory: one int32 per entry of each shape, whatever the number of matrices.

    Args:
        width: numbers per sketch.
        seed: seed of hashes and signs.
    """

    def __init__(self, width: int, seed: int) -> None:
        if width < 1:
            raise ValueError(f"a sketch of width {width} holds nothing; use 1 or more")
        self.width, self.seed = width, seed
        self._places: dict[tuple[torch.Size, torch.device], Tensor] = {}

    @property
    def cosine_error(self) -> float:
        """Bound on the standard deviation of an inner product over the product of norms."""
        return math.sqrt(2 / self.width)

    def __call__(self, matrix: Tensor) -> Tensor:
        """Compute S(matrix), (width,), in float32 or wider."""
        entries = matrix.to(torch.promote_types(torch.float32, matrix.dtype)).flatten()
        sums = torch.zeros(2 * self.width, dtype=entries.dtype, device=entries.device)
        sums.index_add_(0, self._place(matrix.shape, matrix.device), entries)
        return sums[: self.width] - sums[self.width :]

    def _place(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Draw bucket and sign of each entry as one number below 2 width; the second half has sign -1."""
        key = (shape, device)
        if key not in self._places:
            rng = generator(self.seed, "count-sketch", *shape, self.width)
            drawn = torch.randint(2 * self.width, (shape.numel(),), dtype=torch.int32, generator=rng)
            self._places[key] = drawn.to(device)
        return self._places[key]
