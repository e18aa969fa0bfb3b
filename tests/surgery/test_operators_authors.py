"""Operators against outputs of the authors' code."""

import pytest
from torch import Tensor

from cl_lightning.linalg.gram import gram_matrix
from cl_lightning.surgery import GradVac, PCGrad, RangeRemoval
from cl_lightning.surgery.base import SurgeryOperator
from cl_lightning.surgery.reconcile import Scope, conflicts, reconcile
from tests import reference

# case, operator, strength, scope, tolerance (as max|diff| / ||current module||_F)
CASES = [
    ("adv_always_permod", PCGrad(always=True), 1.0, "matrix", 1e-11),
    ("adv_always_global", PCGrad(always=True), 1.0, "global", 1e-11),
    ("adv_always_c0.5_permod", PCGrad(always=True), 0.5, "matrix", 1e-11),
    ("adv_always_c0.5_global", PCGrad(always=True), 0.5, "global", 1e-11),
    ("basic_permod_always1_addretain0", PCGrad(always=True), 1.0, "matrix", 1e-11),
    ("basic_global_always1_addretain0", PCGrad(always=True), 1.0, "global", 1e-11),
    ("adv_tau0.1_permod", PCGrad(0.1), 1.0, "matrix", 1e-11),
    ("adv_tau-0.1_permod", PCGrad(-0.1), 1.0, "matrix", 1e-11),
    ("adv_tau-0.5_permod", PCGrad(-0.5), 1.0, "matrix", 1e-11),
    ("adv_tau0.1_global", PCGrad(0.1), 1.0, "global", 1e-11),
    ("adv_tau-0.1_global", PCGrad(-0.1), 1.0, "global", 1e-11),
    ("adv_tau-0.5_global", PCGrad(-0.5), 1.0, "global", 1e-11),
    ("adv_gradvac_phi0.0_permod", GradVac(0.0), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi0.2_permod", GradVac(0.2), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi-0.3_permod", GradVac(-0.3), 1.0, "matrix", 1e-11),
    ("adv_gradvac_phi0.2_tau1.0_permod", GradVac(0.2), 1.0, "matrix", 1e-11),
    # Their magnitude-preserving method in global mode rescales nothing.
    ("adv_magmethod_global", PCGrad(), 1.0, "global", 1e-11),
]
KEEPING_NORM = [
    ("adv_magmethod_permod", PCGrad(), 1.0, 1e-7),
    ("adv_magflag_pcgrad_permod", PCGrad(), 1.0, 1e-7),
    ("adv_magflag_c0.5_permod", PCGrad(), 0.5, 1e-7),
    ("adv_gradvac_phi0.0_magflag_permod", GradVac(0.0), 1.0, 1e-7),
]


class Authors:
    """Scenario "conflict" of the SLICE authors' projections."""

    def __init__(self) -> None:
        self.arrays, self.info = reference.tensors("slice_surgery"), reference.facts("slice_surgery")
        self.modules = list(self.info["scenarios"]["conflict"]["cos"])
        self.new, self.memory = (
            {m: self.arrays[f"conflict|{side}|{m}"] for m in self.modules} for side in ("current", "retain")
        )

    def changed(self, case: str, module: str) -> bool:
        return f"conflict|{case}|{module}" not in self.info["unchanged"]

    def error(self, case: str, module: str, out: Tensor) -> float:
        key, current = f"conflict|{case}|{module}", self.new[module]
        expected = self.arrays[key] if self.changed(case, module) else current
        return float((out - expected).abs().max() / current.norm())


@pytest.fixture
def authors() -> Authors:
    return Authors()


@pytest.mark.parametrize(("case", "operator", "strength", "scope", "tolerance"), CASES, ids=lambda v: str(v)[:30])
def test_authors_projections(
    authors: Authors, case: str, operator: SurgeryOperator, strength: float, scope: Scope, tolerance: float
) -> None:
    for module, out, record in reconcile(authors.new, [authors.memory], operator, strength, scope):
        assert authors.error(case, module, out) < tolerance
        assert record.fired == authors.changed(case, module)


@pytest.mark.parametrize(("case", "operator", "strength", "tolerance"), KEEPING_NORM, ids=lambda v: str(v)[:30])
def test_authors_magnitude_preservation(
    authors: Authors, case: str, operator: SurgeryOperator, strength: float, tolerance: float
) -> None:
    worst = 0.0
    for module, out, _ in reconcile(authors.new, [authors.memory], operator, strength, preserve_norm=True):
        assert authors.error(case, module, out) < tolerance
    for module, out, _ in reconcile(authors.new, [authors.memory], operator, strength):
        worst = max(worst, authors.error(case, module, out))
    assert worst > 1e-3  # control


@pytest.mark.parametrize(("case", "strength"), [("adv_magflag_pcgrad_global", 1.0), ("adv_magflag_c0.5_global", 0.5)])
def test_authors_magnitude_preservation_in_global_mode(authors: Authors, case: str, strength: float) -> None:
    """They rescale module by module after one decision on the sum; we keep the norm of the sum."""
    results = list(reconcile(authors.new, [authors.memory], PCGrad(), strength, "global", preserve_norm=True))
    for module, out, _ in results:
        assert authors.error(case, module, out * (authors.new[module].norm() / out.norm())) < 1e-7
    assert max(authors.error(case, module, out) for module, out, _ in results) > 1e-3


@pytest.mark.parametrize(("case", "delta"), [("adv_perlayer_d0.0_permod", 0.0), ("adv_perlayer_d0.1_permod", 0.1)])
def test_authors_threshold_by_the_median(authors: Authors, case: str, delta: float) -> None:
    """Their per-layer threshold is a threshold: the upper median of the modules' cosines, less delta."""
    grams = {m: gram_matrix([authors.new[m], authors.memory[m]]) for m in authors.modules}
    cosines = sorted(record.cosine for record in conflicts(grams, PCGrad()).values())
    operator = PCGrad(cosines[len(cosines) // 2] - delta)
    for module, out, record in reconcile(authors.new, [authors.memory], operator):
        assert authors.error(case, module, out) < 1e-11
        assert record.fired == authors.changed(case, module)


@pytest.mark.parametrize("preserve_norm", [False, True])
def test_authors_nullspace(authors: Authors, preserve_norm: bool) -> None:
    case = "adv_nullspace_k8_mag_permod" if preserve_norm else "adv_nullspace_k8_permod"
    for module in authors.modules:
        sides = [{module: side[module]} for side in (authors.new, authors.memory)]
        reconciled = reconcile(sides[0], sides[1:], RangeRemoval(8, "left"), preserve_norm=preserve_norm)
        if authors.new[module].shape[0] == 8:  # theirs: nothing is left but rounding
            with pytest.raises(ValueError, match=r"blk1\.v: .*leave nothing"):
                next(reconciled)
            continue
        ((_, out, record),) = reconciled
        assert record.fired and authors.error(case, module, out) < 1e-6
        assert authors.error(case, module, RangeRemoval(7, "left").remove(sides[0][module], sides[1][module])) > 1e-3
