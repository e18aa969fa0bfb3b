"""Gradient surgery against float64 references written from the equations, and the authors' outputs."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_lightning.gradients import surgery
from cl_lightning.gradients.surgery import (
    PCGrad,
    SurgeryOperator,
    combine,
    conflicts,
    damped,
    gram_matrix,
    reconcile,
)

torch.set_num_threads(1)

ORACLES = Path(__file__).parents[2] / "shared" / "oracles"
SHAPE = (12, 7)


Pair = tuple[Tensor, Tensor]


def pair(cosine: float, seed: int = 0, ratio: float = 3.0, shape: tuple[int, int] = SHAPE) -> Pair:
    """New and memory gradient, float64, with this cosine; the memory is `ratio` times as long."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, dtype=torch.float64, generator=g) for _ in range(2))
    a /= a.norm()
    b -= (a * b).sum() * a
    b /= b.norm()
    return 2.0 * a, 2.0 * ratio * (cosine * a + (1 - cosine**2) ** 0.5 * b)


def reference(g: Tensor, r: Tensor, c: float = 1.0) -> Tensor:
    """g - c min(0, <g, r>/||r||^2) r"""
    return g - c * min(0.0, float((g * r).sum() / (r * r).sum())) * r


def operate(g: Tensor, r: Tensor, strength: float = 1.0) -> Tensor:
    ((_, out, _),) = reconcile({"w": g}, {"w": r}, PCGrad(), strength)
    return out


cosines = st.floats(-0.999, 0.999)


@settings(deadline=None, max_examples=40)
@given(cosines, st.integers(0, 99), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_equals_the_equation(cosine: float, seed: int, ratio: float, strength: float) -> None:
    g, r = pair(cosine, seed, ratio)
    torch.testing.assert_close(operate(g, r, strength), reference(g, r, strength), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.999, -1e-3), st.integers(0, 99), st.floats(0, 1))
def test_norm_after_surgery(cosine: float, seed: int, strength: float) -> None:
    g, r = pair(cosine, seed)
    expected = float(g.norm()) ** 2 * (1 - strength * (2 - strength) * cosine**2)
    assert float(operate(g, r, strength).norm()) ** 2 == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.999, -1e-3), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_no_conflict_left_idempotent_and_scale_equivariant(cosine: float, seed: int, factor: float) -> None:
    g, r = pair(cosine, seed)
    out = operate(g, r)
    assert float((out * r).sum()) >= -1e-12 * float(g.norm() * r.norm())
    torch.testing.assert_close(operate(out, r), out, rtol=0, atol=1e-13)
    torch.testing.assert_close(operate(g, factor * r), out, rtol=0, atol=1e-12)
    torch.testing.assert_close(operate(factor * g, r), factor * out, rtol=0, atol=1e-12 * max(1, factor))
    # Control: half strength leaves the conflict.
    assert float((operate(g, r, 0.5) * r).sum()) < -1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cosine", [0.0, 0.3, 1.0])
def test_agreement_returns_the_very_gradient(cosine: float, dtype: torch.dtype) -> None:
    g, r = (x.to(dtype) for x in pair(cosine))
    if cosine == 0:  # exact orthogonality needs disjoint supports
        g[:, ::2], r[:, 1::2] = 0, 0
    before = g.clone()
    ((_, out, record),) = reconcile({"w": g}, {"w": r}, PCGrad())
    assert out is g and torch.equal(out, before)
    assert record.coefficients == (1.0, 0.0) and not record.fired


def test_strength_zero_and_one_are_exact() -> None:
    g, r = pair(-0.7)
    assert operate(g, r, 0.0) is g
    for full in (PCGrad().coefficients(gram_matrix([g, r])), torch.tensor([0.3, 0.1], dtype=torch.float64)):
        assert torch.equal(damped(full, 1.0), full)
        assert damped(full, 0.0).tolist() == [1, 0]
    assert not torch.equal(operate(g, r, 1.0), g)


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        damped(torch.tensor([1.0, 0.5], dtype=torch.float64), strength)


def test_zero_memory_or_zero_gradient_changes_nothing() -> None:
    g, r = pair(-0.7)
    ((_, out, record),) = reconcile({"w": g}, {"w": torch.zeros_like(r)}, PCGrad())
    assert out is g and record.cosine == 0 and record.norm_memory == 0 and not record.fired
    assert not operate(torch.zeros_like(g), r).any()
    underflown = torch.tensor([[1.0, -1e-200], [-1e-200, 0.0]], dtype=torch.float64)  # ||r||^2 is not representable
    assert PCGrad().coefficients(underflown).tolist() == [1, 0]


