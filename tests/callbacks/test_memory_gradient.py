"""The gradients at a boundary from their definition, by plain autograd, in float64, on a real run's parts.

G_new = (1/N) sum over answer tokens of dNLL/dW,    G_mem = mean over past tasks j of (1/N_j) sum over j's tokens
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.replay_buffer import ReplayBuffer
from callbacks.slice_init import SliceInit
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.seeding import generator
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.gradients.accumulate import Exact
from cl_lightning.initializers.loraga import LoRAGA
from cl_lightning.sequence.context import RunContext
from cl_lightning.surgery.base import SurgeryOperator
from tests.conftest import relative
from tests.ragged_words import small_run, words

Gradients = dict[str, Tensor]


class Take(SurgeryOperator):
    """Lets one of the gradients through instead of reconciling: 0 the new one, j the j-th memory's."""

    memories = "each"

    def __init__(self, index: int) -> None:
        self.index, self.seen = index, 0

    def coefficients(self, gram: Tensor) -> Tensor:
        self.seen = len(gram) - 1
        return torch.eye(len(gram), dtype=torch.float64)[self.index]


class Keep(LoRAGA):
    """LoRA-GA that keeps the gradients it is handed, in the order of the layers."""

    takes_sketch = False  # else it is handed their leading directions

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def factors(self, weight: Tensor, statistic: Any, rank: int, scaling: float, rng: torch.Generator) -> Any:
        self.kept.append(statistic)
        return super().factors(weight, statistic, rank, scaling, rng)


def boundary(
    folder: Path,
    operator: int | SurgeryOperator | None,
    past: int = 3,
    capacity: int = 9,
    adapter: AdapterStrategy | None = None,
    **options: Any,
) -> tuple[RunContext, SliceInit, Gradients]:
    """A run at the boundary after `past` tasks, and the gradients that reached the initialiser (a number: see `Take`).

    Branches of the past tasks are there and far from zero.
    """
    operator = Take(operator) if isinstance(operator, int) else operator
    init = SliceInit(Keep(), operator, batch_size=2, **{"memory_samples": 6, "samples": 5, **options})
    memory = ReplayBuffer(capacity)
    adapter = adapter or IncLoRA(rank=2, targets=["q_proj", "o_proj"])  # enough to tell, and quick
    run = small_run(folder, words(), {"memory": memory, "init": init}, adapter=adapter).context
    for task in range(past):
        run.module.adapter.begin_task(task, torch.Generator().manual_seed(task))
        for layer in run.module.adapter.layers.values():
            layer.lora_B.data += 0.1
        memory.on_task_end(run, task)
        run.module.adapter.end_task(task)
    run.module.adapter.begin_task(past, torch.Generator().manual_seed(past))
    init.on_task_start(run, past)
    kept = dict(zip(run.module.adapter.layers, init.initializer.kept, strict=True))
    return run, init, kept


def of(run: RunContext, examples: Sequence[Encoded], weights: Sequence[float], loss_on: str = "answer") -> Gradients:
    """d/dW of the sum over examples of weight * summed NLL, with the past branches in and the new one out.

    By autograd, on a matrix of zeros of our own beside each layer: y + x E^T.
    """
    layers = run.module.adapter.layers
    extra = {n: torch.zeros(at.shape, dtype=torch.float64, requires_grad=True) for n, at in layers.items()}
    hooks = [at.register_forward_hook(lambda m, x, y, E=extra[n]: y + x[0] @ E.t()) for n, at in layers.items()]
    with run.module.adapter.without_new_branch():
        nll = run.module.sample_nll(training_batch(examples, pad_id=0, loss_on=loss_on), share_prefix=False)
    for hook in hooks:
        hook.remove()
    loss = (nll * torch.tensor(weights, dtype=torch.float64)).sum()
    return dict(zip(extra, torch.autograd.grad(loss, list(extra.values())), strict=True))


def token_mean(run: RunContext, examples: Sequence[Encoded]) -> Gradients:
    return of(run, examples, [1 / sum(len(e.answer_ids) for e in examples)] * len(examples))


def sample_mean(run: RunContext, examples: Sequence[Encoded]) -> Gradients:
    """Negative control: the mean over samples of each sample's own mean."""
    return of(run, examples, [1 / (len(examples) * len(e.answer_ids)) for e in examples])


def mean(gradients: Sequence[Gradients]) -> Gradients:
    return {name: sum(g[name] for g in gradients) / len(gradients) for name in gradients[0]}


def far(found: Gradients, wanted: Gradients) -> float:
    return max(relative(found[name], wanted[name]) for name in wanted)


def remembered(run: RunContext, share: int) -> list[list[Encoded]]:
    """The first `share` examples kept of each past task, as the tasks' own encodings."""
    trained = {e.example.id: e for task in run.data.tasks for e in task.train}
    kept = run.boundary["memory"].examples
    return [[trained[e.id] for e in examples[:share]] for examples in kept.values()]


