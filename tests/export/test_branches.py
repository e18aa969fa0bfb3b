"""Branches as one product of thin factors, against dense sums written from the equation."""

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.export.branches import all_recompressed, recompressed, summed, update_of
from cl_lightning.linalg.low_rank import LowRank

M, N, R, S = 7, 11, 3, 0.7
Branch = dict[str, Tensor]


def drawn(*names: str) -> Branch:
    shapes = {"A": (R, N), "B": (M, R), "R": (R, R)}
    return {f"lora_{n}": torch.randn(shapes[n[0]], dtype=torch.float64) for n in names}


def dense(b: Branch) -> Tensor:
    """s (B R A - B0 A0)."""
    A = b["lora_R"] @ b["lora_A"] if "lora_R" in b else b["lora_A"]
    start = b["lora_B0"] @ b["lora_A0"] if "lora_B0" in b else torch.zeros(M, N, dtype=torch.float64)
    return S * (b["lora_B"] @ A - start)


def kinds() -> dict[str, Branch]:
    displaced = drawn("A", "B", "A0", "B0")
    core = drawn("A", "B", "R")
    return {
        "plain": drawn("A", "B"),
        "displaced": displaced,
        "frozen A": {**displaced, "lora_A0": displaced["lora_A"]},
        "frozen B": {**displaced, "lora_B0": displaced["lora_B"]},
        "core": {**core, "lora_A0": torch.randn(R, R, dtype=torch.float64) @ core["lora_A"], "lora_B0": core["lora_B"]},
    }


RANKS = {"plain": R, "displaced": 2 * R, "frozen A": R, "frozen B": R, "core": R}


@pytest.mark.parametrize("kind", RANKS)
def test_a_branch_is_what_the_equation_says(kind: str) -> None:
    branch = kinds()[kind]
    update = update_of(branch, S)
    torch.testing.assert_close(update.dense(), dense(branch), rtol=1e-12, atol=1e-12)
    assert update.left.shape[1] == RANKS[kind]


@pytest.mark.parametrize("kind", RANKS)
def test_a_branch_is_what_the_layer_makes_of_it(kind: str) -> None:
    branch = kinds()[kind]
    layer = AdaptedLinear(torch.nn.Linear(N, M, bias=False).double().requires_grad_(False))
    layer.load_branch(branch, S)
    x = torch.randn(5, N, dtype=torch.float64)
    added = layer(x) - layer.base(x)
    torch.testing.assert_close(x @ update_of(branch, S).dense().t(), added, rtol=1e-12, atol=1e-12)


def test_without_the_start_or_the_scale_it_is_not() -> None:
    """Negative control."""
    branch = kinds()["displaced"]
    started = {name: branch[name] for name in ("lora_A", "lora_B")}
    for wrong in (update_of(started, S), update_of(branch, 1.0)):
        assert (wrong.dense() - dense(branch)).norm() > 0.1 * dense(branch).norm()


def test_a_sum_has_the_sum_of_the_ranks() -> None:
    branches = list(kinds().values())
    total = summed([update_of(b, S) for b in branches])
    torch.testing.assert_close(total.dense(), sum(map(dense, branches)), rtol=1e-12, atol=1e-12)
    assert total.left.shape[1] == sum(RANKS.values())


def test_a_branch_at_its_start_adds_nothing() -> None:
    branch = drawn("A", "B")
    assert update_of({**branch, "lora_A0": branch["lora_A"], "lora_B0": branch["lora_B"]}, S) is None
    assert update_of({**branch, "lora_B": torch.zeros(M, R)}, S) is None


@pytest.mark.parametrize("rank", [1, 4, 6, 9])
def test_recompression_is_the_best_of_its_rank(rank: int) -> None:
    update = LowRank(torch.randn(M, 9, dtype=torch.float64), torch.randn(N, 9, dtype=torch.float64))
    less, error = recompressed(update, rank)
    assert less.left.shape[1] == min(rank, M)
    singular = torch.linalg.svdvals(update.dense())
    best = float(singular[rank:].norm() / singular.norm())
    assert error == pytest.approx(best, abs=1e-12)
    assert float((less.dense() - update.dense()).norm() / update.dense().norm()) == pytest.approx(best, abs=1e-12)
    torch.testing.assert_close(less.left.norm(dim=0), less.right.norm(dim=0))


def test_the_error_said_is_of_all_layers_and_of_the_worst() -> None:
    updates = {name: update_of(drawn("A", "B"), scale) for name, scale in (("small", 0.1), ("large", 10.0))}
    less, output = all_recompressed(updates, 1)
    lost = {n: (updates[n].dense() - less[n].dense()).norm() for n in updates}
    sizes = {n: updates[n].dense().norm() for n in updates}
    worst = max(lost, key=lambda n: lost[n] / sizes[n])
    whole = torch.stack([*lost.values()]).norm() / torch.stack([*sizes.values()]).norm()
    assert f"{whole:.2e} over all layers, at most {lost[worst] / sizes[worst]:.2e} ({worst})" in output
