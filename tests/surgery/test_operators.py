"""Every operator against float64 references on whole matrices, written from its equation, and the authors' outputs."""

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.linalg.gram import combine, gram_matrix
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.surgery import AGEM, GEM, CAGrad, GradVac, PCGrad, RangeRemoval, SymmetricPCGrad
from cl_lightning.surgery.base import SurgeryOperator
from cl_lightning.surgery.nonnegative import nearest_to_origin, nonnegative_least_squares
from cl_lightning.surgery.range_removal import Sides
from cl_lightning.surgery.reconcile import Scope, conflicts, reconcile
from tests.conftest import SHARED

torch.set_num_threads(1)

ORACLES = SHARED / "oracles"
SHAPE = (12, 7)
LINEAR = [PCGrad(), SymmetricPCGrad(), AGEM(), GEM(), CAGrad(), GradVac(0.2)]
OVER_ONE = (PCGrad, SymmetricPCGrad, GradVac)  # the others take any number of memories
kinds = {"ids": lambda operator: type(operator).__name__}

Gradients = Sequence[Tensor]


def drawn(count: int, seed: int = 0, shape: tuple[int, int] = SHAPE, lengths: Sequence[float] = ()) -> list[Tensor]:
    """The new and `count` memory gradients, float64, the memories leaning against the new one."""
    rng = torch.Generator().manual_seed(seed)
    new, *memories = (torch.randn(shape, dtype=torch.float64, generator=rng) for _ in range(count + 1))
    memories = [m - 0.3 * new for m in memories]
    return [g * a for g, a in zip((new, *memories), lengths or [1.0] * (count + 1), strict=True)]


def inner(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def solve(operator: SurgeryOperator, gradients: Gradients) -> Tensor:
    return combine(operator.coefficients(gram_matrix(gradients)), gradients)


def relative(out: Tensor, expected: Tensor) -> float:
    return float((out - expected).norm() / expected.norm())


# --- all of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", [AGEM(), GEM(), CAGrad()], **kinds)
def test_zero_memories_beside_another_take_no_part(operator: SurgeryOperator) -> None:
    new, memory = drawn(1)
    zero = torch.zeros_like(new)
    first, *others = operator.coefficients(gram_matrix([new, zero, memory, zero])).tolist()
    alone = operator.coefficients(gram_matrix([new, memory])).tolist()
    # A-GEM's mean has the zeros in it.
    assert others[0] == others[2] == 0 or isinstance(operator, AGEM)
    assert (first, others[1]) == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("operator", LINEAR, **kinds)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), factor=st.floats(1e-3, 1e3), mine=st.floats(1e-3, 1e3))
def test_scale_equivariant(operator: SurgeryOperator, seed: int, factor: float, mine: float) -> None:
    new, *memories = drawn(1 if isinstance(operator, OVER_ONE) else 3, seed)
    out = solve(operator, [new, *memories])
    scaled = solve(operator, [factor * new, *(factor * m for m in memories)])
    assert relative(scaled, factor * out) < 1e-10
    if not isinstance(operator, CAGrad | SymmetricPCGrad):  # there lengths compete
        assert relative(solve(operator, [new, *(mine * m for m in memories)]), out) < 1e-9
        assert relative(solve(operator, [mine * new, *memories]), mine * out) < 1e-9


@pytest.mark.parametrize("operator", [PCGrad(), AGEM(), GEM(), GEM(0.1), GradVac(0.2), GradVac(-0.1)], **kinds)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99))
def test_idempotent(operator: SurgeryOperator, seed: int) -> None:
    new, *memories = drawn(1 if isinstance(operator, OVER_ONE) else 3, seed)
    out = solve(operator, [new, *memories])
    if isinstance(operator, GEM) and operator.margin:  # relative to the gradient's own length, which surgery shortens
        operator = GEM(operator.margin * float(new.norm() / out.norm()))
        assert relative(solve(GEM(operator.margin + 0.05), [out, *memories]), out) > 1e-3  # control
    assert relative(solve(operator, [out, *memories]), out) < 1e-10
    assert relative(out, new) > 1e-3 or isinstance(operator, GradVac | AGEM)


# --- one memory -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.floats(-1, 1))
def test_pcgrad_threshold(seed: int, threshold: float) -> None:
    g, r = drawn(1, seed)
    cos = inner(g, r) / float(g.norm() * r.norm())
    projected = g - inner(g, r) / inner(r, r) * r
    expected = projected if cos < threshold else g
    torch.testing.assert_close(solve(PCGrad(threshold), [g, r]), expected, rtol=1e-12, atol=1e-12)
    for sign in (1, -1):
        torch.testing.assert_close(solve(PCGrad(always=True), [g, sign * r]), projected, rtol=1e-12, atol=1e-12)


