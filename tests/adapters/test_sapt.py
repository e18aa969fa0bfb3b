"""SAPT-LoRA: the router's equation, true gradients through all branches' coefficients, reflection, whole runs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from callbacks.attentive_reflection import AttentiveReflection
from cl_lightning.adapters.gates import pool_max
from cl_lightning.adapters.sapt import SAPTLoRA
from cl_lightning.model.module import ContinualLM, Step
from tests.adapters.test_branch_strategies import begin, train
from tests.commands.test_bad_input import refused
from tests.conftest import batch_of, random_examples
from tests.runs import adapters, record, same_bits, smoke

Make = Callable[..., ContinualLM]


def routed(tiny: Make, tasks: int = 3) -> ContinualLM:
    """A model in its last task, all others trained and frozen."""
    module = tiny("float64", SAPTLoRA(width=10))
    for task in range(tasks):
        begin(module, task)
        train(module, task + 1)
        if task < tasks - 1:
            module.adapter.end_task(task)
    return module


def test_the_router_equals_the_equation(tiny: Make) -> None:
    module = routed(tiny)
    batch, router = batch_of(random_examples(4)), module.adapter.router
    G1, G2 = router.query[0].weight, router.query[2].weight
    silu = nn.functional.silu
    embedding = module.llm.get_input_embeddings()
    for row, ids in enumerate(batch["input_ids"]):
        own = embedding(ids[batch["own_mask"][row].bool()])
        p = silu(G2 @ silu(G1 @ own.max(0).values))
        q = nn.functional.layer_norm(p, p.shape, router.query[4].weight, router.query[4].bias)
        keys = torch.cat([router.old_keys, router.key])
        wanted = torch.exp(keys @ q / math.sqrt(len(q)))
        got = module.adapter.forward_kwargs(batch)["gates"][row]
        assert torch.allclose(got, wanted / wanted.sum(), atol=1e-12)


def test_largest_embedding_knows_no_padding_and_nothing_gives_zero() -> None:
    e = torch.tensor([[[1.0, -2.0], [3.0, -5.0], [9.0, 9.0]]])
    assert pool_max(e, torch.tensor([[1, 1, 0]])).tolist() == [[3.0, -2.0]]
    assert pool_max(e, torch.tensor([[0, 0, 0]])).tolist() == [[0.0, 0.0]]


def test_gradients_through_every_branchs_coefficient_agree_with_finite_differences(tiny: Make) -> None:
    module = routed(tiny)
    batch = batch_of(random_examples(4))
    parameters = [p for group in module.adapter.param_groups() for p in group["params"]]
    module.zero_grad()
    module.sample_nll(batch).sum().backward()
    for p in parameters:  # along the gradient, and wide: the model's norms compute in float32
        direction, values, eps = p.grad / p.grad.norm(), [], 3e-3
        for step in (eps, -eps):
            with torch.no_grad():
                p += step * direction
                values.append(float(module.sample_nll(batch).sum()))
                p -= step * direction
        assert float(p.grad.norm()) == pytest.approx((values[0] - values[1]) / (2 * eps), rel=5e-3, abs=1e-3)
    # Negative control: without earlier branches' coefficients the query's gradient is another.
    right = module.adapter.router.query[0].weight.grad.clone()
    module.zero_grad()
    for layer in module.adapter.layers.values():
        layer.old_gates_learn = False
    module.sample_nll(batch).sum().backward()
    assert (module.adapter.router.query[0].weight.grad - right).norm() > 1e-3 * right.norm()


def test_reflection_is_the_divergence_of_the_recorded_shares_from_those_of_now(tiny: Make) -> None:
    """strength * mean over kept prompts of sum_i a_i log(a_i / now_i); branches that came later have a_i = 0."""
    module, rule = routed(tiny), AttentiveReflection(strength=0.7)
    rng = torch.Generator().manual_seed(3)
    rule.pooled = [torch.randn(n, module.adapter.embedding_size, dtype=torch.float64, generator=rng) for n in (3, 5)]
    rule.recorded = [torch.ones(3, 1, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64, generator=rng)]
    rule.recorded[1] /= rule.recorded[1].sum(1, keepdim=True)
    batch = batch_of(random_examples(2))
    term = rule.loss_terms(Step(module, batch, torch.zeros(1), 1.0))["reflection"]
    forth, back = [], []
    for pooled, recorded in zip(rule.pooled, rule.recorded, strict=True):
        for p, a in zip(pooled, recorded, strict=True):
            now = module.adapter.router(p[None])[0]
            assert len(now) == 3
            forth.append(sum(a[i] * torch.log(a[i] / now[i]) for i in range(len(a))))
            back.append(sum(now[i] * torch.log(now[i] / a[i]) for i in range(len(a))))
    assert torch.allclose(term, 0.7 * sum(forth) / 8, rtol=1e-10)
    assert abs(float(term - 0.7 * sum(back) / 8)) > 1e-2, "negative control: the other way round"
    assert rule.loss_terms(Step(module, batch, torch.zeros(1), 0.1))["reflection"] == term, "once a step, as it is"


def test_what_is_old_keeps_its_bits_and_the_model_before_the_task_is_said(tiny: Make) -> None:
    module = routed(tiny, tasks=2)
    module.adapter.end_task(1)
    batch = batch_of(random_examples(4))
    with torch.no_grad():
        before = module.answer_logits(batch)[0]
    keys = module.adapter.router.old_keys.clone()
    begin(module, 2)
    with torch.no_grad(), module.adapter.before_task():
        assert torch.allclose(module.answer_logits(batch)[0], before, atol=1e-12)
    train(module, 7)
    assert torch.equal(module.adapter.router.old_keys, keys)
    assert not any(p is module.adapter.router.old_keys for g in module.adapter.param_groups() for p in g["params"])


OPTIONS = (
    "--boundary.memory=null", "--boundary.init=null", "--model.adapter=SAPTLoRA", "--model.adapter.branches=IncLoRA",
    "--model.adapter.branches.rank=2", "--model.adapter.width=16",
    "--boundary.reflection=AttentiveReflection", "--model.lr=0.01",
)  # fmt: skip
THREE = "--data.order+=Sentiment"


def drift(run: Path) -> float:
    """Mean KL of the first task's recorded shares to those after the last, from the run folder's own state."""
    done = record(run)["done"]
    kept = load_file(run / "state" / f"reflection-{done}.safetensors")
    last = load_file(run / "adapters" / record(run)["order"][-1] / "adapter.safetensors")
    p = kept["pooled.0"]
    silu = nn.functional.silu
    h = silu(silu(p @ last["router.query.0.weight"].t()) @ last["router.query.2.weight"].t())
    q = nn.functional.layer_norm(h, h.shape[1:], last["router.query.4.weight"], last["router.query.4.bias"])
    keys = torch.cat([adapters(run)[task]["router.key"] for task in record(run)["order"]])
    share = (q @ keys.t() / math.sqrt(p.shape[1])).softmax(-1)[:, 0]
    return float(-share.log().mean())  # the first task had one branch: all of it


@pytest.mark.long
def test_reflection_holds_earlier_prompts_shares(tmp_path: Path) -> None:
    output = smoke(tmp_path / "held", *OPTIONS, THREE)
    assert "router: share of each task's branch" in output.stdout
    smoke(tmp_path / "free", *OPTIONS, THREE, "--boundary.reflection.strength=0")
    assert drift(tmp_path / "held") < 0.5 * drift(tmp_path / "free"), "negative control: without the term"
    smoke(tmp_path / "two", *OPTIONS)
    smoke(tmp_path / "more", *OPTIONS, THREE, f"--sequence.continue_from={tmp_path / 'two'}")
    assert same_bits(tmp_path / "more", tmp_path / "held")
    assert record(tmp_path / "more")["R"] == record(tmp_path / "held")["R"]


@pytest.mark.long
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    slow = "--model.lr=0.001"
    smoke(tmp_path / "one", *OPTIONS, slow)
    smoke(tmp_path / "two", *OPTIONS, slow, ranks=2)
    one, two = adapters(tmp_path / "one"), adapters(tmp_path / "two")
    for task in ("FOMC", "NumGLUE-cm"):
        assert all(torch.allclose(two[task][name], t, atol=1e-4) for name, t in one[task].items()), task


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--boundary.reflection=null"], "add boundary.reflection (callbacks.AttentiveReflection)"),
        (["--model.adapter=IncLoRA"], "boundary.reflection preserves a router, which IncLoRA does not have"),
        (["--boundary.reflection.samples=0"], "boundary.reflection.samples: 0 must be 1 or more"),
    ],
)
def test_refused_before_training(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(tmp_path, *OPTIONS, *options)
