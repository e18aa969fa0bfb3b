"""Starts that need W alone, against numpy in float64: LoRAM, PiSSA, MiLoRA, QR."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.initializers import LoRAM, MiLoRA, OrthonormalQR, PiSSA
from tests import reference

RANK, SCALING = 4, 0.7
SHAPES = [(24, 16), (16, 24), (40, 40)]


def weight(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return 0.05 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def start(initializer: object, W: Tensor, rank: int = RANK) -> tuple[np.ndarray, np.ndarray]:
    A, B = initializer.factors(W, None, rank, SCALING, torch.Generator().manual_seed(0))
    return A.double().numpy(), B.double().numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_pissa_starts_at_the_best_rank_r_part(shape: tuple[int, int]) -> None:
    W = weight(shape)
    U, S, Vh = np.linalg.svd(W.numpy(), full_matrices=False)
    A, B = start(PiSSA(), W)
    assert np.allclose(SCALING * B @ A, U[:, :RANK] * S[:RANK] @ Vh[:RANK], atol=1e-12)
    # Balanced: both factors carry the root of the spectrum.
    assert np.allclose(np.linalg.norm(A, axis=1), np.linalg.norm(B, axis=0), atol=1e-12)
    assert np.allclose(np.linalg.norm(A, axis=1) ** 2, S[:RANK] / SCALING, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_milora_leaves_the_principal_part_frozen(shape: tuple[int, int]) -> None:
    W = weight(shape)
    U, S, Vh = np.linalg.svd(W.numpy(), full_matrices=False)
    A, B = start(MiLoRA(), W)
    frozen = W.numpy() - SCALING * B @ A
    kept = len(S) - RANK
    assert np.allclose(frozen, U[:, :kept] * S[:kept] @ Vh[:kept], atol=1e-12)
    principal = W.numpy() - SCALING * np.matmul(*start(PiSSA(), W)[::-1])
    assert not np.allclose(principal, U[:, :kept] * S[:kept] @ Vh[:kept], atol=1e-3)  # negative control


@pytest.mark.parametrize("shape", SHAPES)
def test_orthonormal_qr_takes_the_first_qr_directions(shape: tuple[int, int]) -> None:
    W = weight(shape)
    Q, R = np.linalg.qr(W.numpy())
    A, B = start(OrthonormalQR(), W)
    assert np.allclose(B @ A, Q[:, :RANK] @ R[:RANK], atol=1e-12)
    assert np.allclose(B.T @ B, np.eye(RANK), atol=1e-12)
    assert (np.diagonal(A) > 0).all()
    first = W.numpy()[:, :RANK]  # the span of the first r columns of W
    assert np.allclose(B @ (B.T @ first), first, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_loram_is_a_sine_basis_at_the_scale_of_w(shape: tuple[int, int]) -> None:
    W, (m, n) = weight(shape), shape
    A, B = start(LoRAM(), W)

    def sines(size: int) -> np.ndarray:
        return np.array(
            [
                [math.sqrt(2 / (size + 1)) * math.sin((i + 1) * (k + 1) * math.pi / (size + 1)) for i in range(size)]
                for k in range(RANK)
            ]
        )

    beta = np.linalg.norm(A[0])
    assert np.allclose(A, beta * sines(n), atol=1e-10)
    assert np.allclose(B, beta * sines(m).T, atol=1e-10)
    assert np.allclose(A @ A.T, beta**2 * np.eye(RANK), atol=1e-10)
    rho = math.log(RANK) / math.log(min(m, n))
    assert np.mean((B @ A) ** 2) == pytest.approx(rho * np.mean(W.numpy() ** 2), rel=1e-6)


def test_loram_has_the_directions_of_the_slice_authors_code() -> None:
    arrays = {key: tensor.numpy() for key, tensor in reference.tensors("slice_decompose").items()}
    found = [key.split("|")[0] for key in arrays if key.endswith("|loram|A")]
    assert found
    for name in found:
        A, B = arrays[f"{name}|loram|A"], arrays[f"{name}|loram|B"]
        r = len(A)
        W = weight((len(B), A.shape[1]))
        ours = LoRAM().factors(W, None, r, 1.0, torch.Generator())
        for a, b in ((ours[0].numpy(), A), (ours[1].numpy(), B)):
            # Their W is not stored, so the common scale beta is: compare without it.
            assert np.abs(a / np.linalg.norm(a) - b / np.linalg.norm(b)).max() < 1e-5, name


def test_loram_with_centred_variance_has_the_scale_of_the_slice_authors_code() -> None:
    arrays = {key: tensor.numpy() for key, tensor in reference.tensors("slice_decompose").items()}
    for name, about in reference.facts("slice_decompose")["loram"].items():
        W = weight((about["d_out"], about["d_in"]))
        W = (W - W.mean()) / W.std() * about["weight_var"] ** 0.5 + 0.3  # of their variance; the mean does not count
        A, B = LoRAM("centred").factors(W, None, about["r"], 1.0, torch.Generator())
        for ours, theirs in ((A.numpy(), arrays[f"{name}|loram|A"]), (B.numpy(), arrays[f"{name}|loram|B"])):
            assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max(), name
        assert np.linalg.norm(A[0]) == pytest.approx(about["beta"], rel=1e-5)
        other = LoRAM().factors(W - W.mean(), None, about["r"], 1.0, torch.Generator())[0]
        assert np.linalg.norm(A[0]) > 1.01 * np.linalg.norm(other[0]), "negative control: uncentred is smaller"


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
@pytest.mark.parametrize("rank", [1, 2, 6])
def test_loram_with_centred_variance_against_a_formed_product(shape: tuple[int, int], rank: int) -> None:
    """Their equation: beta^4 = log_min(m, n) max(r, 2) Var(W) / Var(B A), sample variances."""
    W = weight(shape) + 0.01
    A, B = start(LoRAM("centred"), W, rank=rank)
    beta = np.linalg.norm(A[0])
    product = (B / beta) @ (A / beta)
    rho = math.log(max(2, rank)) / math.log(min(shape))
    assert beta**4 == pytest.approx(rho * np.var(W.numpy(), ddof=1) / np.var(product, ddof=1), rel=1e-9)
    assert beta > 0, "rank 1 too"


def test_loram_knows_two_variances() -> None:
    with pytest.raises(ConfigError, match=r"^LoRAM\.variance: 'centered' is not known; did you mean centred"):
        LoRAM("centered")
