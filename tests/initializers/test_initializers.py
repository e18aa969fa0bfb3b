"""Initialisers: first-step formulas by plain SGD, scales, and the authors' outputs."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl_lightning import initializers
from cl_lightning.common.errors import ConfigError
from cl_lightning.initializers import SLICE, Kaiming, LoRAGA
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import DIRECTIONS, Directions, Variance, split_directions, variance_scale
from cl_lightning.initializers.loraga import SCALES
from cl_lightning.linalg import svd
from cl_lightning.linalg.svd import subspace_overlap, top_singular
from cl_lightning.surgery import PCGrad
from cl_lightning.surgery.reconcile import reconcile

torch.set_num_threads(1)

SMALL, LARGE = (24, 16), (150, 200)  # exact and randomised decomposition at rank 4
SCALING = 0.5
VARIANCES = ("uncentred", "centred")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decaying(shape: tuple[int, int], seed: int = 0, ratio: float = 0.8) -> Tensor:
    """Float64 matrix with singular values ratio^i, so that every singular direction is well defined."""
    g, k = rng(seed), min(shape)
    U, V = (torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=g)).Q for d in shape)
    return U * ratio ** torch.arange(k, dtype=torch.float64) @ V.t()


def best_rank(G: Tensor, k: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return U[:, :k] * S[:k] @ Vh[:k]


def sgd_step(W: Tensor, A0: Tensor, B0: Tensor, slope: Tensor, eta: float, s: float = SCALING) -> Tensor:
    """Change of the adapter s(BA - B0 A0) by one SGD step on the loss <slope, W + s(BA - B0 A0)>."""
    A, B = (x.clone().requires_grad_() for x in (A0, B0))
    (slope * (W + s * (B @ A - B0 @ A0))).sum().backward()
    with torch.no_grad():
        return s * ((B - eta * B.grad) @ (A - eta * A.grad) - B0 @ A0)


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def reconciled(G: Tensor, cosine: float, seed: int = 5) -> Tensor:
    """G~ = G - <G, r> r for a unit memory gradient r with this (negative) cosine to G."""
    v = decaying((G.shape[0], G.shape[1]), seed, 0.3)
    v -= (v * G).sum() / (G * G).sum() * G
    v /= v.norm()
    r = cosine * G / G.norm() + math.sqrt(1 - cosine**2) * v
    return G - (G * r).sum() * r


# --- inputs and options -----------------------------------------------------------------------------------


def inputs(needs: str, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
    weight = 0.05 * torch.randn(shape, generator=rng(1))
    if needs == "gradients":
        return weight, decaying(shape, 2).to(dtype)
    if needs == "inputs":
        X = torch.randn(4 * shape[1], shape[1], generator=rng(3))
        return weight, (X.t() @ X).to(dtype)
    return weight, None


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys, cl_lightning.initializers as i;"
        "assert 'SLICE' in dir(i) and i.__all__ == sorted(i.EXPORTS);"
        "assert 'torch' not in sys.modules; i.SLICE; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(AttributeError):
        _ = initializers.Slice


@pytest.mark.parametrize(
    ("cls", "arguments", "hint"),
    [
        (LoRAGA, {"directions": "arb2r"}, "did you mean ArB2r"),
        (LoRAGA, {"scale": "stabel"}, "did you mean stable"),
        (LoRAGA, {"gamma": 0.0}, "positive"),
        (SLICE, {"directions": "ArBr"}, "valid: A2rBr, ArB2r, interleaved"),
        (SLICE, {"variance": "centered"}, "did you mean centred"),
    ],
)
def test_unknown_options_are_configuration_errors(cls: type, arguments: dict, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        cls(**arguments)


def test_kaiming_is_uniform_with_zero_product() -> None:
    W = torch.empty(40, 2500)
    A, B = Kaiming().factors(W, None, 16, 2.0, rng())
    expected = torch.empty(16, 2500)
    torch.nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=rng())
    torch.testing.assert_close(A, expected)
    assert float(A.abs().max()) == pytest.approx(1 / 50, rel=1e-2) and not B.any()
    assert not torch.equal(Kaiming().factors(W, None, 16, 2.0, rng(1))[0], A)
    with pytest.raises(ValueError, match="rank"):
        Kaiming().factors(W, None, 0, 2.0, rng())


# --- shared functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 300), (300, 200)])
def test_randomised_decomposition_against_the_exact_one(shape: tuple[int, int]) -> None:
    G, k = decaying(shape, ratio=0.9), 16
    U, S, V = top_singular(G, k, rng(), exact_below=0)
    exact_U, exact_S, exact_V = top_singular(G, k, rng(), exact_below=1000)
    Ur, Sr, Vr = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(exact_S, Sr[:k])
    torch.testing.assert_close(S, Sr[:k], rtol=1e-5, atol=0)
    for found, exact, reference in ((U, exact_U, Ur[:, :k]), (V, exact_V, Vr[:k].t())):
        torch.testing.assert_close(exact @ exact.t(), reference @ reference.t(), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.t() @ found, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-3)  # signs and order included
    # Control: it is the randomised path, and its accuracy comes from the power iterations.
    assert not torch.equal(U, exact_U)
    iterations, svd.POWER_ITERATIONS = svd.POWER_ITERATIONS, 0
    try:
        rough = top_singular(G, k, rng(), exact_below=0)[1]
    finally:
        svd.POWER_ITERATIONS = iterations
    assert relative(rough, Sr[:k]) > 1e3 * relative(S, Sr[:k])


@pytest.mark.parametrize("exact_below", [0, 1000])
def test_sign_convention(exact_below: int) -> None:
    G = decaying((150, 100))
    U, S, V = top_singular(G.clone().requires_grad_(), 8, rng(), exact_below)
    assert not any(x.requires_grad for x in (U, S, V))
    assert (U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(U * S @ V.t(), best_rank(G, 8), rtol=0, atol=1e-5)  # v follows u
    # Flipping signs in the matrix flips no left vector (rows) or both consistently (everything).
    flip = torch.where(torch.rand(100, generator=rng()) < 0.5, -1.0, 1.0).double()
    for other, expected in ((G * flip, V * flip[:, None]), (-G, -V)):
        U2, _, V2 = top_singular(other, 8, rng(), exact_below)
        torch.testing.assert_close(U2, U, rtol=0, atol=1e-5)
        torch.testing.assert_close(V2, expected, rtol=0, atol=1e-5)


def test_another_seed_gives_the_same_directions() -> None:
    G = decaying((200, 180), ratio=0.7)
    first, second = (top_singular(G, 8, rng(seed))[0] for seed in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_split_is_a_partition(directions: Directions) -> None:
    eye = torch.eye(12, dtype=torch.float64)
    A, B = split_directions(eye, eye, 3, directions, rng())
    a, b = A.argmax(1).tolist(), B.argmax(0).tolist()
    assert sorted([*a, *b]) == list(range(6))
    fixed = {
        "ArB2r": ([0, 1, 2], [3, 4, 5]),
        "A2rBr": ([3, 4, 5], [0, 1, 2]),
        "interleaved": ([1, 3, 5], [0, 2, 4]),
    }
    assert fixed.get(directions, (a, b)) == (a, b)
    with pytest.raises(ValueError, match="14 singular directions"):
        split_directions(eye, eye, 7, directions, rng())


def test_subspace_overlap() -> None:
    eye = torch.eye(6)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=rng())).Q
    assert subspace_overlap(eye[:, :3], eye[:, :3] @ rotation) == pytest.approx(1, abs=1e-6)
    assert subspace_overlap(eye[:, :3], eye[:, 3:]) == 0
    c = math.cos(0.3)
    tilted = torch.stack([eye[0] * c + eye[2] * math.sin(0.3), eye[1]], 1)
    assert subspace_overlap(eye[:, :2], tilted) == pytest.approx((c**2 + 1) / 2)
    assert subspace_overlap(eye[:, :1], eye[:, :3]) == 1


@pytest.mark.parametrize("variance", ["uncentred", "centred"])
@pytest.mark.parametrize("rank", [1, 2, 8])
def test_variance_scale(rank: int, variance: Variance) -> None:
    m, n = 300, 40
    W = 0.03 + 0.05 * torch.randn(m, n, dtype=torch.float64, generator=rng())  # mean != 0 tells the two apart
    U, _, V = top_singular(torch.rand(m, n, dtype=torch.float64, generator=rng(1)), 2 * rank, rng())
    A, B = split_directions(U, V, rank, "ArB2r", rng())
    beta = variance_scale(A, B, W, rank, variance)
    product = beta * B @ (beta * A)
    rho = math.log(max(rank, 2)) / math.log(n)
    ratios = {
        "uncentred": float(product.square().mean() / W.square().mean()),
        "centred": float(product.var() / W.var()),
    }
    assert ratios.pop(variance) == pytest.approx(rho, rel=1e-10)
    assert ratios.popitem()[1] != pytest.approx(rho, rel=1e-3)  # control


def test_uncentred_scale_does_not_depend_on_signs_and_the_centred_does() -> None:
    W = 0.05 * torch.randn(64, 48, dtype=torch.float64, generator=rng())
    # Smooth directions, so that the outer products have means for the signs to act on.
    i, k = torch.arange(64, dtype=torch.float64), torch.arange(8, dtype=torch.float64) * 2 + 1
    U, V = (torch.linalg.qr(torch.sin(math.pi * k * (i[:d, None] + 1) / (d + 1))).Q for d in (64, 48))
    A, B = split_directions(U, V, 4, "ArB2r", rng())
    flipped = B * torch.tensor([-1.0, 1, -1, 1])
    betas = {v: [variance_scale(A, b, W, 4, v) for b in (B, flipped)] for v in VARIANCES}
    assert betas["uncentred"][0] == pytest.approx(betas["uncentred"][1], rel=1e-14)
    assert betas["centred"][0] != pytest.approx(betas["centred"][1], rel=1e-6)


def test_no_scale_for_a_constant_weight() -> None:
    G = decaying(SMALL)
    with pytest.raises(ValueError, match="no scale"):
        SLICE().factors(torch.zeros(SMALL), G, 4, 1.0, rng())
    with pytest.raises(ValueError, match="no scale"):
        SLICE(variance="centred").factors(torch.full(SMALL, 0.5), G, 4, 1.0, rng())


# --- scales and equivariance ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_loraga_scales(scale: str) -> None:
    W, G = (x.double() for x in inputs("gradients", SMALL))
    A, B = LoRAGA(scale=scale, gamma=9.0).factors(W, G, 4, SCALING, rng())
    zeta = {
        "stable": 24**0.25 / 3,
        "gd": 1 / SCALING,
        "unit": 1.0,
        "weightS": sum(math.sqrt(x / SCALING) for x in torch.linalg.svdvals(W)[:4].tolist()) / 4,
    }[scale]
    eye = zeta**2 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(A @ A.t(), eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(B.t() @ B, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_slice_factors_are_orthogonal_at_the_weight_scale(shape: tuple[int, int]) -> None:
    W, G = (x.double() for x in inputs("gradients", shape))
    A, B = SLICE().factors(W, G, 4, SCALING, rng())
    beta = float(A[0].norm())
    for product in (A @ A.t(), B.t() @ B):
        torch.testing.assert_close(product, beta**2 * torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    rho = math.log(4) / math.log(min(shape))
    assert float((B @ A).norm() / W.norm()) == pytest.approx(math.sqrt(rho), rel=1e-10)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("init", [LoRAGA(), SLICE()], ids=["LoRAGA", "SLICE"])
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_gradient_scale_does_not_matter(init: Initializer, shape: tuple[int, int], factor: float) -> None:
    W, G = (x.double() for x in inputs("gradients", shape))
    pairs = zip(init.factors(W, G, 4, 1.0, rng()), init.factors(W, factor * G, 4, 1.0, rng()), strict=True)
    for x, y in pairs:
        torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_without_conflict_slice_has_the_directions_of_loraga(directions: Directions) -> None:
    W, G = inputs("gradients", LARGE)
    A, B = SLICE(directions).factors(W, G, 4, 1.0, rng())
    unit_A, unit_B = LoRAGA(directions, "unit").factors(W, G, 4, 1.0, rng())
    beta = variance_scale(unit_A, unit_B, W, 4)
    assert torch.equal(A, beta * unit_A) and torch.equal(B, beta * unit_B)


# --- first SGD step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("cls", [LoRAGA, SLICE])
def test_first_step_is_the_best_low_rank_step(cls: type, directions: Directions) -> None:
    """Stepping on the decomposed gradient: d(s(BA - B0A0)) = -eta s^2 zeta^2 [G]_2r + O(eta^2)."""
    W, G = 0.05 * torch.randn(40, 30, dtype=torch.float64, generator=rng(1)), decaying((40, 30), 2)
    A, B = cls(directions).factors(W, G, 4, SCALING, rng())
    best = -(SCALING**2) * float(A[0].norm()) ** 2 * best_rank(G, 8)
    errors = [relative(sgd_step(W, A, B, G, eta), eta * best) for eta in (1e-3, 5e-4)]
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    # Control: the same r directions on both sides give a step of rank r, far from the best.
    U, _, V = torch.linalg.svd(G, full_matrices=False)
    step = sgd_step(W, A[0].norm() * V[:4], A[0].norm() * U[:, :4], G, 1e-6)
    assert int((torch.linalg.svdvals(step) > 1e-4 * torch.linalg.matrix_norm(step, 2)).sum()) == 4
    assert relative(step, 1e-6 * best) > 0.2


def test_no_other_low_rank_direction_descends_faster() -> None:
    W, G = 0.05 * torch.randn(40, 30, dtype=torch.float64, generator=rng(1)), decaying((40, 30), 2)
    A, B = SLICE().factors(W, G, 4, SCALING, rng())
    step = sgd_step(W, A, B, G, 1e-7)

    def descent(direction: Tensor) -> float:
        return float(-(direction * G).sum() / direction.norm())

    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    g, rivals = rng(4), []
    for size in torch.logspace(-1, 2, 200).tolist():  # from the best directions, perturbed, to random ones
        noise = torch.randn(40, 30, dtype=torch.float64, generator=g)
        rivals.append(-best_rank(G + size * noise * G.norm() / noise.norm(), 8))
    others = [0, 1, 2, 3, 4, 5, 6, 8]
    rivals.append(-U[:, others] * S[others] @ Vh[others])
    assert max(descent(x) for x in rivals) < descent(step)
    # Control: rank 2r + 1 is faster, so the comparison is not vacuous.
    assert descent(-best_rank(G, 9)) > descent(step)


def test_first_step_where_surgery_fired() -> None:
    """SLICE decomposes G~ but training steps on G_new: the step is the projected G_new, not [G~]_2r."""
    W, G = 0.05 * torch.randn(40, 30, dtype=torch.float64, generator=rng(1)), decaying((40, 30), 2)
    G_tilde = reconciled(G, -0.6)
    A, B = SLICE().factors(W, G_tilde, 4, SCALING, rng())
    zeta = float(A[0].norm())
    PA, PB = A.t() @ A / zeta**2, B @ B.t() / zeta**2
    expected = -(SCALING**2) * zeta**2 * (PB @ G + G @ PA)
    errors = [relative(sgd_step(W, A, B, G, eta), eta * expected) for eta in (1e-3, 5e-4)]
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    # Negative control: it is not the best low-rank step of the reconciled gradient, ...
    best = -(SCALING**2) * zeta**2 * best_rank(G_tilde, 8)
    assert relative(sgd_step(W, A, B, G, 5e-4), 5e-4 * best) > 0.1
    # ... which stepping on the surrogate loss <G~, W> would be.
    assert relative(sgd_step(W, A, B, G_tilde, 5e-4), 5e-4 * best) < 1e-3


def test_surgery_then_slice() -> None:
    """No memory, agreement or strength 0: LoRA-GA's directions to the last bit. Conflict: others."""
    W, G = (x.double() for x in inputs("gradients", SMALL))
    against = decaying(SMALL, 9) - 0.5 * G

    def start(memory: dict[str, Tensor], strength: float = 1.0, factor: float = 1.0) -> Tensor:
        ((_, statistic, _),) = reconcile({"w": factor * G}, [memory] if memory else [], PCGrad(), strength)
        return torch.cat([x.flatten() for x in SLICE().factors(W, statistic, 4, 1.0, rng())])

    A, B = LoRAGA(scale="unit").factors(W, G, 4, 1.0, rng())
    beta = variance_scale(A, B, W, 4)
    unchanged = torch.cat([(beta * A).flatten(), (beta * B).flatten()])
    for unfired in (start({}), start({"w": -against}), start({"w": against}, strength=0.0)):
        assert torch.equal(unfired, unchanged)
    fired = start({"w": against})
    assert relative(fired, unchanged) > 0.05
    for scaled in (start({"w": 1e-3 * against}), start({"w": against}, factor=1e3)):
        torch.testing.assert_close(scaled, fired, rtol=0, atol=1e-9)


def test_a_step_on_the_reconciled_gradient_would_not_harm() -> None:
    """rank(G~) <= 2r: <[G~]_2r, G_old> = 0. A statement about the step -G~, which training does not take."""
    G, old = best_rank(decaying((40, 30), 2), 5), best_rank(decaying((40, 30), 9), 3)
    old = old / old.norm() - 0.5 * G / G.norm()
    ((_, G_tilde, record),) = reconcile({"w": G}, [{"w": old}], PCGrad())
    assert record.fired
    W = torch.randn(40, 30, dtype=torch.float64, generator=rng(1))
    A, B = SLICE().factors(W, G_tilde, 4, SCALING, rng())
    honest, taken = (sgd_step(W, A, B, slope, 1e-7) for slope in (G_tilde, G))
    harm, harm_taken = (float((x * old).sum() / (x.norm() * old.norm())) for x in (honest, taken))
    assert abs(harm) < 1e-5  # up to the O(eta) of a finite step
    exact = best_rank(G_tilde, 8)
    assert abs(float((exact * old).sum())) < 1e-10 * float(exact.norm() * old.norm())
    assert harm_taken > 0.1  # control: the step on G_new does
