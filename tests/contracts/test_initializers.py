"""The contract of initialisers, for every one that `cl_lightning.initializers` exports."""

from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from cl_lightning import initializers
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.initializers.base import Initializer, Needs
from cl_lightning.initializers.kaiming import Kaiming
from cl_lightning.linalg.low_rank import LowRank
from tests.contracts import contract
from tests.contracts.contract import Clause, Contract, exported, refuses, require

CONTRACT = Contract("initializer", Initializer)

SMALL, LARGE = (24, 16), (150, 200)  # decomposed exactly and by a randomised range finder at rank 4
RANK, SCALING = 4, 0.5


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decaying(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Float64 matrix with singular values 0.8^i, so that every singular direction is well defined."""
    g, k = rng(seed), min(shape)
    U, V = (torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=g)).Q for d in shape)
    return U * 0.8 ** torch.arange(k, dtype=torch.float64) @ V.t()


def inputs(
    needs: str, shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor | None]:
    """A weight, and the statistic that an initialiser with these needs gets."""
    weight = 0.05 * torch.randn(shape, generator=rng(seed + 1))
    if needs == "gradients":
        return weight, decaying(shape, seed + 2).to(dtype)
    if needs == "inputs":
        X = torch.randn(4 * shape[1], shape[1], generator=rng(seed + 3))
        return weight, (X.t() @ X).to(dtype)
    return weight, None


def start(kind: type[Initializer], weight: Tensor, statistic: Any, rank: int = RANK, seed: int = 7) -> list[Tensor]:
    return list(kind().factors(weight, statistic, rank, SCALING, rng(seed)))


def equal(ones: list[Tensor], others: list[Tensor]) -> bool:
    return len(ones) == len(others) and all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_complete(kind: type) -> None:
    """Defines `factors`."""
    contract.complete(kind, Initializer)


@CONTRACT.clause
def is_documented(kind: type) -> None:
    """Has a docstring with Args and a source."""
    contract.documented(kind)


@CONTRACT.clause
def checks_options(kind: type) -> None:
    """Has defaults, and refuses a bad option in one line."""
    contract.options_are_checked(kind)


@CONTRACT.clause
def declares_itself(kind: type[Initializer]) -> None:
    """`needs`, `trains` and `directions_per_rank` have values that the callbacks know."""
    require(kind.needs in get_args(Needs), f"needs is {kind.needs!r}, not one of {', '.join(get_args(Needs))}")
    require(kind.trains in ({"A", "B"}, {"R"}), f"trains is {set(kind.trains)}, not A and B, or R")
    require(isinstance(kind.directions_per_rank, int), f"directions_per_rank is {kind.directions_per_rank!r}")
    require(kind.needs == "gradients" or not kind.takes_sketch, f"takes_sketch goes with gradients, not {kind.needs}")


@CONTRACT.clause
def fits_the_matrix(kind: type[Initializer]) -> None:
    """Factors are finite, of the matrix's shapes, float32, or float64 for a float64 statistic."""
    for shape in (SMALL, LARGE, LARGE[::-1]):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            weight, statistic = inputs(kind.needs, shape, dtype)
            found = start(kind, weight.requires_grad_(), statistic)
            wanted = [(RANK, shape[1]), (shape[0], RANK), *([(RANK, RANK)] if kind.trains == {"R"} else [])]
            shapes = [tuple(f.shape) for f in found]
            require(shapes == wanted, f"factors of a {shape} matrix at rank {RANK} have shapes {shapes}, not {wanted}")
            wide = torch.float64 if statistic is not None and dtype == torch.float64 else torch.float32
            kinds = {f.dtype for f in found}
            require(kinds == {wide}, f"factors are {kinds} for a {dtype} statistic, not {wide}")
            require(all(bool(f.isfinite().all()) for f in found), f"factors of a {shape} matrix are not finite")
            require(not any(f.requires_grad for f in found), "factors require a gradient; detach the weight")


@CONTRACT.clause
def draws_from_the_generator_only(kind: type[Initializer]) -> None:
    """The given generator is the only source of randomness, so that a seed repeats the start."""
    weight, statistic = inputs(kind.needs, LARGE)
    state = torch.get_rng_state()
    found = start(kind, weight, statistic)
    require(torch.equal(torch.get_rng_state(), state), "draws from torch's global generator")
    require(equal(start(kind, weight, statistic), found), "the same generator gives other factors")


@CONTRACT.clause
def reads_its_inputs_only(kind: type[Initializer]) -> None:
    """Neither the weight nor the statistic is written to."""
    weight, statistic = inputs(kind.needs, SMALL)
    kept = [None if x is None else x.clone() for x in (weight, statistic)]
    start(kind, weight, statistic)
    for name, now, before in zip(("weight", "statistic"), (weight, statistic), kept, strict=True):
        require(now is None or torch.equal(now, before), f"writes to the {name}")


@CONTRACT.clause
def uses_what_it_needs(kind: type[Initializer]) -> None:
    """The start depends on what `needs` asks for, and with "none" on neither weight nor statistic."""
    (weight, statistic), (other_weight, other) = (inputs(kind.needs, SMALL, seed=seed) for seed in (0, 10))
    found = start(kind, weight, statistic)
    if kind.needs == "none":
        require(equal(start(kind, other_weight, None), found), 'depends on the weight; declare needs = "weight"')
    elif kind.needs == "weight":
        require(not equal(start(kind, other_weight, None), found), 'does not depend on the weight; declare "none"')
    else:
        require(not equal(start(kind, weight, other), found), f"does not depend on the {kind.needs} it asks for")


@CONTRACT.clause
def refuses_what_does_not_fit(kind: type[Initializer]) -> None:
    """A rank beyond the matrix, and a statistic that is absent or not finite, is a ValueError in one line."""
    weight, statistic = inputs(kind.needs, SMALL)
    most = min(SMALL) // kind.directions_per_rank
    start(kind, weight, statistic, most)
    for rank in (0, most + 1):
        refuses(partial(start, kind, weight, statistic, rank), ValueError, f"rank {rank} of a {SMALL} matrix")
    if statistic is None:
        return
    for wrong, what in ((None, "no statistic"), (statistic[:-1], "a statistic of another shape")):
        refuses(partial(start, kind, weight, wrong), ValueError, what)
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = statistic.clone()
        broken[3, 5] = bad
        said = refuses(partial(start, kind, weight, broken), ValueError, f"a statistic with {bad}")
        require("finite" in said, f"a statistic with {bad}: the message does not say that it is not finite: {said!r}")
    refuses(partial(start, kind, weight, torch.zeros_like(statistic)), ValueError, "a statistic of zeros")


@CONTRACT.clause
def starts_where_it_says(kind: type[Initializer]) -> None:
    """A displaced start changes no output of the layer; any other does."""
    linear = nn.Linear(SMALL[1], SMALL[0], bias=False)
    weight, statistic = inputs(kind.needs, SMALL)
    linear.weight.data.copy_(weight)
    layer, x = AdaptedLinear(linear), torch.randn(5, SMALL[1], generator=rng(4))
    before = layer(x)
    found = start(kind, weight, statistic)
    layer.start_branch(*found[:2], SCALING, found[2] if len(found) > 2 else None, displaced=kind.displaced)
    moved = (layer(x) - before).abs().max().item()
    if kind.displaced:
        require(moved == 0, f"outputs move by {moved:.2g}")
    else:
        require(moved > 0, "displaced is False and the start changes nothing; leave it out")


@CONTRACT.clause
def takes_a_sketch(kind: type[Initializer]) -> None:
    """With `takes_sketch`, a low-rank gradient gives the dense one's factors."""
    if not kind.takes_sketch:
        return
    W, g = torch.randn(30, 20, dtype=torch.float64, generator=rng(1)), rng(2)
    sketch = LowRank(*(torch.randn(d, 10, dtype=torch.float64, generator=g) for d in (30, 20)))
    for a, b in zip(start(kind, W, sketch), start(kind, W, sketch.dense()), strict=True):
        require(torch.allclose(a, b, atol=1e-10), f"factors differ by {float((a - b).abs().max()):.2g}")


# --- what is exported keeps them --------------------------------------------------------------------------


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("kind", exported(initializers, Initializer), ids=lambda kind: kind.__name__)
def test_every_exported_initializer_keeps_the_contract(kind: type, clause: Clause) -> None:
    CONTRACT.hold(kind, clause)


# --- each clause can fail ---------------------------------------------------------------------------------


class Abstract(Initializer):
    """Leaves `factors` out. Source: ours."""


class Unsourced(Kaiming):
    """Kaiming uniform, zero."""


Unsourced.__module__ = "tests.contracts.contract"  # whose docstring names no source


class Unchecked(Kaiming):
    """Takes any gain. Source: ours.

    Args:
        gain: of nothing.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain


class Wishes(Kaiming):
    """Needs what nobody collects. Source: ours."""

    needs = "labels"


class Transposed(Kaiming):
    """A and B change places. Source: ours."""

    def factors(self, *args: Any) -> tuple[Tensor, ...]:
        A, B = super().factors(*args)
        return A.t(), B.t()


class Global(Kaiming):
    """Draws from the global generator. Source: ours."""

    def factors(self, *args: Any) -> tuple[Tensor, ...]:
        A, B = super().factors(*args)
        return torch.rand_like(A), B


class Writes(Kaiming):
    """Takes its start off W itself. Source: ours."""

    def factors(self, weight: Tensor, *args: Any) -> tuple[Tensor, ...]:
        weight.data.mul_(0.9)
        return super().factors(weight, *args)


class Idle(Kaiming):
    """Asks for gradients and leaves them. Source: ours."""

    needs = "gradients"


class AnyRank(Kaiming):
    """Takes any rank. Source: ours."""

    def factors(self, weight: Tensor, statistic: Any, rank: int, *args: Any) -> tuple[Tensor, ...]:
        return torch.zeros(rank, weight.shape[1]), torch.zeros(len(weight), rank)


class Settled(Kaiming):
    """Says that it starts elsewhere. Source: ours."""

    displaced = False


class Dense(Kaiming):
    """Takes a sketch for a matrix of other values. Source: ours."""

    needs, takes_sketch = "gradients", True

    def factors(self, weight: Tensor, statistic: Any, rank: int, scaling: float, g: Any) -> tuple[Tensor, ...]:
        G = statistic.left @ statistic.left.t()[:, :20] if isinstance(statistic, LowRank) else statistic
        return G[:rank].contiguous(), torch.zeros(len(weight), rank, dtype=G.dtype)


BROKEN: dict[Clause, tuple[type, str]] = {
    is_complete: (Abstract, "does not define factors"),
    is_documented: (Unsourced, "add 'Source: paper"),
    checks_options: (Unchecked, "gain=nan: is accepted"),
    declares_itself: (Wishes, "needs is 'labels', not one of none, weight, gradients, inputs"),
    fits_the_matrix: (Transposed, r"have shapes \[\(16, 4\), \(4, 24\)\], not \[\(4, 16\), \(24, 4\)\]"),
    draws_from_the_generator_only: (Global, "draws from torch's global generator"),
    reads_its_inputs_only: (Writes, "writes to the weight"),
    uses_what_it_needs: (Idle, "does not depend on the gradients it asks for"),
    refuses_what_does_not_fit: (AnyRank, "rank 0 of a .* matrix: is accepted; raise ValueError"),
    starts_where_it_says: (Settled, "displaced is False and the start changes nothing"),
    takes_a_sketch: (Dense, "factors differ by"),
}


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
def test_a_broken_initializer_is_told_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause)
    assert f"initializer {broken.__name__} (tests/contracts/" in str(said.value)
    assert "See Initializer in cl_lightning/initializers/base.py" in str(said.value)
