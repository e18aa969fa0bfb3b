"""Searches for conflicting sets and orders against brute force, and one planted in a large pool."""

import math
import time
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

from cl_lightning.mining.search import (
    TaskSet,
    cosine_matrix,
    cumulative_conflict,
    least_conflicting,
    most_conflicting,
    number_of_sets,
    worst_order,
)


def unit_rows(tasks: int, seed: int, size: int = 6) -> Tensor:
    rows = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def random_cosines(tasks: int, seed: int) -> Tensor:
    rows = unit_rows(tasks, seed)
    return rows @ rows.t()


def brute_force(cosines: Tensor, length: int, start: int | None = None) -> list[TaskSet]:
    sets = [s for s in combinations(range(len(cosines)), length) if start is None or start in s]
    means = [math.fsum(float(cosines[i, j]) for i, j in combinations(s, 2)) / math.comb(length, 2) for s in sets]
    return sorted(TaskSet(m, s) for m, s in zip(means, sets, strict=True))


def same(found: list[TaskSet], wanted: list[TaskSet]) -> bool:
    scores = zip(found, wanted, strict=True)
    return all(f.members == w.members and math.isclose(f.score, w.score, abs_tol=1e-12) for f, w in scores)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 9])
@pytest.mark.parametrize("start", [None, 0, 4])
def test_the_lowest_sets_are_those_of_brute_force(length: int, start: int | None) -> None:
    for seed in range(3):
        cosines = random_cosines(9, seed)
        wanted = brute_force(cosines, length, start)
        assert len(wanted) == number_of_sets(9, length, start)
        assert same(most_conflicting(cosines, length, 7, start), wanted[:7])


@pytest.mark.parametrize("start", [None, 2])
def test_control_sets_have_positive_cosines_only(start: int | None) -> None:
    cosines = random_cosines(10, 1)
    positive = [
        s for s in brute_force(cosines, 3, start) if all(cosines[i, j] > 0 for i, j in combinations(s.members, 2))
    ]
    assert positive, "the pool has some"
    found = least_conflicting(cosines, 3, 4, start)
    assert same(found, positive[::-1][:4])
    assert least_conflicting(-torch.ones(6, 6), 3, 4) == []


def test_a_planted_clique_is_found_among_all_sets_of_sixty_tasks() -> None:
    noise = 0.2 + 0.05 * torch.randn(60, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cosines = (noise + noise.t()) / 2
    planted = (3, 17, 29, 44, 58)
    for i, j in permutations(planted, 2):
        cosines[i, j] = -0.1
    # A single pair that conflicts more must not lead astray.
    cosines[5, 6] = cosines[6, 5] = -0.9
    start = time.monotonic()
    first, second = most_conflicting(cosines, 5, 2)
    assert time.monotonic() - start < 30
    assert first.members == planted
    assert first.score == pytest.approx(-0.1)
    assert second.score > -0.05
    assert number_of_sets(60, 5) == 5_461_512


def test_the_diagonal_is_never_read() -> None:
    cosines = random_cosines(6, 0)
    other = cosines.clone().fill_diagonal_(math.nan)
    assert most_conflicting(other, 3, 2) == most_conflicting(cosines, 3, 2)
    assert worst_order(other, (0, 2, 4)) == worst_order(cosines, (0, 2, 4))


def conflict_of(rows: Tensor, order: tuple[int, ...]) -> float:
    """From the gradients themselves."""
    total = 0.0
    for t in range(1, len(order)):
        memory = rows[list(order[:t])].sum(0)
        total += max(0.0, -float(rows[order[t]] @ memory / memory.norm()))
    return total


@pytest.mark.parametrize("start", [None, 5])
def test_the_worst_order_is_that_of_brute_force(start: int | None) -> None:
    for seed in range(4):
        rows = unit_rows(7, seed)
        members = (1, 2, 4, 5, 6)
        by_hand = {
            order: conflict_of(rows, order) for order in permutations(members) if start in (None, order[0])
        }  # fmt: skip
        found = worst_order(rows @ rows.t(), members, start)
        assert found.conflict == pytest.approx(max(by_hand.values()), abs=1e-12)
        assert by_hand[found.members] == pytest.approx(found.conflict, abs=1e-12)


def test_equal_orders_give_the_pool_order_and_cancelled_memories_conflict_with_nothing() -> None:
    assert worst_order(torch.ones(5, 5), (4, 0, 2)).members == (0, 2, 4)
    assert worst_order(torch.ones(5, 5), (4, 0, 2), start=2).members == (2, 0, 4)
    cosines = torch.tensor([[1.0, -1, -0.5], [-1, 1, 0.5], [-0.5, 0.5, 1]])
    assert float(cumulative_conflict(cosines, torch.tensor([[0, 1, 2]]))) == 1.0


def test_cosines_from_inner_products() -> None:
    rows = torch.tensor([[2.0, 0], [3, 3], [0, 0]], dtype=torch.float64)
    wanted = torch.tensor([[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(cosine_matrix(rows @ rows.t()), wanted, rtol=0, atol=1e-15)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValueError, match="no sets of 4 tasks in a pool of 3; choose 2 to 3"):
        most_conflicting(torch.eye(3), 4)
    with pytest.raises(ValueError, match="200 tasks have 2535650040 sets of 5"):
        most_conflicting(torch.eye(200), 5)
    with pytest.raises(ValueError, match="9 tasks have too many orders"):
        worst_order(torch.eye(9), tuple(range(9)))
