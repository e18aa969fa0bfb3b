"""Gradient surgery: makes a new task's gradient compatible with the gradients of earlier tasks.

    K_ij = <G_i, G_j>_F  (index 0 = new)   ->   a = operator(K)   ->   G~ = sum_i a_i G_i

`gram_matrix` multiplies gradients, dense or low-rank; `conflicts` decides from Gram matrices, exact or sketched;
`combine` applies coefficients; `reconcile` does all three for one matrix at a time so that the caller may free
gradients as it goes. The operators are in `cl_lightning.surgery`. Inputs are never written to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cl_lightning.linalg.gram import Gradient, combine, cosine, gram_matrix
from cl_lightning.surgery.base import RangeOperator, SurgeryOperator, no_surgery

Scope = Literal["matrix", "block", "global"]
Blocks = Mapping[str, Hashable]

VANISHED = 1e-6  # relative to the terms of G~: a smaller G~ is rounding error in float32

#: Matrices with the same label are decided together.
LABELS: dict[str, Callable[[str, Blocks], Hashable]] = {
    "matrix": lambda name, blocks: name,
    "block": lambda name, blocks: blocks[name],
    "global": lambda name, blocks: "",
}


@dataclass(frozen=True)
class SurgeryRecord:
    """Input and result of surgery for one matrix (under scope "block" or "global": for a group of matrices).

    Attributes:
        cosine: between new and memory gradient, -1..1; the smallest of several memories; 0 if a gradient is zero.
        fired: whether the gradient is changed.
        coefficients: a over (new, memories..); empty where a `RangeOperator` changed the gradient.
        norm_new: Frobenius norm of the new gradient.
        norm_memory: Frobenius norm of the memory gradient of `cosine`; 0 without memory.
        suppressed: whether the reliability test suppressed surgery.
    """

    cosine: float
    fired: bool
    coefficients: tuple[float, ...]
    norm_new: float
    norm_memory: float
    suppressed: bool = False


def damped(coefficients: Tensor, strength: float) -> Tensor:
    """Interpolate from no surgery (strength 0) to the operator's coefficients (strength 1), both ends exact.

    With PCGrad this is `pcgrad_c` of the SLICE authors' code, which their README calls "cagrad" but which is not
    CAGrad.

    Raises:
        ValueError: unless 0 <= strength <= 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"surgery strength must lie in 0..1, not {strength}")
    return torch.lerp(no_surgery(coefficients), coefficients, float(strength))


def with_norm_of_new(coefficients: Tensor, gram: Tensor) -> Tensor:
    """Rescale a so that ||G~|| = ||G_new||, using ||G~||^2 = a^T K a.

    A vanishing G~ (below 1e-6 of its terms) is left unchanged, since it is rounding error.
    """
    size = float(coefficients @ gram @ coefficients)
    terms = float(coefficients.abs() @ gram.diagonal().sqrt())
    if size <= (VANISHED * terms) ** 2:
        return coefficients
    return coefficients * float(gram[0, 0].sqrt() / size**0.5)


def conflicts(
    grams: Mapping[str, Tensor],
    operator: SurgeryOperator,
    strength: float = 1.0,
    scope: Scope = "matrix",
    blocks: Blocks | None = None,
    preserve_norm: bool = False,
    reliable: Mapping[str, bool] | None = None,
) -> dict[str, SurgeryRecord]:
    """Decide for each named matrix from its Gram matrix, exact or sketched.

    scope "matrix" decides matrix by matrix and leaves no conflict in any of them; "block" and "global" (the SLICE
    paper's runs) decide once for a block's or for all matrices, from the sum of their Gram matrices, and only
    the sum of the inner products ends free of conflict.

    Args:
        grams: K (k+1, k+1) per matrix name, index 0 = new.
        operator: computes the coefficients.
        strength: see `damped`.
        scope: which matrices are decided together.
        blocks: block of every matrix name; used under scope "block".
        preserve_norm: see `with_norm_of_new`. Under scope "block" and "global" one factor keeps the norm over all
            matrices together: a factor for each, as in the SLICE authors' code, would undo the decision on the sum.
        reliable: per matrix name, whether its conflict is reliable (`surgery.reliability`); False suppresses surgery.
            Equal for all that are decided together. None: not tested, surgery everywhere.

    Raises:
        ValueError: if a Gram matrix is not finite or the operator has no answer (the message names the matrix),
            strength is out of range, scope is unknown, `blocks` or `reliable` lack a matrix, or `reliable` differs
            among matrices that are decided together.
    """
    for name, gram in grams.items():
        _check_finite(name, gram)
    groups = decided_together(grams, scope, blocks)
    _check_reliable(groups, reliable)
    records: dict[str, SurgeryRecord] = {}
    for names in groups:
        total = torch.stack([grams[name] for name in names]).sum(0)
        suppressed = reliable is not None and not reliable[names[0]]
        records |= dict.fromkeys(names, _record(names[0], total, operator, strength, preserve_norm, suppressed))
    return {name: records[name] for name in grams}


