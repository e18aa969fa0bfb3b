"""IncLoRA, O-LoRA, C-LoRA, InfLoRA: what they train, what they penalise, what stays as it was. Float64, tiny Llama."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.clora import CLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.inflora import InfLoRA
from cl_lightning.adapters.olora import OLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.linalg.subspaces import design, empty, grow
from cl_lightning.model.module import ContinualLM
from tests import reference
from tests.conftest import batch_of, random_examples

STRATEGIES = (IncLoRA, OLoRA, CLoRA, InfLoRA)


def begin(module: ContinualLM, task: int) -> None:
    module.adapter.begin_task(task, torch.Generator().manual_seed(task))


def train(module: ContinualLM, seed: int, steps: int = 4, lr: float = 1e-2) -> None:
    """AdamW with decay and clipping, penalties included."""
    parameters = [p for group in module.adapter.param_groups() for p in group["params"]]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1)
    batch = batch_of(random_examples(6, seed))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module.sample_nll(batch) * batch["sample_weight"]).sum() + sum(module.adapter.penalties().values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def logits(module: ContinualLM, seed: int = 0) -> Tensor:
    batch = batch_of(random_examples(5, seed))
    with torch.no_grad():
        return module.llm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("kind", STRATEGIES)
def test_old_parameters_keep_their_bits_and_a_new_branch_changes_no_logit(
    tiny: Callable[..., ContinualLM], kind: type[IncLoRA]
) -> None:
    module = tiny(adapter=kind(rank=3, alpha=6))
    begin(module, 0)
    train(module, 1)
    module.adapter.end_task(0)
    before, old = logits(module), {n: p.detach().clone() for n, p in module.named_parameters()}
    begin(module, 1)
    assert torch.equal(logits(module), before)
    trained = {id(p) for group in module.adapter.param_groups() for p in group["params"]}
    assert trained.isdisjoint(id(p) for n, p in module.named_parameters() if n in old)
    train(module, 2)
    now = dict(module.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in old.items())
    assert not torch.equal(logits(module), before)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_restored_from_what_tasks_left_behind(tiny: Callable[..., ContinualLM], kind: type[IncLoRA]) -> None:
    module, states = tiny(adapter=kind(rank=3, alpha=6)), []
    for task in range(3):
        begin(module, task)
        train(module, task)
        states.append({k: t.clone() for k, t in module.adapter.task_state().items()})
        module.adapter.end_task(task)
    again = tiny(adapter=kind(rank=3, alpha=6))
    again.adapter.restore(states)
    assert torch.equal(logits(again), logits(module))


def test_without_its_penalty_each_is_incremental_lora(tiny: Callable[..., ContinualLM]) -> None:
    adapters = (IncLoRA(rank=3), OLoRA(rank=3, lambda_orthogonal=0.0), CLoRA(rank=3, lambda_overlap=0.0),
                SeqLoRA(rank=3, fold_into="stack"))  # fmt: skip
    found = []
    for adapter in adapters:
        module = tiny(adapter=adapter)
        for task in range(2):
            begin(module, task)
            train(module, task)
            module.adapter.end_task(task)
        found.append(logits(module))
    assert all(torch.equal(other, found[0]) for other in found[1:])
    constrained = tiny(adapter=OLoRA(rank=3))
    for task in range(2):
        begin(constrained, task)
        train(constrained, task)
        constrained.adapter.end_task(task)
    assert not torch.equal(logits(constrained), found[0])


@pytest.mark.parametrize("kind", [OLoRA, CLoRA])
def test_penalties_equal_the_equation_and_reach_the_new_branch_only(
    tiny: Callable[..., ContinualLM], kind: type[IncLoRA]
) -> None:
    weights = {"lambda_orthogonal": 0.3, "lambda_norm": 0.2} if kind is OLoRA else {"lambda_overlap": 0.7}
    module = tiny(adapter=kind(rank=3, alpha=6, **weights))
    begin(module, 0)
    assert set(module.adapter.penalties()) == ({"norm"} if kind is OLoRA else set()), "nothing older yet"
    old: list[dict[str, tuple[Tensor, Tensor]]] = []
    for task in range(2):
        train(module, task)
        old.append({n: (la.lora_A.detach(), la.lora_B.detach()) for n, la in module.adapter.layers.items()})
        module.adapter.end_task(task)
        begin(module, task + 1)
    train(module, 7, steps=1)
    wanted = 0.0
    for name, layer in module.adapter.layers.items():
        A, B = layer.lora_A.detach(), layer.lora_B.detach()
        if kind is OLoRA:
            wanted += 0.3 * sum(float((a @ A.t()).abs().sum()) for a, _ in (o[name] for o in old))
            wanted += 0.2 * float(A.pow(2).sum() ** 0.5 + B.pow(2).sum() ** 0.5)
        else:
            moved = sum(2 * b @ a for a, b in (o[name] for o in old))
            wanted += 0.7 * float((moved.abs() * (2 * B @ A)).pow(2).sum())
    penalty = sum(module.adapter.penalties().values())
    assert penalty.item() == pytest.approx(wanted, rel=1e-10)
    penalty.backward()
    touched = {name.rsplit(".", 1)[1] for name, p in module.named_parameters() if p.grad is not None}
    assert touched == {"lora_A", "lora_B"}


def test_ellas_penalty_is_c_loras(tiny: Callable[..., ContinualLM]) -> None:
    """ELLA leaves out the absolute value of the earlier branches' sum, which the square makes irrelevant."""
    module = tiny(adapter=CLoRA(rank=3, alpha=6, lambda_overlap=0.7))
    for task in range(2):
        begin(module, task)
        train(module, task)
        module.adapter.end_task(task)
    begin(module, 2)
    train(module, 7, steps=1)
    layers = module.adapter.layers.values()
    sums = [layer.stack_B @ layer.stack_A for layer in layers]
    ella = 0.7 * sum((layer.update() * P).square().sum() for layer, P in zip(layers, sums, strict=True))
    assert any(bool((P < 0).any()) for P in sums)
    assert module.adapter.penalties()["overlap"].item() == pytest.approx(ella.item(), rel=1e-12)
    unsquared = 0.7 * sum((layer.update() * P).sum() for layer, P in zip(layers, sums, strict=True))
    assert unsquared.item() != pytest.approx(ella.item(), rel=1e-3), "the control"


