"""EWC, LwF, MIGU: against their equations in float64 on a tiny model, then as runs over several strategies."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.ewc import EWC
from callbacks.lwf import LwF
from callbacks.migu import MIGU, largest_rows
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.collate import training_batch
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.model.module import ContinualLM, Step
from cl_lightning.sequence.callback import TaskCallback
from tests.adapters.test_branch_strategies import begin, train
from tests.commands.test_bad_input import refused
from tests.conftest import batch_of, random_examples
from tests.ragged_words import finished_run, words
from tests.runs import adapters, continued_and_whole, record, smoke

Make = Callable[..., ContinualLM]


class OneRank:
    """What a callback asks of the run, on one rank, over given examples."""

    def __init__(self, module: ContinualLM, count: int = 4) -> None:
        self.module, self.examples = module, random_examples(count, seed=9)
        self.data = self

    def draw(self, task: int, count: int, purpose: str) -> list[Any]:
        return self.examples[:count]

    def gradient_pass(
        self, samples: Any, size: int, loss_on: str = "answer", gated: bool = False, with_new: bool = False
    ) -> GradientPass:
        def batches() -> Iterator[dict[str, Any]]:
            for example in samples[0]:
                batch = training_batch([example], pad_id=0)
                yield {**batch, "sample_weight": torch.ones(1, dtype=torch.float64)}

        assert size == 1
        return self.module.gradient_pass(batches(), gated, with_new)


def learnt(tiny: Make, adapter: AdapterStrategy) -> ContinualLM:
    """A model that has trained a first task, its branch still open."""
    module = tiny("float64", adapter)
    begin(module, 0)
    train(module, 1)
    return module


def step_of(module: ContinualLM, seed: int = 5) -> Step:
    batch = batch_of(random_examples(5, seed))
    return Step(module, batch, module.answer_logits(batch)[0], 1 / batch["step_tokens"])


def fishers(module: ContinualLM, run: OneRank, of: Callable[[Any], list[Tensor]]) -> list[Tensor]:
    """Mean over examples of squared gradients of log p(answer) with respect to `of(layer)`, by plain autograd."""
    parts = [t for layer in module.adapter.layers.values() for t in of(layer)]
    total = [torch.zeros_like(t) for t in parts]
    for example in run.examples:
        nll = module.sample_nll(training_batch([example], pad_id=0), share_prefix=False).sum()
        for sum_, g in zip(total, torch.autograd.grad(nll, parts), strict=True):
            sum_ += g.square() / len(run.examples)
    return total


def test_fisher_and_penalty_of_factors_equal_the_equation(tiny: Make) -> None:
    module = learnt(tiny, SeqLoRA(rank=2, per_task="continue"))
    run, rule = OneRank(module), EWC(strength=3.0, over="factors")
    wanted = fishers(module, run, lambda layer: [layer.lora_A, layer.lora_B])
    rule.on_task_end(run, 0)
    got = [F for parts in rule.fisher.values() for F in parts]
    assert all(torch.allclose(a.double(), b, rtol=1e-5, atol=1e-9) for a, b in zip(got, wanted, strict=True))
    module.adapter.end_task(0)
    begin(module, 1)
    rule.on_task_start(run, 1)
    assert float(rule.loss_terms(step_of(module))["ewc"]) == 0, "nothing has moved"
    start = [p.detach().clone() for p in module.adapter.param_groups()[0]["params"]]
    train(module, 2)
    moved = module.adapter.param_groups()[0]["params"]
    by_hand = sum((F * (p - s).square()).sum() for F, p, s in zip(wanted, moved, start, strict=True)) * 3 / 2
    assert torch.allclose(rule.loss_terms(step_of(module))["ewc"], by_hand, rtol=1e-5)


def test_earlier_fishers_decay_when_a_task_is_added(tiny: Make) -> None:
    module = learnt(tiny, SeqLoRA(rank=2, per_task="continue"))
    rule, wanted = EWC(over="factors", decay=0.25), []
    for task in (0, 1, 2):
        run = OneRank(module)
        run.examples = random_examples(4, seed=task)
        wanted.append(fishers(module, run, lambda layer: [layer.lora_A, layer.lora_B]))
        rule.on_task_end(run, task)
        train(module, task)
    got = [F for parts in rule.fisher.values() for F in parts]
    for F, (first, second, third) in zip(got, zip(*wanted, strict=True), strict=True):
        assert torch.allclose(F.double(), first / 16 + second / 4 + third, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("adapter", [IncLoRA(rank=2), SeqLoRA(rank=2, per_task="continue"), GainLoRA(IncLoRA(rank=2))])
def test_fisher_and_penalty_of_products_equal_the_equation(tiny: Make, adapter: AdapterStrategy) -> None:
    module = learnt(tiny, adapter)
    run, rule = OneRank(module), EWC(strength=0.5)
    wanted = fishers_of_weights(module, run)
    rule.on_task_end(run, 0)
    got = [F for parts in rule.fisher.values() for F in parts]
    assert all(torch.allclose(a.double(), b, rtol=1e-5, atol=1e-9) for a, b in zip(got, wanted, strict=True))
    of_W = fishers_of_weights(module, run, gated=False)
    alike = [torch.allclose(a.double(), b, rtol=1e-2, atol=1e-9) for a, b in zip(got, of_W, strict=True)]
    assert all(alike) if not adapter.per_sample else not any(alike), "negative control: of W, as if all gates were open"
    anchors = [layer.update().detach() if module.adapter.continues else 0 for layer in module.adapter.layers.values()]
    module.adapter.end_task(0)
    begin(module, 1)
    rule.on_task_start(run, 1)
    assert float(rule.loss_terms(step_of(module))["ewc"]) == 0, "nothing has moved"
    train(module, 2)
    layers = module.adapter.layers.values()
    by_hand = sum((F * (at.update() - a).square()).sum() for F, at, a in zip(wanted, layers, anchors, strict=True)) / 4
    assert torch.allclose(rule.loss_terms(step_of(module))["ewc"], by_hand, rtol=1e-5)


def fishers_of_weights(module: ContinualLM, run: OneRank, gated: bool = True) -> list[Tensor]:
    """As `fishers`, of what a branch adds: y = x W^T + branches + a x theta^T, a the newest branch's gate, at 0."""
    layers = list(module.adapter.layers.values())
    total = [torch.zeros_like(layer.base.weight) for layer in layers]
    for example in run.examples:
        seen: list[tuple[int, Tensor, Tensor]] = []
        gates = module.adapter.forward_kwargs(training_batch([example], pad_id=0)).get("gates") if gated else None
        a = 1.0 if gates is None else float(gates[0, -1])

        def keep(layer: Any, inputs: tuple[Tensor, ...], output: Tensor, seen: list = seen, a: float = a) -> Tensor:
            extra = torch.zeros_like(layer.base.weight, requires_grad=True)
            seen.append((layers.index(layer), extra, output))
            return output + a * (inputs[0] @ extra.t())

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        nll = module.sample_nll(training_batch([example], pad_id=0), share_prefix=False).sum()
        for hook in hooks:
            hook.remove()
        for (index, _, _), g in zip(seen, torch.autograd.grad(nll, [e for _, e, _ in seen]), strict=True):
            total[index] += g.square() / len(run.examples)
    return total