def reconcile(
    new: Mapping[str, Gradient],
    memories: Sequence[Mapping[str, Gradient]],
    operator: SurgeryOperator | RangeOperator,
    strength: float = 1.0,
    scope: Scope = "matrix",
    blocks: Blocks | None = None,
    preserve_norm: bool = False,
    reliable: Mapping[str, bool] | None = None,
    inner: Mapping[str, Tensor] | None = None,
    norms: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[str, Gradient, SurgeryRecord]]:
    """Yield (name, G~, record) matrix by matrix, holding one reconciled matrix at a time.

    The caller may then delete `new[name]` and every memory's `[name]`. Without memories (first task) every gradient
    is unchanged. An unchanged gradient is the same object, not a copy.

    Args:
        new: gradient of the new task per matrix name, each (m, n), dense or low-rank.
        memories: memory gradients, one mapping each (the mean, the last task's, or one per past task), with the same
            names and shapes.
        operator: a `SurgeryOperator`; or a `RangeOperator`, with scope "matrix" and at most one memory.
        strength, scope, blocks, preserve_norm, reliable: see `conflicts`.
        inner: <G_new, G_j> over the memories j, (k,), per matrix name, if known more exactly than from sketches; None:
            computed from `new` and `memories`.
        norms: ||G_j||^2 of the memories, (k,), for the matrices whose sketches capture too little.

    Raises:
        ValueError: if names or shapes differ; else as `conflicts`.
    """
    for memory in memories:
        if new.keys() != memory.keys():
            raise ValueError(f"only one side has a gradient of: {', '.join(sorted(new.keys() ^ memory.keys()))}")
    sources = (new, *memories)
    names = list(new)  # a copy, since the caller may delete while we iterate
    groups = decided_together(names, scope, blocks)
    _check_reliable(groups, reliable)
    shared: dict[str, SurgeryRecord] = {}
    if isinstance(operator, RangeOperator):
        if scope != "matrix" or len(memories) > 1:
            raise ValueError(f"{type(operator).__name__} works matrix by matrix, on one memory gradient")
    elif scope != "matrix":  # needs every inner product before the first decision
        grams = {name: _named_gram(name, sources, inner, norms) for name in names}
        shared = conflicts(grams, operator, strength, scope, blocks, preserve_norm, reliable)

    # No gradient is bound to a local name below: a suspended generator would keep it alive.
    for name in names:
        if isinstance(operator, RangeOperator):
            suppressed = reliable is not None and not reliable[name]
            yield name, *_without_range(name, sources, operator, strength, preserve_norm, suppressed)
            continue
        record = shared.get(name)
        if record is None:
            grams = {name: _named_gram(name, sources, inner, norms)}
            record = conflicts(grams, operator, strength, preserve_norm=preserve_norm, reliable=reliable)[name]
        yield name, combine(record.coefficients, [source[name] for source in sources]), record


def decided_together(
    names: Mapping[str, object] | Sequence[str], scope: Scope, blocks: Blocks | None
) -> list[list[str]]:
    """Group the names that are decided together."""
    if scope not in LABELS:
        raise ValueError(f"surgery scope must be one of {', '.join(LABELS)}, not {scope!r}")
    if scope == "block" and (missing := [name for name in names if name not in (blocks or {})]):
        raise ValueError(f"surgery scope 'block' needs the block of: {', '.join(missing)}")
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(LABELS[scope](name, blocks or {}), []).append(name)
    return list(groups.values())


