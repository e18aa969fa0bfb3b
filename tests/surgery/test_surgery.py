"""Gradient surgery against float64 references written from the equations, and the authors' outputs."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_lightning.linalg.gram import combine, gram_matrix
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.surgery import GEM, PCGrad, RangeRemoval
from cl_lightning.surgery import reconcile as surgery
from cl_lightning.surgery.base import SurgeryOperator
from cl_lightning.surgery.reconcile import conflicts, damped, reconcile

torch.set_num_threads(1)

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
    ((_, out, _),) = reconcile({"w": g}, [{"w": r}], PCGrad(), strength)
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
    ((_, out, record),) = reconcile({"w": g}, [{"w": r}], PCGrad())
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
    ((_, out, record),) = reconcile({"w": g}, [{"w": torch.zeros_like(r)}], PCGrad())
    assert out is g and record.cosine == 0 and record.norm_memory == 0 and not record.fired
    assert not operate(torch.zeros_like(g), r).any()
    underflown = torch.tensor([[1.0, -1e-200], [-1e-200, 0.0]], dtype=torch.float64)  # ||r||^2 is not representable
    assert PCGrad().coefficients(underflown).tolist() == [1, 0]


def test_first_task_without_memory() -> None:
    g, _ = pair(-0.7)
    for scope in ("matrix", "block", "global"):
        ((_, out, record),) = reconcile({"w": g}, [], PCGrad(), scope=scope, blocks={"w": 0})
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
    monkeypatch.setattr("cl_lightning.linalg.gram.CHUNK", 30)  # 4 rows of 7, the last chunk is ragged
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
    for name, out, record in reconcile(new, [memory], PCGrad(), scope="matrix"):
        assert record.cosine == pytest.approx(names[name]) and record.fired == (names[name] < 0)
        assert record.norm_new == pytest.approx(2) and record.norm_memory == pytest.approx(6)
        assert float((out * memory[name]).sum()) >= -1e-12

    flat_new, flat_old = (torch.cat([x.flatten() for x in s.values()]) for s in (new, memory))
    done = {n: (out, record) for n, out, record in reconcile(new, [memory], PCGrad(), scope="global")}
    flat = torch.cat([out.flatten() for out, _ in done.values()])
    torch.testing.assert_close(flat, reference(flat_new, flat_old), rtol=0, atol=1e-12)
    assert len({record for _, record in done.values()}) == 1
    # Control: global surgery leaves single matrices in conflict, and pushes an agreeing one.
    assert float((done["a"][0] * memory["a"]).sum()) < -0.1
    assert not torch.equal(done["b"][0], new["b"])


@pytest.mark.parametrize("scope", ["matrix", "block", "global"])
def test_caller_can_free_as_it_goes_and_inputs_are_not_written(scope: surgery.Scope) -> None:
    # Equal norms and cosines: both scopes come to the same coefficients.
    new, memory = ({n: pair(-0.5, i)[k] for i, n in enumerate("abc")} for k in range(2))
    copies = {n: (new[n].clone(), memory[n].clone()) for n in new}
    for name, out, _ in reconcile(new, [memory], PCGrad(), scope=scope, blocks=dict.fromkeys("abc", 0)):
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
                list(reconcile({"q_proj": g}, [{"q_proj": broken}], PCGrad(), scope=scope))
    with pytest.raises(ValueError, match="k_proj, q_proj"):
        list(reconcile({"q_proj": g}, [{"q_proj": r}, {"k_proj": r}], PCGrad()))
    with pytest.raises(ValueError, match=r"q_proj: .*different shapes"):
        list(reconcile({"q_proj": g}, [{"q_proj": r.t()}], PCGrad()))
    with pytest.raises(ValueError, match="scope"):
        list(reconcile({"w": g}, [{"w": r}], PCGrad(), scope="layer"))
    with pytest.raises(ValueError, match=r"w: .*one memory"):
        list(reconcile({"w": g}, [{"w": r}] * 2, PCGrad()))
    for blocks in (None, {"v": 0}):
        with pytest.raises(ValueError, match="block of: w"):
            list(reconcile({"w": g}, [{"w": r}], PCGrad(), scope="block", blocks=blocks))
    with pytest.raises(ValueError, match="lacks: w"):
        list(reconcile({"w": g}, [{"w": r}], PCGrad(), reliable={"v": True}))
    for scope in ("matrix", "global"):
        with pytest.raises(ValueError, match="q_proj: the new gradient is not finite"):
            list(reconcile({"q_proj": g * float("nan")}, [], PCGrad(), scope=scope))
    with pytest.raises(ValueError, match="q_proj: memory gradient 2 is not finite"):
        list(reconcile({"q_proj": g}, [{"q_proj": r}, {"q_proj": r * float("inf")}], GEM()))
    with pytest.raises(ValueError, match=r"q_proj: .*leave nothing"):
        list(reconcile({"q_proj": g}, [{"q_proj": r}], RangeRemoval(7)))
    with pytest.raises(ValueError, match="3 coefficients for 2 gradients"):
        combine((1, 0, 0), [g, r])


def test_equals_the_closest_point_of_the_half_space() -> None:
    """With one memory PCGrad is GEM: argmin ||z - g|| subject to <z, r> >= 0, here by its dual."""
    g, r = pair(-0.6)
    v = torch.zeros((), dtype=torch.float64)
    for _ in range(200):  # projected gradient on 1/2 v^2 <r,r> + v <g,r>, v >= 0
        v = (v - 0.5 / (r * r).sum() * (v * (r * r).sum() + (g * r).sum())).clamp(min=0)
    torch.testing.assert_close(operate(g, r), g + v * r, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_gram_and_sum_of_low_rank_gradients(seed: int) -> None:
    """Any mix of dense and low-rank gives what dense matrices give."""
    g = torch.Generator().manual_seed(seed)
    low = [
        LowRank(*(torch.randn(size, 2 + i, dtype=torch.float64, generator=g) for size in SHAPE), captured=1 - 0.1 * i)
        for i in range(3)
    ]
    dense = [x.dense() for x in low]
    a = (0.5, 0.0, -2.0)
    for kinds in ((low[0], dense[1], low[2]), (dense[0], low[1], dense[2]), low):
        torch.testing.assert_close(gram_matrix(kinds), gram_matrix(dense), rtol=1e-13, atol=1e-12)
        total = combine(a, kinds)
        assert isinstance(total, LowRank) == (kinds is low)
        total = total.dense() if isinstance(total, LowRank) else total
        torch.testing.assert_close(total, combine(a, dense), rtol=0, atol=1e-13)
        assert combine((1, 0, 0), kinds) is kinds[0]
    joined = combine(a, low)
    assert joined.left.shape == (SHAPE[0], 2 + 4) and joined.captured == pytest.approx(0.8)  # a_1 = 0: left out
    assert joined.right.data_ptr() != low[0].right.data_ptr()
    assert not combine((0, 0), low[:1] * 2).dense().any()


def test_low_rank_gram_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_lightning.linalg.gram.CHUNK", 30)
    g, r = pair(-0.3)
    low = LowRank(r, torch.eye(SHAPE[1], dtype=torch.float64))
    torch.testing.assert_close(gram_matrix([g, low]), gram_matrix([g, r]), rtol=1e-13, atol=0)


def test_blocks_decide_on_their_sum() -> None:
    names = {"0.q": -0.8, "0.k": 0.3, "1.q": -0.5, "1.k": 0.6}
    pairs = {n: pair(c, i) for i, (n, c) in enumerate(names.items())}
    new, memory = ({n: p[k] for n, p in pairs.items()} for k in range(2))
    blocks = {n: n[0] for n in names}
    done = {n: (out, record) for n, out, record in reconcile(new, [memory], PCGrad(), scope="block", blocks=blocks)}
    assert list(done) == list(names)
    for block, fires in (("0", True), ("1", False)):
        members = [n for n in names if blocks[n] == block]
        flat = [torch.cat([s[n].flatten() for n in members]) for s in (new, memory)]
        torch.testing.assert_close(torch.cat([done[n][0].flatten() for n in members]), reference(*flat))
        records = {done[n][1] for n in members}
        assert len(records) == 1 and records.pop().fired == fires
    # Control: other groupings decide otherwise.
    alone = {n: r.fired for n, _, r in reconcile(new, [memory], PCGrad())}
    assert alone["1.q"] and not done["1.q"][1].fired
    each = list(reconcile(new, [memory], PCGrad(), scope="block", blocks={n: n for n in names}))
    assert {n: r.fired for n, _, r in each} == alone


def test_surgery_is_suppressed_where_a_conflict_is_not_reliable() -> None:
    new, memory = ({n: pair(-0.5, i)[k] for i, n in enumerate("ab")} for k in range(2))
    reliable = {"a": True, "b": False}
    for operator in (PCGrad(), GEM(), RangeRemoval(2)):
        done = {n: (out, r) for n, out, r in reconcile(new, [memory], operator, reliable=reliable)}
        assert done["a"][1].fired and not done["a"][1].suppressed and done["a"][0] is not new["a"]
        assert not done["b"][1].fired and done["b"][1].suppressed and done["b"][0] is new["b"]
        assert done["b"][1].cosine == pytest.approx(-0.5) and done["b"][1].coefficients == (1, 0)
    for scope in ("block", "global"):
        options = {"scope": scope, "blocks": dict.fromkeys("ab", 0)}
        for value in (True, False):
            shared = list(reconcile(new, [memory], PCGrad(), reliable=dict.fromkeys("ab", value), **options))
            assert all(record.fired == value and record.suppressed != value for _, _, record in shared)
        with pytest.raises(ValueError, match=r"a, b .*one answer"):
            list(reconcile(new, [memory], PCGrad(), reliable=reliable, **options))


@pytest.mark.parametrize("operator", [PCGrad(), GEM(), RangeRemoval(2, "left")])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_preserved_norm(operator: SurgeryOperator | RangeRemoval, strength: float) -> None:
    g, r = pair(-0.7)
    ((_, plain, _),) = reconcile({"w": g}, [{"w": r}], operator, strength)
    ((_, kept, record),) = reconcile({"w": g}, [{"w": r}], operator, strength, preserve_norm=True)
    assert float(plain.norm()) < 0.98 * float(g.norm())  # control
    torch.testing.assert_close(kept, plain * (g.norm() / plain.norm()), rtol=1e-12, atol=1e-12)
    assert float(kept.norm()) == pytest.approx(float(g.norm()), rel=1e-13) and record.fired
    ((_, still, _),) = reconcile({"w": g}, [{"w": -r}], PCGrad(), preserve_norm=True)
    assert still is g


def test_preserved_norm_of_nothing_stays_nothing() -> None:
    """g against its own opposite: G~ is rounding, and rounding is not blown up."""
    g, _ = pair(0.0)
    for r in (-3 * g, -3 * g.float()):
        ((_, out, record),) = reconcile({"w": g}, [{"w": r}], PCGrad(), preserve_norm=True)
        assert record.fired and float(out.norm()) < 1e-6 * float(g.norm())


def test_preserved_norm_under_shared_scope_keeps_the_decision() -> None:
    names = {"a": -0.9, "b": 0.5, "c": -0.1}
    pairs = {n: pair(c, i) for i, (n, c) in enumerate(names.items())}
    new, memory = ({n: p[k] for n, p in pairs.items()} for k in range(2))
    done = {n: out for n, out, _ in reconcile(new, [memory], PCGrad(), scope="global", preserve_norm=True)}
    total = sum(float(x.square().sum()) for x in done.values())
    assert total == pytest.approx(sum(float(x.square().sum()) for x in new.values()), rel=1e-12)
    assert abs(sum(float((done[n] * memory[n]).sum()) for n in names)) < 1e-12
    # Control: a factor for each matrix brings the conflict back.
    each = {n: x * (new[n].norm() / x.norm()) for n, x in done.items()}
    assert sum(float((each[n] * memory[n]).sum()) for n in names) < -0.1


def test_range_operator_path() -> None:
    g, r = pair(-0.4)
    operator = RangeRemoval(2)
    removed = operator.remove(g, r)
    for strength in (1.0, 0.25):
        ((_, out, record),) = reconcile({"w": g}, [{"w": r}], operator, strength)
        torch.testing.assert_close(out, torch.lerp(g, removed, strength), rtol=0, atol=1e-14)
        assert record.fired and record.coefficients == () and record.cosine == pytest.approx(-0.4)
        assert record.norm_memory == pytest.approx(6)
    for options in ({"strength": 0.0}, {"reliable": {"w": False}}):
        ((_, out, record),) = reconcile({"w": g}, [{"w": r}], operator, **options)
        assert out is g and not record.fired and record.coefficients == (1, 0)
    for memories in ([], [{"w": torch.zeros_like(r)}]):
        ((_, out, record),) = reconcile({"w": g}, memories, operator)
        assert out is g and not record.fired and record.coefficients == (1, 0)[: 1 + len(memories)]
    for options in ({"scope": "global"}, {"scope": "block", "blocks": {"w": 0}}):
        with pytest.raises(ValueError, match="RangeRemoval works matrix by matrix"):
            list(reconcile({"w": g}, [{"w": r}], operator, **options))
    with pytest.raises(ValueError, match="one memory"):
        list(reconcile({"w": g}, [{"w": r}] * 2, operator))
    with pytest.raises(ValueError, match="w: memory gradient 1 is not finite"):
        list(reconcile({"w": g}, [{"w": r * float("nan")}], operator))


def test_range_operator_frees_as_it_goes() -> None:
    new, memory = ({n: pair(-0.5, i)[k] for i, n in enumerate("abc")} for k in range(2))
    for name, _, _ in reconcile(new, [memory], RangeRemoval(2)):
        references = [weakref.ref(new.pop(name)), weakref.ref(memory.pop(name))]
        assert [r() for r in references] == [None, None]


def test_several_memories_and_low_rank_through_reconcile() -> None:
    gradients = [pair(-0.5, 0)[0], pair(-0.5, 0)[1], pair(-0.2, 1)[1]]
    low = [LowRank(x, torch.eye(SHAPE[1], dtype=torch.float64)) for x in gradients]
    ((_, dense, record),) = reconcile({"w": gradients[0]}, [{"w": x} for x in gradients[1:]], GEM())
    assert len(record.coefficients) == 3 and record.fired
    ((_, out, same),) = reconcile({"w": low[0]}, [{"w": x} for x in low[1:]], GEM())
    torch.testing.assert_close(out.dense(), dense, rtol=0, atol=1e-12)
    assert same.coefficients == pytest.approx(record.coefficients, rel=1e-10)
    names = "abc"  # freed on every side
    memories = [dict(zip(names, gradients, strict=True)) for _ in range(3)]
    for name, _, _ in reconcile(memories[0], memories[1:], GEM()):
        for memory in memories:
            del memory[name]
