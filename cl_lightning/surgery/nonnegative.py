"""Small convex problems with non-negative unknowns, solved from Gram matrices in float64.

Deterministic active-set solutions, exact up to rounding on the active set that is found, for a handful of unknowns
(one per past task).
"""

import torch
from torch import Tensor

SLOPE = 1e-14  # a column enters if its cosine with the residual is larger


def nonnegative_least_squares(gram: Tensor, target: Tensor) -> Tensor:
    """Solve argmin over u >= 0 of ||E u - f||^2, given gram = E^T E (k, k) and target = E^T f (k,).

    Lawson and Hanson's active set on columns scaled to length 1. Collinear columns are allowed: where the
    solution is not unique, one of them is found; zero columns get 0. Ends for any input: no set of active columns
    is tried twice.
    """
    length = gram.diagonal().sqrt()
    scale = torch.where(length > 0, 1 / length, 0.0)
    Q, b = gram * scale * scale[:, None], target * scale
    u = torch.zeros_like(b)
    free = torch.zeros_like(b, dtype=torch.bool)
    refused = scale == 0
    size = max(1.0, float(b.abs().max())) if len(b) else 1.0
    seen = {tuple(free.tolist())}
    while True:
        slope = b - Q @ u
        open_slope = slope.masked_fill(free | refused, -torch.inf)
        if not len(b) or open_slope.max() <= SLOPE * size:
            return u * scale
        entering = int(open_slope.argmax())
        tried = free.clone()
        tried[entering] = True
        step = _descend(Q, b, u, tried) - u
        if 0.5 * step @ Q @ step < slope @ step and tuple(tried.tolist()) not in seen:
            u, free, refused = u + step, tried, scale == 0
            seen.add(tuple(free.tolist()))
        else:  # no descent: collinear with active columns, its slope was rounding
            refused[entering] = True


def nearest_to_origin(gram: Tensor) -> Tensor:
    """Solve argmin over w >= 0, sum w = 1 of w^T gram w: weights (k,) of the hull's point of least length."""
    shortest = gram.diagonal().min()
    if shortest <= 0:  # the origin is one of the points
        return torch.nn.functional.one_hot(gram.diagonal().argmin(), len(gram)).to(gram.dtype)
    # For u = tau w: min over u >= 0 of ||P u||^2 + (sum u - 1)^2 has the same w, tau = 1 / (1 + ||P w||^2).
    u = nonnegative_least_squares(gram / shortest + 1, torch.ones_like(gram[0]))
    return u / u.sum()


def _descend(Q: Tensor, b: Tensor, u: Tensor, free: Tensor) -> Tensor:
    """Solve least squares on `free`, removing from it (in place) the unknowns that would be negative."""
    while True:
        best = torch.zeros_like(b)
        best[free] = torch.linalg.lstsq(Q[free][:, free], b[free, None], driver="gelsd").solution[:, 0]
        negative = free & (best <= 0)
        if not negative.any():
            return best
        # Move towards it as long as all stay non-negative; the first to reach 0 leaves.
        steps = torch.where(negative, u / (u - best), torch.inf)
        leaving = int(steps.argmin())
        u = u + float(steps[leaving]) * (best - u)
        u[leaving] = 0
        free &= u > 0
        u = torch.where(free, u, 0.0)