def test_pcgrad_threshold_is_strict() -> None:
    gram = torch.tensor([[4.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    assert PCGrad(0.25).coefficients(gram).tolist() == [1, 0]
    assert PCGrad(0.2500001).coefficients(gram).tolist() == [1, -0.25]
    with pytest.raises(ConfigError, match=r"PCGrad threshold: 1\.5 .*-1\.\.1"):
        PCGrad(1.5)
    with pytest.raises(ConfigError, match="no effect with always"):
        PCGrad(0.1, always=True)


def test_symmetric_pcgrad_by_hand() -> None:
    g, r = (torch.tensor([x], dtype=torch.float64) for x in ([1.0, 0.0], [-1.0, 1.0]))
    # g~ = (1, 0) + 1/2 (-1, 1); r~ = (-1, 1) + (1, 0)
    torch.testing.assert_close(solve(SymmetricPCGrad(), [g, r]), torch.tensor([[0.5, 1.5]], dtype=torch.float64))
    torch.testing.assert_close(solve(SymmetricPCGrad(), [g, -r]), g - r)  # agreement: their sum


@pytest.mark.parametrize("seed", range(5))
def test_symmetric_pcgrad_opposes_neither(seed: int) -> None:
    g, r = drawn(1, seed)
    dot = min(0.0, inner(g, r))
    expected = (g - dot / inner(r, r) * r) + (r - dot / inner(g, g) * g)
    out = solve(SymmetricPCGrad(), [g, r])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert dot < 0 < min(inner(out, g), inner(out, r))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.floats(-0.95, 0.95), st.floats(1e-2, 1e2))
def test_gradvac_reaches_its_target(seed: int, phi: float, length: float) -> None:
    g, r = drawn(1, seed, lengths=(1.0, length))
    cos = inner(g, r) / float(g.norm() * r.norm())
    out = solve(GradVac(phi), [g, r])
    if cos >= phi:
        assert out is g
        return
    move = float(g.norm()) * (phi * (1 - cos**2) ** 0.5 - cos * (1 - phi**2) ** 0.5)
    expected = g + move / (float(r.norm()) * (1 - phi**2) ** 0.5) * r
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    assert inner(out, r) / float(out.norm() * r.norm()) == pytest.approx(phi, abs=1e-12)


def test_gradvac_at_its_ends() -> None:
    g, r = drawn(1)
    torch.testing.assert_close(solve(GradVac(0.0), [g, r]), solve(PCGrad(), [g, r]), rtol=1e-12, atol=1e-12)
    assert float(solve(GradVac(0.5), [g, -2 * g]).norm()) < 1e-7
    for phi in (-1.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="GradVac phi"):
            GradVac(phi)


# --- several memories -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_agem_protects_the_mean_but_not_each(seed: int) -> None:
    g, *memories = drawn(3, seed, lengths=(1.0, 1.0, 2.0, 6.0))
    mean = sum(memories) / 3
    expected = g - min(0.0, inner(g, mean) / inner(mean, mean)) * mean
    out = solve(AGEM(), [g, *memories])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, solve(PCGrad(), [g, mean]), rtol=1e-12, atol=1e-12)
    assert inner(g, mean) < 0 and abs(inner(out, mean)) < 1e-10
    # Control: one of them is still opposed; GEM opposes none.
    assert min(inner(out, m) / float(m.norm()) for m in memories) < -0.1
    assert min(inner(solve(GEM(), [g, *memories]), m) for m in memories) > -1e-10


def test_agem_against_memories_that_cancel() -> None:
    g, r = drawn(1)
    assert solve(AGEM(), [g, r, -r]) is g
    assert solve(AGEM(), [g, 0.1 * r, 0.2 * r, -0.3 * r]) is g  # up to rounding


def nearest_by_dykstra(g: Tensor, memories: Gradients, bounds: Sequence[float], sweeps: int = 20000) -> Tensor:
    """Nearest point of the half-spaces <z, g_j> >= bound_j, by Dykstra's alternating projections."""
    z = g.clone()
    taken = [torch.zeros_like(g) for _ in memories]
    for _ in range(sweeps):
        before = z
        for j, (m, bound) in enumerate(zip(memories, bounds, strict=True)):
            y = z - taken[j]
            z = y + max(0.0, bound - inner(y, m)) / inner(m, m) * m
            taken[j] = z - y
        if float((z - before).norm()) < 1e-14 * float(g.norm()):
            break
    return z


@pytest.mark.parametrize("margin", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(4))
def test_gem_is_the_nearest_point(seed: int, margin: float) -> None:
    g, *memories = drawn(3, seed, lengths=(1.0, 0.1, 1.0, 7.0))
    bounds = [margin * float(g.norm() * m.norm()) for m in memories]
    assert relative(solve(GEM(margin), [g, *memories]), nearest_by_dykstra(g, memories, bounds)) < 1e-9


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 4), st.sampled_from(["free", "same", "zero", "opposed"]))
def test_gem_satisfies_kkt(seed: int, count: int, decades: float, degeneracy: str) -> None:
    """Primal and dual feasibility, complementary slackness; stationarity is the form of the answer."""
    rng = torch.Generator().manual_seed(seed)
    shape = (int(torch.randint(1, 6, (), generator=rng)), 5)
    lengths = 10 ** (decades * torch.rand(count + 1, generator=rng, dtype=torch.float64))
    g, *memories = drawn(count, seed, shape, lengths.tolist())
    if count > 1:
        change = {"free": 1.0, "same": 3.0, "zero": 0.0, "opposed": -2.0}[degeneracy]
        memories[1] = memories[1] if change == 1.0 else change * memories[0]
    first, *v = GEM().coefficients(gram_matrix([g, *memories])).tolist()
    z = combine((first, *v), [g, *memories])
    assert first == 1 and min(v) >= 0
    assert float(z.norm()) <= float(g.norm()) * (1 + 1e-10)
    for multiplier, m in zip(v, memories, strict=True):
        unit = float(g.norm() * m.norm())
        assert inner(z, m) >= -1e-10 * unit
        assert abs(multiplier * inner(z, m)) <= 1e-10 * float(g.norm()) ** 2