def test_the_published_penalty_and_its_gradient(tiny: Callable[..., ContinualLM]) -> None:
    arrays, facts = reference.tensors("olora_penalty"), reference.facts("olora_penalty")["olora|t2"]
    adapter = OLoRA(rank=facts["r"], lambda_orthogonal=facts["lambda1"], lambda_norm=1.0)
    layers = sorted({key.split("|")[2] for key in arrays if key.startswith("olora|t2|")})

    class Layer(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            parts = {"stack_A": "lora_A", "lora_A": "loranew_A", "lora_B": "loranew_B"}
            for own, theirs in parts.items():
                value = arrays[f"olora|t2|{name}|{theirs}"].double()
                self.register_parameter(own, torch.nn.Parameter(value, requires_grad=own != "stack_A"))

        def factors(self) -> tuple[Tensor, Tensor]:
            return self.lora_A, self.lora_B

    adapter._layers = {name: Layer(name) for name in layers}
    penalties = adapter.penalties()
    assert float(penalties["orthogonality"]) == pytest.approx(facts["lambda1"] * facts["orthogonal_loss"], rel=1e-12)
    assert float(penalties["norm"]) == pytest.approx(facts["l2_loss"], rel=1e-12)
    penalties["orthogonality"].backward()
    for name, layer in adapter._layers.items():
        wanted = arrays[f"olora|t2|{name}|grad_loranew_A"].double()
        assert torch.allclose(layer.lora_A.grad, wanted, atol=1e-12)


def one_batch_subspaces(module: ContinualLM, seed: int) -> dict[str, Tensor]:
    """M of each layer's inputs over one batch of few tokens: of exact rank, so that nothing is left outside."""
    moments = module.input_moments([batch_of(random_examples(1, seed))], with_new=True)
    return {
        name: grow(empty(len(C)), C, 1.0)
        for name in module.adapter.layers
        for C in [moments.totals[moments.owners[name]]]
    }


def old_output_change(tiny: Callable[..., ContinualLM], kind: type[IncLoRA], designed: bool) -> float:
    """How far logits on task 0's only batch move while task 1 is learnt."""
    module = tiny(adapter=kind(rank=2, alpha=8))
    begin(module, 0)
    train(module, 3)
    seen = one_batch_subspaces(module, 50)
    module.adapter.end_task(0)
    old = batch_of(random_examples(1, 50))
    inputs = {"input_ids": old["input_ids"], "attention_mask": old["attention_mask"]}
    with torch.no_grad():
        before = module.llm(**inputs).logits
    begin(module, 1)
    if designed:
        for name, layer in module.adapter.layers.items():
            A = design(seen[name], torch.eye(layer.in_features), layer.lora_A.detach(), "random")
            module.adapter.set_factors(name, A, torch.zeros_like(layer.lora_B))
    train(module, 4, steps=40)
    with torch.no_grad():
        return float((module.llm(**inputs).logits - before)[old["attention_mask"].bool()].abs().max())


def test_old_logits_stay_where_the_subspaces_are_exact(tiny: Callable[..., ContinualLM]) -> None:
    assert old_output_change(tiny, InfLoRA, designed=True) < 1e-10
    assert old_output_change(tiny, InfLoRA, designed=False) > 1e-3, "negative control: an A of no design"
    assert old_output_change(tiny, IncLoRA, designed=True) > 1e-3, "negative control: an A that is trained on"


def test_a_frozen_A_stays_frozen_when_its_factors_are_set(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny(adapter=InfLoRA(rank=2))
    begin(module, 0)
    for name, layer in module.adapter.layers.items():
        module.adapter.set_factors(name, 2 * layer.lora_A.detach(), torch.zeros_like(layer.lora_B))
    starts = {n: layer.lora_A.detach().clone() for n, layer in module.adapter.layers.items()}
    train(module, 0)
    for name, layer in module.adapter.layers.items():
        assert torch.equal(layer.lora_A, starts[name])
        assert layer.lora_B.any()


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [(OLoRA, {"lambda_orthogonal": -1.0}, "lambda_orthogonal"), (OLoRA, {"lambda_norm": float("nan")}, "lambda_norm"),
     (CLoRA, {"lambda_overlap": -0.1}, "lambda_overlap")],
)  # fmt: skip
def test_bad_weights_are_named(kind: type[IncLoRA], options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.adapter\.{named}: .* must not be negative"):
        kind(**options)
