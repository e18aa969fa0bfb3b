"""Gradient surgery: a new task's gradient made compatible with the gradient of what was learnt before.

Every operator answers with linear coefficients a over {G_new, G_1, .., G_k}, read from their Gram matrix K
alone, so that exact and sketched gradients share it:

    K_ij = <G_i, G_j>_F  (index 0 = new)   ->   a = operator(K)   ->   G~ = sum_i a_i G_i

`conflicts` reads Gram matrices, `combine` applies coefficients, `reconcile` does both for one matrix at a
time so that the caller may free gradients as it goes. Nothing here writes to its inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["matrix", "global"]

CHUNK = 2**20  # entries of a gradient held in float64 at once: 8 MiB


class SurgeryOperator(ABC):
    """Linear coefficients of a reconciled gradient."""

    @abstractmethod
    def coefficients(self, gram: Tensor) -> Tensor:
        """Map K (k+1, k+1) float64, index 0 = new, to a (k+1,) float64; (1, 0, .., 0) is no change."""


class PCGrad(SurgeryOperator):
    """Take out of g what points against the memory gradient g_r; touch nothing where they agree.

        g~ = g - min(0, <g, g_r>) / ||g_r||^2  g_r

    One-sided: only the new gradient is changed. A zero memory gradient changes nothing.

    Source: Yu et al. 2020 (arXiv 2001.06782), eq. in algorithm 1; with one memory it equals A-GEM
    (arXiv 1812.00420, eq. 11) and is the operator of SLICE (arXiv 2605.12752). The authors' code of SLICE
    adds 1e-12 to ||g_r||^2, which leaves a residual conflict for small gradients; here zero is its own case.
    """

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class.

        Raises:
            ValueError: for more than one memory gradient.
        """
        if len(gram) > 2:
            raise ValueError(f"PCGrad takes one memory gradient, not {len(gram) - 1}: use their mean")
        out = _no_surgery(gram)
        if len(gram) == 2 and gram[1, 1] > 0 and gram[0, 1] < 0:
            out[1] = -gram[0, 1] / gram[1, 1]
        return out


@dataclass(frozen=True)
class SurgeryRecord:
    """What surgery saw and did in one matrix (under scope "global": in all of them together).

    Attributes:
        cosine: between new and memory gradient, -1..1; with several memories the smallest; 0 if one is zero.
        fired: whether the gradient is changed at all.
        coefficients: a over (new, memories..).
        norm_new: Frobenius norm of the new gradient.
        norm_memory: of the memory gradient that `cosine` is about; 0 without memory.
    """

    cosine: float
    fired: bool
    coefficients: tuple[float, ...]
    norm_new: float
    norm_memory: float


def damped(coefficients: Tensor, strength: float) -> Tensor:
    """Go from no surgery (strength 0) to the operator's answer (strength 1), both ends exact.

    With PCGrad this is `pcgrad_c` of the SLICE authors' code, which their README calls "cagrad"; it isn't
    CAGrad.

    Raises:
        ValueError: unless 0 <= strength <= 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"surgery strength must lie in 0..1, not {strength}")
    return torch.lerp(_no_surgery(coefficients), coefficients, float(strength))


def gram_matrix(gradients: Sequence[Tensor]) -> Tensor:
    """Inner products <G_i, G_j> of k+1 gradients of one shape: (k+1, k+1) float64 on the CPU.

    Summed in float64 over chunks of rows, so that no matrix is copied whole.

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = [tuple(g.shape) for g in gradients]
    if len(set(shapes)) != 1:
        raise ValueError(f"gradients of one matrix have different shapes: {shapes}")
    rows = max(1, CHUNK * len(gradients[0]) // max(1, gradients[0].numel()))
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients[0].device)
    for chunks in zip(*(g.detach().split(rows) for g in gradients), strict=True):
        flat = torch.stack([c.to(torch.float64).flatten() for c in chunks])
        gram += flat @ flat.t()
    return gram.cpu()