def test_gem_margin_and_its_limits() -> None:
    g, *memories = drawn(3, 2)
    z = solve(GEM(0.2), [g, *memories])
    cosines = [inner(z, m) / float(g.norm() * m.norm()) for m in memories]
    assert min(cosines) == pytest.approx(0.2, abs=1e-12)
    assert min(inner(solve(GEM(), [g, *memories]), m) for m in memories) < 1e-10  # control
    opposed = [g, memories[0], -2 * memories[0]]
    with pytest.raises(ValueError, match=r"oppose each other, no gradient keeps a margin of 0\.1"):
        GEM(0.1).coefficients(gram_matrix(opposed))
    assert abs(inner(solve(GEM(), opposed), memories[0])) < 1e-10
    near = [g, memories[0], -2 * memories[0] + 1e-3 * memories[1]]
    z = solve(GEM(), near)
    assert min(inner(z, m) for m in near[1:]) > -1e-9
    assert relative(z, nearest_by_dykstra(g, near[1:], (0, 0), 5)) > 1e-6  # control: a thin wedge
    for margin in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="GEM margin"):
            GEM(margin)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(1e-4, 1e4))
def test_gem_with_one_memory_is_pcgrad(seed: int, length: float) -> None:
    gradients = drawn(1, seed, lengths=(1.0, length))
    assert relative(solve(GEM(), gradients), solve(PCGrad(), gradients)) < 1e-10
    assert relative(solve(AGEM(), gradients), solve(PCGrad(), gradients)) < 1e-10
    g, r = gradients
    assert solve(GEM(), [g, -r]) is g or inner(g, r) > 0


def test_gem_is_nearer_than_pcgrad_in_any_order() -> None:
    """One projection after the other may break an earlier one, and goes farther where it does not."""
    feasible = broken = 0
    for seed in range(60):
        g, *memories = drawn(3, seed)
        z = solve(GEM(), [g, *memories])
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            one = g
            for j in order:
                one = solve(PCGrad(), [one, memories[j]])
            if min(inner(one, m) for m in memories) < -1e-9:
                broken += 1
                continue
            feasible += 1
            assert float((z - g).norm()) <= float((one - g).norm()) * (1 + 1e-12)
    assert feasible > 10 and broken > 10


# --- CAGrad -----------------------------------------------------------------------------------------------


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