@pytest.mark.parametrize("adapter", [IncLoRA(rank=2), SeqLoRA(rank=2, per_task="continue"), SeqLoRA(rank=2)])
def test_distillation_equals_the_equation_and_is_of_the_model_before_the_task(
    tiny: Make, adapter: AdapterStrategy
) -> None:
    module = learnt(tiny, adapter)
    module.adapter.end_task(0)
    batch = batch_of(random_examples(5, 5))
    with torch.no_grad():
        before = module.answer_logits(batch)[0]
    rule = LwF(strength=0.3, temperature=3.0)
    rule.on_task_start(OneRank(module), 0)
    assert rule.loss_terms(step_of(module)) == {}, "the first task has nothing to keep"
    begin(module, 1)
    rule.on_task_start(OneRank(module), 1)
    assert float(rule.loss_terms(step_of(module))["distillation"]) == pytest.approx(0, abs=1e-12)
    train(module, 2, steps=8)
    step = step_of(module)
    p, q = ((z / 3).softmax(-1) for z in (before, step.logits))
    by_hand = 0.3 * 9 * (p * (p / q).log()).sum() / batch["step_tokens"]
    term = rule.loss_terms(step)["distillation"]
    assert by_hand > 1e-4
    assert torch.allclose(term, by_hand, rtol=1e-8)
    with torch.no_grad():
        assert not torch.equal(module.answer_logits(batch)[0], before), "what training has done is back in place"