def _check_reliable(groups: Sequence[Sequence[str]], reliable: Mapping[str, bool] | None) -> None:
    if reliable is None:
        return
    for names in groups:
        if missing := [name for name in names if name not in reliable]:
            raise ValueError(f"the reliability test lacks: {', '.join(missing)}")
        if len({bool(reliable[name]) for name in names}) > 1:
            raise ValueError(f"{', '.join(names)} are decided together and need one answer of the reliability test")


def _check_finite(name: str, gram: Tensor) -> None:
    if gram.isfinite().all():
        return
    bad = (~gram.diagonal().isfinite()).nonzero().flatten().tolist()
    which = "an inner product" if not bad else f"memory gradient {bad[0]}" if bad[0] else "the new gradient"
    raise ValueError(f"{name}: {which} is not finite")


def _named_gram(
    name: str,
    sources: Sequence[Mapping[str, Gradient]],
    inner: Mapping[str, Tensor] | None = None,
    norms: Mapping[str, Tensor] | None = None,
) -> Tensor:
    try:
        gram = gram_matrix([source[name] for source in sources])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if inner is not None and len(sources) > 1:
        gram[0, 1:] = gram[1:, 0] = inner[name]
        gram[0, 0] /= getattr(sources[0][name], "captured", 1.0)  # `inner` is of all of G_new, not of its sketch
    if norms is not None and name in norms:
        gram.diagonal()[1:] = norms[name]
    return gram


def _record(
    name: str, gram: Tensor, operator: SurgeryOperator, strength: float, preserve_norm: bool, suppressed: bool
) -> SurgeryRecord:
    a = no_surgery(gram)
    if not suppressed:
        try:
            a = damped(operator.coefficients(gram), strength)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if preserve_norm and _fires(a):
            a = with_norm_of_new(a, gram)
    return _observed(gram, _fires(a), tuple(a.tolist()), suppressed=suppressed)


def _without_range(
    name: str,
    sources: Sequence[Mapping[str, Gradient]],
    operator: RangeOperator,
    strength: float,
    preserve_norm: bool,
    suppressed: bool,
) -> tuple[Gradient, SurgeryRecord]:
    """Apply a range operator to one matrix."""
    gram = _named_gram(name, sources)
    _check_finite(name, gram)
    untouched = tuple(no_surgery(gram).tolist())
    new = sources[0][name]
    out = new
    if not suppressed and len(sources) > 1:
        try:
            out = operator.remove(new, sources[1][name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if out is new:
        return new, _observed(gram, False, untouched, suppressed=suppressed)
    pair = gram_matrix([new, out])
    a = damped(torch.tensor([0.0, 1.0], dtype=torch.float64), strength)
    if not _fires(a):
        return new, _observed(gram, False, untouched)
    if preserve_norm:
        a = with_norm_of_new(a, pair)
    return out if a.tolist() == [0, 1] else combine(a, [new, out]), _observed(gram, True, ())


def _fires(coefficients: Tensor) -> bool:
    """Tell whether coefficients change the gradient."""
    first, *rest = coefficients.tolist()
    return first != 1 or any(rest)


def _observed(gram: Tensor, fired: bool, coefficients: tuple[float, ...], suppressed: bool = False) -> SurgeryRecord:
    norm, *norms = gram.diagonal().sqrt().tolist()
    cosines = [cosine(gram, 0, j) for j in range(1, len(gram))]
    smallest, norm_memory = min(zip(cosines, norms, strict=True), default=(0.0, 0.0))
    return SurgeryRecord(smallest, fired, coefficients, norm, norm_memory, suppressed)


BLOCK = re.compile(r".*?\.\d+(?=\.)")


def blocks_of(names: Any) -> dict[str, str]:
    """Map each matrix to its transformer block: the name up to its first number, e.g. model.layers.3."""
    return {name: BLOCK.match(name)[0] if BLOCK.match(name) else "" for name in names}