# --- range removal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (7, 12), (150, 200)])
@pytest.mark.parametrize("sides", ["left", "right", "both"])
def test_range_removal(sides: Sides, shape: tuple[int, int]) -> None:
    g, noise = drawn(1, shape=shape)
    U, _, Vh = torch.linalg.svd(noise, full_matrices=False)
    r = (U * 0.5 ** torch.arange(len(Vh))) @ Vh
    P, Q = U[:, :3] @ U[:, :3].T, Vh[:3].T @ Vh[:3]
    eye = [torch.eye(size, dtype=torch.float64) for size in shape]
    expected = {"left": (eye[0] - P) @ g, "right": g @ (eye[1] - Q), "both": (eye[0] - P) @ g @ (eye[1] - Q)}[sides]
    operator = RangeRemoval(3, sides)
    out = operator.remove(g, r)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(operator.remove(out, r), out, rtol=0, atol=1e-9)
    for factor in (-1.0, 1e-6, 1e6):  # blind to sign and length
        torch.testing.assert_close(operator.remove(g, factor * r), out, rtol=0, atol=1e-9)
    assert operator.remove(g.bfloat16(), r).dtype == torch.float32


def test_range_removal_takes_no_arbitrary_direction() -> None:
    g, r = drawn(1)
    operator = RangeRemoval(4)
    for zero in (torch.zeros_like(r), LowRank(torch.zeros(12, 2), torch.zeros(7, 2))):
        assert operator.remove(g, zero) is g
    thin = torch.outer(r[:, 0], r[0])  # rank 1: one direction, whatever the count
    for memory in (thin, LowRank(r[:, :1], r[0][:, None])):
        torch.testing.assert_close(operator.remove(g, memory), RangeRemoval(1).remove(g, thin), rtol=0, atol=1e-12)
    for count in (7, 8, 100):
        with pytest.raises(ValueError, match="would leave nothing of a 12 x 7 gradient"):
            RangeRemoval(count).remove(g, r)
    with pytest.raises(ConfigError, match="count: 0"):
        RangeRemoval(0)
    with pytest.raises(ConfigError, match="did you mean left"):
        RangeRemoval(2, "lefft")


# --- outputs of the authors' code -------------------------------------------------------------------------

