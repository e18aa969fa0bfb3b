"""Starts from gradients and inputs, against numpy in float64: LoRA-One, LoRA-SB, EVA, CorDA; sketched gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.initializers import EVA, SLICE, CorDA, LoRAGA, LoRAOne, LoRASB
from cl_lightning.initializers.start import start_of, warm_step
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular

RANK, SCALING = 4, 0.7


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def best_rank(G: np.ndarray, k: int) -> np.ndarray:
    U, S, Vh = np.linalg.svd(G, full_matrices=False)
    return U[:, :k] * S[:k] @ Vh[:k]


def covariance(n: int, tokens: int = 200, seed: int = 3) -> tuple[np.ndarray, Tensor]:
    X = normal(tokens, n, seed=seed) * torch.linspace(3, 0.1, n, dtype=torch.float64)
    X = X @ torch.linalg.qr(normal(n, n, seed=seed + 1)).Q
    return X.numpy(), X.t() @ X / tokens


def test_lora_one_starts_at_a_normalised_step_down_the_gradient() -> None:
    W, G = normal(24, 16), normal(24, 16, seed=1)
    A, B = LoRAOne(gamma=64).factors(W, G, RANK, SCALING, rng())
    sigma = np.linalg.svd(G.numpy(), compute_uv=False)[0]
    assert np.allclose((B @ A).numpy(), -best_rank(G.numpy(), RANK) / (64 * sigma), atol=1e-12)
    assert np.allclose(A.norm(dim=1), B.norm(dim=0))
    assert not LoRAOne.displaced


def test_lora_sb_starts_at_the_first_step_of_adam() -> None:
    W, G = normal(24, 16), normal(24, 16, seed=1)
    A, B, R = LoRASB(step=0.01).factors(W, G, RANK, SCALING, rng())
    assert np.allclose((SCALING * B @ R @ A).numpy(), best_rank(-0.01 * np.sign(G.numpy()), RANK), atol=1e-12)
    assert torch.allclose(A @ A.t(), torch.eye(RANK, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(B.t() @ B, torch.eye(RANK, dtype=torch.float64), atol=1e-12)
    without_sign = best_rank(-0.01 * G.numpy(), RANK)
    assert not np.allclose((SCALING * B @ R @ A).numpy(), without_sign, atol=1e-3)  # negative control


def test_eva_keeps_more_of_the_inputs_than_any_other_projection() -> None:
    X, C = covariance(16)
    A, B = EVA().factors(normal(24, 16), C, RANK, SCALING, rng())
    V = np.linalg.svd(X, full_matrices=False)[2][:RANK]
    assert np.allclose(A.numpy().T @ A.numpy(), V.T @ V, atol=1e-10)
    assert not B.any()

    def missed(P: np.ndarray) -> float:
        return float(np.linalg.norm(X - X @ P.T @ P))

    best = missed(A.numpy())
    for seed in range(20):
        assert missed(np.linalg.qr(normal(16, RANK, seed=seed).numpy())[0].T) > best


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda_takes_its_part_of_w_as_the_inputs_see_it(mode: str) -> None:
    W, (_, C) = normal(24, 16), covariance(16)
    damped = C.numpy() + 0.01 * np.diagonal(C.numpy()).mean() * np.eye(16)
    A, B = CorDA(mode).factors(W, C, RANK, SCALING, rng())
    seen = W.numpy() @ damped
    U, S, Vh = np.linalg.svd(seen, full_matrices=False)
    part = slice(0, RANK) if mode == "ipm" else slice(-RANK, None)
    wanted = U[:, part] * S[part] @ Vh[part]
    assert np.allclose(SCALING * (B @ A).numpy() @ damped, wanted, atol=1e-9)
    # What stays frozen hurts the task's inputs least under ipm, most under kpm, beside PiSSA-like choices.
    frozen = np.linalg.norm(seen - SCALING * (B @ A).numpy() @ damped)
    plain = np.linalg.norm(seen - best_rank(W.numpy(), RANK) @ damped)
    assert frozen < plain if mode == "ipm" else frozen > plain


def test_bad_options_are_refused() -> None:
    for make, said in (
        (lambda: CorDA("kmp"), "kpm"),
        (lambda: LoRAOne(gamma=0), "positive"),
        (lambda: LoRASB(step=0), "positive"),
    ):
        with pytest.raises(ConfigError, match=said):
            make()


# --- gradients known by factors ---------------------------------------------------------------------------


def test_a_low_rank_gradient_gives_the_dense_ones_random_directions() -> None:
    initializer, W = LoRAGA(directions="random"), normal(30, 20)
    sketch = LowRank(normal(30, 10, seed=1), normal(20, 10, seed=2))
    ours = initializer.factors(W, sketch, RANK, SCALING, rng(5))
    dense = initializer.factors(W, sketch.dense(), RANK, SCALING, rng(5))
    for a, b in zip(ours, dense, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_a_sketch_with_too_few_columns_is_refused() -> None:
    sketch = LowRank(normal(30, 5, seed=1), normal(20, 5, seed=2))
    with pytest.raises(ValueError, match="8 singular directions"):
        LoRAGA().factors(normal(30, 20), sketch, RANK, SCALING, rng())
    with pytest.raises(ValueError, match="not finite"):
        LoRAGA().factors(normal(30, 20), LowRank(sketch.left / 0, sketch.right), 2, SCALING, rng())


# --- the start as a whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("initializer", [LoRAGA(), SLICE(), LoRAGA("A2rBr"), LoRAGA("random")])
def test_a_warm_start_takes_the_reconciled_step_to_first_order(initializer: object) -> None:
    W, G = normal(30, 20), normal(30, 20, seed=1)
    step = {}
    for tau in (1e-5, 1e-4):
        A, B, dA, dB = start_of(initializer, W, G, RANK, SCALING, rng(5), warm_start=tau).tensors
        wanted = -tau * torch.tensor(best_rank(G.numpy(), 2 * RANK))
        assert torch.allclose(SCALING * (dB @ A + B @ dA), wanted, atol=1e-12 + 1e-9 * tau)
        step[tau] = float((SCALING * ((B + dB) @ (A + dA) - B @ A) - wanted).norm() / wanted.norm())
    assert step[1e-5] == pytest.approx(step[1e-4] / 10, rel=0.1)  # what is left is of second order
    top = LowRank(*top_and_right(G, RANK))
    halved = zip(warm_step(A, B, top, 1e-4, SCALING), (dA, dB), strict=True)
    assert not all(torch.allclose(a, b) for a, b in halved)  # negative control: the top r only


def top_and_right(G: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    U, S, V = top_singular(G, rank, rng())
    return U * S, V


def test_a_start_says_what_truncation_keeps() -> None:
    G, other = normal(30, 20, seed=1), normal(30, 20, seed=2)
    start = start_of(SLICE(), normal(30, 20), G, RANK, SCALING, rng())
    kept = best_rank(G.numpy(), 2 * RANK)
    assert start.energy == pytest.approx(float((kept**2).sum() / (G.numpy() ** 2).sum()), rel=1e-9)
    inner = float((kept * other.numpy()).sum())
    cosine = inner / np.linalg.norm(kept) / np.linalg.norm(other.numpy())
    assert start.cosine_with(other) == pytest.approx((cosine, inner), rel=1e-9)
    assert start.overlap_with(G, RANK) == pytest.approx(1.0, abs=1e-9)
    assert start.overlap_with(other, RANK) < 0.9