def test_first_task_without_memory() -> None:
    g, _ = pair(-0.7)
    for scope in ("matrix", "global"):
        ((_, out, record),) = reconcile({"w": g}, {}, PCGrad(), scope=scope)
        assert out is g and not record.fired and record.coefficients == (1.0,)


def test_tiny_memory_gradient_is_still_projected() -> None:
    # The replay gradient is tiny once its task is fitted; an absolute epsilon would leave the conflict.
    g, r = pair(-0.5, ratio=1e-9)
    torch.testing.assert_close(operate(g, r), operate(g, 1e9 * r), rtol=0, atol=1e-9)
    gamma = float(-(g * r).sum() / ((r * r).sum() + 1e-12))
    assert float(((g + gamma * r) * r).sum() / (g.norm() * r.norm())) < -0.4  # control: with their epsilon


def test_pcgrad_refuses_several_memories() -> None:
    g, r = pair(-0.7)
    with pytest.raises(ValueError, match="mean"):
        PCGrad().coefficients(gram_matrix([g, r, r]))


class TakeMean(SurgeryOperator):
    """Stands in for an operator over several memories."""

    def coefficients(self, gram: Tensor) -> Tensor:
        return torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)


def test_operators_over_several_memories() -> None:
    g, r = pair(-0.7)
    gradients = [g, 2 * g, r]
    record = conflicts({"w": gram_matrix(gradients)}, TakeMean())["w"]
    assert record.fired and record.cosine == pytest.approx(-0.7)
    assert record.norm_memory == pytest.approx(float(r.norm()))
    torch.testing.assert_close(combine(record.coefficients, gradients), (3 * g + r) / 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gram_is_float64_over_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgery, "CHUNK", 30)  # 4 rows of 7, the last chunk is ragged
    g, r = (x[:11].to(dtype) for x in pair(-1e-6, ratio=1.0))
    flat = torch.stack([g, r]).double().flatten(1)
    gram = gram_matrix([g, r])
    assert gram.dtype == torch.float64
    torch.testing.assert_close(gram, flat @ flat.T, rtol=1e-14, atol=1e-15)


def test_float32_gradients_end_at_rounding_level() -> None:
    g, r = (x.float() for x in pair(-0.6, ratio=0.01))
    out = operate(g, r)
    assert out.dtype == torch.float32
    assert abs(float((out.double() * r.double()).sum() / (out.double().norm() * r.double().norm()))) < 1e-7
    assert operate(g.bfloat16(), r.bfloat16()).dtype == torch.float32


def test_scopes() -> None:
    names = {"a": -0.8, "b": 0.3, "c": -0.1}
    pairs = {n: pair(c, i, shape=(5 + i, 6)) for i, (n, c) in enumerate(names.items())}
    new, memory = ({n: p[k] for n, p in pairs.items()} for k in range(2))
    for name, out, record in reconcile(new, memory, PCGrad(), scope="matrix"):
        assert record.cosine == pytest.approx(names[name]) and record.fired == (names[name] < 0)
        assert record.norm_new == pytest.approx(2) and record.norm_memory == pytest.approx(6)
        assert float((out * memory[name]).sum()) >= -1e-12

    flat_new, flat_old = (torch.cat([x.flatten() for x in s.values()]) for s in (new, memory))
    done = {n: (out, record) for n, out, record in reconcile(new, memory, PCGrad(), scope="global")}
    flat = torch.cat([out.flatten() for out, _ in done.values()])
    torch.testing.assert_close(flat, reference(flat_new, flat_old), rtol=0, atol=1e-12)
    assert len({record for _, record in done.values()}) == 1
    # Control: global surgery leaves single matrices in conflict, and pushes an agreeing one.
    assert float((done["a"][0] * memory["a"]).sum()) < -0.1
    assert not torch.equal(done["b"][0], new["b"])


