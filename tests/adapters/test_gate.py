"""Gates and their constraint against the equations, float64, and against the published code's outputs."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.gates import OUTPUTS, Gates, constrain, pool
from cl_lightning.linalg.subspaces import design, empty, grow, project_out
from tests import reference

D, H = 24, 10


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def drawn(gates: Gates, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return gates.draw(torch.Generator().manual_seed(seed), torch.empty(0, dtype=dtype))


def three(**options: object) -> Gates:
    """Two old gates and a new one."""
    gates = Gates(D, H, **options)
    for seed in range(3):
        if seed:
            gates.freeze()
        gates.begin(drawn(gates, seed))
    return gates


def hidden(weights: list[Tensor], p: Tensor, inner: str = "silu") -> list[Tensor]:
    """p_0 .. p_L of one sample: the last hidden layer has its SiLU whatever those before it have."""
    out = [p]
    for index, G in enumerate(weights, start=1):
        z = G @ out[-1]
        out.append(z / (1 + torch.exp(-z)) if inner == "silu" or index == len(weights) else z)
    return out


def by_hand(gates: Gates, p: Tensor, t: int, head: str = "cosine", inner: str = "silu") -> Tensor:
    """Gate t of one sample, written from the equation."""
    weights = [w[t] for w in gates._stacked()]
    p = hidden(weights[:-1], p, inner)[-1]
    key = weights[-1][0]
    b = key @ p if head == "linear" else 4 * (key @ p) / (key.norm() * p.norm())
    return (2 / (1 + torch.exp(-b)) - 1).abs()


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("head", ["cosine", "linear"])
@pytest.mark.parametrize("inner", ["silu", "none"])
def test_all_gates_at_once_equal_the_equation_one_by_one(layers: int, head: str, inner: str) -> None:
    gates, x = three(layers=layers, head=head, inner=inner), normal(5, D, seed=9)
    a = gates(x)
    assert a.shape == (5, 3)
    wanted = torch.stack([torch.stack([by_hand(gates, p, t, head, inner) for t in range(3)]) for p in x])
    assert torch.allclose(a, wanted, atol=1e-12)
    features = [hidden(list(gates.new)[:-1], p, inner) for p in x]
    for level, found in enumerate(gates.features(x)):
        assert torch.allclose(found, torch.stack([f[level] for f in features]), atol=1e-12)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_zero_at_zero_even_and_in_0_1(name: str) -> None:
    b = torch.linspace(-5, 5, 201, dtype=torch.float64)
    f = OUTPUTS[name]
    assert float(f(torch.zeros((), dtype=torch.float64))) == 0
    assert torch.allclose(f(b), f(-b))
    assert float(f(b).min()) >= 0 and float(f(b).max()) <= 1
    if name == "sigmoid":
        assert torch.allclose(f(b), (2 * torch.sigmoid(b) - 1).abs(), atol=1e-15)
        assert three()(normal(50, D)).max().item() <= math.tanh(2)


def test_scales_do_not_matter_to_the_cosine_and_zeros_give_zero() -> None:
    gates, x = three(), normal(4, D)
    before = gates(x)
    gates.new[-1].data *= 7
    assert torch.allclose(gates(x), before, atol=1e-14)
    gates.new[-1].data.zero_()
    a = gates(torch.cat([x, torch.zeros(1, D)]))
    assert not a[:, -1].any() and not a[-1].any() and a.isfinite().all()
    gates(torch.zeros(1, D)).sum().backward()
    assert all(w.grad.isfinite().all() for w in gates.new)


def test_a_later_task_changes_no_earlier_coefficient_and_trains_none() -> None:
    gates, x = three(), normal(6, D)
    before = gates(x)
    gates.freeze()
    gates.begin(drawn(gates, 7))
    assert torch.allclose(gates(x)[:, :3], before, atol=1e-15)
    assert len(gates) == 4
    gates(x).sum().backward()
    assert all(w.grad is None for w in gates.old) and all(w.grad is not None for w in gates.new)
    with pytest.raises(ValueError, match="gate weights have shapes"):
        gates.begin([normal(3, 3)])


def test_pooling_knows_neither_padding_nor_batch_mates_and_the_published_one_does() -> None:
    embedded, mask = normal(3, 8, D), torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [0] * 6 + [1] * 2])
    pooled = pool(embedded, mask)
    assert torch.allclose(pooled[1], embedded[1, :5].mean(0))
    alone = pool(embedded[1:2, :5], mask[1:2, :5])
    shifted = pool(torch.cat([normal(1, 4, D, seed=3), embedded[1:2]], 1), torch.cat([torch.zeros(1, 4), mask[1:2]], 1))
    assert torch.allclose(alone[0], pooled[1]) and torch.allclose(shifted[0], pooled[1])
    padded = [pool(embedded[1:2, :n], mask[1:2, :n], padded=True) for n in (5, 8)]
    assert float((padded[0] - padded[1]).norm()) > 1e-2, "negative control"
    assert not pool(embedded, torch.zeros(3, 8)).any()


# --- the guarantee ----------------------------------------------------------------------------------------


def with_row_norms(w: Tensor, start: Tensor, M: Tensor) -> Tensor:
    kept = constrain(w, start, M)
    return kept * (w.norm(dim=1, keepdim=True) / kept.norm(dim=1, keepdim=True))


def second_task(
    after_step: Callable[[Tensor, Tensor, Tensor], Tensor] | None,
    dtype: torch.dtype = torch.float64,
    project_gradients: bool = False,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    **options: float,
) -> tuple[float, float, float, list[Tensor], float]:
    """Learn to open a second gate: a of old prompts before and after, of new ones after, what moved inside M, and how
    far the old prompts' features then lie outside M, relative."""
    gates = Gates(D, H)
    old, new = normal(5, D, seed=1, dtype=dtype), normal(8, D, seed=2, dtype=dtype)  # fewer than h: the rank is exact
    gates.begin(drawn(gates, 0, dtype))
    seen = [p.detach().double() for p in gates.features(old)]
    bases = [grow(empty(p.shape[1]), p.t() @ p / len(p), 1.0) for p in seen]
    copied = [w.detach() for w in gates.new]
    gates.freeze()
    gates.begin(copied)
    with torch.no_grad():
        p = gates.features(new)[-1].double()
        gates.new[-1].copy_(design(bases[-1], p.t() @ p, gates.new[-1].detach().double()))
    starts = [w.detach().clone() for w in gates.new]
    before = float(gates(old)[:, -1].max())
    optimizer = make(gates.new.parameters(), lr=1e-2, **options)
    for _ in range(300):
        optimizer.zero_grad()
        (1 - gates(new)[:, -1]).square().mean().backward()
        if project_gradients:
            for w, M in zip(gates.new, bases, strict=True):
                w.grad -= (w.grad @ M.to(dtype)) @ M.to(dtype).t()
        torch.nn.utils.clip_grad_norm_(gates.new.parameters(), 1.0)
        optimizer.step()
        if after_step is not None:
            with torch.no_grad():
                for w, start, M in zip(gates.new, starts, bases, strict=True):
                    w.copy_(after_step(w, start, M))
    moved = [(w.detach() - s).double() @ M for w, s, M in zip(gates.new, starts, bases, strict=True)]
    features = [p.detach().double() for p in gates.features(old)]
    left = max(float(project_out(M, p.t()).norm() / p.norm()) for M, p in zip(bases, features, strict=True))
    return before, float(gates(old)[:, -1].max()), float(gates(new)[:, -1].mean()), moved, left


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_gates_stay_0_on_old_prompts_through_300_steps_of_adamw(dtype: torch.dtype, bound: float) -> None:
    before, old, new, moved, left = second_task(constrain, dtype, weight_decay=0.1)
    assert before < bound
    assert old < bound
    assert new > 0.5, "the gate has opened for its own"
    assert max(float(m.norm()) for m in moved) < bound
    assert left < bound, "old prompts' features, seen through the new weights, span what they spanned"


