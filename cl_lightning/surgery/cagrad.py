"""CAGrad: the step near the mean gradient that improves the worst task most."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.surgery.base import ROUNDING, SurgeryOperator, no_surgery
from cl_lightning.surgery.nonnegative import nearest_to_origin, nonnegative_least_squares

SHORTEST = 1e-7  # relative length of g_w below which the hull contains the origin, up to rounding of K
TOUCHING = 1e-9  # how far beyond the radius a point counts as on it
ACCURACY = 1e-13  # of log(||g_w|| / t) at which the search ends
STEPS = 100


class CAGrad(SurgeryOperator):
    """Conflict-averse gradient over the new task and the past tasks.

        d = argmax min_i <G_i, d>   subject to   ||d - g_0|| <= c ||g_0||,     g_0 = 1/(k+1) sum_i G_i

    By duality, with sqrt(phi) = c ||g_0|| and g_w = sum_i w_i G_i,

        w* = argmin over the simplex of <g_w, g_0> + sqrt(phi) ||g_w||
        d  = g_0 + sqrt(phi) / ||g_w*|| g_w*

    c = 0 gives the mean, c -> infinity the direction of least norm in the gradients' convex hull (MGDA). Unlike PCGrad
    it always changes the gradient, and lengths matter: a memory gradient much shorter than the new one has a small
    weight in g_0 and a large one in w*. Zero gradients are ignored.

    Args:
        c: radius in units of ||g_0||, at least 0; the paper's range is 0..1.

    Raises:
        ConfigError: for a negative c.

    Solver: for ||g_w|| = t given, w* is the point nearest to -(t / sqrt(phi)) g_0 in the hull of the G_i, an
    active-set problem; ||g_w(t)|| / t falls with t, and its 1 is found by regula falsi. Deterministic. The duality
    gap <d, g_w> - min_i <G_i, d> ends below 1e-10 (1 + c) ||g_0|| max ||G_i|| for lengths within a factor of
    1e6, unless the hull passes the origin within 1e-3 of the lengths. Where no direction helps all (the origin lies
    in the hull) and the radius allows it, g_w* = 0 and the optimum isn't unique: d is then the one nearest to
    g_0, its projection on {d: <G_i, d> >= 0 for all i}.

    Source: Liu et al. 2021 (arXiv 2110.14048), algorithm 1; their code can divide the result by 1 + c or 1 + c^2,
    which is left out. The method that the SLICE authors' README calls "cagrad" is PCGrad at strength c (see `PCGrad`).
    """

    memories = "each"

    def __init__(self, c: Finite = 0.5) -> None:
        if not 0 <= c < math.inf:
            raise ConfigError(f"CAGrad c: {c} must be 0 or more")
        self.c = c

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class."""
        out = no_surgery(gram)
        present = gram.diagonal() > 0
        if not present[0] or present.sum() < 2:
            return out
        K = gram[present][:, present]
        out[present] = self._over(K / K.diagonal().max())
        return out

    def _over(self, K: Tensor) -> Tensor:
        """Compute the coefficients over nonzero gradients, the longest of length 1."""
        mean = torch.full_like(K[0], 1 / len(K))
        inner = K @ mean  # <G_i, g_0>
        size = float(mean @ inner)  # ||g_0||^2
        radius = self.c * math.sqrt(max(0.0, size))
        if radius == 0 or size <= ROUNDING:
            return mean
        w = nearest_to_origin(K)
        shortest, least = _norm(K, w), SHORTEST * float(w @ K.diagonal().sqrt())
        if shortest <= least:
            v = nonnegative_least_squares(K, -inner)
            if _norm(K, v) <= radius * (1 + TOUCHING):
                return mean + v

        def weights(t: float) -> Tensor:
            shift = t / radius
            return nearest_to_origin(K + shift * (inner + inner[:, None]) + shift**2 * size)

        x = falling_zero(
            lambda x: math.log(max(SHORTEST * least, _norm(K, weights(math.exp(x))))) - x,
            math.log(max(least, shortest)),
            0.0,
        )
        w = weights(math.exp(x))
        return mean + radius / _norm(K, w) * w


def falling_zero(f: Callable[[float], float], low: float, high: float) -> float:
    """Find the zero of a falling f with f(low) >= 0 >= f(high), by the Illinois variant of regula falsi.

    The ends are never evaluated: near low, f may be dominated by rounding. The first step is the midpoint.
    """
    f_low, f_high = 1.0, -1.0
    last = 0
    x = low
    for _ in range(STEPS):
        x = (low * f_high - high * f_low) / (f_high - f_low)
        value = f(x)
        if abs(value) <= ACCURACY or high - low <= ACCURACY:
            break
        # An end that stays a second time counts half, or it might stay for ever.
        if value > 0:
            low, f_low, f_high = x, value, f_high / 2 if last > 0 else f_high
        else:
            high, f_high, f_low = x, value, f_low / 2 if last < 0 else f_low
        last = 1 if value > 0 else -1
    return x


def _norm(K: Tensor, w: Tensor) -> float:
    """||sum_i w_i G_i||"""
    return math.sqrt(max(0.0, float(w @ K @ w)))
