"""Which tasks of a pool conflict most, and in which order: exact searches on the matrix of gradient cosines.

A set's score is the mean cosine over its pairs. An order's score is its *cumulative conflict*

    sum over t >= 2 of max(0, -cos(u_t, u_1 + ... + u_{t-1})),     u_t the unit gradient of the t-th task,

how far each new task runs against all earlier ones together; between 0 and T - 1.

Shapes: cosines (n, n), symmetric, its diagonal is never read.
"""

from dataclasses import dataclass
from itertools import combinations, islice, permutations
from math import comb

import torch
from torch import Tensor

#: All orders of a set are tried: 8! = 40320.
MOST_TASKS = 8
#: Sets that a search may go through: half a minute. A pool of 60 tasks has 5 461 512 sets of five.
MOST_SETS = 200_000_000
#: Sets without their last task that are scored in one product.
CHUNK = 16384
#: In place of a cosine that a control set must not have.
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
    """Cosines (n, n) from inner products (n, n); 0 where a gradient is zero."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    scale = norms[:, None] * norms
    return torch.where(scale > 0, gram / scale.clamp_min(torch.finfo(gram.dtype).tiny), 0.0).clamp(-1, 1)


def number_of_sets(tasks: int, length: int, start: int | None = None) -> int:
    """How many sets a search goes through."""
    return comb(tasks, length) if start is None else comb(tasks - 1, length - 1)


def most_conflicting(cosines: Tensor, length: int, count: int = 1, start: int | None = None) -> list[TaskSet]:
    """The `count` sets of `length` tasks with the lowest mean cosine, lowest first; exact.

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
        # Each task's cosines with the head's, summed; then the head's among themselves.
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
    """Control sets: of those whose cosines are all positive the `count` with the highest mean, highest first.

    Fewer, or none, where there are not so many. `start` and errors: see `most_conflicting`.
    """
    barred = torch.where(cosines > 0, -cosines.to(torch.float64), BARRED)
    found = most_conflicting(barred, length, count, start)
    return [TaskSet(-s.score, s.members) for s in found if s.score <= 0]


def cumulative_conflict(cosines: Tensor, orders: Tensor) -> Tensor:
    """The score of each order. Shapes: orders (P, T), positions in the pool; returns (P,) float64."""
    inner = cosines.to(torch.float64).clone().fill_diagonal_(1.0)[orders[:, :, None], orders[:, None, :]]
    conflict = torch.zeros(len(orders), dtype=torch.float64)
    for t in range(1, orders.shape[1]):
        norm = inner[:, :t, :t].sum((1, 2)).clamp_min(0).sqrt()
        against = inner[:, t, :t].sum(1)
        # Earlier gradients that cancel leave nothing to run against.
        conflict += torch.where(norm > 1e-6, -against / norm.clamp_min(1e-6), 0.0).clamp(0, 1)
    return conflict


def worst_order(cosines: Tensor, members: tuple[int, ...], start: int | None = None) -> TaskOrder:
    """The order of highest cumulative conflict, of all there are; of equal ones the first in pool order.

    `start`: the member that comes first.

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
