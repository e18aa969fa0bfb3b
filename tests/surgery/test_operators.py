"""Every operator against float64 references on whole matrices, written from its equation, and the authors' outputs."""

from collections.abc import Sequence

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
from cl_lightning.surgery.range_removal import Sides

torch.set_num_threads(1)

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