@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_caller_can_free_as_it_goes_and_inputs_are_not_written(scope: surgery.Scope) -> None:
    # Equal norms and cosines: both scopes come to the same coefficients.
    new, memory = ({n: pair(-0.5, i)[k] for i, n in enumerate("abc")} for k in range(2))
    copies = {n: (new[n].clone(), memory[n].clone()) for n in new}
    for name, out, _ in reconcile(new, memory, PCGrad(), scope=scope):
        assert torch.equal(new[name], copies[name][0]) and torch.equal(memory[name], copies[name][1])
        references = [weakref.ref(new.pop(name)), weakref.ref(memory.pop(name))]
        assert [r() for r in references] == [None, None]  # nothing else holds it
        torch.testing.assert_close(out, reference(*copies[name]), rtol=0, atol=1e-12)
    assert not new and not memory


def test_refusals_name_the_matrix() -> None:
    g, r = pair(-0.5)
    for bad in (float("nan"), float("inf")):
        broken = r.clone()
        broken[0, 0] = bad
        for scope in ("matrix", "global"):
            with pytest.raises(ValueError, match=r"q_proj: .*not finite"):
                list(reconcile({"q_proj": g}, {"q_proj": broken}, PCGrad(), scope=scope))
    with pytest.raises(ValueError, match="k_proj, q_proj"):
        list(reconcile({"q_proj": g}, {"k_proj": r}, PCGrad()))
    with pytest.raises(ValueError, match="different shapes"):
        list(reconcile({"w": g}, {"w": r.t()}, PCGrad()))
    with pytest.raises(ValueError, match="scope"):
        list(reconcile({"w": g}, {"w": r}, PCGrad(), scope="block"))


def test_equals_the_closest_point_of_the_half_space() -> None:
    """With one memory PCGrad is GEM: argmin ||z - g|| subject to <z, r> >= 0, here by its dual."""
    g, r = pair(-0.6)
    v = torch.zeros((), dtype=torch.float64)
    for _ in range(200):  # projected gradient on 1/2 v^2 <r,r> + v <g,r>, v >= 0
        v = (v - 0.5 / (r * r).sum() * (v * (r * r).sum() + (g * r).sum())).clamp(min=0)
    torch.testing.assert_close(operate(g, r), g + v * r, rtol=0, atol=1e-12)


# --- outputs of the authors' code -------------------------------------------------------------------------

SETTINGS = [
    ("adv_pcgrad", 1.0),
    ("adv_pcgrad_c0.0", 0.0),
    ("adv_pcgrad_c0.25", 0.25),
    ("adv_pcgrad_c0.5", 0.5),
    ("adv_pcgrad_c0.75", 0.75),
    ("adv_pcgrad_c1.0", 1.0),
    ("basic", 1.0),
]


def oracle_case(name: str, scope: str) -> str:
    ending = "permod" if scope == "matrix" else "global"
    return f"basic_{ending}_always0_addretain0" if name == "basic" else f"{name}_{ending}"


@pytest.mark.parametrize("scope", ["matrix", "global"])
@pytest.mark.parametrize(("name", "strength"), SETTINGS)
def test_authors_surgery(name: str, strength: float, scope: surgery.Scope) -> None:
    """Within their 1e-11 (their 1e-12 in the denominator); what they leave alone is ours bit for bit."""
    if not (ORACLES / "slice_surgery.npz").exists():
        pytest.skip("outputs of the SLICE authors' code are not here")
    z = np.load(ORACLES / "slice_surgery.npz")
    info = json.loads((ORACLES / "slice_surgery.json").read_text())
    case = oracle_case(name, scope)
    modules = list(info["scenarios"]["conflict"]["cos"])
    new, memory = ({m: torch.tensor(z[f"conflict|{s}|{m}"]) for m in modules} for s in ("current", "retain"))
    results = list(reconcile(new, memory, PCGrad(), strength, scope))
    assert errors(z, info, case, results) < 1e-11
    for module, out, record in results:
        assert record.fired == (f"conflict|{case}|{module}" not in info["unchanged"])
        assert record.fired or out is new[module]
    # Control: another strength is told apart.
    assert errors(z, info, case, list(reconcile(new, memory, PCGrad(), 0.9, scope))) > 1e-3


def errors(z: np.lib.npyio.NpzFile, info: dict, case: str, results: Sequence) -> float:
    """Largest max|diff| / ||current module||_F."""
    worst = 0.0
    for module, out, _ in results:
        key, current = f"conflict|{case}|{module}", torch.tensor(z[f"conflict|current|{module}"])
        expected = current if key in info["unchanged"] else torch.tensor(z[key])

        worst = max(worst, float((out - expected).abs().max() / current.norm()))
    return worst
