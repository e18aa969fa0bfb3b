"""The contract of surgery operators, for every one that `cl_lightning.surgery` exports."""

import math
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from cl_lightning import surgery
from cl_lightning.linalg.gram import Gradient, combine, gram_matrix
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.surgery.base import Memories, RangeOperator, SurgeryOperator, no_surgery
from cl_lightning.surgery.pcgrad import PCGrad
from cl_lightning.surgery.reconcile import SurgeryRecord, reconcile
from tests.contracts import contract
from tests.contracts.contract import Clause, Contract, exported, refuses, require

CONTRACT = Contract("operator", SurgeryOperator)

Operator = SurgeryOperator | RangeOperator
SHAPE = (24, 16)
#: What the docstring of an operator says that acts where there is no conflict too.
ALWAYS = "always changes the gradient"


def pair(cosine: float, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A new gradient and a longer memory gradient with this cosine between them."""
    rng = torch.Generator().manual_seed(0)
    g, v = (torch.randn(SHAPE, dtype=torch.float64, generator=rng) for _ in range(2))
    g = g / g.norm()
    v = v - (v * g).sum() * g
    return [g.to(dtype), (3 * (cosine * g + math.sqrt(1 - cosine**2) * v / v.norm())).to(dtype)]


def memories(kind: type[Operator]) -> int:
    return 3 if kind.memories == "each" else 1


def solved(
    operator: Operator, new: Gradient, olds: list[Gradient], strength: float = 1.0
) -> tuple[Gradient, SurgeryRecord]:
    ((_, out, record),) = reconcile({"w": new}, [{"w": old} for old in olds], operator, strength)
    return out, record


def dense(gradient: Gradient) -> Tensor:
    return gradient.dense() if isinstance(gradient, LowRank) else gradient


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_complete(kind: type) -> None:
    """Is a SurgeryOperator with `coefficients`, or a RangeOperator with `remove`, and says for which `memories`."""
    contract.complete(kind, Operator.__args__[isinstance(kind, type) and issubclass(kind, RangeOperator)])
    require(kind.memories in get_args(Memories), f"memories is {kind.memories!r}, not 'one' or 'each'")


@CONTRACT.clause
def is_documented(kind: type) -> None:
    """Has a docstring with Args and a source."""
    contract.documented(kind)


@CONTRACT.clause
def checks_options(kind: type) -> None:
    """Has defaults, and refuses a bad option in one line."""
    contract.options_are_checked(kind)


@CONTRACT.clause
def answers_in_coefficients(kind: type[Operator]) -> None:
    """Coefficients are finite, float64, one for each gradient, the same every time."""
    if issubclass(kind, RangeOperator):
        return
    for count in range(memories(kind) + 1):
        for cosine in (-1.0, -0.6, 0.0, 0.6, 1.0):
            gram = gram_matrix(pair(cosine)[:1] + pair(cosine)[1:] * count)
            a = kind().coefficients(gram)
            kept = isinstance(a, Tensor) and a.shape == (count + 1,) and a.dtype == torch.float64
            require(kept, f"coefficients of {count} memories are {a!r}, not {count + 1} float64 numbers")
            require(bool(a.isfinite().all()), f"coefficients at cosine {cosine} are {a.tolist()}")
            require(torch.equal(kind().coefficients(gram), a), f"other coefficients the second time, {cosine=}")


@CONTRACT.clause
def changes_nothing_without_two_sides(kind: type[Operator]) -> None:
    """Without memory, or where one side is zero, the gradient stays as it is."""
    new, memory = pair(-0.6)
    zero = torch.zeros_like(new)
    for what, gradients in (
        ("no memory", [new]),
        ("a zero memory", [new, zero]),
        ("a zero new gradient", [zero, memory]),
        ("two zeros", [zero, zero]),
    ):
        out, _ = solved(kind(), gradients[0], gradients[1:])
        require(torch.equal(out, gradients[0]), f"{what} changes the gradient")
        if issubclass(kind, SurgeryOperator):
            gram = gram_matrix(gradients)
            a = kind().coefficients(gram)
            require(torch.equal(a, no_surgery(gram)), f"coefficients with {what} are {a.tolist()}, not 1, 0, ..")


@CONTRACT.clause
def leaves_agreement_alone(kind: type[Operator]) -> None:
    """Without conflict the gradient stays as it is, or the docstring says otherwise."""
    new, memory = pair(0.6)
    out, _ = solved(kind(), new, [memory] * memories(kind))
    require(
        torch.equal(dense(out), new) or ALWAYS in contract.docstrings(kind),
        f"gradients with cosine 0.6 are changed, and the docstring does not say that it {ALWAYS!r}",
    )


@CONTRACT.clause
def eases_a_conflict(kind: type[Operator]) -> None:
    """In conflict the gradient changes, is finite, and opposes the memory less."""
    for dtype in (torch.float64, torch.float32):
        new, memory = pair(-0.6, dtype)
        out, record = solved(kind(), new, [memory] * memories(kind))
        require(record.fired, "gradients with cosine -0.6 are left as they are")
        require(bool(out.isfinite().all()), "the reconciled gradient is not finite")
        before, after = (float((x * memory).sum()) for x in (new, out))
        require(after > before, f"the inner product with the memory was {before:.3g} and is {after:.3g}")


@CONTRACT.clause
def does_nothing_at_strength_zero(kind: type[Operator]) -> None:
    """`reconcile` at strength 0 gives the new gradient."""
    new, memory = pair(-0.6)
    out, record = solved(kind(), new, [memory] * memories(kind), strength=0.0)
    require(torch.equal(dense(out), pair(-0.6)[0]) and not record.fired, "the gradient is changed")


@CONTRACT.clause
def reads_its_inputs_only(kind: type[Operator]) -> None:
    """Neither gradients nor Gram matrix are written to."""
    gradients = [pair(-0.6)[0], *(pair(-0.6)[1:] * memories(kind))]
    kept, gram = [g.clone() for g in gradients], gram_matrix(gradients)
    solved(kind(), gradients[0], gradients[1:])
    require(all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True)), "writes to a gradient")
    if issubclass(kind, SurgeryOperator):
        before = gram.clone()
        kind().coefficients(gram)
        require(torch.equal(gram, before), "writes to the Gram matrix")


@CONTRACT.clause
def takes_the_memories_it_says(kind: type[Operator]) -> None:
    """An operator over "one" memory takes several for their mean, or refuses them with a ValueError in one line."""
    if not issubclass(kind, SurgeryOperator) or kind.memories != "one":
        return
    new, *several = (pair(-0.6)[0], pair(-0.6)[1], pair(-0.3)[1])
    of_mean, operator = solved(kind(), new, [(several[0] + several[1]) / 2])[0], kind()
    try:
        a = operator.coefficients(gram_matrix([new, *several]))
    except ValueError:
        refuses(partial(operator.coefficients, gram_matrix([new, *several])), ValueError, "two memories")
    else:
        away = float((combine(a, [new, *several]) - of_mean).abs().max())
        require(away < 1e-10, f"two memories are taken, and not for their mean ({away:.2g}); raise ValueError")


@CONTRACT.clause
def takes_low_rank_gradients(kind: type[Operator]) -> None:
    """Gradients known by low-rank factors give what dense ones give."""
    rng = torch.Generator().manual_seed(4)
    new = LowRank(*(torch.randn(size, 5, dtype=torch.float64, generator=rng) for size in SHAPE))
    left, right = (torch.randn(size, 3, dtype=torch.float64, generator=rng) for size in SHAPE)
    memory = LowRank(torch.cat([left, -new.left], 1), torch.cat([right, new.right], 1), captured=0.9)
    count = memories(kind)
    wanted, _ = solved(kind(), new.dense(), [memory.dense()] * count)
    for one, other in ((new, memory), (new, memory.dense()), (new.dense(), memory)):
        out, record = solved(kind(), one, [other] * count)
        away = float((dense(out) - wanted).abs().max())
        require(record.fired and away < 1e-10, f"the results differ by {away:.2g}")


# --- what is exported keeps them --------------------------------------------------------------------------


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("kind", exported(surgery, SurgeryOperator), ids=lambda kind: kind.__name__)
def test_every_exported_operator_keeps_the_contract(kind: type, clause: Clause) -> None:
    CONTRACT.hold(kind, clause)


# --- each clause can fail ---------------------------------------------------------------------------------


class Abstract(RangeOperator):
    """Leaves `remove` out. Source: ours."""


class Undescribed(PCGrad):
    """Takes a share. Source: ours."""

    def __init__(self, share: bool = True) -> None:
        super().__init__()


class Unchecked(SurgeryOperator):
    """Takes any share. Source: ours.

    Args:
        share: of nothing.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def coefficients(self, gram: Tensor) -> Tensor:
        return no_surgery(gram).float()


class Adds(SurgeryOperator):
    """Adds the memory. Source: ours."""

    def coefficients(self, gram: Tensor) -> Tensor:
        return torch.ones(len(gram), dtype=torch.float64)


class Follows(PCGrad):
    """Goes against the memory where they agree. Source: ours."""

    def coefficients(self, gram: Tensor) -> Tensor:
        return super().coefficients(gram * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[: len(gram), : len(gram)])


class Worsens(PCGrad):
    """Turns the wrong way. Source: ours."""

    def coefficients(self, gram: Tensor) -> Tensor:
        a = super().coefficients(gram)
        return a * torch.tensor([1.0, -1.0], dtype=torch.float64)[: len(a)]


class Halves(RangeOperator):
    """Halves what it is given. Source: ours."""

    def remove(self, new: Gradient, memory: Gradient) -> Gradient:
        return new.mul_(0.5) if memory.any() else new


class Scales(PCGrad):
    """Normalises the Gram matrix in place. Source: ours."""

    def coefficients(self, gram: Tensor) -> Tensor:
        a = super().coefficients(gram)
        gram /= float(gram[0, 0])
        return a


class First(PCGrad):
    """Reads the first of several memories. Source: ours."""

    def coefficients(self, gram: Tensor) -> Tensor:
        a = super().coefficients(gram[:2, :2])
        return torch.cat([a, a.new_zeros(len(gram) - len(a))])


class Dense(RangeOperator):
    """Takes dense gradients alone. Source: ours."""

    def remove(self, new: Gradient, memory: Gradient) -> Gradient:
        return new - new @ memory.t() @ memory


BROKEN: dict[Clause, tuple[Any, str]] = {
    is_complete: (Abstract, "does not define remove"),
    is_documented: (Undescribed, "describes no share"),
    checks_options: (Unchecked, "share=nan: is accepted"),
    answers_in_coefficients: (Unchecked, "coefficients of 0 memories are .* not 1 float64 numbers"),
    changes_nothing_without_two_sides: (Adds, "a zero memory changes the gradient|with a zero memory are"),
    leaves_agreement_alone: (Follows, "cosine 0.6 are changed, and the docstring does not say"),
    eases_a_conflict: (Worsens, "inner product with the memory was -1.8 and is -3.6"),
    does_nothing_at_strength_zero: (Halves, "the gradient is changed"),
    reads_its_inputs_only: (Scales, "writes to the Gram matrix"),
    takes_the_memories_it_says: (First, "two memories are taken, and not for their mean"),
    takes_low_rank_gradients: (Dense, "raises .*LowRank"),
}


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
def test_a_broken_operator_is_said_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause)
    assert f"operator {broken.__name__} (tests/contracts/test_operators.py) breaks the contract" in str(said.value)
    assert "See SurgeryOperator in cl_lightning/surgery/base.py" in str(said.value)
