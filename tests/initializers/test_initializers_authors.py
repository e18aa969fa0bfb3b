"""LoRA-GA and SLICE against outputs of the authors' code."""

import math

import pytest
import torch
from torch import Tensor

from cl_lightning.initializers import SLICE, LoRAGA
from cl_lightning.initializers.directions import DIRECTIONS, variance_scale
from cl_lightning.initializers.loraga import SCALES
from tests import reference
from tests.initializers.test_initializers import VARIANCES, rng


def aligned_error(ours: Tensor, theirs: Tensor, dim: int) -> float:
    """Largest difference over the largest entry, each vector's sign aligned (theirs are LAPACK's)."""
    sign = (ours * theirs).sum(dim, keepdim=True).sign()
    return float((sign * ours - theirs).abs().max() / theirs.abs().max())


NAMES = {"ArB2r": "ArB2r", "A2rBr": "A2rBr", "interleaved": "ArBr"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("directions", NAMES)
def test_authors_loraga(directions: str, scale: str) -> None:
    arrays, info = reference.tensors("loraga_official"), reference.facts("loraga_official")
    config, W, G = info["configs"]["a"], arrays["a|W"], arrays["a|G"]
    A, B = LoRAGA(directions, scale, config["gamma"]).factors(W, G, config["r"], config["scaling"], rng())
    for variant, tolerance in (("fp32", 5e-6), ("bf16", 3e-3)):
        key = f"a|{NAMES[directions]}|{scale}|{variant}"
        if f"{key}|A" in arrays:
            assert aligned_error(A, arrays[f"{key}|A"], 1) < tolerance
            assert aligned_error(B, arrays[f"{key}|B"], 0) < tolerance
    # Their absorbed weight W - s B A, once our vectors have their signs.
    key = f"a|{NAMES[directions]}|{scale}|fp32"
    A = A * (A * arrays[f"{key}|A"]).sum(1, keepdim=True).sign()
    B = B * (B * arrays[f"{key}|B"]).sum(0, keepdim=True).sign()
    torch.testing.assert_close(W - config["scaling"] * B @ A, arrays[f"{key}|W_after"], rtol=0, atol=2e-6)
    others = next(d for d in DIRECTIONS if d != directions)
    assert aligned_error(A, arrays[f"a|{NAMES[others]}|{scale}|fp32|A"], 1) > 0.1  # control


@pytest.mark.parametrize("config", ["a", "b"])
def test_authors_slice(config: str) -> None:
    """Their G~ -> A, B (our A2rBr). beta to 1e-6 only with their signs and their centred variance."""
    arrays, info = reference.tensors("slice_decompose"), reference.facts("slice_decompose")
    settings, G = info["svd"][f"{config}|lora_ga"], arrays[f"{config}|G"]
    rank, theirs_A, theirs_B = settings["r"], arrays[f"{config}|lora_ga|A"], arrays[f"{config}|lora_ga|B"]
    W = torch.randn(G.shape, dtype=torch.float64, generator=rng())
    W = (W - W.mean()) / W.std() * math.sqrt(settings["weight_var"])
    A, B = SLICE("A2rBr", "uncentred").factors(W, G, rank, 1.0, rng())
    for factor, key in ((A.t(), "P_rowA"), (B, "P_colB")):
        Q = (factor / factor.norm(dim=0)).double()
        torch.testing.assert_close(Q @ Q.t(), arrays[f"{config}|lora_ga|{key}"], rtol=0, atol=2e-6)
    beta = settings["beta"]
    assert aligned_error(A / A[0].norm(), theirs_A / beta, 1) < 5e-6
    assert aligned_error(B / B[:, 0].norm(), theirs_B / beta, 0) < 5e-6
    with_their_signs = variance_scale(theirs_A / beta, theirs_B / beta, W, rank, "centred")
    assert with_their_signs == pytest.approx(beta, rel=1e-6)
    for variance in VARIANCES:  # with our signs
        ours = SLICE("A2rBr", variance).factors(W, G, rank, 1.0, rng())[0]
        assert float(ours[0].norm()) == pytest.approx(beta, rel=5e-3)