# case, operator, strength, scope, tolerance (as max|diff| / ||current module||_F)
CASES = [
    ("adv_always_permod", PCGrad(always=True), 1.0, "matrix", 1e-11),
    ("adv_always_global", PCGrad(always=True), 1.0, "global", 1e-11),
    ("adv_always_c0.5_permod", PCGrad(always=True), 0.5, "matrix", 1e-11),
    ("adv_always_c0.5_global", PCGrad(always=True), 0.5, "global", 1e-11),
    ("basic_permod_always1_addretain0", PCGrad(always=True), 1.0, "matrix", 1e-11),
    ("basic_global_always1_addretain0", PCGrad(always=True), 1.0, "global", 1e-11),
    ("adv_tau0.1_permod", PCGrad(0.1), 1.0, "matrix", 1e-11),
    ("adv_tau-0.1_permod", PCGrad(-0.1), 1.0, "matrix", 1e-11),
    ("adv_tau-0.5_permod", PCGrad(-0.5), 1.0, "matrix", 1e-11),
    ("adv_tau0.1_global", PCGrad(0.1), 1.0, "global", 1e-11),
    ("adv_tau-0.1_global", PCGrad(-0.1), 1.0, "global", 1e-11),
    ("adv_tau-0.5_global", PCGrad(-0.5), 1.0, "global", 1e-11),
    ("adv_gradvac_phi0.0_permod", GradVac(0.0), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi0.2_permod", GradVac(0.2), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi-0.3_permod", GradVac(-0.3), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi0.2_tau1.0_permod", GradVac(0.2), 1.0, "matrix", 1e-11),
    # Their magnitude-preserving method in global mode rescales nothing.
    ("adv_magmethod_global", PCGrad(), 1.0, "global", 1e-11),
]
KEEPING_NORM = [
    ("adv_magmethod_permod", PCGrad(), 1.0, 1e-7),
    ("adv_magflag_pcgrad_permod", PCGrad(), 1.0, 1e-7),
    ("adv_magflag_c0.5_permod", PCGrad(), 0.5, 1e-7),
    ("adv_gradvac_phi0.0_magflag_permod", GradVac(0.0), 1.0, 1e-7),
]


class Authors:
    """Scenario "conflict" of the SLICE authors' projections; skips where their outputs are not here."""

    def __init__(self) -> None:
        if not (ORACLES / "slice_surgery.npz").exists():
            pytest.skip("outputs of the SLICE authors' code are not here")
        self.arrays = np.load(ORACLES / "slice_surgery.npz")
        self.info = json.loads((ORACLES / "slice_surgery.json").read_text())
        self.modules = list(self.info["scenarios"]["conflict"]["cos"])
        self.new, self.memory = (
            {m: torch.tensor(self.arrays[f"conflict|{side}|{m}"]) for m in self.modules}
            for side in ("current", "retain")
        )

    def changed(self, case: str, module: str) -> bool:
        return f"conflict|{case}|{module}" not in self.info["unchanged"]

    def error(self, case: str, module: str, out: Tensor) -> float:
        key, current = f"conflict|{case}|{module}", self.new[module]
        expected = torch.tensor(self.arrays[key]) if self.changed(case, module) else current
        return float((out - expected).abs().max() / current.norm())


@pytest.fixture
def authors() -> Authors:
    return Authors()


@pytest.mark.parametrize(("case", "operator", "strength", "scope", "tolerance"), CASES, ids=lambda v: str(v)[:30])
def test_authors_projections(
    authors: Authors, case: str, operator: SurgeryOperator, strength: float, scope: Scope, tolerance: float
) -> None:
    for module, out, record in reconcile(authors.new, [authors.memory], operator, strength, scope):
        assert authors.error(case, module, out) < tolerance
        assert record.fired == authors.changed(case, module)


@pytest.mark.parametrize(("case", "operator", "strength", "tolerance"), KEEPING_NORM, ids=lambda v: str(v)[:30])
def test_authors_magnitude_preservation(
    authors: Authors, case: str, operator: SurgeryOperator, strength: float, tolerance: float
) -> None:
    worst = 0.0
    for module, out, _ in reconcile(authors.new, [authors.memory], operator, strength, preserve_norm=True):
        assert authors.error(case, module, out) < tolerance
    for module, out, _ in reconcile(authors.new, [authors.memory], operator, strength):
        worst = max(worst, authors.error(case, module, out))
    assert worst > 1e-3  # control


@pytest.mark.parametrize(("case", "strength"), [("adv_magflag_pcgrad_global", 1.0), ("adv_magflag_c0.5_global", 0.5)])
def test_authors_magnitude_preservation_in_global_mode(authors: Authors, case: str, strength: float) -> None:
    """They rescale module by module after one decision on the sum; we keep the norm of the sum."""
    results = list(reconcile(authors.new, [authors.memory], PCGrad(), strength, "global", preserve_norm=True))
    for module, out, _ in results:
        assert authors.error(case, module, out * (authors.new[module].norm() / out.norm())) < 1e-7
    assert max(authors.error(case, module, out) for module, out, _ in results) > 1e-3


@pytest.mark.parametrize(("case", "delta"), [("adv_perlayer_d0.0_permod", 0.0), ("adv_perlayer_d0.1_permod", 0.1)])
def test_authors_threshold_by_the_median(authors: Authors, case: str, delta: float) -> None:
    """Their per-layer threshold is a threshold: the upper median of the modules' cosines, less delta."""
    grams = {m: gram_matrix([authors.new[m], authors.memory[m]]) for m in authors.modules}
    cosines = sorted(record.cosine for record in conflicts(grams, PCGrad()).values())
    operator = PCGrad(cosines[len(cosines) // 2] - delta)
    for module, out, record in reconcile(authors.new, [authors.memory], operator):
        assert authors.error(case, module, out) < 1e-11
        assert record.fired == authors.changed(case, module)


@pytest.mark.parametrize("preserve_norm", [False, True])
def test_authors_nullspace(authors: Authors, preserve_norm: bool) -> None:
    case = "adv_nullspace_k8_mag_permod" if preserve_norm else "adv_nullspace_k8_permod"
    for module in authors.modules:
        sides = [{module: side[module]} for side in (authors.new, authors.memory)]
        reconciled = reconcile(sides[0], sides[1:], RangeRemoval(8, "left"), preserve_norm=preserve_norm)
        if authors.new[module].shape[0] == 8:  # theirs: nothing is left but rounding
            with pytest.raises(ValueError, match=r"blk1\.v: .*leave nothing"):
                next(reconciled)
            continue
        ((_, out, record),) = reconciled
        assert record.fired and authors.error(case, module, out) < 1e-6
        assert authors.error(case, module, RangeRemoval(7, "left").remove(sides[0][module], sides[1][module])) > 1e-3