def test_the_model_before_the_task_speaks_without_dropout(tiny: Make) -> None:
    """One LoRA trained on: its branch, and with it its dropout, is part of the model before the task too."""
    module = learnt(tiny, SeqLoRA(rank=2, per_task="continue", dropout=0.5))
    module.adapter.end_task(0)
    batch = batch_of(random_examples(5, 5))
    module.llm.eval()
    with torch.no_grad():
        before = module.answer_logits(batch)[0]
    begin(module, 1)
    rule = LwF(strength=1.0, temperature=1.0)
    rule.on_task_start(OneRank(module), 1)
    train(module, 2, steps=8)
    module.llm.train()
    step = step_of(module)
    p, q = before.softmax(-1), step.logits.softmax(-1)
    by_hand = (p * (p / q).log()).sum() / batch["step_tokens"]
    assert torch.allclose(rule.loss_terms(step)["distillation"], by_hand, rtol=1e-8)
    assert all(layer.dropout == 0.5 and layer.training for layer in module.adapter.layers.values()), "and it is back"
    with torch.no_grad(), module.adapter.before_task():
        assert not torch.allclose(module.answer_logits(batch)[0], before, atol=1e-3), "negative control: with dropout"


def test_distillation_pulls_the_model_back(tiny: Make) -> None:
    far = []
    for strength in (0.0, 50.0):
        module = learnt(tiny, IncLoRA(rank=2))
        module.adapter.end_task(0)
        step = step_of(module, 2)
        before = step.logits.detach()
        begin(module, 1)
        rule = LwF(strength)
        rule.on_task_start(OneRank(module), 1)
        module.adapter.penalties = lambda m=module, r=rule: r.loss_terms(step_of(m, 2))
        train(module, 2, steps=12)
        far.append(float((module.answer_logits(step.batch)[0] - before).norm()))
    assert far[1] < 0.8 * far[0]


def test_the_quietest_rows_are_masked() -> None:
    magnitude = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert largest_rows(magnitude, 0.5).tolist() == [False, True, False, True]
    assert largest_rows(magnitude, 0.0).all()
    assert largest_rows(magnitude, 0.99).tolist() == [False, True, False, False], "one row is left at least"


