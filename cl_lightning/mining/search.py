"""Finds the most conflicting tasks of a pool and their worst order, by exact search on gradient cosines.

A set's score is the mean cosine over its pairs. An order's score is its *cumulative conflict*

    sum over t >= 2 of max(0, -cos(u_t, u_1 + ... + u_{t-1})),     u_t the unit gradient of the t-th task,

which measures how far each new task opposes all earlier ones together; it lies between 0 and T - 1.

Shapes: cosines (n, n), symmetric; its diagonal is never read.
"""

from dataclasses import dataclass
from itertools import combinations, islice, permutations
from math import comb

import torch
from torch import Tensor

#: Largest set whose orders are all tried: 8! = 40320.
MOST_TASKS = 8
#: Most sets in a search, about half a minute. A pool of 60 tasks has 5 461 512 sets of five.
MOST_SETS = 200_000_000
#: Number of sets (without their last task) that are scored in one product.
CHUNK = 16384
#: Replaces a cosine that a control set must not have.
BARRED = 1e9


@dataclass(frozen=True, order=True)
class TaskSet:
    """`score`: mean cosine over all pairs; `members`: positions in the pool, ascending."""

    score: float
    members: tuple[int, ...]


@dataclass(frozen=True)
class TaskOrder:
    """`conflict`: cumulative conflict; `members`: positions in the pool, in training order."""

    conflict: float
    members: tuple[int, ...]


def cosine_matrix(gram: Tensor) -> Tensor:
    """Compute cosines (n, n) from inner products (n, n); 0 where a gradient is zero."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    scale = norms[:, None] * norms
    return torch.where(scale > 0, gram / scale.clamp_min(torch.finfo(gram.dtype).tiny), 0.0).clamp(-1, 1)


def number_of_sets(tasks: int, length: int, start: int | None = None) -> int:
    """Count the sets in a search."""
    return comb(tasks, length) if start is None else comb(tasks - 1, length - 1)


def most_conflicting(cosines: Tensor, length: int, count: int = 1, start: int | None = None) -> list[TaskSet]:
    """Find the `count` sets of `length` tasks with the lowest mean cosine, lowest first; exact.

    `start`: a task that must be in the set.

    Raises:
        ValueError: the pool is smaller than a set, or there are more than MOST_SETS.
    """
    tasks = len(cosines)
    sets = number_of_sets(tasks, length, start)
    if not 2 <= length <= tasks:
        raise ValueError(f"no sets of {length} tasks in a pool of {tasks}; choose 2 to {tasks}")
    if sets > MOST_SETS:
        raise ValueError(f"{tasks} tasks have {sets} sets of {length}; at most {MOST_SETS} are searched")
    pairs = cosines.to(torch.float64).clone().fill_diagonal_(0)
    given = [] if start is None else [start]
    heads = combinations([i for i in range(tasks) if i not in given], length - 1 - len(given))
    best: list[TaskSet] = []
    while chunk := list(islice(heads, CHUNK)):
        head = torch.tensor(chunk, dtype=torch.long).reshape(len(chunk), -1)
        chosen = torch.zeros(len(chunk), tasks, dtype=torch.float64).scatter_(1, head, 1.0)
        chosen[:, given] = 1.0
        # Sum of each task's cosines with those in the head, and of the cosines within the head.
        joined = chosen @ pairs
        inside = (joined * chosen).sum(1, keepdim=True) / 2
        last = head[:, -1:] if head.shape[1] else torch.full((len(chunk), 1), -1)
        later = torch.arange(tasks) > last
        later[:, given] = False
        scores = ((inside + joined) / comb(length, 2)).masked_fill_(~later, torch.inf).flatten()
        values, places = scores.topk(min(count, len(scores)), largest=False)
        for score, place in zip(values.tolist(), places.tolist(), strict=True):
            if score < torch.inf:
                best.append(TaskSet(score, tuple(sorted((*given, *chunk[place // tasks], place % tasks)))))
        best = sorted(best)[:count]
    return best


def least_conflicting(cosines: Tensor, length: int, count: int = 1, start: int | None = None) -> list[TaskSet]:
    """Find control sets: of the sets with only positive cosines, the `count` with the highest mean, highest first.

    Returns fewer if there are fewer. `start` and errors: see `most_conflicting`.
    """
    barred = torch.where(cosines > 0, -cosines.to(torch.float64), BARRED)
    found = most_conflicting(barred, length, count, start)
    return [TaskSet(-s.score, s.members) for s in found if s.score <= 0]


def cumulative_conflict(cosines: Tensor, orders: Tensor) -> Tensor:
    """Compute the cumulative conflict of each order. Shapes: orders (P, T), positions in the pool; result (P,)."""
    inner = cosines.to(torch.float64).clone().fill_diagonal_(1.0)[orders[:, :, None], orders[:, None, :]]
    conflict = torch.zeros(len(orders), dtype=torch.float64)
    for t in range(1, orders.shape[1]):
        norm = inner[:, :t, :t].sum((1, 2)).clamp_min(0).sqrt()
        against = inner[:, t, :t].sum(1)
        # If the earlier gradients cancel, there is nothing to oppose.
        conflict += torch.where(norm > 1e-6, -against / norm.clamp_min(1e-6), 0.0).clamp(0, 1)
    return conflict


def worst_order(cosines: Tensor, members: tuple[int, ...], start: int | None = None) -> TaskOrder:
    """Find the order with the highest cumulative conflict, by trying all; ties go to the first in pool order.

    `start`: the member that must come first.

    Raises:
        ValueError: more than MOST_TASKS members.
    """
    if len(members) > MOST_TASKS:
        raise ValueError(f"{len(members)} tasks have too many orders; at most {MOST_TASKS} are searched")
    given = () if start is None else (start,)
    rest = sorted(m for m in members if m not in given)
    orders = torch.tensor([(*given, *order) for order in permutations(rest)])
    scores = cumulative_conflict(cosines, orders)
    first = int((scores >= scores.max() - 1e-12).nonzero()[0])
    return TaskOrder(float(scores[first]), tuple(orders[first].tolist()))
