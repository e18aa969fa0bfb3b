"""Decompositions, sketches, surgery and gates on the device, and left there, against float64 equations on the CPU."""

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.gates import Gates
from cl_lightning.gradients.sketch import FourPass, SinglePass, TestMatrices
from cl_lightning.initializers.slice import SLICE
from cl_lightning.linalg.svd import top_singular
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import reconcile
from tests.conftest import relative
from tests.gpu.reference import wide

pytestmark = pytest.mark.gpu

RANK = 4


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decaying(m: int, n: int) -> Tensor:
    """A matrix (m, n) of singular values 2^-i, float64."""
    size = min(m, n)
    U, V = (torch.linalg.qr(normal(rows, size, seed=i)).Q for i, rows in enumerate((m, n)))
    return U * 2.0 ** -torch.arange(size, dtype=torch.float64) @ V.t()


@pytest.mark.parametrize("shape", [(48, 40), (200, 160)], ids=["exact", "randomised"])
def test_singular_directions(device: torch.device, shape: tuple[int, int]) -> None:
    G = decaying(*shape)
    found = top_singular(G.to(device, torch.float32), RANK, torch.Generator().manual_seed(0))
    assert {t.device.type for t in found} == {device.type}
    U, S, V = map(wide, found)
    exact = torch.linalg.svd(G, full_matrices=False)
    best = exact.U[:, :RANK] * exact.S[:RANK] @ exact.Vh[:RANK]
    assert relative(U * S @ V.t(), best) < 1e-5


@pytest.mark.parametrize("kind", ["four_pass", "single_pass"])
def test_sketches(device: torch.device, kind: str) -> None:
    G, tests = decaying(64, 48), TestMatrices(0, torch.float32, device)
    columns = 2 * RANK + 10
    sketch = {
        "four_pass": lambda: FourPass((64, 48), columns, tests, 2 * columns),
        "single_pass": lambda: SinglePass((64, 48), columns, tests, 2 * columns + 1),
    }[kind]()
    eye = torch.eye(64, dtype=torch.float64)
    result = None
    for _ in range(sketch.passes):
        for dy, x in zip(eye.split(16), G.split(16), strict=True):
            sketch.add(dy.to(device, torch.float32), x.to(device, torch.float32))
        result = sketch.finish_pass()
    assert result is not None and result.left.device.type == device.type
    # What is lost is of the size of the first direction that the sketch has no column for.
    assert relative(wide(result.left) @ wide(result.right).t(), G) < 2.0 ** -(2 * RANK)


def test_surgery(device: torch.device) -> None:
    g, r = normal(24, 16, seed=0), normal(24, 16, seed=1)
    r = r - 2 * (g * r).sum() / (g * g).sum() * g  # now they conflict, or did before
    r = r if float((g * r).sum()) < 0 else -r
    wanted = g - (g * r).sum() / (r * r).sum() * r
    ((_, found, _),) = reconcile({"w": g.to(device, torch.float32)}, [{"w": r.to(device, torch.float32)}], PCGrad())
    assert found.device.type == device.type
    assert relative(wide(found), wanted) < 1e-6
    assert relative(g, wanted) > 1e-3, "control: there was a conflict"


def test_slice_starts_in_the_directions_of_the_gradient(device: torch.device) -> None:
    G, W = decaying(48, 40), normal(48, 40, seed=3)
    A, B = SLICE().factors(
        W.to(device, torch.float32), G.to(device, torch.float32), RANK, 2.0, torch.Generator().manual_seed(0)
    )
    assert A.device.type == B.device.type == device.type
    exact = torch.linalg.svd(G, full_matrices=False)
    for found, directions in ((A.t(), exact.Vh[:RANK].t()), (B, exact.U[:, RANK : 2 * RANK])):
        found = wide(found) / wide(found).norm(dim=0)
        assert relative((directions.t() @ found).abs(), torch.eye(RANK, dtype=torch.float64)) < 1e-4


def test_gates(device: torch.device) -> None:
    gates = Gates(16, width=6)
    for seed in range(3):
        weights = [normal(*shape, seed=10 * seed + i) for i, shape in enumerate([*gates.shapes, (1, gates.key_size)])]
        if seed:
            gates.freeze()
        gates.begin([w.to(device, torch.float32) for w in weights])
    pooled = normal(5, 16, seed=99)
    found = gates(pooled.to(device, torch.float32))
    assert found.device.type == device.type
    for task in range(3):
        *layers, key = (normal(*s, seed=10 * task + i) for i, s in enumerate([*gates.shapes, (1, gates.key_size)]))
        p = pooled
        for G in layers:
            p = p @ G.t()
            p = p / (1 + (-p).exp())  # SiLU
        b = 4 * (p * key).sum(1) / (p.norm(dim=1) * key.norm())
        assert relative(wide(found[:, task]), (b / 2).tanh().abs()) < 1e-5
