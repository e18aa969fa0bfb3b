"""A task's training steps against AdamW written from its equations: decay, moments, warm-up, schedule, clipping."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.seeding import generator
from cl_lightning.data.collate import training_batch
from cl_lightning.sequence.callback import TaskCallback
from tests.ragged_words import small_run, words

STEPS = 6  # 9 examples, 3 a step, twice


class Watch(TaskCallback):
    """Records parameters before and after each optimiser step, and its clipped gradient."""

    def __init__(self) -> None:
        self.before: list[list[Tensor]] = []
        self.gradients: list[list[Tensor]] = []
        self.raw: list[list[Tensor]] = []
        self.after: list[list[Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def before(*_: Any) -> None:
            self.before.append([p.detach().clone() for p in parameters])

        def after(*_: Any) -> None:
            self.gradients.append([p.grad.clone() for p in parameters])
            self.after.append([p.detach().clone() for p in parameters])

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        assert all(m.training for m in pl_module.llm.modules()), "a loaded model is in eval mode, dropout would be off"
        self.raw.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])


def watched(folder: Path, **options: Any) -> Watch:
    watch = Watch()
    small_run(folder, words(("five",), batch_size=3, epochs=2), observers={"watch": watch}, **options).run()
    assert len(watch.after) == STEPS
    return watch


def adamw(
    gradients: list[Tensor],
    start: Tensor,
    rates: list[float],
    betas: tuple[float, float],
    decay: float,
    eps: float = 1e-8,
) -> Iterator[Tensor]:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), bias-corrected moments."""
    theta, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        corrected, size = m / (1 - betas[0] ** t), (v / (1 - betas[1] ** t)).sqrt() + eps
        theta = theta - rate * decay * theta - rate * corrected / size
        yield theta.clone()


#: Factor of the learning rate at each of six steps; the first two warm up, (k + 1) / (w + 1), then the schedule.
WARM = {
    "linear": [1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25],
    "cosine": [1 / 3, 2 / 3, 1.0, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3))],
    "constant": [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("schedule", WARM)
def test_steps_equal_adamw_with_decay_warm_up_and_schedule(tmp_path: Path, schedule: str) -> None:
    betas, decay, lr = (0.8, 0.95), 0.3, 0.02
    watch = watched(tmp_path, lr=lr, weight_decay=decay, betas=betas, schedule=schedule, warmup=0.3)  # ceil(1.8) = 2
    rates = [lr * factor for factor in WARM[schedule]]
    moved = 0.0
    for index, start in enumerate(watch.before[0]):
        gradients = [g[index] for g in watch.gradients]
        for step, theta in enumerate(adamw(gradients, start, rates, betas, decay)):
            assert torch.allclose(watch.after[step][index], theta, rtol=1e-9, atol=1e-12), (step, index)
        *_, undecayed = adamw(gradients, start, rates, betas, 0.0)
        moved = max(moved, float((undecayed - watch.after[-1][index]).abs().max()))
    assert moved > 1e-3, "negative control: without the decay"


def test_by_default_nothing_decays_and_one_step_warms_up(tmp_path: Path) -> None:
    watch = watched(tmp_path, lr=0.01)
    rates = [0.01 * factor for factor in (0.5, 1.0, 0.8, 0.6, 0.4, 0.2)]  # ceil(0.01 * 6) = 1 step warms up
    for index, start in enumerate(watch.before[0]):
        *_, theta = adamw([g[index] for g in watch.gradients], start, rates, (0.9, 0.999), 0.0)
        assert torch.allclose(watch.after[-1][index], theta, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_clipped_to_norm_1_as_a_whole(tmp_path: Path) -> None:
    watch = watched(tmp_path, lr=0.02)

    def norm(parts: list[Tensor]) -> float:
        return float(torch.cat([g.flatten() for g in parts]).norm())

    sizes = [norm(raw) for raw in watch.raw]
    assert max(sizes) > 1.5, "there was something to clip"
    for raw, clipped, size in zip(watch.raw, watch.gradients, sizes, strict=True):
        assert norm(clipped) == pytest.approx(min(1.0, size), rel=1e-4)
        assert all(torch.allclose(c, r * min(1.0, 1 / size), rtol=1e-4) for r, c in zip(raw, clipped, strict=True))


class Lean(TaskCallback):
    """Adds the mean of all factors B, as callbacks add terms to the loss."""

    def loss_terms(self, step: Any) -> dict[str, Tensor]:
        return {"lean": sum(layer.lora_B.sum() for layer in step.module.adapter.layers.values())}


class Leaning(SeqLoRA):
    """Adds the same term as a penalty of the strategy."""

    def penalties(self) -> dict[str, Tensor]:
        return {"lean": sum(layer.lora_B.sum() for layer in self.layers.values())}


@pytest.mark.parametrize(("accumulate", "strategy"), [(1, SeqLoRA), (2, SeqLoRA), (2, Leaning)])
def test_a_steps_gradient_is_that_of_the_token_mean_and_each_term_once(
    tmp_path: Path, accumulate: int, strategy: type[SeqLoRA]
) -> None:
    """At the start: plain LoRA has B = 0, so dLoss/dB is all there is, and the term adds 1 to each entry."""
    watch, data = Watch(), words(("five",), batch_size=9)
    lean = {} if strategy is Leaning else {"lean": Lean()}
    adapter = strategy(rank=2, alpha=4)
    run = small_run(tmp_path, data, lean, {"watch": watch}, adapter, accumulate, lr=1e-12)
    run.run()
    run.module.adapter.begin_task(0, generator(42, "adapter", 0))  # the same start again; training moved nothing
    examples = data.tasks[0].train
    parameters = [p for group in run.module.adapter.param_groups() for p in group["params"]]

    def gradients(weights: list[float]) -> list[Tensor]:
        nll = run.module.sample_nll(training_batch(examples, pad_id=0))
        loss = (nll * torch.tensor(weights, dtype=torch.float64)).sum()
        return [g + (g.shape[1] == 2) for g in torch.autograd.grad(loss, parameters)]

    (found,) = watch.raw
    answers = [len(e.answer_ids) for e in examples]
    by_token, by_sample = gradients([1 / sum(answers)] * 9), gradients([1 / (9 * n) for n in answers])
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(found, by_token, strict=True))
    assert max(float((a - b).abs().max()) for a, b in zip(found, by_sample, strict=True)) > 1e-3, "negative control"