def of_new(run: RunContext, task: int, samples: int) -> list[Encoded]:
    """`samples` of the task's training examples, drawn by (seed, task)."""
    train = run.data.tasks[task].train
    order = torch.randperm(len(train), generator=generator(42, "gradient", run.order[task])).tolist()
    return [train[i] for i in order[:samples]]


def test_the_memory_gradient_is_the_mean_over_past_tasks_of_each_ones_token_mean(tmp_path: Path) -> None:
    run, init, found = boundary(tmp_path, 1)
    assert init.operator.seen == 1
    groups = remembered(run, 2)
    assert [len(g) for g in groups] == [2, 2, 2]
    each = [token_mean(run, group) for group in groups]
    assert far(found, mean(each)) < 1e-9
    everything = [e for group in groups for e in group]
    wrong: dict[str, Callable[[], Gradients]] = {
        "the newest task's": lambda: each[-1],
        "the first task's": lambda: each[0],
        "the token mean over all of memory": lambda: token_mean(run, everything),
        "the mean of sample means": lambda: mean([sample_mean(run, group) for group in groups]),
    }
    assert all(far(found, other()) > 1e-2 for other in wrong.values()), "negative controls"


def test_the_new_gradient_is_the_token_mean_over_drawn_training_examples(tmp_path: Path) -> None:
    run, _, found = boundary(tmp_path, 0)
    drawn = of_new(run, 3, 5)
    assert far(found, token_mean(run, drawn)) < 1e-9
    assert far(found, sample_mean(run, drawn)) > 1e-2, "negative control"
    assert far(found, token_mean(run, run.data.tasks[3].train)) > 1e-2


def test_without_an_operator_no_memory_is_looked_at(tmp_path: Path) -> None:
    run, _, found = boundary(tmp_path, None)
    assert far(found, token_mean(run, of_new(run, 3, 5))) < 1e-9


def test_the_last_tasks_gradient_is_of_it_alone(tmp_path: Path) -> None:
    run, init, found = boundary(tmp_path, 1, memory_gradient="last", memory_samples=2)
    last = remembered(run, 2)[-1]
    assert init.operator.seen == 1 and last[0].example.id.startswith("three/")
    assert far(found, token_mean(run, last)) < 1e-9


@pytest.mark.parametrize("index", [1, 2, 3])
def test_each_past_task_has_a_gradient_of_its_own(tmp_path: Path, index: int) -> None:
    run, init, found = boundary(tmp_path, index, memory_gradient="per_task")
    assert init.operator.seen == 3
    assert far(found, token_mean(run, remembered(run, 2)[index - 1])) < 1e-9


def test_more_past_tasks_than_room_leave_as_many_gradients_as_tasks_kept(tmp_path: Path) -> None:
    run, init, found = boundary(tmp_path, 2, capacity=2, memory_gradient="per_task")
    groups = remembered(run, 1)
    assert init.operator.seen == len(groups) == 2 and [len(g) for g in groups] == [1, 1]
    assert far(found, token_mean(run, groups[1])) < 1e-9
    assert len(init.boundaries) == 1


def test_fewer_memory_samples_than_past_tasks_take_one_of_each(tmp_path: Path) -> None:
    run, _, found = boundary(tmp_path, 1, memory_samples=1)
    assert far(found, mean([token_mean(run, group) for group in remembered(run, 1)])) < 1e-9


def test_full_sequences_are_weighed_by_their_predicted_tokens(tmp_path: Path) -> None:
    run, _, found = boundary(tmp_path, 1, loss_on="full")
    groups = remembered(run, 2)

    def full(group: Sequence[Encoded]) -> Gradients:
        predicted = sum(len(e.prompt_ids) + len(e.answer_ids) - 1 for e in group)
        return of(run, group, [1 / predicted] * len(group), "full")

    assert far(found, mean([full(group) for group in groups])) < 1e-9
    assert far(found, mean([token_mean(run, group) for group in groups])) > 1e-2


def test_a_memory_that_may_lack_the_last_task_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"boundary\.memory\.capacity: 3 keeps no .* of 4 past tasks, .*; use 4 or more"
    ):
        boundary(tmp_path / "a", 1, capacity=3, memory_gradient="last")
    boundary(tmp_path / "b", 1, capacity=4, memory_gradient="last")


def test_gradients_are_taken_without_the_new_branch(tmp_path: Path) -> None:
    run, _, _ = boundary(tmp_path, None)
    examples = list(run.data.tasks[3].train)
    wanted = of(run, examples, [1.0] * len(examples))
    batch = {**training_batch(examples, pad_id=0), "sample_weight": torch.ones(len(examples), dtype=torch.float64)}
    for layer in run.module.adapter.layers.values():
        layer.lora_B.data += 0.3
    assert far(run.module.gradients([batch]), wanted) < 1e-9
    with_new = {name: Exact(g.shape, g.dtype, g.device) for name, g in wanted.items()}
    run.module.gradient_pass([batch], with_new=True).run(with_new)
    assert far({name: one.total for name, one in with_new.items()}, wanted) > 1e-2, "negative control: it is in place"
