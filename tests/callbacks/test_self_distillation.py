"""Self-distillation: its term and its average against the equations in float64, and as a run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.lwf import LwF
from callbacks.self_distillation import SelfDistillation
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin, train
from tests.callbacks.test_regularizers import OneRank, learnt, step_of
from tests.runs import adapters, continued_and_whole, smoke

Make = Callable[..., ContinualLM]


def started(tiny: Make, rule: SelfDistillation, adapter: IncLoRA | None = None) -> ContinualLM:
    """A model at the start of its second task, with the average begun."""
    module = learnt(tiny, adapter or IncLoRA(rank=2))
    module.adapter.end_task(0)
    begin(module, 1)
    rule.on_task_start(OneRank(module), 1)
    return module


def parameters(module: ContinualLM) -> list[torch.Tensor]:
    return [p.detach().clone() for group in module.adapter.param_groups() for p in group["params"]]


@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_the_term_is_the_equation(tiny: Make, kl: str) -> None:
    rule = SelfDistillation(strength=0.3, kl=kl)
    module = started(tiny, rule)
    with torch.no_grad():
        slow = step_of(module).logits.softmax(-1)
    train(module, 2, steps=8)
    step = step_of(module)
    now = step.logits.softmax(-1)
    p, q = (slow, now) if kl == "forward" else (now, slow)
    by_hand = 0.3 * (p * (p / q).log()).sum() * step.weight
    other = 0.3 * (q * (q / p).log()).sum() * step.weight
    term = rule.loss_terms(step)["self_distillation"]
    assert by_hand > 1e-5
    assert torch.allclose(term, by_hand, rtol=1e-8)
    assert not torch.allclose(term, other, rtol=1e-4), "the control: the other direction"


def test_at_the_average_itself_term_and_gradient_are_nothing(tiny: Make) -> None:
    rule = SelfDistillation()
    module = started(tiny, rule)
    module.zero_grad()
    term = rule.loss_terms(step_of(module))["self_distillation"]
    assert term.item() == pytest.approx(0, abs=1e-12)
    term.backward()
    assert max(float(p.grad.abs().max()) for g in module.adapter.param_groups() for p in g["params"]) < 1e-12


def test_the_average_moves_by_its_rate_after_each_optimiser_step_only(tiny: Make) -> None:
    rule = SelfDistillation(rate=0.25)
    module = started(tiny, rule)
    first = parameters(module)
    train(module, 2, steps=4)
    now = parameters(module)
    assert any(not torch.equal(a, b) for a, b in zip(first, now, strict=True))
    rule.on_train_batch_end(SimpleNamespace(global_step=0), module, None, None, 0)
    assert all(map(torch.equal, rule._slow, first)), "a micro-batch without a step"
    rule.on_train_batch_end(SimpleNamespace(global_step=1), module, None, None, 1)
    for slow, a, b in zip(rule._slow, first, now, strict=True):
        torch.testing.assert_close(slow, 0.75 * a + 0.25 * b, rtol=0, atol=1e-12)
    assert all(map(torch.equal, parameters(module), now)), "the model itself stays"


def test_rate_one_is_the_model_and_rate_zero_its_start(tiny: Make) -> None:
    for rate in (0.0, 1.0):
        rule = SelfDistillation(rate=rate)
        module = started(tiny, rule)
        first = parameters(module)
        train(module, 2, steps=4)
        rule.on_train_batch_end(SimpleNamespace(global_step=1), module, None, None, 0)
        assert all(map(torch.equal, rule._slow, parameters(module) if rate else first))


def test_rate_zero_is_lwf_at_temperature_one(tiny: Make) -> None:
    rule, lwf = SelfDistillation(rate=0.0), LwF(temperature=1.0)
    module = started(tiny, rule)
    lwf.on_task_start(OneRank(module), 1)
    train(module, 2, steps=8)
    terms = [each.loss_terms(step_of(module)) for each in (rule, lwf)]
    ours, theirs = terms[0]["self_distillation"].item(), terms[1]["distillation"].item()
    assert ours == pytest.approx(theirs, rel=1e-8)
    assert theirs > 1e-5


def test_the_average_speaks_without_dropout(tiny: Make) -> None:
    rule = SelfDistillation()
    module = started(tiny, rule, SeqLoRA(rank=2, per_task="continue", dropout=0.5))
    module.llm.eval()
    step = step_of(module)
    module.llm.train()
    assert float(rule.loss_terms(step)["self_distillation"]) == pytest.approx(0, abs=1e-12)


def test_a_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    plain = ("--boundary.memory=null", "--boundary.init=null")
    mine = ("--boundary.mine=SelfDistillation", "--boundary.mine.strength=5", "--boundary.mine.rate=0.3")
    smoke(tmp_path / "plain", *plain)
    found, without = adapters(continued_and_whole(tmp_path, *plain, *mine)), adapters(tmp_path / "plain")
    assert any(not torch.equal(t, without["FOMC"][name]) for name, t in found["FOMC"].items())


@pytest.mark.parametrize(("option", "value"), [("strength", -1.0), ("rate", 1.5), ("rate", -0.1)])
def test_bad_options_are_one_line(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"boundary.self_distillation.{option}: "):
        SelfDistillation(**{option: value})


def test_another_divergence_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^SelfDistillation.kl: 'both' is not known; valid: forward, reverse$"):
        SelfDistillation(kl="both")