@pytest.mark.parametrize("share_prefix", [False, True])
def test_magnitudes_and_masks_equal_the_equation_whatever_the_padding(tiny: Make, share_prefix: bool) -> None:
    module = tiny("float64", IncLoRA(rank=4))
    begin(module, 0)
    train(module, 1)
    module.train()
    rule, batch = MIGU(masked=0.5), batch_of(random_examples(5, 3))
    if share_prefix:  # prompts that begin alike run their beginning once
        batch["input_ids"][:, :3] = batch["input_ids"][0, :3]
    trainer = SimpleNamespace()
    inputs: dict[str, Tensor] = {}
    rule.on_train_start(trainer, module)
    rule.on_train_batch_start(trainer, module, batch, 0)
    module.zero_grad()
    module.sample_nll(batch).sum().backward()
    rule._masks = None
    keep = {n: at.register_forward_pre_hook(lambda m, a, n=n: inputs.update({n: a[0]})) for n, at in
            module.adapter.layers.items()}  # fmt: skip
    with torch.no_grad():
        module.sample_nll(batch, share_prefix=False)
    for hook in keep.values():
        hook.remove()
    grads = {n: (at.lora_A.grad.clone(), at.lora_B.grad.clone()) for n, at in module.adapter.layers.items()}
    rule.on_before_optimizer_step(trainer, module, None)
    rule.on_train_end(trainer, module)
    real = batch["attention_mask"].bool()
    for name, layer in module.adapter.layers.items():
        x = inputs[name][real]
        hidden = x @ layer.lora_A.t()
        for h, parameter, before in zip((hidden, hidden @ layer.lora_B.t()), (layer.lora_A, layer.lora_B), grads[name],
                                        strict=True):  # fmt: skip
            m = (h.abs() / h.abs().sum(-1, keepdim=True)).sum(0)
            kept = m >= m.sort().values[len(m) // 2]
            assert torch.equal(parameter.grad[kept], before[kept])
            assert not parameter.grad[~kept].any()
            assert before[~kept].any(), "there was something to mask"


RULES = {
    "EWC": ("--boundary.ewc=EWC", "--boundary.ewc.samples=8", "--boundary.ewc.strength=1e4"),
    "LwF": ("--boundary.lwf=LwF", "--boundary.lwf.strength=5"),
    "MIGU": ("--boundary.migu=MIGU", "--boundary.migu.masked=0.5"),
}
PLAIN = ("--boundary.memory=null", "--boundary.init=null")


ALL = tuple(option for rule in RULES.values() for option in rule)
MADE: dict[str, Callable[[], TaskCallback]] = {
    "EWC": lambda: EWC(strength=1e4, samples=8), "LwF": lambda: LwF(strength=5), "MIGU": lambda: MIGU(masked=0.5)
}  # fmt: skip


def one_lora(folder: Path, **boundary: TaskCallback) -> dict[str, dict[str, torch.Tensor]]:
    """What one LoRA is that is trained on over two tasks, after each."""
    strategy = SeqLoRA(rank=2, per_task="continue")
    finished_run(folder, words(("one", "two")), boundary, adapter=strategy, lr=0.01)
    return adapters(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    return one_lora(tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("rule", MADE)
def test_each_changes_the_second_task_only_where_it_should(
    rule: str, plain: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    ruled = one_lora(tmp_path / "ruled", rule=MADE[rule]())
    same = all(torch.equal(t, ruled["one"][k]) for k, t in plain["one"].items())
    assert same == (rule != "MIGU"), "EWC and LwF have nothing to hold in the first task"
    assert not all(torch.equal(t, ruled["two"][k]) for k, t in plain["two"].items())


def test_a_run_with_all_three_resumes_to_the_same_bits(tmp_path: Path) -> None:
    continued_and_whole(tmp_path, *PLAIN, "--model.adapter.per_task=continue", *ALL)


GATES = "--boundary.gates=GateOrthogonalization"
SUBSPACES = ("--boundary.subspaces=InputSubspaces", "--boundary.subspaces.share=0.9")


@pytest.mark.parametrize(
    "options",
    [
        ("--model.adapter=GainLoRA", "--model.adapter.branches=InfLoRA", GATES, *SUBSPACES),
        pytest.param(("--model.adapter=GainLoRA", GATES), marks=pytest.mark.long),
        pytest.param(("--model.adapter=InfLoRA", *SUBSPACES), marks=pytest.mark.long),
        pytest.param(("--model.adapter=OLoRA",), marks=pytest.mark.long),
    ],
    ids=["GainLoRA over InfLoRA", "GainLoRA", "InfLoRA", "OLoRA"],
)
def test_all_three_at_once_over_branches(options: tuple[str, ...], tmp_path: Path) -> None:
    smoke(tmp_path / "run", *PLAIN, *options, *ALL)
    assert record(tmp_path / "run")["done"] == 2


@pytest.mark.long
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    options = (*PLAIN, "--model.lr=0.001", *ALL)
    smoke(tmp_path / "one", *options)
    smoke(tmp_path / "two", *options, ranks=2)
    one, two = adapters(tmp_path / "one"), adapters(tmp_path / "two")
    for task in ("FOMC", "NumGLUE-cm"):
        for name, tensor in one[task].items():
            assert torch.allclose(two[task][name], tensor, atol=1e-4), (task, name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--boundary.ewc=EWC", "--boundary.ewc.over=factors"], "boundary.ewc.over=factors penalises A and B"),
        (["--boundary.ewc=EWC", "--boundary.ewc.strength=-1"], "boundary.ewc.strength: -1.0 must not be negative"),
        (["--boundary.lwf=LwF", "--boundary.lwf.temperature=0"], "boundary.lwf.temperature: 0.0 must be positive"),
        (["--boundary.migu=MIGU", "--boundary.migu.masked=1"], "boundary.migu.masked: 1.0 is a share of rows"),
    ],
)
def test_refused_before_training(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(tmp_path, *PLAIN, *options)