def combine(coefficients: Sequence[float] | Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Sum a_i G_i, in float32 or the gradients' wider dtype; gradients[0] itself where a = (1, 0, .., 0)."""
    first, *rest = (float(a) for a in coefficients)
    if first == 1 and not any(rest):
        return gradients[0]
    work = torch.promote_types(gradients[0].dtype, torch.float32)
    total = gradients[0].to(work, copy=True).mul_(first)
    for a, gradient in zip(rest, gradients[1:], strict=True):
        total.add_(gradient.to(work), alpha=a)
    return total


def conflicts(
    grams: Mapping[str, Tensor], operator: SurgeryOperator, strength: float = 1.0, scope: Scope = "matrix"
) -> dict[str, SurgeryRecord]:
    """Decide for each named matrix from its Gram matrix, exact or sketched.

    scope "matrix" decides matrix by matrix and leaves no conflict in any of them; "global" (the SLICE paper's
    runs) decides once, from the sum, and only the sum of the inner products ends free of conflict.

    Raises:
        ValueError: if a Gram matrix is not finite (the message names it), strength is out of range, scope is
            unknown, or the operator refuses the number of memories.
    """
    for name, gram in grams.items():
        if not gram.isfinite().all():
            raise ValueError(f"{name}: a gradient is not finite")
    if scope == "matrix":
        return {name: _record(gram, operator, strength) for name, gram in grams.items()}
    if scope != "global":
        raise ValueError(f"surgery scope must be 'matrix' or 'global', not {scope!r}")
    if not grams:
        return {}
    return dict.fromkeys(grams, _record(torch.stack(list(grams.values())).sum(0), operator, strength))


def reconcile(
    new: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    operator: SurgeryOperator,
    strength: float = 1.0,
    scope: Scope = "matrix",
) -> Iterator[tuple[str, Tensor, SurgeryRecord]]:
    """Yield (name, G~, record) matrix by matrix; holds one reconciled matrix at a time and keeps none.

    The caller may delete `new[name]` and `memory[name]` once it has them. An empty `memory` (first task)
    yields every gradient as it is. An unchanged gradient is the same tensor, not a copy.

    Args:
        new: gradient of the new task per matrix name, each (m, n).
        memory: mean gradient of the earlier tasks, same names and shapes.
        operator, strength, scope: see `conflicts` and `damped`.

    Raises:
        ValueError: if names or shapes differ; else as `conflicts`.
    """
    if memory and new.keys() != memory.keys():
        raise ValueError(f"only one side has a gradient of: {', '.join(sorted(new.keys() ^ memory.keys()))}")
    sources = (new, memory) if memory else (new,)
    names = list(new)  # a copy, since the caller may delete while we iterate

    # No gradient is bound to a local name below: a suspended generator would keep it alive.
    def gram(name: str) -> Tensor:
        return gram_matrix([source[name] for source in sources])

    shared: dict[str, SurgeryRecord] = {}
    if scope != "matrix":  # needs every inner product before the first decision
        shared = conflicts({name: gram(name) for name in names}, operator, strength, scope)
    for name in names:
        record = shared.get(name) or conflicts({name: gram(name)}, operator, strength)[name]
        yield name, combine(record.coefficients, [source[name] for source in sources]), record


def _no_surgery(like: Tensor) -> Tensor:
    """(1, 0, .., 0), float64, as long as `like`."""
    out = torch.zeros(len(like), dtype=torch.float64)
    out[0] = 1
    return out


def _record(gram: Tensor, operator: SurgeryOperator, strength: float) -> SurgeryRecord:
    a = tuple(damped(operator.coefficients(gram), strength).tolist())
    norm, *norms = gram.diagonal().sqrt().tolist()
    inner = gram[0, 1:].tolist()
    cosines = [_cosine(p, norm * n) for p, n in zip(inner, norms, strict=True)]
    cosine, norm_memory = min(zip(cosines, norms, strict=True), default=(0.0, 0.0))
    return SurgeryRecord(cosine, a[0] != 1 or any(a[1:]), a, norm, norm_memory)


def _cosine(inner: float, norms: float) -> float:
    return max(-1.0, min(1.0, inner / norms)) if norms > 0 else 0.0