def test_wrong_variants_open_on_old_prompts() -> None:
    """Negative controls: what the published code and the obvious shortcut do."""
    assert second_task(None, weight_decay=0.1)[1] > 1e-2, "no constraint"
    row_norms = second_task(with_row_norms, weight_decay=0.1)
    assert row_norms[1] > 1e-2, "row norms restored"
    assert row_norms[4] > 1e-4, "and the subspaces are no longer the old prompts'"
    assert second_task(None, project_gradients=True, weight_decay=0.1)[1] > 1e-2, "gradients projected, under Adam"
    sgd = torch.optim.SGD
    assert second_task(None, project_gradients=True, make=sgd, weight_decay=0.05)[1] > 1e-6, "and with plain decay"
    assert second_task(None, project_gradients=True, make=sgd, momentum=0.9)[1] < 1e-10, (
        "plain SGD may project gradients"
    )


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_published_updates_projected_with_and_without_row_norms(size: str) -> None:
    arrays = reference.tensors("projected_update")
    for weight, basis in (("G1", "M1_c0"), ("G2", "M2"), ("key", "M3_c0")):
        at = f"chunk1|{size}|"
        old, step, M = (arrays[at + k].double() for k in (f"{weight}_old", f"{weight}_step", basis))
        for rule, project in (("llama_no_renorm", constrain), ("t5_renorm", with_row_norms)):
            wanted = arrays[f"{at}{rule}|fp64|{weight}_after"]
            assert torch.allclose(project(step, old, M), wanted, atol=1e-12), (rule, weight)


def test_the_published_gates_on_a_tiny_t5() -> None:
    arrays = reference.tensors("gainlora_t5_gates")
    weights = {key.removeprefix("weights|"): tensor for key, tensor in arrays.items() if key.startswith("weights|")}
    gates = Gates(32, 10)
    for task in (1, 2, 3):
        if task > 1:
            gates.freeze()
        gate = [weights[f"gate.task{task}.{name}"].double() for name in ("W1", "W2")]
        gates.begin([*gate, weights[f"gate.task{task}.key"].double()[None]])
    for padding, ids, mask in (
        ("", "input_ids", "attention_mask"),
        ("pad16|", "input_ids_pad16", "attention_mask_pad16"),
    ):
        tokens, seen = (arrays[key].long() for key in (ids, mask))
        pooled = pool(weights["embed"].double()[tokens], seen, padded=True)
        at = f"flan_like_task3|fp64|{padding}"
        for key, ours in zip(("p0", "p1", "p2"), gates.features(pooled), strict=True):
            assert torch.allclose(ours, arrays[at + key], atol=1e-10), key
        assert torch.allclose(gates(pooled), arrays[f"{at}a_chron"], atol=1e-10)
