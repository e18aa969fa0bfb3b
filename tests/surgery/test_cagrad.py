"""CAGrad against a search and its dual, and the solver under it and GEM."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.linalg.gram import combine, gram_matrix
from cl_lightning.surgery import CAGrad, PCGrad
from cl_lightning.surgery.nonnegative import nearest_to_origin, nonnegative_least_squares
from tests.surgery.test_operators import Gradients, drawn, inner, relative, solve


def cagrad_dual(gradients: Gradients, c: float) -> Callable[[Tensor], Tensor]:
    """F(w) = <g_w, g_0> + c ||g_0|| ||g_w|| for rows of weights (.., k+1), on whole matrices."""
    flat = torch.stack([g.flatten() for g in gradients])
    mean = flat.mean(0)

    def value(w: Tensor) -> Tensor:
        g_w = w @ flat
        return g_w @ mean + c * mean.norm() * g_w.norm(dim=-1)

    return value


def search_simplex(value: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """Argmin of a convex function over the simplex: ever finer grids around the best point so far."""
    steps = torch.linspace(-1, 1, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(*[steps] * (count - 1)).reshape(-1, count - 1)
    best, width = torch.full((count - 1,), 1 / count, dtype=torch.float64), 1.0
    while width > 1e-10:
        points = (best + width * grid).clamp(min=0)
        last = 1 - points.sum(1, keepdim=True)
        w = torch.cat([points, last], 1)[last[:, 0] >= 0]
        best, width = w[value(w).argmin()][:-1], 0.7 * width
    return torch.cat([best, 1 - best.sum(0, keepdim=True)])


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9, 3.0])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (1, 1), (2, 2), (2, 3)])
def test_cagrad_equals_a_fine_search(count: int, seed: int, c: float) -> None:
    gradients = drawn(count, seed, lengths=(2.0, 1.0, 0.3)[: count + 1])
    w = search_simplex(cagrad_dual(gradients, c), count + 1)
    mean = sum(gradients) / (count + 1)
    g_w = combine(w, gradients)
    expected = mean + c * mean.norm() / g_w.norm() * g_w
    out = solve(CAGrad(c), gradients)
    assert relative(out, expected) < 1e-6
    assert float((out - mean).norm()) == pytest.approx(c * float(mean.norm()), rel=1e-10)
    assert relative(solve(CAGrad(1.1 * c), gradients), expected) > 1e-3  # control


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 6), st.floats(1e-3, 20), st.booleans())
def test_cagrad_closes_the_duality_gap(seed: int, count: int, decades: float, c: float, opposed: bool) -> None:
    """min <G_i, d> within ||d - g_0|| <= c ||g_0|| cannot exceed F(w) for any w: equality proves both."""
    rng = torch.Generator().manual_seed(seed)
    lengths = 10 ** (decades * torch.rand(count + 1, generator=rng, dtype=torch.float64))
    shape = (int(torch.randint(1, 6, (), generator=rng)), 5)
    gradients = drawn(count, seed, shape, lengths.tolist())
    if opposed:
        gradients[1] = -0.5 * gradients[0]
    mean = sum(gradients) / len(gradients)
    a = CAGrad(c).coefficients(gram_matrix(gradients))
    d = combine(a, gradients)
    scale = (1 + c) * float(mean.norm()) * max(float(g.norm()) for g in gradients)
    part = (a - 1 / len(gradients)).clamp(min=0)  # of w, in some unit
    assert float(part.sum()) > 0 or not (d - mean).any()
    bound = float(cagrad_dual(gradients, c)(part / part.sum())) if part.sum() > 0 else math.inf
    if float((d - mean).norm()) < c * float(mean.norm()) * (1 - 1e-9):  # no direction helps all: F = 0 at g_w = 0
        bound = 0.0
    assert float((d - mean).norm()) <= c * float(mean.norm()) * (1 + 1e-9)
    assert abs(bound - min(inner(g, d) for g in gradients)) <= 1e-10 * scale


def test_cagrad_limits() -> None:
    gradients = drawn(3, 5, lengths=(3.0, 1.0, 2.0, 0.5))
    torch.testing.assert_close(solve(CAGrad(0.0), gradients), sum(gradients) / 4, rtol=1e-14, atol=1e-14)
    far = solve(CAGrad(1e7), gradients)
    flat = torch.stack([g.flatten() for g in gradients])
    least = combine(frank_wolfe(flat), gradients)
    assert inner(far, least) / float(far.norm() * least.norm()) > 1 - 1e-8
    mean = sum(gradients)
    assert inner(mean, least) / float(mean.norm() * least.norm()) < 0.95  # control
    for c in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigError, match="CAGrad c"):
            CAGrad(c)


def frank_wolfe(points: Tensor, steps: int = 100000) -> Tensor:
    """Weights of the hull's point nearest to the origin, by pairwise Frank-Wolfe steps on whole points."""
    w = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    for _ in range(steps):
        slope = points @ (w @ points)
        to = int(slope.argmin())
        away = int(slope.masked_fill(w <= 0, -torch.inf).argmax())
        direction = points[to] - points[away]
        if slope[away] - slope[to] < 1e-14:
            break
        step = float((slope[away] - slope[to]) / direction.square().sum().clamp(min=1e-300))
        step = min(step, float(w[away]))
        w[to] += step
        w[away] -= step
    return w


def test_cagrad_where_nothing_helps_all() -> None:
    """g against -3 g: for c < 1 it stays on the mean's side, beyond it stands still."""
    g, _ = drawn(1)
    torch.testing.assert_close(solve(CAGrad(0.5), [g, -3 * g]), -0.5 * g, rtol=1e-12, atol=1e-12)
    assert float(solve(CAGrad(2.0), [g, -3 * g]).norm()) < 1e-12 * float(g.norm())
    assert not solve(CAGrad(0.5), [g, -g]).any()  # the mean is zero


def test_cagrad_is_not_pcgrad() -> None:
    gradients = drawn(1)
    for c in (0.25, 0.5, 1.0):
        assert relative(solve(CAGrad(c), gradients), solve(PCGrad(), gradients)) > 0.1


# --- the solver under GEM and CAGrad ----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_nonnegative_least_squares_satisfies_kkt(seed: int, unknowns: int, rows: int, doubled: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    E = torch.randn(rows, unknowns, dtype=torch.float64, generator=rng)
    f = torch.randn(rows, dtype=torch.float64, generator=rng)
    if doubled:
        E = torch.cat([E, 5 * E, -E, 0 * E], 1)
    u = nonnegative_least_squares(E.T @ E, E.T @ f)
    slope = E.T @ (f - E @ u)
    size = 1 + float(u.max())
    assert u.min() >= 0
    assert slope.max() <= 1e-10 * size and (u * slope).abs().max() <= 1e-10 * size**2


def test_nearest_to_origin() -> None:
    points = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    w = nearest_to_origin(points @ points.T)
    torch.testing.assert_close(w @ points, frank_wolfe(points) @ points, rtol=0, atol=1e-6)
    points[3] = 0
    assert nearest_to_origin(points @ points.T).tolist() == [0, 0, 0, 1, 0, 0]
